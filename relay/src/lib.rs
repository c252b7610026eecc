//! Media-blind fan-out for one shard: directory, tracks with their group caches, subscriptions,
//! tokens. Sans-IO: bytes and time come in as arguments, bytes leave through [`Transport`]. It
//! never looks into a payload, opens no socket and reads no clock.
//!
//! # Call protocol
//!
//! One [`Relay`] belongs to one shard and is `&mut` to its loop. A turn of that loop:
//!
//! 1. **Connections.** When a connection has its draft (ALPN, or the WebTransport CONNECT was
//!    accepted), call [`Relay::open_session`]. `None` means `sessions_max`: close with `capacity`.
//!    WebTransport: the shell strips stream preambles and keeps the CONNECT stream to itself; the
//!    relay sees MoQT bytes only, and all stream codes are MoQT codes.
//! 2. **Input.** Hand over received stream bytes in order with [`Relay::handle_stream`] (`fin` with
//!    the last bytes or with an empty slice), resets with [`Relay::handle_reset`], STOP_SENDING
//!    with [`Relay::handle_stop`]. A connection that is gone: [`Relay::close_session`].
//! 3. **Room.** After a write took less than offered, call [`Relay::handle_writable`] when quinn says
//!    `Writable`; after `open` returned `None`, call [`Relay::handle_streams_available`].
//! 4. **Objects.** [`Relay::publish`], [`Relay::open_track`], [`Relay::write_object`] from local feeds and from links.
//! 5. **Time.** Call [`Relay::handle_timeout`] when [`Relay::poll_timeout`] is reached.
//! 6. **Drain.** Until both are empty: [`Relay::poll_dirty`] -> [`Relay::drive`] with that connection's
//!    transport, and [`Relay::poll_event`]. `drive` writes control first, then media until all is
//!    written or blocked. When `drive` calls [`Transport::close`], the session id is stale afterwards.
//!    Then flush the connections that were driven.
//!
//! Stale session, track and stream ids are ignored everywhere, so the order in which the shell
//! learns of things does not matter.
//!
//! # What the shell must provide for dropping to work
//!
//! The relay drops whole groups before they are written, so bytes must wait *here*, not in the
//! transport: bound the send buffer of a connection (quinn `send_window`) to about 1 MB.
//!
//! # Several shards
//!
//! The owner of a namespace calls `publish(namespace)`; every other shard `publish_remote(namespace, owner)`.
//! A viewer on shard B of a track of shard A: B raises [`Event::TrackWanted`]; the engine asks A, which
//! calls [`Relay::find_track`], then `set_export(id, true)` and in the same turn sends
//! [`Relay::facts`], [`Relay::cached`] and [`Relay::cached_ends`], and thereafter each [`Event::Exported`]
//! and [`Event::ExportedEnd`] to B; B calls `open_track(name, TrackOptions { replica: true, .. })`,
//! `set_facts`, `write_object` and `end_subgroup` for what A had, then
//! [`Relay::track_ready`] (see `open_track` for an engine that cannot tell); from then on `write_object` for each new object. Replay and live may overlap. On [`Event::ExportEnded`] B calls `end_track`; on `Found::Missing` `refuse_track`.
//! After [`Event::TrackUnwanted`] A calls `set_export(id, false)`.

#![forbid(unsafe_code)]
#![expect(
    clippy::doc_markdown,
    reason = "MoQT message names stand as the specification writes them"
)]
#![warn(clippy::indexing_slicing)]

pub mod admission;
mod arena;
pub mod auth;
pub mod beacon;
mod cache;
mod directory;
mod encode;
mod event;
mod fanout;
mod fetch;
pub mod fuzzing;
mod grants;
mod limits;
mod metrics;
pub mod node;
mod path;
mod ranges;
mod relay;
mod secret;
mod session;
mod track;
mod transport;

pub use auth::{KeySet, Revocation, Subject, Trust};
pub use event::{
    Event, Forwarding, Found, ObjectError, ObjectIn, Origin, RefuseReason, SessionId,
    SessionParams, SubgroupEnd, TrackFacts, TrackId, TrackOptions,
};
pub use limits::Limits;
pub use metrics::{DropReason, Metrics};
pub use node::NodeKeys;
pub use relay::{Beacon, DefaultRoute, Relay, UpstreamParams};
pub use secret::Secret;
pub use transport::{DatagramError, Transport, WriteError};
pub use weir_moqt::Transport as Carrier;
pub use weir_moqt::{
    Dir, DoneCode, Draft, FullTrackName, Namespace, RequestCode, ResetCode, SessionCode, StreamId,
};
