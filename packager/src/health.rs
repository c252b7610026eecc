//! What can be said of a feed for the one who runs its encoder: figures of each track, clock and order of the whole.
//! Advice is made of it elsewhere.

use std::sync::Arc;
use std::time::Duration;

use crate::Counters;
use crate::catalog::Kind;

/// A feed as it arrives.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// Its tracks, in the order of the catalog.
    pub tracks: Vec<TrackHealth>,
    /// The publisher's clock against ours in parts per million, positive if it is fast; measured over two minutes, known
    /// after half a minute.
    pub drift_ppm: Option<f64>,
    /// What media time was moved by to stay beside our clock, in milliseconds.
    pub slew_ms: i64,
    /// How much later sound arrives than the pictures it belongs to, in milliseconds; negative if earlier.
    pub audio_delay_ms: Option<i64>,
    /// What had to be done to its samples.
    pub counters: Counters,
}

/// One track as it arrives.
#[derive(Debug, Clone, PartialEq)]
pub struct TrackHealth {
    /// Its name.
    pub name: Arc<str>,
    /// What it carries.
    pub kind: Kind,
    /// RFC 6381.
    pub codec: String,
    /// In pixels, video only.
    pub width: Option<u32>,
    /// In pixels, video only.
    pub height: Option<u32>,
    /// Audio only.
    pub sample_rate: Option<u32>,
    /// Audio only.
    pub channels: Option<u16>,
    /// Of the last seconds.
    pub bitrate: Option<u64>,
    /// Pictures or sound frames a second that arrive.
    pub frame_rate: Option<f64>,
    /// Pictures a second by their timestamps, video only.
    pub nominal_rate: Option<f64>,
    /// The longest of the last intervals between keyframes, video only.
    pub keyframe_interval: Option<Duration>,
    /// Pictures are shown in another order than they are decoded.
    pub b_frames: bool,
    /// How long ago the newest sample arrived.
    pub silent: Option<Duration>,
}
