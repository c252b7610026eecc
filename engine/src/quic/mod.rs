//! QUIC connections of one shard, sans-IO: `quinn-proto` driven directly, WebTransport and raw
//! QUIC behind one set of events, one timer wheel. It knows datagrams and streams; it opens no
//! socket, reads no clock, and what the streams say is the relay's matter.
//!
//! Protocol for the owner: after any `handle_*`, drain `poll_event`; write through
//! [`Endpoint::link`]; then `flush` to a [`Port`](weir_xdp::Port). `poll_timeout` says when to come
//! back.

mod agenda;
pub mod config;
mod congestion;
mod conn;
mod endpoint;
#[cfg(test)]
mod handmade;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod hostile_crowd;
#[cfg(test)]
mod hostile_inside;
mod path;
pub mod pulse;
#[cfg(test)]
mod tests;
mod wheel;
#[cfg(test)]
mod window_tests;

use weir_wt as wt;

pub use config::{Chance, Limits, Steering};
pub use congestion::Law;
pub use conn::Link;
pub use endpoint::{ConnId, Counters, Endpoint, Event};
