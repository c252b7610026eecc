//! RTMP server side of one publisher's connection (Adobe's RTMP 1.0 of December 2012, with
//! enhanced RTMP v2: `FourCC`s, several tracks, modifiers, reconnect requests).
//!
//! One mutation, then drain: after each `handle_*`, [`Session::accept_publish`] or
//! [`Session::reject_publish`] call, take `poll_event` and `poll_transmit` until both say `None`,
//! then re-arm the timer from `poll_timeout`. [`Event::Closed`] is the last event: write out what
//! `poll_transmit` still holds, then close the socket. A call that returns an error has queued the
//! same `Closed` event already, so a shell may just drain.

mod amf;
mod chunk;
#[cfg(any(test, feature = "test-client"))]
pub mod client;
mod command;
mod error;
mod handshake;
mod limits;
mod session;
mod target;
mod timestamp;

pub use error::Error;
pub use limits::Limits;
pub use session::{Counters, Metadata, Session};

pub(crate) use amf::fuzz as fuzz_amf;

use crate::Secret;

/// What the session asks of its shell, or tells it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A publisher named an input and a key; answer with [`Session::accept_publish`] or
    /// [`Session::reject_publish`]. Media sent meanwhile waits, up to a limit.
    Publish {
        /// First part of the RTMP application, for instance `live`.
        app: String,
        /// Which input it wants to feed. A stranger's text: not yet known to exist.
        input_id: String,
        /// The key it offers; empty when it offers none.
        key: Secret,
    },
    /// Media of the accepted publisher.
    Media(crate::Event),
    /// The last event.
    Closed {
        /// Why.
        reason: CloseReason,
    },
}

/// Why a connection is over.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer broke the protocol, a limit or a deadline.
    Failed(Error),
    /// [`Session::handle_close`]: the peer's end is gone.
    PeerClosed,
    /// [`Session::reject_publish`] or [`Session::close`].
    Rejected(Reject),
    /// The publisher said goodbye and then did not hang up.
    Unpublished,
}

/// Why the shell turns a publisher away. The publisher sees [`Reject::code`] and
/// [`Reject::description`], and nothing else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Reject {
    /// Another publisher holds this input.
    Busy,
    /// The engine is being drained; another one takes publishers.
    Draining,
    /// The engine is at its limit.
    Overloaded,
    /// The key is right, but the input is fed by another protocol.
    Protocol,
    /// A newer publisher of this input takes over.
    Replaced,
    /// The engine stops.
    Shutdown,
    /// The address has shown too many bad keys, and is not heard for a while.
    TooMany,
    /// Unknown input or wrong key: one reason, so that the two look alike from outside.
    Unauthorized,
}

impl Reject {
    /// The `onStatus` code sent.
    pub const fn code(self) -> &'static str {
        "NetStream.Publish.BadName"
    }

    /// The `onStatus` description sent.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Busy => "input is in use",
            Self::Draining => "server is draining, publish to another one",
            Self::Overloaded => "server is at its limit",
            Self::Protocol => "input_disabled: this input takes another protocol than RTMP",
            Self::Replaced => "a newer publisher took over",
            Self::Shutdown => "server is stopping",
            Self::TooMany => "too many bad keys from this address, try again later",
            Self::Unauthorized => "unauthorized",
        }
    }
}
