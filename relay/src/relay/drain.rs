//! Draining: every session is told where to go and until when, and one that stays past that moment
//! is closed. Who refuses newcomers, and what ends the node, is the engine's affair.

use std::time::Instant;

use weir_moqt::SessionCode;

use super::Relay;
use crate::SessionId;

/// A relay that is being emptied.
#[derive(Clone, Debug)]
pub(super) struct Draining {
    /// Where sessions are sent; empty = the same address.
    new_uri: String,
    /// When those that stayed are closed.
    deadline: Instant,
}

impl Relay {
    /// Sends GOAWAY to every session, now and to come, and closes at `deadline` those that stay. The
    /// first call decides: GOAWAY may be sent only once (draft 18 section 10.4).
    pub fn drain(&mut self, new_uri: &str, deadline: Instant, now: Instant) {
        if self.draining.is_some() {
            return;
        }
        self.draining = Some(Draining { new_uri: new_uri.to_owned(), deadline });
        let ids: Vec<u64> = self.sessions.keys().collect();
        for id in ids {
            self.send_goaway(SessionId(id), now);
        }
    }

    /// Where requests are to go that come while this relay is being drained, if it names another place.
    pub(super) fn drained_to(&self) -> Option<&str> {
        let draining = self.draining.as_ref()?;
        Some(draining.new_uri.as_str()).filter(|uri| !uri.is_empty())
    }

    /// Tells a session to go, if this relay is being drained. It is called again when a session is
    /// set up: before that there is nothing to tell it with.
    pub(super) fn send_goaway(&mut self, session: SessionId, now: Instant) {
        let Some(Draining { new_uri, deadline }) = self.draining.clone() else { return };
        // Relays above are left when we end, not sent away.
        if self.is_above(session) {
            return;
        }
        let Some(state) = self.live(session) else { return };
        state.leave_deadline = Some(deadline);
        if state.is_set_up {
            let left = deadline.saturating_duration_since(now).as_millis();
            // Refused only when it was sent before. Zero would mean that we do not say.
            let _ = state.moqt.goaway(&new_uri, u64::try_from(left).unwrap_or(u64::MAX).max(1));
            self.metrics.goaways_sent += 1;
        }
        self.reschedule(session);
        self.dirty.mark(session);
    }

    /// Closes a session that was told to go and did not.
    pub(super) fn end_straggler(&mut self, session: SessionId, now: Instant) {
        self.metrics.goaway_timeouts += 1;
        let reason = "did not leave before the deadline of GOAWAY".to_owned();
        self.close(session, SessionCode::GoAwayTimeout, reason, now);
    }
}
