//! WebRTC publishers by WHIP (RFC 9725), sans-IO: offers in, answers out, datagrams in and out, samples
//! out. It owns every session of one shard and finds the session a datagram belongs to; HTTP, keys,
//! sockets and randomness are the shell's. The WebRTC stack underneath is str0m; what RTP carries is
//! put together here.
//!
//! Call [`Endpoint::handle_datagram`], [`Endpoint::handle_timeout`] and the others as things happen, then
//! take everything from [`Endpoint::poll_transmit`] and [`Endpoint::poll_event`].

mod audio;
mod clock;
mod endpoint;
pub(crate) mod fuzzing;
mod h264;
mod lanes;
mod opus;
mod order;
mod reorder;
mod sdp;
mod session;
mod stun;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
mod tests;
mod video;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use endpoint::{Counters, Endpoint};
pub use sdp::Refused;
pub use stun::{Kind, UFRAG_LENGTH, kind, shard, ufrag};

use crate::Secret;

/// Every number a WHIP publisher can push against, with the sum that chose it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions of one shard: 500 at 6 Mb/s are 3 Gb/s, more than a core decrypts.
    pub sessions_max: usize,
    /// Addresses one session may send from: a browser with Wi-Fi, cellular and two VPNs has 8.
    pub addresses_max: usize,
    /// From the offer to the first packet of media: ICE and DTLS take under 2 s on a bad path.
    pub connect_timeout: Duration,
    /// Silence after which a session is over. Publishers ask for consent every 5 s (RFC 7675 §5.1).
    pub idle_timeout: Duration,
    /// Packets of one stream waiting for one before them: 1,024 of 1,200 bytes are 1.2 MB, 0.4 s at
    /// 25 Mb/s.
    pub reorder_packets_max: usize,
    /// Bytes of one access unit: 4 MiB are 0.3 s of 100 Mb/s.
    pub access_unit_bytes_max: usize,
    /// A keyframe is asked for when the last one is this old: the longest group of a browser.
    pub keyframe_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: 500,
            addresses_max: 16,
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(10),
            reorder_packets_max: 1_024,
            access_unit_bytes_max: 4 << 20,
            keyframe_interval: Duration::from_secs(2),
        }
    }
}

/// A session's name in the URL of its resource: 128 bits nobody can guess.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u128);

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Who knows the id may end the session, so it is not for logs.
impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionId(…)")
    }
}

impl std::str::FromStr for SessionId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 {
            return u128::from_str_radix("", 16).map(Self);
        }
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// What a new session, or one that restarts ICE, is known by. The shell makes it of randomness.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Our ICE user fragment, made by [`ufrag`].
    pub ufrag: String,
    /// Our ICE password: 24 characters or more (RFC 8839 §5.4 wants 22).
    pub password: Secret,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndCause {
    /// The publisher hung up.
    Left,
    /// The resource was deleted, or the engine closed it.
    Closed,
    /// Nothing came for the idle timeout.
    Silent,
    /// No connectivity check arrived: UDP does not get here.
    NoStun,
    /// Checks arrived, but no encrypted connection came about.
    NoDtls,
    /// The connection came about, but no media was sent.
    NoMedia,
    /// The certificate is not the one the offer named.
    Fingerprint,
    /// DTLS failed.
    Dtls,
}

impl std::fmt::Display for EndCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Left => "the publisher left",
            Self::Closed => "the session was closed",
            Self::Silent => "nothing arrived for the idle timeout",
            Self::NoStun => "no packet reached the media port: is UDP blocked on the way?",
            Self::NoDtls => "packets arrived, but DTLS was not completed",
            Self::NoMedia => "the connection was made, but no media arrived",
            Self::Fingerprint => "the publisher's certificate is not the one in its offer",
            Self::Dtls => "DTLS failed",
        })
    }
}

/// What can be said of a session. Times count from the offer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// The first connectivity check that was valid.
    pub stun: Option<Duration>,
    /// The end of the DTLS handshake.
    pub dtls: Option<Duration>,
    /// The first packet of media.
    pub first_packet: Option<Duration>,
    /// We are the DTLS client.
    pub dtls_active: bool,
    /// Where the publisher sends from.
    pub peer: Option<SocketAddr>,
    /// Round trip, where the publisher tells.
    pub rtt: Option<Duration>,
    /// Packets lost of a thousand in the last second, before they were sent again.
    pub loss_permille: u16,
    /// Packets of media.
    pub packets: u64,
    /// Their payload.
    pub bytes: u64,
    /// Packets that never came.
    pub lost_packets: u64,
    /// Pictures left out for those.
    pub lost_pictures: u64,
    /// Pictures that went on.
    pub pictures: u64,
    /// Keyframes among them.
    pub keyframes: u64,
    /// Keyframes asked for.
    pub keyframes_asked: u64,
    /// Silent packets put where no sound came.
    pub silence_filled: u64,
    /// Sound that came too late, or is none.
    pub late_audio: u64,
    /// By how much sound was moved to fit its picture, in all.
    pub sound_moved_ms: i64,
    /// Packets of streams or codecs that are not taken.
    pub ignored: u64,
    /// Datagrams that are nothing.
    pub malformed: u64,
    /// Times a bound on waiting packets or bytes was met.
    pub overflows: u64,
    /// Packets of more streams (SSRCs) than are remembered.
    pub streams_refused: u64,
    /// ICE restarts.
    pub restarts: u64,
}

/// What an endpoint tells its shell.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Media, or the end of it.
    Media(SessionId, crate::Event),
    /// Packets from this address belong to a session of this shard.
    Learned(SocketAddr),
    /// They no longer do.
    Forgotten(SocketAddr),
    /// A first: a check, the handshake, a packet. Worth one line in the log.
    Progress(SessionId, Stage),
    /// The session is gone.
    Ended(SessionId, EndCause, Box<Diagnostics>),
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// A connectivity check arrived.
    Stun,
    /// Encryption is set up.
    Dtls,
    /// Media arrives.
    Media,
}

/// One datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// To whom.
    pub destination: SocketAddr,
    /// From which of our addresses, where it is known.
    pub source: Option<IpAddr>,
    /// The bytes.
    pub contents: Vec<u8>,
}
