//! A node as part of a mesh of relays: which relays above it uses and when it turns to another,
//! what it tells the relays below, and the signed word of the engine on whom to believe. Sans-IO:
//! connections are dialled and read by the shard; tracks and groups are the relay's matter.

pub mod backoff;
pub mod key;
mod uplinks;
mod url;

use std::sync::Arc;
use std::time::Duration;

pub use backoff::Backoff;
pub use key::NodeKey;
pub use uplinks::{Action, State, Status, Uplinks};
pub use url::{InvalidUrl, UpstreamUrl};
pub use weir_relay::beacon::{self, HOPS_MAX, Trust, TrustError};
pub use weir_relay::node::is_node_id;

/// Relays above one node at most: a first, a second, and room for two more.
pub const UPSTREAMS_MAX: usize = 4;

/// Group ids of one term: wall-clock milliseconds until the year 2527. With 255 terms they stay below 2^53, which is as
/// far as a browser counts.
const TERM_SHIFT: u32 = 44;

/// What a shard knows of itself as a node.
#[derive(Clone)]
pub struct Options {
    /// Its id in hop lists, the same on all shards of the node.
    pub id: String,
    /// The term in which an engine publishes: of two engines with one broadcast, the group ids of the one with the higher
    /// term are larger, whenever either began. So edges that go over to it see no group twice and none that goes back.
    pub term: u8,
    /// The relays above; without it this node is an engine.
    pub uplink: Option<Uplink>,
}

/// How an edge reaches the relays above it.
#[derive(Clone)]
pub struct Uplink {
    /// In order of preference, at most [`UPSTREAMS_MAX`].
    pub urls: Vec<UpstreamUrl>,
    /// Shown to each of them.
    pub key: NodeKey,
    /// TLS and transport towards them.
    pub client: Arc<quinn_proto::ClientConfig>,
    /// Decides which shard holds which namespace; the same on all shards.
    pub route_key: [u8; 32],
    /// Seeds the jitter; differs between shards and starts.
    pub seed: u64,
}

impl Options {
    /// A node with nothing above it.
    pub fn engine(id: impl Into<String>) -> Self {
        Self { id: id.into(), term: 0, uplink: None }
    }

    /// The same in another term.
    #[must_use]
    pub fn in_term(self, term: u8) -> Self {
        Self { term, ..self }
    }
}

/// The first group id of a broadcast that begins now: larger than all of earlier ones in this term, also over restarts of
/// the machine, since groups are longer than a millisecond.
pub fn first_group(term: u8, wall: Duration) -> u64 {
    let within = (wall.as_millis() as u64) & ((1 << TERM_SHIFT) - 1);
    (u64::from(term) << TERM_SHIFT) | within
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_term_counts_further_however_early_it_began_and_browsers_can_count_it() {
        let (now, century) = (Duration::from_hours(500_000), Duration::from_hours(876_000));
        assert_eq!(first_group(0, now), now.as_millis() as u64);
        assert!(first_group(1, now) > first_group(0, now + century * 4));
        assert!(first_group(u8::MAX, now + century * 4) < 1 << 53);
    }
}
