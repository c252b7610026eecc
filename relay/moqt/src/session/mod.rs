//! One MoQT session, either role: the control plane of a connection and its inbound data streams.

mod event;

pub use event::{Event, Output, SetupOptions};

use bytes::Bytes;

use crate::draft::Draft;
use crate::error::{CommandError, DoneCode, RequestError, SessionError};
use crate::limits::{Counters, Limits};
use crate::model::{
    Dir, FetchTarget, Location, OpenKey, Params, Property, RequestId, RequestKind, Role, StreamId,
    Transport,
};
use crate::name::{FullTrackName, Namespace};

/// A session. See the crate for how to drive it.
#[derive(Debug)]
pub struct Session {
    draft: Draft,
    counters: Counters,
}

#[expect(
    unused_variables,
    clippy::unused_self,
    clippy::needless_pass_by_value,
    reason = "being filled in"
)]
impl Session {
    /// A session on a fresh connection. SETUP waits in [`Session::poll_output`] at once.
    pub fn new(
        draft: Draft,
        role: Role,
        transport: Transport,
        limits: Limits,
        options: SetupOptions,
    ) -> Self {
        Self { draft, counters: Counters::default() }
    }

    /// The draft spoken.
    pub fn draft(&self) -> Draft {
        self.draft
    }

    /// What was refused or dropped so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Kind of an open request of either side.
    pub fn request_kind(&self, request: RequestId) -> Option<RequestKind> {
        None
    }

    // In.

    /// Bytes of a stream, in order; the first call for an unknown `id` means that the peer opened it.
    /// Answers on streams of ours (`stream_opened`) come here as well.
    pub fn handle_stream(
        &mut self,
        id: StreamId,
        dir: Dir,
        data: Bytes,
        fin: bool,
    ) -> Result<(), SessionError> {
        Ok(())
    }

    /// The peer reset its side of a stream.
    pub fn handle_reset(&mut self, id: StreamId, code: u64) -> Result<(), SessionError> {
        Ok(())
    }

    /// The peer stopped our side of a stream. Streams the session does not know are ignored.
    pub fn handle_stop(&mut self, id: StreamId, code: u64) -> Result<(), SessionError> {
        Ok(())
    }

    /// The transport opened the stream asked for by [`Output::Open`].
    pub fn stream_opened(&mut self, key: OpenKey, id: StreamId) -> Result<(), SessionError> {
        Ok(())
    }

    /// A datagram arrived.
    pub fn handle_datagram(&mut self, data: Bytes) -> Result<(), SessionError> {
        Ok(())
    }

    // Out.

    /// What to do on the transport next.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// What happened next.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    // Requests of ours.

    /// SUBSCRIBE.
    pub fn subscribe(
        &mut self,
        track: &FullTrackName,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        Err(CommandError::GoingAway)
    }

    /// FETCH.
    pub fn fetch(
        &mut self,
        target: &FetchTarget,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        Err(CommandError::GoingAway)
    }

    /// TRACK_STATUS.
    pub fn track_status(
        &mut self,
        track: &FullTrackName,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        Err(CommandError::GoingAway)
    }

    /// PUBLISH_NAMESPACE.
    pub fn publish_namespace(
        &mut self,
        namespace: &Namespace,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        Err(CommandError::GoingAway)
    }

    /// SUBSCRIBE_NAMESPACE, for NAMESPACE advertisements.
    pub fn subscribe_namespace(
        &mut self,
        prefix: &Namespace,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        Err(CommandError::GoingAway)
    }

    /// REQUEST_UPDATE of an open request of ours (or of a PUBLISH of the peer that we accepted).
    pub fn update(
        &mut self,
        request: RequestId,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        Err(CommandError::UnknownRequest(request))
    }

    /// Ends a request of ours: UNSUBSCRIBE, FETCH_CANCEL, PUBLISH_NAMESPACE_DONE or a reset, as the
    /// draft has it. No event follows. Unknown requests are ignored.
    pub fn cancel(&mut self, request: RequestId) {}

    // Answers to requests of the peer.

    /// SUBSCRIBE_OK. `alias` must be unique among the subscriptions the peer holds here.
    pub fn accept_subscribe(
        &mut self,
        request: RequestId,
        alias: u64,
        params: Params,
        properties: &[Property],
    ) -> Result<(), CommandError> {
        Err(CommandError::UnknownRequest(request))
    }

    /// FETCH_OK; `end` is inclusive. The fetch stays open (it can be cancelled) until
    /// [`Session::finish_fetch`].
    pub fn accept_fetch(
        &mut self,
        request: RequestId,
        end_of_track: bool,
        end: Location,
        params: Params,
        properties: &[Property],
    ) -> Result<(), CommandError> {
        Err(CommandError::UnknownRequest(request))
    }

    /// All objects of an accepted fetch were handed to the transport.
    pub fn finish_fetch(&mut self, request: RequestId) {}

    /// REQUEST_OK: to PUBLISH_NAMESPACE, SUBSCRIBE_NAMESPACE, SUBSCRIBE_TRACKS, TRACK_STATUS, an update,
    /// or PUBLISH (PUBLISH_OK). `properties` travel only with a track status.
    pub fn accept(
        &mut self,
        request: RequestId,
        params: Params,
        properties: &[Property],
    ) -> Result<(), CommandError> {
        Err(CommandError::UnknownRequest(request))
    }

    /// REQUEST_ERROR to any request or update that was not answered yet.
    pub fn reject(&mut self, request: RequestId, error: &RequestError) -> Result<(), CommandError> {
        Err(CommandError::UnknownRequest(request))
    }

    /// PUBLISH_DONE: ends an accepted subscription of the peer. `streams` = how many data streams were
    /// opened for it, `None` if unknown.
    pub fn publish_done(
        &mut self,
        request: RequestId,
        code: DoneCode,
        streams: Option<u64>,
        reason: &str,
    ) -> Result<(), CommandError> {
        Err(CommandError::UnknownRequest(request))
    }

    /// Takes back an accepted PUBLISH_NAMESPACE, SUBSCRIBE_NAMESPACE or SUBSCRIBE_TRACKS of the peer.
    pub fn revoke(&mut self, request: RequestId, error: &RequestError) -> Result<(), CommandError> {
        Err(CommandError::UnknownRequest(request))
    }

    /// NAMESPACE on an accepted SUBSCRIBE_NAMESPACE; `suffix` follows the prefix.
    pub fn namespace(
        &mut self,
        request: RequestId,
        suffix: &Namespace,
    ) -> Result<(), CommandError> {
        Err(CommandError::UnknownRequest(request))
    }

    /// NAMESPACE_DONE for a namespace advertised before.
    pub fn namespace_done(
        &mut self,
        request: RequestId,
        suffix: &Namespace,
    ) -> Result<(), CommandError> {
        Err(CommandError::UnknownRequest(request))
    }

    /// GOAWAY; a client sends an empty `uri`. Drafts without a timeout leave it out.
    pub fn goaway(&mut self, uri: &str, timeout_ms: u64) -> Result<(), CommandError> {
        Ok(())
    }
}
