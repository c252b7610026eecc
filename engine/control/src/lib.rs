//! Control state and the pages people open: inputs, stream keys, signing keys, tokens, HTTP.
//!
//! This crate owns everything that is remembered between runs (one `SQLite` file in the data
//! directory, safe for several processes at once) and the small HTTP server beside the shards.
//! It runs on tokio. It knows nothing of media, MoQT, QUIC or shards; the engine hands it sockets,
//! TLS settings and a way to render counters.
//!
//! Secrets leave through [`StreamKey::expose`] and its kin only: their `Debug` prints a placeholder.
#![forbid(unsafe_code)]

mod error;
pub mod http;
mod id;
mod revocation;
mod secret;
mod store;
#[cfg(test)]
mod testing;
mod time;
mod token;
mod watch;

pub use error::Error;
pub use id::{ApiKeyId, InputId, InvalidId, NodeKeyId, OrgId, SigningKeyId};
pub use revocation::{REVOCATIONS_MAX, Revocation, Withdraw};
pub use secret::{ApiKey, NodeSecret, Passphrase, PlaybackToken, StreamKey};
pub use store::{
    ApiKeyRecord, DATABASE_FILE, Ingest, Input, InputChange, InputHealth, InputReport, InputState,
    InputStatus, InvalidIngest, InvalidPolicy, NewInput, NodeKeyRecord, PublisherPolicy,
    RECONNECT_WINDOW_DEFAULT_S, RECONNECT_WINDOW_MAX_S, SEALING_FILE, Scope, SigningKey, SrtSecret,
    Store,
};
pub use time::Timestamp;
pub use token::{Algorithm, Claims, MintedToken, PlaybackKey, TTL_DEFAULT, TTL_MAX, TTL_MIN};
pub use watch::Snapshot;
