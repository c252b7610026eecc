//! Answers to requests of the peer: what its owner grants, refuses, ends and takes back.

use bytes::{Bytes, BytesMut};

use super::{Held, Request, Session};
use crate::draft::Feature;
use crate::error::{CommandError, DoneCode, RequestError};
use crate::message::Message;
use crate::model::{Location, Params, Property, RequestId, RequestKind, Role};
use crate::name::Namespace;

/// What of the answer to a PUBLISH has to follow in an update.
fn rest_of(params: &Params) -> Option<Params> {
    let rest = Params { expires_ms: None, ..params.clone() };
    (rest != Params::default()).then_some(rest)
}

/// Answers to requests of the peer.
impl Session {
    /// SUBSCRIBE_OK. `alias` must be unique among the subscriptions the peer holds here.
    pub fn accept_subscribe(
        &mut self,
        request: RequestId,
        alias: u64,
        params: Params,
        properties: &[Property],
    ) -> Result<(), CommandError> {
        self.unanswered(request, RequestKind::Subscribe)?;
        let properties = properties.to_vec();
        self.answer(request, &Message::SubscribeOk { request, alias, params, properties })
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
        self.unanswered(request, RequestKind::Fetch)?;
        let properties = properties.to_vec();
        self.answer(request, &Message::FetchOk { request, end_of_track, end, params, properties })
    }

    /// All objects of an accepted fetch were handed to the transport. Unknown requests are ignored.
    pub fn finish_fetch(&mut self, request: RequestId) {
        if self.is_peers(request, RequestKind::Fetch) {
            self.finish_own(request);
            self.close(request);
        }
    }

    /// REQUEST_OK: to PUBLISH_NAMESPACE, SUBSCRIBE_NAMESPACE, SUBSCRIBE_TRACKS, TRACK_STATUS, an update,
    /// or PUBLISH (PUBLISH_OK). `properties` travel only with a track status.
    pub fn accept(
        &mut self,
        request: RequestId,
        params: Params,
        properties: &[Property],
    ) -> Result<(), CommandError> {
        let ok = |params, properties: &[Property]| Message::RequestOk {
            request,
            params,
            properties: properties.to_vec(),
        };
        if let Some(target) = self.peers_update(request) {
            return self.answer_update(request, target, &ok(params, &[]));
        }
        let open = self.requests.get(&request).ok_or(CommandError::UnknownRequest(request))?;
        let kind = open.kind;
        if matches!(kind, RequestKind::Subscribe | RequestKind::Fetch) {
            return Err(CommandError::UnknownRequest(request));
        }
        let alias = open.alias;
        self.unanswered(request, kind)?;
        match kind {
            RequestKind::Publish => {
                self.accepted_in_full(request, &params);
                let rest = if self.rules().publish_ok_params { None } else { rest_of(&params) };
                if let Some(rest) = &rest {
                    self.check_filters(rest)?;
                }
                self.answer(request, &Message::PublishOk { request, params })?;
                let known = alias.map_or(Ok(()), |alias| {
                    self.learn_alias(alias, request)?;
                    self.wake(alias)
                });
                // The alias was free when PUBLISH came; a later SUBSCRIBE_OK may have taken it, or data
                // that waited may be broken. Either way the next call from the transport says so.
                if let Err(error) = known {
                    self.failed = Some(error);
                }
                if let Some(rest) = rest {
                    let update = self.update(request, rest)?;
                    if let Some(open) = self.requests.get_mut(&request) {
                        open.own_update = Some(update);
                    }
                }
                Ok(())
            }
            RequestKind::TrackStatus => {
                self.answer(request, &ok(params, properties))?;
                self.finish_own(request);
                self.close(request);
                Ok(())
            }
            _ => self.answer(request, &ok(params, &[])),
        }
    }

    /// REQUEST_ERROR to any request or update that was not answered yet. The answer to an update of a request that is not
    /// answered itself goes out behind that request's.
    pub fn reject(&mut self, request: RequestId, error: &RequestError) -> Result<(), CommandError> {
        let refusal = Message::RequestError { request, error: error.clone() };
        if let Some(target) = self.peers_update(request) {
            return self.answer_update(request, target, &refusal);
        }
        let open = self.requests.get(&request).ok_or(CommandError::UnknownRequest(request))?;
        self.unanswered(request, open.kind)?;
        let bytes = self.encode_about(request, &refusal)?;
        self.send_on(request, &bytes.freeze(), true);
        self.close(request);
        Ok(())
    }

    fn answer_update(
        &mut self,
        update: RequestId,
        target: RequestId,
        answer: &Message,
    ) -> Result<(), CommandError> {
        if self.held.iter().any(|held| held.update == update) {
            return Err(CommandError::AlreadyAnswered(update));
        }
        let in_full = self.rules().in_full;
        let answer = if in_full { Bytes::new() } else { self.encode(answer)?.freeze() };
        self.held.push(Held { request: target, update, answer });
        self.answer_held(target);
        Ok(())
    }

    /// Answers to updates go out in the order of the updates, and behind the answer to their request.
    fn answer_held(&mut self, target: RequestId) {
        let waits = |open: &Request| !open.ours && !open.answered;
        if self.requests.get(&target).is_some_and(waits) {
            return;
        }
        let own_parity = u64::from(self.role == Role::Server);
        let is_peers = |update: &RequestId| update.0 % 2 != own_parity;
        while let Some((&update, _)) =
            self.updates.iter().find(|(update, of)| **of == target && is_peers(update))
            && let Some(at) = self.held.iter().position(|held| held.update == update)
        {
            let answer = self.held.swap_remove(at).answer;
            // Draft 14 has none.
            if !answer.is_empty() {
                self.send_on(target, &answer, false);
            }
            self.updates.remove(&update);
            self.spend();
        }
    }

    /// PUBLISH_DONE: ends an accepted subscription of the peer, or our PUBLISH. `streams` = how many data
    /// streams were opened for it, `None` if unknown.
    pub fn publish_done(
        &mut self,
        request: RequestId,
        code: DoneCode,
        streams: Option<u64>,
        reason: &str,
    ) -> Result<(), CommandError> {
        if !self.is_own(request, RequestKind::Publish) {
            self.granted_to_peer(request, &[RequestKind::Subscribe])?;
        }
        let reason = reason.to_owned();
        let done = self.encode(&Message::PublishDone { request, code, streams, reason })?;
        if self.requests.get(&request).is_some_and(|open| open.ours && !open.is_sent()) {
            // The peer need not hear of it at all.
            self.cancel(request);
            return Ok(());
        }
        self.send_on(request, &done.freeze(), true);
        self.close(request);
        Ok(())
    }

    /// PUBLISH_STATE_NOTIFY: an accepted subscription of the peer, or our PUBLISH, changed without its
    /// asking. Drafts without it send nothing.
    pub fn publish_state(
        &mut self,
        request: RequestId,
        params: Params,
    ) -> Result<(), CommandError> {
        if !self.is_own(request, RequestKind::Publish) {
            self.granted_to_peer(request, &[RequestKind::Subscribe])?;
        }
        if !self.supports(Feature::PublishState) {
            return Ok(());
        }
        let bytes = self.encode(&Message::PublishState { request, params })?;
        self.send_on(request, &bytes.freeze(), false);
        Ok(())
    }

    /// PUBLISH_BLOCKED on an accepted SUBSCRIBE_TRACKS: this track exists and gets no PUBLISH. Drafts
    /// without it send nothing.
    pub fn publish_blocked(
        &mut self,
        request: RequestId,
        suffix: &Namespace,
        name: &Bytes,
    ) -> Result<(), CommandError> {
        self.granted_to_peer(request, &[RequestKind::SubscribeTracks])?;
        if !self.supports(Feature::PublishBlocked) {
            return Ok(());
        }
        let (suffix, name) = (suffix.clone(), name.clone());
        let bytes = self.encode(&Message::PublishBlocked { suffix, name })?;
        self.send_on(request, &bytes.freeze(), false);
        Ok(())
    }

    /// Takes back what was accepted: PUBLISH_NAMESPACE, SUBSCRIBE_NAMESPACE, SUBSCRIBE_TRACKS or PUBLISH
    /// of the peer. `error` travels where the draft has room for it.
    pub fn revoke(&mut self, request: RequestId, error: &RequestError) -> Result<(), CommandError> {
        let kind = self.granted_to_peer(
            request,
            &[
                RequestKind::PublishNamespace,
                RequestKind::SubscribeNamespace,
                RequestKind::SubscribeTracks,
                RequestKind::Publish,
            ],
        )?;
        self.end(request, self.codec().revoke(kind, request, error));
        Ok(())
    }

    /// NAMESPACE on an accepted SUBSCRIBE_NAMESPACE; `suffix` follows the prefix.
    pub fn namespace(
        &mut self,
        request: RequestId,
        suffix: &Namespace,
    ) -> Result<(), CommandError> {
        if self.rules().in_full {
            self.granted_to_peer(request, &[RequestKind::SubscribeNamespace])?;
            return self.advertise_in_full(request, suffix);
        }
        self.advertise(request, &Message::Namespace { suffix: suffix.clone() })
    }

    /// NAMESPACE_DONE for a namespace advertised before.
    pub fn namespace_done(
        &mut self,
        request: RequestId,
        suffix: &Namespace,
    ) -> Result<(), CommandError> {
        if self.rules().in_full {
            self.granted_to_peer(request, &[RequestKind::SubscribeNamespace])?;
            self.unadvertise_in_full(request, suffix);
            return Ok(());
        }
        self.advertise(request, &Message::NamespaceDone { suffix: suffix.clone() })
    }

    fn advertise(&mut self, request: RequestId, message: &Message) -> Result<(), CommandError> {
        self.granted_to_peer(request, &[RequestKind::SubscribeNamespace])?;
        let bytes = self.encode(message)?;
        self.send_on(request, &bytes.freeze(), false);
        Ok(())
    }

    /// GOAWAY; a client sends an empty `uri`. Drafts without a timeout leave it out. A second call does
    /// nothing.
    pub fn goaway(&mut self, uri: &str, timeout_ms: u64) -> Result<(), CommandError> {
        if self.goaway_sent {
            return Ok(());
        }
        let uri = if self.role == Role::Client { String::new() } else { uri.to_owned() };
        self.send_control(&Message::GoAway { uri, timeout_ms: Some(timeout_ms), request: None })?;
        self.goaway_sent = true;
        Ok(())
    }

    /// GOAWAY for one open request of either side; a client sends an empty `uri`. A second call for the
    /// same request does nothing.
    pub fn goaway_request(
        &mut self,
        request: RequestId,
        uri: &str,
        timeout_ms: u64,
    ) -> Result<(), CommandError> {
        self.require(Feature::RequestGoAway, "GOAWAY for one request")?;
        let uri = if self.role == Role::Client { String::new() } else { uri.to_owned() };
        let message = Message::GoAway { uri, timeout_ms: Some(timeout_ms), request: None };
        let bytes = self.encode(&message)?;
        let Some(open) = self.requests.get_mut(&request) else {
            return Err(CommandError::UnknownRequest(request));
        };
        if !std::mem::replace(&mut open.goaway_sent, true) {
            self.send_on(request, &bytes.freeze(), false);
        }
        Ok(())
    }

    pub(super) fn require(&self, feature: Feature, name: &'static str) -> Result<(), CommandError> {
        if self.supports(feature) { Ok(()) } else { Err(CommandError::NotSupported(name)) }
    }

    /// What an unanswered update of the peer changes.
    fn peers_update(&self, update: RequestId) -> Option<RequestId> {
        let own_parity = u64::from(self.role == Role::Server);
        self.updates.get(&update).copied().filter(|_| update.0 % 2 != own_parity)
    }

    fn unanswered(&self, request: RequestId, kind: RequestKind) -> Result<(), CommandError> {
        match self.requests.get(&request) {
            Some(open) if open.ours || open.kind != kind => {
                Err(CommandError::UnknownRequest(request))
            }
            Some(open) if open.answered => Err(CommandError::AlreadyAnswered(request)),
            Some(_) => Ok(()),
            None => Err(CommandError::UnknownRequest(request)),
        }
    }

    fn granted_to_peer(
        &self,
        request: RequestId,
        kinds: &[RequestKind],
    ) -> Result<RequestKind, CommandError> {
        match self.requests.get(&request) {
            Some(open) if !open.ours && open.answered && kinds.contains(&open.kind) => {
                Ok(open.kind)
            }
            _ => Err(CommandError::UnknownRequest(request)),
        }
    }

    fn answer(&mut self, request: RequestId, message: &Message) -> Result<(), CommandError> {
        let bytes: BytesMut = self.encode_about(request, message)?;
        if let Some(open) = self.requests.get_mut(&request) {
            open.answered = true;
        }
        self.send_on(request, &bytes.freeze(), false);
        self.answer_held(request);
        Ok(())
    }
}
