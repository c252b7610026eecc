//! SRT, the listener's side, for callers that publish (draft-sharabayko-srt of 2021, and what libsrt 1.5 does where the
//! draft is silent). A [`Listener`] answers strangers without keeping anything until their cookie is right, and hands
//! over a [`Request`]; accepted, it becomes a [`Connection`], which gives payloads in order and in time. Live mode in the
//! handshake's version 5 only: what else a caller may ask for is refused by its own code.
//!
//! One mutation, then drain: after each `handle_*` take `poll_event` and `poll_transmit` until both say `None`, then
//! re-arm the timer from `poll_timeout`.

mod connection;
mod crypto;
mod feed;
mod handshake;
mod listener;
mod packet;
mod target;
mod time;
mod window;

pub use connection::{Accept, CloseReason, Connection, Statistics};
pub use feed::Feed;
pub use listener::{Counters, Limits, Listener, Request};
pub use packet::destination;

/// Why a caller is refused: the reason that its program prints (libsrt's `SRT_REJECT_REASON`, and its application codes,
/// which are 1000 and an HTTP status).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Reject {
    /// Another publisher holds this input.
    Busy,
    /// The engine is being drained, or at its limit.
    Unavailable,
    /// The key is wrong, or there is no such input: one code, so that the two look alike from outside.
    Unauthorized,
    /// The input takes no publishers over SRT, or none at all now.
    Disabled,
    /// The caller does not want to publish.
    BadMode,
    /// What the caller says is not laid out as it must be.
    BadRequest,
    /// The passphrase is wrong.
    BadSecret,
    /// A passphrase is needed and there was none, or the other way round.
    Unsecure,
    /// Another handshake than version 5.
    Version,
    /// File mode.
    MessageApi,
    /// Another congestion control than that of live mode.
    Congestion,
    /// A packet filter.
    Filter,
    /// A bonded group.
    Group,
    /// Too many callers wait for an answer.
    Backlog,
    /// The address has shown too many bad keys, and is not heard for a while.
    TooMany,
}

impl Reject {
    /// The reason as libsrt numbers it.
    pub const fn code(self) -> u32 {
        match self {
            Self::Backlog => 5,
            Self::Version => 8,
            Self::BadSecret => 10,
            Self::Unsecure => 11,
            Self::MessageApi => 12,
            Self::Congestion => 13,
            Self::Filter => 14,
            Self::Group => 15,
            Self::BadRequest => 1400,
            Self::Unauthorized => 1401,
            Self::Disabled => 1403,
            Self::BadMode => 1405,
            Self::Busy => 1409,
            Self::TooMany => 1429,
            Self::Unavailable => 1503,
        }
    }
}

#[cfg(test)]
mod tests;
