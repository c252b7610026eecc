//! A node as part of a mesh of relays: which relays above it uses and when it turns to another,
//! what it tells the relays below, and the signed word of the engine on whom to believe. Sans-IO:
//! connections are dialled and read by the shard; tracks and groups are the relay's matter.

pub mod backoff;
pub mod key;
mod uplinks;
mod url;

use std::sync::Arc;

pub use backoff::Backoff;
pub use key::NodeKey;
pub use uplinks::{Action, State, Status, Uplinks};
pub use url::{InvalidUrl, UpstreamUrl};
pub use weir_relay::beacon::{self, HOPS_MAX, Trust, TrustError};
pub use weir_relay::node::is_node_id;

/// Relays above one node at most: a first, a second, and room for two more.
pub const UPSTREAMS_MAX: usize = 4;

/// What a shard knows of itself as a node.
#[derive(Clone)]
pub struct Options {
    /// Its id in hop lists, the same on all shards of the node.
    pub id: String,
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
        Self { id: id.into(), uplink: None }
    }
}
