//! One upstream: where its connection stands, what it said of itself, and whether it is heard. It
//! owns the verdict "silent"; what follows from it is decided in [`super`].
//!
//! A dead host says nothing, and QUIC calls that loss only after seconds of it. So every open
//! connection is **probed** all the time, and one that acknowledges nothing is **silent**: tracks
//! move to the next upstream if there is one, by the same move that a GOAWAY causes, while the
//! silent one stays connected. Being wrong about it therefore costs nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weir_relay::SessionId;

use super::super::{Backoff, UpstreamUrl};
use crate::quic::ConnId;
use crate::quic::pulse::{self, PROBE_EVERY};

/// An upstream is silent after this and [`SILENCE_ROUND_TRIPS`] without an acknowledgement. In that
/// time there are three probes and as many repeats by QUIC's own timer. At 10 % loss each way one of
/// them fails 19 times in 100, all six 5 times in 100,000.
const SILENCE: Duration = Duration::from_millis(600);

/// A probe and its answer take one, a repeat comes after three.
const SILENCE_ROUND_TRIPS: u32 = 3;

pub(super) struct Slot {
    pub(super) url: UpstreamUrl,
    /// Went in for this slot, which asked to be left; gone when that one is back.
    pub(super) stands_for: Option<usize>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) next_address: usize,
    pub(super) phase: Phase,
    /// Its last hop list.
    pub(super) path: Option<Vec<String>>,
    pub(super) trusted: bool,
    pub(super) leaving: bool,
    pub(super) looped: bool,
    /// Nothing is heard from it.
    pub(super) silent: bool,
    pub(super) pulse: Pulse,
    pub(super) ready_since: Option<Instant>,
    pub(super) backoff: Backoff,
    pub(super) attempts: u64,
    pub(super) losses: u64,
    pub(super) loops: u64,
    pub(super) silences: u64,
}

pub(super) enum Phase {
    Waiting {
        until: Instant,
    },
    Resolving {
        until: Instant,
    },
    /// `dialled` follows in the same turn.
    Dialling,
    Connecting(ConnId),
    Open {
        conn: ConnId,
        session: SessionId,
        speak_until: Instant,
    },
    /// A stand-in that is no longer needed; slots keep their numbers.
    Retired,
}

impl Slot {
    pub(super) fn new(
        url: UpstreamUrl,
        stands_for: Option<usize>,
        seed: u64,
        now: Instant,
    ) -> Self {
        Self {
            url,
            stands_for,
            addresses: Vec::new(),
            next_address: 0,
            phase: Phase::Waiting { until: now },
            path: None,
            trusted: false,
            leaving: false,
            looped: false,
            silent: false,
            pulse: Pulse::new(now),
            ready_since: None,
            backoff: Backoff::new(seed),
            attempts: 0,
            losses: 0,
            loops: 0,
            silences: 0,
        }
    }

    pub(super) fn conn(&self) -> Option<ConnId> {
        match self.phase {
            Phase::Connecting(conn) | Phase::Open { conn, .. } => Some(conn),
            _ => None,
        }
    }

    pub(super) fn session(&self) -> Option<SessionId> {
        match self.phase {
            Phase::Open { session, .. } => Some(session),
            _ => None,
        }
    }

    /// When the next sign of life is due.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        matches!(self.phase, Phase::Open { .. }).then_some(self.pulse.next)
    }

    pub(super) fn has_spoken(&self) -> bool {
        self.trusted && self.path.is_some()
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
            && self.trusted
            && !self.looped
            && self.path.as_ref().is_some_and(|path| !path.is_empty())
    }

    /// The engine at the end of its way.
    pub(super) fn engine(&self) -> Option<&str> {
        self.path.as_ref()?.last().map(String::as_str)
    }

    pub(super) fn wait(&mut self, now: Instant) {
        self.phase = Phase::Waiting { until: now + self.backoff.failed() };
        self.path = None;
        self.trusted = false;
        self.leaving = false;
        self.looped = false;
        self.silent = false;
        self.ready_since = None;
    }
}

/// What is heard on one connection, and when it is asked for more.
pub(super) struct Pulse {
    next: Instant,
    heard: pulse::Pulse,
}

impl Pulse {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now, heard: pulse::Pulse::new(now) }
    }

    pub(super) fn sent(&mut self, now: Instant) {
        self.next = now + PROBE_EVERY;
    }

    /// The verdict, given how many acknowledgements have come so far.
    pub(super) fn is_silent(&mut self, acks: u64, rtt: Duration, now: Instant) -> bool {
        self.heard.look(acks, now) > SILENCE + rtt * SILENCE_ROUND_TRIPS
    }
}
