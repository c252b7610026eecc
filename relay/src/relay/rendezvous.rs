//! SUBSCRIBEs that came before their publisher (RENDEZVOUS_TIMEOUT): they wait for the track, within limits, and are
//! refused with TIMEOUT when their time is up. It knows names only; serving is `request`'s affair.

use std::time::{Duration, Instant};

use weir_moqt::{Params, RequestCode, RequestError, RequestId};

use super::grants::Ended;
use super::updates::overlay;
use super::{Relay, Timer};
use crate::session::Ask;
use crate::{FullTrackName, Namespace, SessionId};

/// One subscriber that is early.
#[derive(Debug)]
pub(super) struct Early {
    session: SessionId,
    request: RequestId,
    name: FullTrackName,
    params: Params,
    until: Instant,
}

impl Relay {
    /// Keeps a SUBSCRIBE whose track is not there. False when it asked for no wait or too many wait.
    pub(super) fn wait_for_track(
        &mut self,
        session: SessionId,
        request: RequestId,
        name: &FullTrackName,
        params: &Params,
        now: Instant,
    ) -> bool {
        let asked = Duration::from_millis(params.rendezvous_timeout_ms.unwrap_or(0));
        if asked.is_zero() {
            return false;
        }
        if self.early.len() >= self.limits.rendezvous_max {
            self.metrics.limit_rendezvous += 1;
            return false;
        }
        let until = now + asked.min(self.limits.rendezvous_timeout_max);
        let (name, params) = (name.clone(), params.clone());
        self.early.push(Early { session, request, name, params, until });
        self.timers.insert((until, Timer::Rendezvous));
        true
    }

    /// A track came: those who waited for it are served as if they had just asked.
    pub(super) fn meet_rendezvous(&mut self, name: &FullTrackName) {
        self.meet(|early| early.name == *name);
    }

    /// A namespace came: whoever waited for a track of it may ask its holder now.
    pub(super) fn meet_rendezvous_in(&mut self, namespace: &Namespace) {
        self.meet(|early| early.name.namespace().starts_with(namespace));
    }

    fn meet(&mut self, is_met: impl Fn(&Early) -> bool) {
        let mut at = 0;
        while let Some(early) = self.early.get(at) {
            if is_met(early) {
                let early = self.early.remove(at);
                // Served when it is driven: there is a clock.
                self.dirty.mark(early.session);
                self.met.push(early);
            } else {
                at += 1;
            }
        }
    }

    /// Serves those whose track came in this turn.
    pub(super) fn serve_met(&mut self, now: Instant) {
        for early in std::mem::take(&mut self.met) {
            let Early { session, request, name, mut params, until } = early;
            let left = until.saturating_duration_since(now);
            params.rendezvous_timeout_ms = u64::try_from(left.as_millis()).ok();
            if self.live(session).is_none() {
                continue;
            }
            if self.is_covered(session, name.namespace()) {
                self.resolve(session, request, &name, Ask::Subscribe(params), now);
            } else {
                // Its grant ended while it waited.
                self.refuse_request(session, request, &Ended::Expired.request());
            }
        }
    }

    /// REQUEST_UPDATE of one that waits. False when it is none.
    pub(super) fn update_early(
        &mut self,
        session: SessionId,
        request: RequestId,
        update: RequestId,
        params: &Params,
        now: Instant,
        wall: Duration,
    ) -> bool {
        let is_it = |early: &Early| early.session == session && early.request == request;
        let Some(early) = self.early.iter().find(|early| is_it(early)) else { return false };
        let namespace = early.name.namespace().clone();
        // A token renews the grant here as well.
        if !self.admit(session, &namespace, &params.tokens, now, wall) {
            return true;
        }
        let ranges_max = self.limits.filter_ranges_max;
        if let Some(early) = self.early.iter_mut().find(|early| is_it(early))
            && let Err(error) = overlay(&mut early.params, params, ranges_max)
        {
            self.refuse_update(session, update, &error);
        } else {
            self.accept_update(session, update);
        }
        true
    }

    /// Grants have ended: those of a session who wait by them are refused.
    pub(super) fn cut_early(&mut self, session: SessionId, why: Ended) {
        let mut at = 0;
        while let Some(early) = self.early.get(at) {
            if early.session != session || self.is_covered(session, early.name.namespace()) {
                at += 1;
                continue;
            }
            let early = self.early.remove(at);
            self.refuse_request(session, early.request, &why.request());
        }
    }

    /// Subscribers of a session that wait here; they count as its subscriptions.
    pub(super) fn waits_early(&self, session: SessionId) -> usize {
        self.early.iter().filter(|early| early.session == session).count()
    }

    /// Whether a session waits for this track already.
    pub(super) fn waits_early_for(&self, session: SessionId, name: &FullTrackName) -> bool {
        self.early.iter().any(|early| early.session == session && early.name == *name)
    }

    /// The subscriber took its request back; true when it waited here.
    pub(super) fn forget_early(&mut self, session: SessionId, request: RequestId) -> bool {
        let before = self.early.len();
        self.early.retain(|early| early.session != session || early.request != request);
        self.early.len() < before
    }

    /// The session is over.
    pub(super) fn forget_early_of(&mut self, session: SessionId) {
        self.early.retain(|early| early.session != session);
        self.met.retain(|early| early.session != session);
    }

    /// Those whose time is up are refused.
    pub(super) fn rendezvous_over(&mut self, now: Instant) {
        let error = RequestError::new(RequestCode::Timeout, "not_live: no publisher came in time");
        let mut at = 0;
        while let Some(early) = self.early.get(at) {
            if early.until <= now {
                let early = self.early.remove(at);
                self.refuse_request(early.session, early.request, &error);
            } else {
                at += 1;
            }
        }
    }
}
