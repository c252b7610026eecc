//! The books of a session: which requests are open, which ids and aliases are taken, and what an
//! answer answers.

use super::messages::{Place, duplicate_alias, misplaced};
use super::{Alias, Event, Link, RETIRED_MAX, Request, Session, Stream};
use crate::draft::Feature;
use crate::error::{DoneCode, RequestCode, RequestError, SessionCode, SessionError};
use crate::message::{Kind, Message};
use crate::model::{GroupOrder, Params, RequestId, RequestKind, Role};

impl Session {
    /// Forgets a request; what its stream still brings is discarded.
    pub(super) fn close(&mut self, request: RequestId) -> Option<Request> {
        let open = self.requests.remove(&request)?;
        if let Link::Stream(stream) = open.link {
            if open.rx_done {
                self.streams.remove(&stream);
            } else if let Some(slot) = self.streams.get_mut(&stream) {
                *slot = Stream::Discard;
            }
        }
        self.updates.retain(|_, target| *target != request);
        self.held.retain(|held| held.request != request);
        self.withdraw(request, &open);
        if !open.ours {
            self.peer_open -= 1;
            if is_namespace(open.kind) {
                self.peer_namespaces -= 1;
            }
            self.spend();
        }
        if let Some(alias) = open.alias
            && self.aliases.get(&alias).is_some_and(|known| known.request == request)
        {
            self.retired.push_back(alias);
            while self.retired.len() > RETIRED_MAX {
                self.evict_alias();
            }
        }
        Some(open)
    }

    fn evict_alias(&mut self) {
        let Some(alias) = self.retired.pop_front() else {
            return;
        };
        // The alias may serve a newer subscription by now.
        let stale =
            self.aliases.get(&alias).is_some_and(|a| !self.requests.contains_key(&a.request));
        if stale {
            self.aliases.remove(&alias);
        }
    }

    /// The peer turned out to deserve more: it may hold this many requests open from now on.
    pub fn allow_requests(&mut self, open_requests: usize) {
        self.limits.open_requests = self.limits.open_requests.max(open_requests);
        let target = 2 * (self.spent + self.limits.open_requests as u64);
        if self.rules().request_ids && target > self.granted {
            self.granted = target;
            let _ = self.send_control(&Message::MaxRequestId { max: target });
        }
    }

    /// An id of the peer is done with: raise its allowance once half of it is used.
    pub(super) fn spend(&mut self) {
        self.spent += 1;
        if !self.rules().request_ids {
            return;
        }
        let window = self.limits.open_requests as u64;
        let target = 2 * (self.spent + window);
        if target >= self.granted + window {
            self.granted = target;
            let _ = self.send_control(&Message::MaxRequestId { max: target });
        }
    }

    pub(super) fn is_own(&self, request: RequestId, kind: RequestKind) -> bool {
        self.requests.get(&request).is_some_and(|open| open.ours && open.kind == kind)
    }

    pub(super) fn is_peers(&self, request: RequestId, kind: RequestKind) -> bool {
        self.requests.get(&request).is_some_and(|open| !open.ours && open.kind == kind)
    }

    pub(super) fn on_update(
        &mut self,
        update: RequestId,
        target: RequestId,
        params: Params,
        refusal: Option<RequestError>,
    ) -> Result<(), SessionError> {
        self.check_peer_id(update, Kind::Update)?;
        let open = self.requests.get(&target);
        let fits = open.is_some_and(|open| !open.ours || open.kind == RequestKind::Publish);
        if self.rules().in_full && fits && !self.is_subscription(target) {
            return Err(misplaced(Kind::Update, "a request that is no subscription"));
        }
        if !fits {
            // It may have crossed with the end of its request.
            self.spend();
            if self.rules().in_full {
                return Ok(());
            }
            let error = RequestError::new(RequestCode::DoesNotExist, "no such open request");
            let _ = self.send_control(&Message::RequestError { request: update, error });
            return Ok(());
        }
        if self.updates.len() >= self.limits.open_requests {
            let reason = "REQUEST_UPDATE: too many are unanswered";
            return Err(SessionError::new(SessionCode::TooManyRequests, reason));
        }
        if self.supports(Feature::RangeFilters) {
            let unanswered = self.updates.values().filter(|of| **of == target).count();
            let ours = self.requests.get(&target).map_or(0, |open| open.updates.len());
            if (unanswered - ours) as u64 >= self.limits.request_updates {
                let reason = "REQUEST_UPDATE: too many of one request are unanswered";
                return Err(SessionError::new(SessionCode::TooManyUpdates, reason));
            }
        }
        self.updates.insert(update, target);
        if let Some(error) = refusal.or_else(|| self.too_many_ranges(&params)) {
            let _ = self.reject(update, &error);
            return Ok(());
        }
        self.events.push_back(Event::Update { request: target, update, params });
        Ok(())
    }

    pub(super) fn on_cancel(&mut self, request: RequestId, kind: RequestKind) {
        // Unknown ones crossed with our own end of the request.
        if self.is_peers(request, kind) {
            self.cancelled_by_peer(request);
        }
    }

    /// UNSUBSCRIBE ends a subscription, and a PUBLISH of ours.
    pub(super) fn on_unsubscribe(&mut self, request: RequestId) {
        if self.is_own(request, RequestKind::Publish) {
            self.close(request);
            self.events.push_back(Event::Unsubscribed { request });
            return;
        }
        self.on_cancel(request, RequestKind::Subscribe);
    }

    /// A subscription of ours, or a PUBLISH of the peer, changed.
    pub(super) fn on_publish_state(
        &mut self,
        request: RequestId,
        params: Params,
    ) -> Result<(), SessionError> {
        let kind = Kind::PublishState;
        let Some(open) = self.requests.get(&request) else {
            return self.expect_late(request, kind);
        };
        match (open.ours, open.kind) {
            (true, RequestKind::Subscribe) if open.answered => {}
            (false, RequestKind::Publish) => {}
            _ => return Err(misplaced(kind, "this request")),
        }
        self.events.push_back(Event::PublishState { request, params });
        Ok(())
    }

    pub(super) fn on_publish_done(
        &mut self,
        request: RequestId,
        code: DoneCode,
        streams: Option<u64>,
        reason: String,
    ) -> Result<(), SessionError> {
        let Some(open) = self.requests.get(&request) else {
            return self.expect_late(request, Kind::PublishDone);
        };
        match (open.ours, open.kind) {
            (true, RequestKind::Subscribe) if open.answered => {}
            (false, RequestKind::Publish) => {}
            _ => return Err(misplaced(Kind::PublishDone, "this request")),
        }
        self.finish_own(request);
        self.close(request);
        self.events.push_back(Event::PublishDone { request, code, streams, reason });
        Ok(())
    }

    /// A message for a request that is not open: fine unless the id was never used; the peer did not know
    /// yet that we ended it.
    pub(super) fn expect_late(&self, request: RequestId, kind: Kind) -> Result<(), SessionError> {
        let own_parity = u64::from(self.role == Role::Server);
        if request.0 % 2 != own_parity || request.0 < self.next_id {
            return Ok(());
        }
        let reason = format!("{}: request id {} was never used", kind.name(), request.0);
        Err(SessionError::violation(reason))
    }

    /// Marks a request of ours as granted; false when it is cancelled already.
    pub(super) fn grant(
        &mut self,
        request: RequestId,
        expected: RequestKind,
        kind: Kind,
    ) -> Result<bool, SessionError> {
        let Some(open) = self.requests.get_mut(&request) else {
            return self.expect_late(request, kind).map(|()| false);
        };
        if !open.ours || open.kind != expected || open.answered {
            return Err(misplaced(kind, "this request"));
        }
        open.answered = true;
        Ok(true)
    }

    /// What REQUEST_OK (`ok`) or REQUEST_ERROR answers: the request, or its oldest update; `None` when
    /// it is cancelled already.
    pub(super) fn answered(
        &mut self,
        request: RequestId,
        ok: Option<Kind>,
    ) -> Result<Option<(RequestId, RequestKind)>, SessionError> {
        let name = ok.unwrap_or(Kind::RequestError);
        if let Some(target) = self.updates.get(&request).copied()
            && self.next_update(target, Some(request)).is_some()
        {
            return Ok(Some((request, RequestKind::Update)));
        }
        let Some(open) = self.requests.get_mut(&request) else {
            return self.expect_late(request, name).map(|()| None);
        };
        if open.ours && !open.answered {
            let by_own_message = matches!(open.kind, RequestKind::Subscribe | RequestKind::Fetch);
            if ok.is_some() && by_own_message {
                return Err(misplaced(name, "this request"));
            }
            open.answered = true;
            return Ok(Some((request, open.kind)));
        }
        match self.next_update(request, None) {
            Some(update) => Ok(Some((update, RequestKind::Update))),
            None => Err(misplaced(name, "this request: it is answered already")),
        }
    }

    /// Takes an unanswered update of ours off `target`: the one named, or the oldest.
    fn next_update(&mut self, target: RequestId, named: Option<RequestId>) -> Option<RequestId> {
        let open = self.requests.get_mut(&target)?;
        let at = match named {
            None => 0,
            Some(update) => open.updates.iter().position(|id| *id == update)?,
        };
        if at >= open.updates.len() {
            return None;
        }
        let update = open.updates.remove(at);
        self.updates.remove(&update);
        Some(update)
    }

    pub(super) fn on_namespace(
        &mut self,
        place: Place,
        added: Option<crate::Namespace>,
        gone: Option<crate::Namespace>,
    ) {
        let Place::Request(request) = place else {
            return;
        };
        let Some(open) = self.requests.get_mut(&request) else {
            return;
        };
        if let Some(suffix) = gone {
            open.advertised = open.advertised.saturating_sub(1);
            self.events.push_back(Event::NamespaceDone { request, suffix });
        }
        if let Some(suffix) = added {
            open.advertised += 1;
            if open.advertised <= self.limits.advertised {
                self.events.push_back(Event::Namespace { request, suffix });
                return;
            }
            self.counters.advertised_overflow += 1;
            let error = RequestError::new(RequestCode::ExcessiveLoad, "too many namespaces");
            let kind = open.kind;
            self.cancel(request);
            self.events.push_back(Event::Revoked { request, kind, error });
        }
    }

    // Aliases.

    pub(super) fn alias_taken(&self, alias: u64, request: RequestId) -> bool {
        self.aliases.get(&alias).is_some_and(|known| {
            known.request != request && self.requests.contains_key(&known.request)
        })
    }

    /// From now on data of `alias` belongs to `request`.
    pub(super) fn learn_alias(
        &mut self,
        alias: u64,
        request: RequestId,
    ) -> Result<(), SessionError> {
        if self.alias_taken(alias, request) {
            return Err(duplicate_alias(alias));
        }
        self.aliases.insert(alias, Alias { request, wanted: true });
        if let Some(open) = self.requests.get_mut(&request) {
            open.alias = Some(alias);
        }
        Ok(())
    }
}

impl Request {
    /// The peer is the publisher, which may read no more of us and still owes PUBLISH_DONE. A transport may tell of
    /// the one before the other: STOP_SENDING is often put in front of the data of its packet.
    pub(super) fn may_say_more(&self) -> bool {
        let publishes = match self.kind {
            RequestKind::Subscribe => self.ours && self.answered,
            RequestKind::Publish => !self.ours,
            _ => false,
        };
        publishes && !self.rx_done
    }

    pub(super) fn new(kind: RequestKind, ours: bool, link: Link) -> Self {
        Self {
            kind,
            ours,
            answered: false,
            rx_done: false,
            link,
            alias: None,
            order: GroupOrder::Ascending,
            data_done: false,
            updates: Vec::new(),
            own_update: None,
            memory: None,
            advertised: 0,
            goaway_seen: false,
            goaway_sent: false,
        }
    }

    /// Its first message is with the transport.
    pub(super) fn is_sent(&self) -> bool {
        matches!(self.link, Link::Control | Link::Stream(_))
    }
}

pub(super) fn is_namespace(kind: RequestKind) -> bool {
    matches!(
        kind,
        RequestKind::PublishNamespace
            | RequestKind::SubscribeNamespace
            | RequestKind::SubscribeTracks
    )
}
