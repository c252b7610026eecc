//! Contribution protocols in, samples out, sans-IO. Each protocol is one state machine that takes
//! bytes and `now` and gives [`Event`]s; this crate owns what a stranger's encoder may do to us and
//! where the limits are. It knows no socket, no clock, no store of inputs and nothing about MoQT:
//! whether a key is right is the shell's answer.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

pub mod annexb;
mod flv;
pub mod fmp4;
pub mod fuzzing;
pub mod rtmp;
mod secret;
pub mod srt;
pub mod ts;
pub mod whip;

use std::fmt;

pub use flv::Counters as TagCounters;
pub use secret::Secret;
pub use weir_packager::{Codec, Sample, TrackConfig, TrackId};

/// What a feed yields once its publisher is accepted, whatever the protocol.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A track appeared, or a known one changed its configuration. Comes before its samples.
    Track(TrackConfig),
    /// One coded access unit. Decode times are the publisher's, unrolled, not yet made monotone:
    /// the packager does that, because it alone knows what it has already written.
    Sample(Sample),
    /// The publisher's time base changed knowingly: the next decode times have nothing to do with the
    /// last. A jump that nobody announced needs no event, the packager sees it.
    Discontinuity,
    /// An access unit was lost on the way and left out; what depends on it may look broken.
    Loss {
        /// Of this track.
        track: TrackId,
    },
    /// Nothing follows.
    End {
        /// Why.
        reason: EndReason,
    },
}

/// Why a feed ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum EndReason {
    /// The publisher said goodbye.
    Unpublished,
    /// The connection went away without a goodbye.
    Disconnected,
    /// No byte for the idle timeout.
    TimedOut,
    /// The publisher broke the protocol or a limit.
    Protocol,
    /// The publisher sends a codec or layout this build does not carry.
    Unsupported(Unsupported),
    /// The engine closed the feed (key revoked, newer publisher, shutdown).
    Closed,
}

/// A codec or layout this build refuses. Prints what an operator can act on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Unsupported {
    /// AV1 described as in MPEG-2 transport streams (enhanced RTMP), which no encoder sends.
    Mpeg2Ts,
    /// More tracks of one kind in one connection than are taken.
    Tracks {
        /// The limit.
        max: usize,
    },
    /// Audio named by a `FourCC`.
    AudioFourCc([u8; 4]),
    /// Audio named by an FLV sound format number.
    AudioFormat(u8),
    /// Video named by an FLV codec id.
    VideoCodecId(u8),
    /// Video named by a `FourCC`.
    VideoFourCc([u8; 4]),
    /// A sample entry of MP4.
    SampleEntry([u8; 4]),
    /// A known codec with a configuration that cannot be used.
    Configuration,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mpeg2Ts => f.write_str("video described by an MPEG-2 TS sequence start"),
            Self::Tracks { max } => write!(f, "more than {max} tracks of one kind"),
            Self::AudioFourCc(code) => write!(f, "audio codec '{}'", code.escape_ascii()),
            Self::AudioFormat(format) => write!(f, "audio codec (FLV sound format {format})"),
            Self::VideoCodecId(id) => write!(f, "video codec (FLV codec id {id})"),
            Self::VideoFourCc(code) => write!(f, "video codec '{}'", code.escape_ascii()),
            Self::SampleEntry(code) => write!(f, "codec '{}'", code.escape_ascii()),
            Self::Configuration => f.write_str("a codec configuration that cannot be used"),
        }
    }
}
