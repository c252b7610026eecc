//! Relays below this one: nodes of ours that showed a node key. They may subscribe to everything and
//! hold more requests than a viewer, and are ended when their key is withdrawn.

use std::time::Instant;

use super::Relay;
use crate::session::Session;
use crate::{Event, Secret, SessionCode, SessionId};

impl Relay {
    /// A peer says it is a relay of ours: its key decides.
    pub(super) fn admit_node(
        &mut self,
        session: SessionId,
        key: &Secret,
        node: String,
        now: Instant,
    ) {
        let known = self.node_keys.verify(key.expose());
        let Some(state) = self.live(session) else { return };
        let Some(hash) = known else {
            self.metrics.nodes_refused += 1;
            let reason = "auth_failed: node key".to_owned();
            return self.close(session, SessionCode::Unauthorized, reason, now);
        };
        state.node = Some(hash);
        state.moqt.allow_requests(super::upstream::REQUESTS_MAX);
        self.events.push_back(Event::NodeAdmitted { session, node });
    }

    /// Subscriptions one session may hold.
    pub(super) fn subscriptions_max(&self, session: SessionId) -> usize {
        match self.sessions.get(session.0) {
            Some(Session { node: Some(_), .. }) => self.limits.subscriptions_per_node_max,
            _ => self.limits.subscriptions_per_session_max,
        }
    }

    /// Prefixes a session may watch: a node below watches all that anybody behind it does.
    pub(super) fn prefixes_max(&self, session: SessionId) -> usize {
        match self.sessions.get(session.0) {
            Some(Session { node: Some(_), .. }) => self.limits.namespaces_max,
            _ => self.limits.namespace_subscriptions_per_session_max,
        }
    }

    /// Replaces the node keys. Sessions of nodes whose key is no longer good are ended.
    pub fn set_node_keys(&mut self, keys: crate::NodeKeys, now: Instant) {
        self.node_keys = keys;
        let ids: Vec<u64> = self.sessions.keys().collect();
        for id in ids {
            let Some(hash) = self.sessions.get(id).and_then(|session| session.node) else {
                continue;
            };
            if !self.node_keys.upholds(&hash) {
                self.metrics.nodes_refused += 1;
                let reason = "auth_failed: node key withdrawn".to_owned();
                self.close(SessionId(id), SessionCode::Unauthorized, reason, now);
            }
        }
    }
}
