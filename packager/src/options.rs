//! The knobs of a packager with their reasons. Plain values, no parsing.

use std::time::Duration;

/// How a [`Packager`](crate::Packager) cuts and announces. `Options::default()` suits a live broadcast.
#[derive(Debug, Clone)]
pub struct Options {
    /// Id of the first group. Pass the wall clock in milliseconds: ids then grow over restarts, since groups are opened
    /// far more slowly than one a millisecond.
    pub first_group: u64,
    /// AAC frames per chunk, 1..=50. The default, 2 (43 ms at 48 kHz), makes the first frame of a chunk wait for one
    /// frame (21 ms), less than one video frame at 30 fps, so audio is never what a player waits for; the ~120 bytes of
    /// boxes then cost 22 kbit/s and 23 objects a second. One frame would halve the wait and double that cost for every
    /// viewer; four would add 43 ms of latency to save 11 kbit/s.
    pub audio_frames_per_chunk: u32,
    /// Length of a group while no video track is running.
    pub audio_group_duration: Duration,
    /// A video group longer than this is counted, and may be cut at a recovery point instead of an IDR picture.
    pub group_duration_max: Duration,
    /// Every catalog is published again after this long, because a relay does not replay history to a subscriber.
    pub catalog_interval: Duration,
    /// How long the first catalog waits for a second track.
    pub catalog_wait: Duration,
    /// `targetLatency` of the MSF catalog: what a player should aim for.
    pub target_latency: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            first_group: 0,
            audio_frames_per_chunk: 2,
            audio_group_duration: Duration::from_secs(1),
            group_duration_max: Duration::from_secs(10),
            catalog_interval: Duration::from_secs(2),
            catalog_wait: Duration::from_millis(500),
            target_latency: Duration::from_millis(500),
        }
    }
}
