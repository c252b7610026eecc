//! Admission by load: past what a shard can carry, newcomers get `capacity` and those who watch stay
//! served. It owns two signals: what share of the time the shard has no more to give (its core busy, or its
//! port full), and how many sessions lose groups for want of room. It measures no time itself.

use std::collections::VecDeque;
use std::time::Instant;

use super::Relay;
use crate::{SessionCode, SessionId};

/// Both signals.
#[derive(Debug, Default)]
pub(super) struct Load {
    busy_permille: u16,
    /// Sessions that lost something, each once, in the order in which they are looked at again.
    lossy: VecDeque<(Instant, SessionId)>,
}

impl Relay {
    /// The share of time in which the shard has no more to give, smoothed over a second or two.
    pub fn set_load(&mut self, busy_permille: u16) {
        self.load.busy_permille = busy_permille;
    }

    /// A session was driven: remembers whether it lost something on the way.
    pub(super) fn note_lossy(&mut self, session: SessionId, now: Instant) {
        let Some(state) = self.sessions.get_mut(session.0) else { return };
        if !state.subscriptions.iter().any(|subscription| subscription.lost_something_at(now)) {
            return;
        }
        if state.lossy_since.replace(now).is_none() {
            self.load.lossy.push_back((now + self.limits.lossy_window, session));
        }
        self.metrics.sessions_lossy = self.load.lossy.len() as u64;
    }

    /// Whether newcomers are to be refused.
    pub(super) fn is_overloaded(&mut self, now: Instant) -> bool {
        while let Some((until, session)) = self.load.lossy.front().copied() {
            if until > now {
                break;
            }
            self.load.lossy.pop_front();
            let Some(state) = self.sessions.get_mut(session.0) else { continue };
            let until = state.lossy_since.map(|since| since + self.limits.lossy_window);
            match until {
                Some(until) if until > now => self.load.lossy.push_back((until, session)),
                _ => state.lossy_since = None,
            }
        }
        let lossy = self.load.lossy.len();
        self.metrics.sessions_lossy = lossy as u64;
        let all = self.sessions.len();
        let share = lossy * 1000 / all.max(1);
        self.load.busy_permille > self.limits.load_max_permille
            || (all >= self.limits.lossy_sessions_min
                && share > usize::from(self.limits.lossy_sessions_max_permille))
    }

    /// Ends a newcomer that is no publisher while the shard carries what it can.
    pub(super) fn refuse_newcomer(&mut self, session: SessionId, now: Instant) {
        let publishes = self.live(session).is_none_or(|state| state.publisher.is_some());
        if !publishes && self.is_overloaded(now) {
            self.metrics.limit_load += 1;
            self.close(session, SessionCode::Internal, "capacity".to_owned(), now);
        }
    }
}
