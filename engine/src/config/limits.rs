//! How much one token, viewer, address or broadcast may take of a node. Owns the section `[limits]`
//! and how a limit on the whole node becomes one on a shard; what a limit does is the cores' affair.

use serde::Deserialize;

use crate::quic;

/// Section `[limits]`. Every number is for the whole node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// QUIC connections from one address.
    pub connections_per_address: u32,
    /// New QUIC connections from one address within a second.
    pub connections_per_address_per_second: u32,
    /// QUIC connections that have not finished their handshake; beyond it strangers must first prove their address by a
    /// Retry. 0 asks everybody, at the price of a round trip.
    pub half_open: u32,
    /// Sessions with one token.
    pub sessions_per_token: u32,
    /// Sessions of one viewer.
    pub sessions_per_viewer: u32,
    /// Sessions that watch one broadcast.
    pub viewers_per_broadcast: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let relay = weir_relay::Limits::default();
        Self {
            connections_per_address: 4_096,
            connections_per_address_per_second: 1_000,
            half_open: 1_000,
            sessions_per_token: relay.sessions_per_token_max,
            sessions_per_viewer: relay.sessions_per_viewer_max,
            viewers_per_broadcast: relay.viewers_per_broadcast_max,
        }
    }
}

impl Limits {
    /// Those of QUIC on each of `shards`. The kernel spreads the connections of an address by a hash
    /// of its ports, so each shard gets its share and four standard deviations of it: an address
    /// within its limit is refused once in thirty thousand times, and none gets far beyond.
    pub fn quic(&self, shards: usize) -> quic::Limits {
        quic::Limits {
            connections_per_prefix_max: share(self.connections_per_address, shards),
            connections_per_prefix_per_second_max: share(
                self.connections_per_address_per_second,
                shards,
            ),
            half_open_max: share(self.half_open, shards) as usize,
            ..quic::Limits::default()
        }
    }

    /// Those of the relay. Shards tell each other, so each has the number of the whole node.
    pub fn relay(&self) -> weir_relay::Limits {
        let mut limits = weir_relay::Limits::default();
        limits.sessions_per_token_max = self.sessions_per_token;
        limits.sessions_per_viewer_max = self.sessions_per_viewer;
        limits.viewers_per_broadcast_max = self.viewers_per_broadcast;
        limits
    }
}

fn share(whole: u32, shards: usize) -> u32 {
    let shards = u32::try_from(shards).unwrap_or(u32::MAX).max(1);
    if shards == 1 {
        return whole;
    }
    let mean = whole.div_ceil(shards);
    whole.min(mean.saturating_add(4 * mean.isqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_room_for_chance_and_never_exceeds_the_whole() {
        for (whole, shards, each) in
            [(64, 1, 64), (64, 2, 52), (64, 4, 32), (64, 16, 12), (4_096, 4, 1_152), (1, 8, 1)]
        {
            assert_eq!(share(whole, shards), each, "{whole} over {shards}");
        }
        let limits = Limits { connections_per_address: 64, ..Limits::default() };
        assert_eq!(limits.quic(2).connections_per_prefix_max, 52);
        let always = Limits { half_open: 0, ..Limits::default() };
        assert_eq!((always.quic(1).half_open_max, always.quic(4).half_open_max), (0, 0));
        assert_eq!(Limits::default().quic(1), quic::Limits::default());
    }
}
