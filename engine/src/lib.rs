//! The Weir binary and its composition root.

pub mod cert;
pub mod cli;
pub mod client;
pub mod config;
pub mod drain;
mod guard;
pub mod logs;
pub mod mesh;
pub mod node;
pub mod play;
pub mod publish;
pub mod quic;
pub mod shard;
pub mod topology;
