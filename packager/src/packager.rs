//! The packager: feeds' samples in, tracks and objects out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{Error, Options, Sample, TrackConfig};

/// What comes out of [`Packager::poll_output`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A new track exists; its objects follow.
    Track {
        /// `.catalog`, `catalog`, `video/720p`, `audio`, …
        name: Arc<str>,
    },
    /// An object to publish.
    Object(Object),
    /// No more objects follow on this track.
    TrackEnded {
        /// The track.
        name: Arc<str>,
    },
}

/// One object: a CMAF chunk or a catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Name of its track.
    pub track: Arc<str>,
    /// Group id, growing but not always contiguous.
    pub group: u64,
    /// Object id within the group, contiguous from 0.
    pub object: u64,
    /// Publisher priority, lower is more urgent: catalogs 0, audio 1, video 2.
    pub priority: u8,
    /// This is known to be the last object of its group. Media groups end when the next group of their track starts.
    pub end_of_group: bool,
    /// The bytes.
    pub payload: Bytes,
}

/// Turns the samples of one feed into the objects of one broadcast.
#[derive(Debug)]
pub struct Packager {
    _options: Options,
    outputs: VecDeque<Output>,
}

impl Packager {
    /// A packager with no tracks yet.
    pub fn new(options: Options) -> Self {
        Self { _options: options, outputs: VecDeque::new() }
    }

    /// A track appears or changes. Repeating a known configuration is free.
    pub fn handle_track(&mut self, config: TrackConfig, now: Instant) -> Result<(), Error> {
        let _ = (config, now);
        Ok(())
    }

    /// A sample arrives; `captured_wall` is when it was captured (or reached us), since the Unix epoch.
    pub fn handle_sample(
        &mut self,
        sample: Sample,
        captured_wall: Duration,
        now: Instant,
    ) -> Result<(), Error> {
        let _ = (sample, captured_wall, now);
        Ok(())
    }

    /// The publisher restarted: its timestamps start anew, ours go on.
    pub fn handle_discontinuity(&mut self) {}

    /// The deadline of [`Self::poll_timeout`] has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The broadcast is over: flushes what is pending and ends every track.
    pub fn handle_end(&mut self) {}

    /// The next output, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}
