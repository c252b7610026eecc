//! PUBLISH_NAMESPACE towards viewers that came for one broadcast and do not know what it is called (`announce=1` in
//! their path), as Shaka does when no namespace is configured. It owns who was told of what: at most one broadcast for
//! each session. Everybody else has to ask (SUBSCRIBE_NAMESPACE).

use std::time::{Duration, Instant};

use weir_moqt::{Params, RequestId};

use super::Relay;
use crate::grants::{Denied, Judge};
use crate::{Namespace, SessionId};

/// A session that is told of one broadcast.
#[derive(Debug)]
pub(super) struct Listener {
    session: SessionId,
    namespace: Namespace,
    /// Our PUBLISH_NAMESPACE, while the broadcast is there.
    request: Option<RequestId>,
}

impl Relay {
    /// The session is set up: its token says which broadcast it came for.
    pub(super) fn listen_for_broadcast(
        &mut self,
        session: SessionId,
        now: Instant,
        wall: Duration,
    ) {
        let Self { sessions, keys, limits, .. } = self;
        let open = sessions.get_mut(session.0).filter(|state| state.closing.is_none());
        let Some(state) = open.filter(|state| state.wants_announcement) else { return };
        let namespace = match state.grants.opened(&Judge { keys, limits, now, wall }) {
            Ok(namespace) => namespace,
            Err(Denied::Auth(error)) => return self.fail_auth(session, error, now),
            Err(Denied::Limit(full)) => {
                return self.close(session, full.session_code(), full.to_string(), now);
            }
        };
        if !self.admit(session, &namespace, &[], now, wall) {
            return;
        }
        self.listeners.push(Listener { session, namespace: namespace.clone(), request: None });
        // A node below others has the broadcast's word from above only if it asks for it.
        self.seek_above(&namespace);
        if self.directory.serving(&namespace).is_some()
            || self.namespaces_above(&namespace).contains(&namespace)
        {
            self.tell_listeners(&namespace, true);
        }
    }

    /// PUBLISH_NAMESPACE, or its end, to those who came for this broadcast.
    pub(super) fn tell_listeners(&mut self, namespace: &Namespace, added: bool) {
        let Self { listeners, sessions, dirty, .. } = self;
        for listener in listeners.iter_mut().filter(|listener| listener.namespace == *namespace) {
            let Some(state) = sessions.get_mut(listener.session.0) else { continue };
            if added && listener.request.is_none() {
                // An error means that the session is about to end: then nobody listens.
                listener.request = state.moqt.publish_namespace(namespace, Params::default()).ok();
            } else if !added && let Some(request) = listener.request.take() {
                state.moqt.cancel(request);
            }
            dirty.mark(listener.session);
        }
    }

    /// Grants have ended: who may not watch any more is told no more.
    pub(super) fn cut_listener(&mut self, session: SessionId) {
        let covered = |namespace: &Namespace| self.is_covered(session, namespace);
        let cut = |it: &Listener| it.session == session && !covered(&it.namespace);
        let Some(at) = self.listeners.iter().position(cut) else { return };
        let Listener { request, .. } = self.listeners.swap_remove(at);
        if let (Some(request), Some(state)) = (request, self.live(session)) {
            state.moqt.cancel(request);
        }
        self.unseek_above();
    }

    /// Broadcasts that somebody waits to be told of.
    pub(super) fn listened_for(&self) -> impl Iterator<Item = &Namespace> {
        self.listeners.iter().map(|listener| &listener.namespace)
    }

    /// The session is over.
    pub(super) fn forget_listener(&mut self, session: SessionId) {
        self.listeners.retain(|listener| listener.session != session);
    }
}
