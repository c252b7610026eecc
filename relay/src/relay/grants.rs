//! Tokens for the whole session: authorising a request, renewing by any request, and ending what a
//! grant covered when it runs out or is withdrawn. Of a session with several grants only what no
//! other covers ends; the session ends when nothing is left (R31).

use std::time::{Duration, Instant};

use weir_moqt::{RequestCode, RequestError, RequestId, ResetCode, Token};

use super::Relay;
use crate::admission::{Full, Place};
use crate::auth::AuthError;
use crate::grants::{Denied, Judge};
use crate::session::{Session, Watched};
use crate::{DoneCode, Event, KeySet, Namespace, SessionCode, SessionId, TrackId};

/// Why grants ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Their time was over.
    Expired,
    /// Key, token, viewer or version was withdrawn.
    Revoked,
}

impl Ended {
    fn error(self) -> AuthError {
        match self {
            Self::Expired => AuthError::Expired,
            Self::Revoked => AuthError::Revoked,
        }
    }

    fn done(self) -> DoneCode {
        match self {
            Self::Expired => DoneCode::Expired,
            Self::Revoked => DoneCode::Unauthorized,
        }
    }

    pub(super) fn request(self) -> RequestError {
        let code = match self {
            Self::Expired => RequestCode::ExpiredToken,
            Self::Revoked => RequestCode::Unauthorized,
        };
        RequestError::new(code, format!("auth_failed: {}", self.error()))
    }
}

impl Relay {
    /// Replaces keys and revocations. What they no longer uphold ends now: subscriptions, or the
    /// whole session when nothing else is left of it.
    pub fn set_keys(&mut self, keys: KeySet, now: Instant) {
        self.keys = keys;
        let ids: Vec<u64> = self.sessions.keys().collect();
        for id in ids {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            if session.grants.uphold(&self.keys) {
                self.end_uncovered(SessionId(id), Ended::Revoked, now);
            }
        }
    }

    /// How long a session may still watch `namespace`, for EXPIRES in SUBSCRIBE_OK: a client that
    /// renews by then is never cut. `None`: no limit in time, as for publishers.
    pub fn grant_expires(
        &self,
        session: SessionId,
        namespace: &Namespace,
        now: Instant,
    ) -> Option<Duration> {
        let ends = self.sessions.get(session.0)?.grants.ends(namespace)?;
        let left = ends.saturating_duration_since(now).saturating_sub(self.limits.token_leeway);
        // EXPIRES 0 would say "never".
        Some(left.max(Duration::from_millis(1)))
    }

    /// Whether the session may use `namespace`; if not, it is over (R31).
    pub(super) fn admit(
        &mut self,
        session: SessionId,
        namespace: &Namespace,
        tokens: &[Token],
        now: Instant,
        wall: Duration,
    ) -> bool {
        match self.check(session, namespace, tokens, now, wall) {
            Ok(()) => true,
            Err(Denied::Auth(error)) => {
                self.fail_auth(session, error, now);
                false
            }
            Err(Denied::Limit(full)) => {
                self.close(session, full.session_code(), full.to_string(), now);
                false
            }
        }
    }

    /// The same for requests whose refusal leaves the session alone.
    pub(super) fn admit_or_refuse(
        &mut self,
        session: SessionId,
        request: RequestId,
        namespace: &Namespace,
        tokens: &[Token],
        now: Instant,
        wall: Duration,
    ) -> bool {
        let error = match self.check(session, namespace, tokens, now, wall) {
            Ok(()) => return true,
            Err(Denied::Auth(error)) => {
                self.count_auth_failure(error);
                RequestError::new(RequestCode::Unauthorized, format!("auth_failed: {error}"))
            }
            Err(Denied::Limit(full)) => {
                RequestError::new(RequestCode::ExcessiveLoad, full.to_string())
            }
        };
        self.refuse_request(session, request, &error);
        false
    }

    fn check(
        &mut self,
        session: SessionId,
        namespace: &Namespace,
        tokens: &[Token],
        now: Instant,
        wall: Duration,
    ) -> Result<(), Denied> {
        if self.open.hold(namespace) {
            return Ok(());
        }
        let Self { sessions, keys, limits, .. } = self;
        let Some(state) = sessions.get_mut(session.0) else {
            return Err(AuthError::Missing.into());
        };
        let checked = state.authorise(namespace, tokens, &Judge { keys, limits, now, wall });
        let checked = checked.and_then(|()| self.settle_places(session).map_err(Denied::Limit));
        if let Err(Denied::Limit(full)) = checked {
            self.metrics.count_full(full);
        }
        self.reschedule(session);
        checked
    }

    /// Another shard's session took or gave back a place ([`Event::Place`]).
    pub fn count_place(&mut self, place: &Place, taken: bool) {
        self.admission.count(place, taken);
    }

    /// Brings the places a session counts against in line with its grants.
    pub(super) fn settle_places(&mut self, session: SessionId) -> Result<(), Full> {
        let Self { sessions, admission, limits, events, .. } = self;
        let Some(state) = sessions.get_mut(session.0) else { return Ok(()) };
        let Session { grants, places, .. } = state;
        if !grants.take_changed() {
            return Ok(());
        }
        let settled = admission.settle(places, grants.iter(), limits, |place, taken| {
            events.push_back(Event::Place { place, taken });
        });
        if settled.is_err() {
            // What it could not take it does not have, also not at its next request.
            grants.ask_again();
        }
        settled
    }

    /// The session's next grant has ended.
    pub(super) fn grants_timeout(&mut self, session: SessionId, now: Instant) {
        let Some(state) = self.live(session) else { return };
        if state.grants.expire(now) {
            self.end_uncovered(session, Ended::Expired, now);
        }
        self.reschedule(session);
    }

    /// Some grants are gone: ends what none of the others covers, or the session with the last.
    fn end_uncovered(&mut self, session: SessionId, why: Ended, now: Instant) {
        // What ended is given back; that cannot be refused.
        let _ = self.settle_places(session);
        let Some(state) = self.live(session) else { return };
        if state.grants.is_empty() && state.publisher.is_none() {
            self.metrics.sessions_expired += 1;
            self.count_auth_failure(why.error());
            let code = match why {
                Ended::Expired => SessionCode::ExpiredToken,
                Ended::Revoked => SessionCode::Unauthorized,
            };
            return self.close(session, code, format!("auth_failed: {}", why.error()), now);
        }
        let watched: Vec<_> = state.subscriptions.iter().map(|s| (s.request, s.track)).collect();
        for (request, track) in watched {
            if self.is_cut(session, track) {
                self.cut_subscription(session, request, why, now);
            }
        }
        let Some(state) = self.sessions.get(session.0) else { return };
        let waiting: Vec<_> = state.waiting.iter().map(|w| (w.request, w.track)).collect();
        for (request, track) in waiting {
            if self.is_cut(session, track) {
                if let Some(state) = self.live(session) {
                    state.waiting.retain(|w| w.request != request);
                }
                self.refuse_request(session, request, &why.request());
                self.stop_waiting(session, track, request, now);
            }
        }
        self.cut_early(session, why);
        self.cut_hole_waiters(session, why, now);
        self.cut_fetches(session);
        self.cut_prefixes(session, why);
        self.cut_listener(session);
        self.reschedule(session);
        self.dirty.mark(session);
    }

    pub(super) fn is_cut(&self, session: SessionId, track: TrackId) -> bool {
        let (Some(state), Some(track)) = (self.sessions.get(session.0), self.tracks.get(track.0))
        else {
            return false;
        };
        let namespace = track.name.namespace();
        !state.may_use(namespace) && !self.open.hold(namespace)
    }

    /// Whether a session may use a namespace by what it holds now.
    pub(super) fn is_covered(&self, session: SessionId, namespace: &Namespace) -> bool {
        let state = self.sessions.get(session.0);
        state.is_some_and(|state| state.may_use(namespace)) || self.open.hold(namespace)
    }

    fn cut_subscription(
        &mut self,
        session: SessionId,
        request: RequestId,
        why: Ended,
        now: Instant,
    ) {
        let Some(state) = self.live(session) else { return };
        let code = state.draft.reset_code(ResetCode::ExpiredToken);
        if let Some(subscription) = state.subscriptions.iter().find(|s| s.request == request) {
            state.resets.extend(subscription.streams().map(|stream| (stream, code)));
        }
        self.metrics.subscriptions_expired += 1;
        self.finish_subscription(session, request, why.done(), now);
    }

    fn cut_fetches(&mut self, session: SessionId) {
        let Some(state) = self.sessions.get(session.0) else { return };
        let cut: Vec<RequestId> = state
            .fetches
            .iter()
            .filter(|fetch| fetch.track.is_some_and(|track| self.is_cut(session, track)))
            .map(|fetch| fetch.request)
            .collect();
        let Some(state) = self.live(session) else { return };
        let code = state.draft.reset_code(ResetCode::ExpiredToken);
        for request in cut {
            let Some(at) = state.fetches.iter().position(|fetch| fetch.request == request) else {
                continue;
            };
            let fetch = state.fetches.remove(at);
            state.moqt.finish_fetch(request);
            state.resets.extend(fetch.stream().map(|stream| (stream, code)));
        }
    }

    fn cut_prefixes(&mut self, session: SessionId, why: Ended) {
        let Self { sessions, open, .. } = self;
        let Some(state) = sessions.get_mut(session.0) else { return };
        let (kept, cut): (Vec<_>, Vec<_>) = std::mem::take(&mut state.prefixes)
            .into_iter()
            .partition(|it| open.hold(&it.prefix) || state.may_use(&root(&it.prefix)));
        state.prefixes = kept;
        for Watched { request, .. } in &cut {
            // An error means that the peer ended the request in the same moment.
            let _ = state.moqt.revoke(*request, &why.request());
        }
        for Watched { request, .. } in cut {
            self.forget_prefix(session, request);
        }
    }

    /// Ends a session for a token that opens nothing, or for the lack of one.
    pub(super) fn fail_auth(&mut self, session: SessionId, error: AuthError, now: Instant) {
        self.count_auth_failure(error);
        if error.is_forgery() {
            self.events.push_back(Event::AuthFailed { session });
        }
        let reason = format!("auth_failed: {error}");
        self.close(session, SessionCode::Unauthorized, reason, now);
    }

    fn count_auth_failure(&mut self, error: AuthError) {
        if let Some(count) = self.metrics.auth_failures.get_mut(error.index()) {
            *count += 1;
        }
    }
}

/// The broadcast a prefix lies in: a grant opens its first three fields.
pub(super) fn root(prefix: &Namespace) -> Namespace {
    Namespace::new(prefix.fields().take(3)).unwrap_or_default()
}
