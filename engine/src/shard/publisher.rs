//! Who publishes to an input and by what right: the words shared by feeds' shells, the check of keys
//! and the broadcast. It holds no state; [`super::broadcast`] decides with it.

use std::net::IpAddr;
use std::time::Duration;

use weir_moqt::Namespace;

use super::health::Health;

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

/// Life-cycle of an input as its shard sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody publishes, and nobody is waited for.
    Idle,
    /// A publisher is accepted; there is nothing to show yet.
    Connected,
    /// It can be watched.
    Live,
    /// Nobody publishes; viewers are held for the reconnect window.
    Reconnecting,
    /// The last publisher failed, and nobody has come since.
    Errored,
}

/// Why an input is in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A publisher was accepted.
    Accepted,
    /// A publisher replaced another one.
    TakenOver,
    /// Media arrived.
    Media,
    /// The publisher said goodbye.
    Unpublished,
    /// Its connection broke off.
    Disconnected,
    /// It sent nothing for too long.
    TimedOut,
    /// It broke its protocol or a limit.
    Protocol,
    /// It sent a codec that is not carried.
    Unsupported,
    /// The node closed it.
    Closed,
    /// It did not come back within the reconnect window.
    WindowOver,
}

impl State {
    /// All of them, in order.
    pub const ALL: [Self; 5] =
        [Self::Idle, Self::Connected, Self::Live, Self::Reconnecting, Self::Errored];

    /// The word for it in logs and the API.
    pub fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connected => "connected",
            Self::Live => "live",
            Self::Reconnecting => "reconnecting",
            Self::Errored => "errored",
        }
    }
}

impl Reason {
    /// The word for it in logs and the API.
    pub fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::TakenOver => "taken_over",
            Self::Media => "media",
            Self::Unpublished => "unpublished",
            Self::Disconnected => "disconnected",
            Self::TimedOut => "timed_out",
            Self::Protocol => "protocol_error",
            Self::Unsupported => "codec_unsupported",
            Self::Closed => "closed",
            Self::WindowOver => "window_over",
        }
    }

    /// Whether somebody has to change something before it can work.
    pub(super) fn is_fault(self) -> bool {
        matches!(self, Self::Protocol | Self::Unsupported)
    }
}

impl From<weir_feed::EndReason> for Reason {
    fn from(reason: weir_feed::EndReason) -> Self {
        use weir_feed::EndReason;
        match reason {
            EndReason::Unpublished => Self::Unpublished,
            EndReason::TimedOut => Self::TimedOut,
            EndReason::Protocol => Self::Protocol,
            EndReason::Unsupported(_) => Self::Unsupported,
            EndReason::Closed => Self::Closed,
            _ => Self::Disconnected,
        }
    }
}

/// What a shard says of one of its inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Which input.
    pub input_id: String,
    /// What it is now.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// What its publisher speaks; the last one, if it has gone.
    pub protocol: Protocol,
    /// Since when, as wall time since the Unix epoch.
    pub since: Duration,
    /// How it is doing, in the reports that come every few seconds.
    pub health: Option<Box<Health>>,
}
