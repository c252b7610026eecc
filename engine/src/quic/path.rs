//! Moves of one connection from address to address (RFC 9000 §9). It owns how often a peer may move, and what an address
//! that has not answered yet may be sent beside what quinn-proto grants it; it validates no path itself.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use quinn_proto::Transmit;

/// What a path carries before anything is known of it (RFC 9000 §14). quinn-proto asks an address whether it answers by
/// one datagram of this size, however little came from there, and keeps to three times as much after that; but it also
/// probes for a larger MTU, which nobody has asked for.
const UNPROVEN_DATAGRAM_BYTES_MAX: usize = 1_200;

const PERIOD: Duration = Duration::from_mins(1);

/// How often a connection moved lately, and whether its present address has answered.
pub(super) struct Moves {
    since: Instant,
    count: u32,
    trial: Option<Trial>,
}

/// An address that has yet to answer.
struct Trial {
    ip: IpAddr,
    /// `PATH_RESPONSE` frames heard before.
    responses: u64,
}

impl Moves {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, count: 0, trial: None }
    }

    /// Whether a datagram from a new address may be looked at.
    pub(super) fn is_allowed(&self, most: u32, now: Instant) -> bool {
        self.count < most || now.saturating_duration_since(self.since) >= PERIOD
    }

    /// The peer is at another address now.
    pub(super) fn moved(&mut self, from: SocketAddr, to: SocketAddr, responses: u64, now: Instant) {
        if now.saturating_duration_since(self.since) >= PERIOD {
            (self.since, self.count) = (now, 0);
        }
        self.count += 1;
        // Another port of the same host is a NAT's doing, and what is known of the path still holds.
        self.trial = (from.ip() != to.ip()).then(|| Trial { ip: to.ip(), responses });
    }

    /// Something came from the present address.
    pub(super) fn heard(&mut self, responses: impl FnOnce() -> u64) {
        if self.trial.as_ref().is_some_and(|trial| responses() > trial.responses) {
            self.trial = None;
        }
    }

    /// Whether a datagram must not go where it is meant to. To QUIC it is one that was lost.
    pub(super) fn withholds(&self, transmit: &Transmit) -> bool {
        self.trial.as_ref().is_some_and(|trial| {
            let size = transmit.segment_size.unwrap_or(transmit.size);
            transmit.destination.ip() == trial.ip && size > UNPROVEN_DATAGRAM_BYTES_MAX
        })
    }
}
