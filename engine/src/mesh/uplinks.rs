//! Which relay above this shard uses, and when it turns to another. It owns the order of
//! preference, the waits between attempts and the verdict on what a relay above says of its own
//! way to the engine; it dials nothing itself, and moves no track.
//!
//! A connection to every configured relay is kept warm, so that turning to the next one costs no
//! handshake. A relay is **ready** once it has shown the engine's signed trust and a hop list that
//! leads to the engine and not through us. The first ready one in the order of preference is used;
//! back to an earlier one we go only after it has been ready for a while, and then without a cut.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weir_relay::SessionId;

use super::{UPSTREAMS_MAX, UpstreamUrl};
use crate::quic::ConnId;

mod slot;

use slot::{Phase, Pulse, Slot};

/// How long an earlier relay must have been ready again before tracks return to it: longer than a
/// process that dies at start takes to die.
const RETURN_AFTER: Duration = Duration::from_secs(10);

/// How long a relay must have been ready for its next failure to count as a first one.
const STEADY_AFTER: Duration = Duration::from_secs(5);

/// How long a connected relay may take to say who it is: hop list and trust are its first words.
const SPEAK_TIMEOUT: Duration = Duration::from_secs(5);

/// What the shard has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin a connection and report it by [`Uplinks::dialled`] or [`Uplinks::failed`].
    Dial {
        /// For which upstream.
        slot: usize,
        /// Where.
        to: SocketAddr,
        /// Name for TLS.
        host: String,
    },
    /// Look up a name and report by [`Uplinks::resolved`].
    Resolve(UpstreamUrl),
    /// Take tracks from this session from now on.
    Use(SessionId),
    /// End this connection.
    Close {
        /// Which.
        conn: ConnId,
        /// Why.
        reason: &'static str,
    },
    /// Send a sign of life and report by [`Uplinks::probed`] what came back so far.
    Probe {
        /// On which connection.
        conn: ConnId,
    },
    /// This session may be dead, or turned out not to be: whether the next one waits for what it
    /// still owes.
    Doubt {
        /// Which.
        session: SessionId,
        /// Nothing is heard from it.
        doubted: bool,
    },
    /// Our own hop list has changed: tell those below.
    Tell,
}

/// State of one upstream, for people and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Waits before the next attempt.
    #[default]
    Waiting,
    /// Being dialled, or connected and not heard yet.
    Connecting,
    /// Connected, and itself cut off from the engine.
    CutOff,
    /// Connected as far as we know, and silent.
    Silent,
    /// Gets its tracks from us, so we take none from it.
    Loop,
    /// Could be used at once.
    Ready,
    /// Tracks come from here.
    Active,
    /// Wants to be left; tracks are moving away.
    Leaving,
}

impl State {
    /// Every state, in the order of their labels' meaning.
    pub const ALL: [Self; 8] = [
        Self::Waiting,
        Self::Connecting,
        Self::CutOff,
        Self::Silent,
        Self::Loop,
        Self::Ready,
        Self::Active,
        Self::Leaving,
    ];

    /// Stable label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Connecting => "connecting",
            Self::CutOff => "cut_off",
            Self::Silent => "silent",
            Self::Loop => "loop",
            Self::Ready => "ready",
            Self::Active => "active",
            Self::Leaving => "leaving",
        }
    }
}

/// One upstream as `/metrics` shows it.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// `HOST:PORT`.
    pub upstream: String,
    /// What it is now.
    pub state: State,
    /// Connections begun.
    pub attempts: u64,
    /// Connections lost after they had been ready.
    pub losses: u64,
    /// Times it was refused for a loop.
    pub loops: u64,
    /// Times it fell silent, whether or not it came back.
    pub silences: u64,
    /// Bytes of UDP payload received from it.
    pub received_bytes: u64,
    /// Bytes sent to it.
    pub sent_bytes: u64,
    /// Round trip as QUIC measures it.
    pub rtt: Duration,
}

/// The relays above one shard.
pub struct Uplinks {
    own: String,
    slots: Vec<Slot>,
    active: Option<usize>,
    /// The hop list last told to those below.
    told: Option<Vec<String>>,
    actions: VecDeque<Action>,
    /// Times the relay in use changed.
    switches: u64,
    /// Tracks come from above.
    carries: bool,
}

impl Uplinks {
    /// Nothing connected yet; the first attempts are due at once.
    pub fn new(own: impl Into<String>, urls: &[UpstreamUrl], seed: u64, now: Instant) -> Self {
        let slots = urls
            .iter()
            .take(UPSTREAMS_MAX)
            .zip(0..)
            .map(|(url, n): (_, u64)| Slot::new(url.clone(), None, seed.wrapping_add(n), now))
            .collect();
        Self {
            own: own.into(),
            slots,
            active: None,
            told: None,
            actions: VecDeque::new(),
            switches: 0,
            carries: false,
        }
    }

    /// Whether any track comes from above.
    pub fn set_carries(&mut self, carries: bool) {
        self.carries = carries;
    }

    /// The next thing to do.
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        if self.actions.is_empty() {
            self.decide(now);
        }
        self.actions.pop_front()
    }

    /// When to ask again without any news.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let returns = self.active.and_then(|active| {
            let before = self.slots.iter().enumerate().filter(move |(at, slot)| {
                self.rank(*at) < self.rank(active)
                    && slot.is_ready()
                    && !slot.leaving
                    && self.may_return(*at, active)
            });
            let before = before.filter(|(_, slot)| !slot.silent);
            before.filter_map(|(_, slot)| Some(slot.ready_since? + RETURN_AFTER)).min()
        });
        let waits = self.slots.iter().filter_map(|slot| match slot.phase {
            Phase::Waiting { until } | Phase::Resolving { until } => Some(until),
            Phase::Open { speak_until, .. } if !slot.has_spoken() => Some(speak_until),
            _ => None,
        });
        let probes = self.slots.iter().filter_map(Slot::probe_at);
        waits.chain(returns).chain(probes).min()
    }

    /// Our own hop list: empty while cut off from the engine.
    pub fn path(&self) -> Vec<String> {
        let above = self.active.and_then(|active| self.slots.get(active));
        // Who hears nothing from above has no way, as far as those below should count on it.
        match above.filter(|slot| !slot.silent).and_then(|slot| slot.path.as_ref()) {
            Some(above) if !above.is_empty() => {
                std::iter::once(&self.own).chain(above).cloned().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Times the relay in use changed.
    pub fn switches(&self) -> u64 {
        self.switches
    }

    /// Upstreams as they are now, with the connection of each.
    pub fn statuses(&self) -> impl Iterator<Item = (Status, Option<ConnId>)> + '_ {
        self.slots.iter().enumerate().filter(|(_, slot)| !matches!(slot.phase, Phase::Retired)).map(
            |(at, slot)| {
                let status = Status {
                    upstream: slot.url.authority(),
                    state: self.state(at, slot),
                    attempts: slot.attempts,
                    losses: slot.losses,
                    loops: slot.loops,
                    silences: slot.silences,
                    ..Status::default()
                };
                (status, slot.conn())
            },
        )
    }

    fn state(&self, at: usize, slot: &Slot) -> State {
        match slot.phase {
            Phase::Waiting { .. } | Phase::Retired => State::Waiting,
            Phase::Resolving { .. } | Phase::Dialling | Phase::Connecting(_) => State::Connecting,
            Phase::Open { .. } if slot.leaving => State::Leaving,
            Phase::Open { .. } if slot.looped => State::Loop,
            Phase::Open { .. } if slot.silent => State::Silent,
            Phase::Open { .. } if self.active == Some(at) => State::Active,
            Phase::Open { .. } if slot.is_ready() => State::Ready,
            Phase::Open { .. } if slot.path.as_ref().is_some_and(Vec::is_empty) => State::CutOff,
            Phase::Open { .. } => State::Connecting,
        }
    }

    // What the shard reports.

    /// The connection of a [`Action::Dial`] is under way.
    pub fn dialled(&mut self, slot: usize, conn: ConnId) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.attempts += 1;
            slot.phase = Phase::Connecting(conn);
        }
    }

    /// It could not even begin.
    pub fn failed(&mut self, slot: usize, now: Instant) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.attempts += 1;
            slot.wait(now);
        }
    }

    /// What a name stands for; empty when nobody knows.
    pub fn resolved(&mut self, url: &UpstreamUrl, addresses: &[SocketAddr], now: Instant) {
        for slot in self.slots.iter_mut().filter(|slot| slot.url == *url) {
            if !matches!(slot.phase, Phase::Resolving { .. }) {
                continue;
            }
            slot.addresses = addresses.to_vec();
            if addresses.is_empty() {
                slot.wait(now);
            } else {
                slot.phase = Phase::Waiting { until: now };
            }
        }
    }

    /// Whether this connection is one of ours.
    pub fn slot_of(&self, conn: ConnId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.conn() == Some(conn))
    }

    /// The URL of a slot.
    pub fn url(&self, slot: usize) -> Option<&UpstreamUrl> {
        self.slots.get(slot).map(|slot| &slot.url)
    }

    /// Its session began.
    pub fn opened(&mut self, slot: usize, session: SessionId, now: Instant) {
        if let Some(slot) = self.slots.get_mut(slot)
            && let Phase::Connecting(conn) = slot.phase
        {
            slot.phase = Phase::Open { conn, session, speak_until: now + SPEAK_TIMEOUT };
            slot.pulse = Pulse::new(now);
        }
    }

    /// What came back of [`Action::Probe`] and those before: acknowledgements heard so far on this
    /// connection, and its round trip.
    pub fn probed(&mut self, conn: ConnId, acks: u64, rtt: Duration, now: Instant) {
        let Some(at) = self.slot_of(conn) else { return };
        let Some(slot) = self.slots.get_mut(at) else { return };
        let silent = slot.pulse.is_silent(acks, rtt, now);
        if silent == std::mem::replace(&mut slot.silent, silent) {
            return;
        }
        if silent {
            slot.silences += 1;
            tracing::warn!(upstream = slot.url.authority(), "upstream is silent");
        } else {
            // It has to prove itself again before tracks return to it.
            slot.ready_since = slot.ready_since.map(|_| now);
            tracing::info!(upstream = slot.url.authority(), "upstream is heard again");
        }
        if let Some(session) = slot.session() {
            self.actions.push_back(Action::Doubt { session, doubted: silent });
        }
    }

    /// The connection is gone, whoever ended it.
    pub fn closed(&mut self, slot: usize, now: Instant) {
        let Some(held) = self.slots.get_mut(slot) else { return };
        if held.ready_since.is_some() {
            held.losses += 1;
        }
        let retired = held.stands_for.is_some();
        held.wait(now);
        if retired {
            held.phase = Phase::Retired;
        }
        if self.active == Some(slot) {
            self.active = None;
        }
    }

    /// A relay above says how it stands to the engine; `None` for a hop list that is none.
    pub fn path_heard(&mut self, session: SessionId, path: Option<Vec<String>>) {
        let own = self.own.clone();
        let Some(slot) = self.slot_by_session(session) else { return };
        let Some(path) = path else {
            if let Some(conn) = slot.conn() {
                self.actions.push_back(Action::Close { conn, reason: "malformed hop list" });
            }
            return;
        };
        let looped = path.contains(&own);
        if looped && !slot.looped {
            slot.loops += 1;
            tracing::error!(
                upstream = slot.url.authority(),
                hops = path.join(" > "),
                "loop refused: this upstream gets its tracks from us"
            );
        }
        slot.looped = looped;
        slot.path = Some(path);
    }

    /// A relay above showed trust that the engine signed.
    pub fn trust_heard(&mut self, session: SessionId) {
        if let Some(slot) = self.slot_by_session(session) {
            slot.trusted = true;
        }
    }

    /// What a relay above showed as trust is not the engine's word.
    pub fn trust_refused(&mut self, session: SessionId) {
        let conn = self.slot_by_session(session).and_then(|slot| slot.conn());
        if let Some(conn) = conn {
            self.actions
                .push_back(Action::Close { conn, reason: "trust not signed by our engine" });
        }
    }

    /// A relay above wants to be left, for `uri` or, if empty, for whoever answers at its address.
    pub fn goaway(&mut self, session: SessionId, uri: &str, now: Instant) {
        let Some(at) = self.slots.iter().position(|slot| slot.session() == Some(session)) else {
            return;
        };
        let Some(slot) = self.slots.get_mut(at) else { return };
        slot.leaving = true;
        let stands_for = slot.stands_for.unwrap_or(at);
        let url = if uri.is_empty() {
            slot.url.clone()
        } else {
            match UpstreamUrl::parse(uri) {
                Ok(url) => url,
                Err(error) => {
                    tracing::warn!(%error, "upstream says GOAWAY to nowhere; using the next one");
                    return;
                }
            }
        };
        let seed = slot.backoff.limit().as_nanos() as u64 ^ at as u64;
        let fresh = Slot::new(url, Some(stands_for), seed, now);
        // One stand-in for each configured upstream, beside one that may be leaving.
        let old = self.slots.iter().position(|slot| matches!(slot.phase, Phase::Retired));
        match old {
            Some(old) => self.slots[old] = fresh,
            None if self.slots.len() < 3 * UPSTREAMS_MAX => self.slots.push(fresh),
            None => {}
        }
    }

    /// No track comes from this session any more.
    pub fn left(&mut self, session: SessionId) {
        let Some(slot) = self.slot_by_session(session) else { return };
        let retire = slot.leaving || slot.stands_for.is_some();
        if retire && let Some(conn) = slot.conn() {
            self.actions.push_back(Action::Close { conn, reason: "moved away" });
        }
    }

    // Decisions.

    fn slot_by_session(&mut self, session: SessionId) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.session() == Some(session))
    }

    /// Lower is preferred. A stand-in comes right behind the one it stands for.
    fn rank(&self, at: usize) -> (usize, bool) {
        let stands_for = self.slots.get(at).and_then(|slot| slot.stands_for);
        (stands_for.unwrap_or(at), stands_for.is_some())
    }

    /// Whether tracks may go back to an earlier upstream. Another engine counts its groups in another term, most likely a
    /// lower one: nobody goes back there in the middle of a broadcast.
    fn may_return(&self, to: usize, from: usize) -> bool {
        let engine = |at: usize| self.slots.get(at).and_then(Slot::engine);
        !self.carries || engine(to) == engine(from)
    }

    fn decide(&mut self, now: Instant) {
        for at in 0..self.slots.len() {
            self.attend(at, now);
        }
        self.choose(now);
        let path = self.path();
        if self.told.as_ref() != Some(&path) {
            self.told = Some(path);
            self.actions.push_back(Action::Tell);
        }
    }

    /// Dials what is due, ends what does not speak.
    fn attend(&mut self, at: usize, now: Instant) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        if slot.is_ready() {
            let since = *slot.ready_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= STEADY_AFTER {
                slot.backoff.succeeded();
            }
        } else if matches!(slot.phase, Phase::Open { .. }) && slot.ready_since.is_some() {
            slot.ready_since = None;
        }
        if slot.probe_at().is_some_and(|at| at <= now)
            && let Some(conn) = slot.conn()
        {
            slot.pulse.sent(now);
            self.actions.push_back(Action::Probe { conn });
        }
        match slot.phase {
            Phase::Waiting { until } if until <= now => {
                let known = slot.url.address().or_else(|| {
                    let address = slot.addresses.get(slot.next_address).copied();
                    slot.next_address += 1;
                    address
                });
                if let Some(to) = known {
                    slot.phase = Phase::Dialling;
                    let host = slot.url.host().to_owned();
                    self.actions.push_back(Action::Dial { slot: at, to, host });
                } else {
                    // All addresses were tried, or none is known: ask (again).
                    slot.next_address = 0;
                    slot.phase = Phase::Resolving { until: now + SPEAK_TIMEOUT };
                    self.actions.push_back(Action::Resolve(slot.url.clone()));
                }
            }
            Phase::Resolving { until } if until <= now => slot.wait(now),
            Phase::Open { conn, speak_until, .. } if !slot.has_spoken() && speak_until <= now => {
                self.actions.push_back(Action::Close { conn, reason: "upstream says nothing" });
            }
            _ => {}
        }
    }

    fn choose(&mut self, now: Instant) {
        let usable = |slot: &&(usize, &Slot)| slot.1.is_ready();
        let slots: Vec<(usize, &Slot)> = self.slots.iter().enumerate().collect();
        let good = |slot: &Slot| !slot.leaving && !slot.silent;
        let staying = slots.iter().filter(usable).filter(|(_, slot)| good(slot));
        let best = staying.min_by_key(|(at, _)| self.rank(*at)).map(|(at, _)| *at);
        let current = self.active.filter(|active| {
            self.slots.get(*active).is_some_and(|slot| slot.is_ready() && good(slot))
        });
        let next = match (current, best) {
            (Some(current), Some(best)) if best != current => {
                let since = self.slots.get(best).and_then(|slot| slot.ready_since);
                let steady = since.is_some_and(|since| since + RETURN_AFTER <= now);
                if steady && self.may_return(best, current) && self.rank(best) < self.rank(current)
                {
                    best
                } else {
                    current
                }
            }
            (Some(current), _) => current,
            (None, Some(best)) => best,
            // Rather one that wants to be left, or may be dead, than none.
            (None, None) => {
                if let Some(active) = self.active
                    && !self.slots.get(active).is_some_and(Slot::is_ready)
                {
                    self.active = None;
                }
                return;
            }
        };
        if self.active != Some(next)
            && let Some(session) = self.slots.get(next).and_then(Slot::session)
        {
            self.active = Some(next);
            self.switches += 1;
            self.actions.push_back(Action::Use(session));
        }
    }
}

#[cfg(test)]
mod tests;
