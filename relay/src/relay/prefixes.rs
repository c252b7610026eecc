//! What sessions ask to be told of under a prefix: namespaces (SUBSCRIBE_NAMESPACE), tracks (SUBSCRIBE_TRACKS), or
//! both, as drafts 14 and 16 have it. It owns who watches which prefix; how a track is offered is `downstream`'s.

use std::time::{Duration, Instant};

use weir_moqt::{Params, RequestCode, RequestError, RequestId};

use super::grants::root;
use super::updates::overlay;
use super::{Relay, Watcher};
use crate::session::Watched;
use crate::{Namespace, SessionId};

/// What is wanted of a prefix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wants {
    pub(super) namespaces: bool,
    pub(super) tracks: bool,
}

impl Relay {
    /// Only at or below a broadcast the session may watch (H26).
    #[expect(clippy::too_many_arguments, reason = "one request, spelled out, and the two times")]
    pub(super) fn on_subscribe_prefix(
        &mut self,
        session: SessionId,
        request: RequestId,
        prefix: Namespace,
        wants: Wants,
        mut params: Params,
        now: Instant,
        wall: Duration,
    ) {
        let tokens = std::mem::take(&mut params.tokens);
        let scope = self.scope(&prefix);
        if !self.admit_or_refuse(session, request, &scope, &tokens, now, wall)
            || self.sends_away(session, request)
        {
            return;
        }
        let prefixes_max = self.prefixes_max(session);
        let Some(state) = self.live(session) else { return };
        if state.prefixes.len() >= prefixes_max {
            self.metrics.limit_namespaces += 1;
            let error = RequestError::new(RequestCode::ExcessiveLoad, "too many prefixes");
            return self.refuse_request(session, request, &error);
        }
        let Wants { namespaces, tracks } = wants;
        if state.prefixes.iter().any(|known| known.overlaps(&prefix, namespaces, tracks)) {
            return self.refuse_request(session, request, &overlap());
        }
        if state.moqt.accept(request, Params::default(), &[]).is_err() {
            return;
        }
        let terms = tracks.then(|| Box::new(params));
        let watched = Watched { request, prefix, namespaces, tracks: terms, withheld: 0 };
        state.prefixes.push(watched);
        self.watch(session, request, now);
        self.dirty.mark(session);
    }

    /// The namespace whose grant a prefix needs: a token is good for one broadcast, which has three fields; a
    /// tree that is open is so in whole.
    fn scope(&self, prefix: &Namespace) -> Namespace {
        if self.open.hold(prefix) { prefix.clone() } else { root(prefix) }
    }

    /// Tells of what is there under a prefix, and from now on of what comes.
    fn watch(&mut self, session: SessionId, request: RequestId, now: Instant) {
        let Self { sessions, directory, watchers, seekers, .. } = self;
        let Some(state) = sessions.get_mut(session.0) else { return };
        let Some(known) = state.prefixes.iter().find(|known| known.request == request) else {
            return;
        };
        let prefix = known.prefix.clone();
        let seeks = known.tracks.is_some();
        let namespaces = known.namespaces;
        if namespaces {
            for namespace in directory.under(&prefix) {
                if let Some(suffix) = namespace.strip_prefix(&prefix) {
                    let _ = state.moqt.namespace(request, &suffix);
                }
            }
            watchers.push(Watcher { session, request, prefix: prefix.clone() });
        }
        if seeks {
            seekers.push(Watcher { session, request, prefix: prefix.clone() });
        }
        if namespaces {
            let above = self.namespaces_above(&prefix);
            let Some(state) = self.live(session) else { return };
            for suffix in above.iter().filter_map(|namespace| namespace.strip_prefix(&prefix)) {
                let _ = state.moqt.namespace(request, &suffix);
            }
        }
        if seeks {
            self.offer_existing(session, request, now);
        }
        self.seek_above(&prefix);
    }

    /// The request is over. Tracks that were offered for it stay as they are.
    pub(super) fn forget_prefix(&mut self, session: SessionId, request: RequestId) {
        let is_it = |watcher: &Watcher| watcher.session == session && watcher.request == request;
        self.watchers.retain(|watcher| !is_it(watcher));
        self.seekers.retain(|seeker| !is_it(seeker));
        if let Some(state) = self.live(session) {
            state.prefixes.retain(|known| known.request != request);
        }
        self.unseek_above();
    }

    /// REQUEST_UPDATE of a namespace subscription: another prefix, or other terms for tracks offered from now on.
    pub(super) fn update_prefix(
        &mut self,
        session: SessionId,
        request: RequestId,
        update: RequestId,
        params: &Params,
        now: Instant,
        wall: Duration,
    ) {
        let known = self
            .live(session)
            .and_then(|state| state.prefixes.iter().find(|known| known.request == request));
        let Some(known) = known else {
            let error = RequestError::new(RequestCode::NotSupported, "cannot be updated");
            return self.refuse_request(session, update, &error);
        };
        let before = known.prefix.clone();
        let (namespaces, tracks) = (known.namespaces, known.tracks.is_some());
        let prefix = params.prefix.clone().unwrap_or_else(|| before.clone());
        let scope = self.scope(&prefix);
        if !self.admit_or_refuse(session, update, &scope, &params.tokens, now, wall) {
            return;
        }
        let Some(state) = self.live(session) else { return };
        let mut others = state.prefixes.iter().filter(|known| known.request != request);
        if others.any(|known| known.overlaps(&prefix, namespaces, tracks)) {
            return self.refuse_request(session, update, &overlap());
        }
        let ranges_max = self.limits.filter_ranges_max;
        let Some(state) = self.live(session) else { return };
        let known = state.prefixes.iter_mut().find(|known| known.request == request);
        if let Some(terms) = known.and_then(|known| known.tracks.as_mut())
            && let Err(error) = overlay(terms, params, ranges_max)
        {
            return self.refuse_update(session, update, &error);
        }
        let moves = prefix != before;
        if moves && namespaces {
            // Suffixes of two prefixes on one stream would be read wrongly: the old ones end before the answer.
            let above = self.namespaces_above(&before);
            let known = self.directory.under(&before).chain(&above);
            let gone: Vec<Namespace> = known.filter_map(|it| it.strip_prefix(&before)).collect();
            if let Some(state) = self.live(session) {
                for suffix in gone {
                    let _ = state.moqt.namespace_done(request, &suffix);
                }
            }
        }
        let Some(state) = self.live(session) else { return };
        // An error means that the peer ended the request in the same moment.
        let _ = state.moqt.accept(update, Params::default(), &[]);
        if let Some(known) = state.prefixes.iter_mut().find(|known| known.request == request) {
            known.prefix = prefix;
        }
        if moves {
            let is_it = |it: &Watcher| it.session == session && it.request == request;
            self.watchers.retain(|watcher| !is_it(watcher));
            self.seekers.retain(|seeker| !is_it(seeker));
            self.watch(session, request, now);
            self.unseek_above();
        }
        self.dirty.mark(session);
    }
}

fn overlap() -> RequestError {
    RequestError::new(RequestCode::PrefixOverlap, "prefixes overlap")
}
