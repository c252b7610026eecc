//! Who publishes to an input and by what right: the words shared by feeds' shells, the check of keys
//! and the broadcast. It holds no state; [`super::broadcast`] decides with it.

use std::net::IpAddr;
use std::time::Duration;

use weir_moqt::Namespace;

/// How publishers of one input follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What happens to a second publisher while the first is alive.
    pub second: Second,
    /// How long a broadcast without a publisher keeps its viewers and its timeline.
    pub reconnect_window: Duration,
    /// A publisher silent for this long is taken for dead: the next one with the key replaces it.
    pub takeover_after: Duration,
}

impl Policy {
    /// What an input has unless told otherwise.
    pub const DEFAULT: Self = Self {
        second: Second::Refuse,
        reconnect_window: Duration::from_secs(30),
        takeover_after: Duration::from_secs(2),
    };
}

impl Default for Policy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What happens to a second publisher with the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// It is refused as long as the first is alive.
    Refuse,
    /// It replaces the first at once.
    Takeover,
}

/// The protocol a feed comes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// The node's own demo.
    Demo,
    /// CMAF over MoQT.
    Moqt,
    /// RTMP.
    Rtmp,
    /// RTMP inside TLS.
    Rtmps,
    /// SRT.
    Srt,
    /// WebRTC by WHIP.
    Whip,
}

impl Protocol {
    /// All of them, in the order of their labels.
    pub const ALL: [Self; 6] =
        [Self::Demo, Self::Moqt, Self::Rtmp, Self::Rtmps, Self::Srt, Self::Whip];

    /// The word for it in logs, metrics and the API.
    pub fn label(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Moqt => "moqt",
            Self::Rtmp => "rtmp",
            Self::Rtmps => "rtmps",
            Self::Srt => "srt",
            Self::Whip => "whip",
        }
    }
}

/// Which publisher of an input: grows with every one, so that a replaced one is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedId(pub(super) u64);

/// What a publisher is to its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// An encoder: keeps the input while it is alive.
    Encoder,
    /// Fills in while no encoder is there: gives way to one at once.
    Standby,
}

/// Why a publisher cannot have the input now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another publisher is live.
    Busy,
    /// The shard holds as many broadcasts as it may.
    Capacity,
    /// The node is being drained.
    Draining,
}

/// A publisher whose key is good wants its input.
#[derive(Clone, Debug)]
pub struct Opening<'a> {
    /// Which input.
    pub input_id: &'a str,
    /// Where its objects go.
    pub namespace: &'a Namespace,
    /// How its publishers follow each other, as configured now.
    pub policy: &'a Policy,
    /// What this one is to it.
    pub rank: Rank,
    /// What it speaks.
    pub protocol: Protocol,
    /// From where; the demo is from nowhere.
    pub peer: Option<IpAddr>,
}
