//! What publishers bring to their publish address, the namespace `publish/<input_id>`: tracks that are the engine's and
//! nobody else's. They are read like any publisher's, under a name that no viewer can ask for, and handed over object by
//! object; what is in them, and what becomes of it, is the engine's affair.

use std::time::Instant;

use bytes::Bytes;
use weir_moqt::{Params, RequestCode, RequestError, RequestId};

use super::Relay;
use super::offers::Offer;
use crate::cache::Order;
use crate::track::{Source, State};
use crate::{Event, FullTrackName, Namespace, SessionCode, SessionId, TrackId};

impl Relay {
    /// Asks a publisher that announced its publish address for a track of it. The answer is an
    /// [`Event::TrackOpened`] or [`Event::TrackRefused`] for the id, objects are [`Event::Exported`].
    pub fn ask_contribution(&mut self, session: SessionId, name: &Bytes) -> Option<TrackId> {
        let address = self.live(session)?.publisher.as_ref()?.address.clone();
        let ours = private_name(session, name)?;
        if self.names.contains_key(&ours) {
            return None;
        }
        let wire = FullTrackName::new(address, name.clone()).ok()?;
        let track = self.subscribe_upstream(session, &wire, &ours)?;
        if let Some(state) = self.tracks.get_mut(track.0) {
            state.exported = true;
        }
        Some(track)
    }

    /// Ends the session of a publisher, for a reason that begins with a code of the API.
    pub fn close_publisher(
        &mut self,
        session: SessionId,
        code: SessionCode,
        reason: &str,
        now: Instant,
    ) {
        if self.live(session).is_some_and(|state| state.publisher.is_some()) {
            self.metrics.publishers_refused += 1;
            self.close(session, code, reason.to_owned(), now);
        }
    }

    pub(super) fn contributes(&mut self, session: SessionId, namespace: &Namespace) -> bool {
        let publisher = self.live(session).and_then(|state| state.publisher.as_ref());
        publisher.is_some_and(|publisher| publisher.contributes(namespace))
    }

    /// PUBLISH at the publish address.
    pub(super) fn take_contribution(
        &mut self,
        session: SessionId,
        offer: Offer,
    ) -> Result<(), RequestError> {
        let refused = |code, text| Err(RequestError::new(code, text));
        let Offer { request, track: wire, params, properties } = offer;
        let Some(ours) = private_name(session, wire.name()) else {
            return refused(RequestCode::DoesNotExist, "the name is too long");
        };
        if self.names.contains_key(&ours) {
            return refused(RequestCode::Uninterested, "subscribed already");
        }
        let source = Source::Upstream { session, request };
        let Some(track) = self.add_track(ours, source, Order::Streams) else {
            return refused(RequestCode::ExcessiveLoad, "capacity");
        };
        if let Some(state) = self.tracks.get_mut(track.0) {
            state.state = State::Open;
            state.offered = true;
            state.exported = true;
            state.set_properties(properties);
            if let Some(largest) = params.largest {
                state.cache.note_largest(largest);
            }
        }
        let Some(state) = self.live(session) else { return Ok(()) };
        if let Some(publisher) = &mut state.publisher {
            publisher.upstreams.push((request, track));
        }
        let answer = Params { forward: Some(true), ..Params::default() };
        let _ = state.moqt.accept(request, answer, &[]);
        self.metrics.upstream_subscriptions += 1;
        self.dirty.mark(session);
        let name = wire.name().clone();
        self.events.push_back(Event::Contributed { session, track, name });
        Ok(())
    }

    /// PUBLISH_NAMESPACE of the publish address.
    pub(super) fn announce_contribution(
        &mut self,
        session: SessionId,
        request: RequestId,
        address: Namespace,
    ) {
        let Some(state) = self.live(session) else { return };
        if let Some(publisher) = &mut state.publisher {
            publisher.held.push((request, address));
        }
        let _ = state.moqt.accept(request, Params::default(), &[]);
        self.dirty.mark(session);
        self.events.push_back(Event::ContributionAnnounced { session });
    }
}

/// What we call a track of a publish address: a session's own, so that a publisher that was replaced and its successor do
/// not meet. It begins with a dot, which no granted namespace does.
fn private_name(session: SessionId, name: &Bytes) -> Option<FullTrackName> {
    let namespace = Namespace::new([".contribution".to_owned(), session.to_string()]).ok()?;
    FullTrackName::new(namespace, name.clone()).ok()
}
