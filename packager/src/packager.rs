//! The packager: samples of one feed in, tracks and objects of one broadcast out. Owns the set of tracks, their names and
//! the publication of the catalogs; placing and cutting live in `timeline`, `groups` and `track`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::backlog::{Backlog, Verdict};
use crate::catalog::{Catalog, Kind, VERSION};
use crate::codec::SizeIn;
use crate::groups::Groups;
use crate::health::Health;
use crate::timeline::{self, Timeline, nanos};
use crate::track::{Context, Track};
use crate::{Error, Options, Sample, TrackConfig, TrackId};

/// Tracks of one feed: OBS sends four video and six audio tracks at most.
const TRACKS_MAX: usize = 16;
/// One intra picture of 8K; ingest caps its messages at less.
const SAMPLE_BYTES_MAX: usize = 11 * 1024 * 1024;
/// After a restart of the publisher, tracks it no longer describes are ended.
const STALE_MAX: Duration = Duration::from_secs(5);
const CATALOG_PRIORITY: u8 = 0;
const NANOS_PER_MILLI: i64 = 1_000_000;

/// Name of the track with our own catalog.
pub const CATALOG_TRACK: &str = ".catalog";
/// Name of the track with the MSF catalog.
pub const MSF_CATALOG_TRACK: &str = "catalog";

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
    /// Group id: growing, the same time in every media track, not always contiguous within one.
    pub group: u64,
    /// Object id within the group, contiguous from 0.
    pub object: u64,
    /// Publisher priority, lower is more urgent: catalogs 0, audio 1, video 2.
    pub priority: u8,
    /// This is known to be the last object of its group, as with catalogs. A media group ends when the next group of its
    /// track starts.
    pub end_of_group: bool,
    /// The bytes.
    pub payload: Bytes,
}

/// What had to be done to the samples of a feed; all of them only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Samples whose timestamps were moved to keep time monotone, or were not believed.
    pub restamped: u64,
    /// Tracks that moved to a new time line without a restart.
    pub jumps: u64,
    /// Video samples before the first keyframe, or before the first after a restart or change.
    pub dropped_before_keyframe: u64,
    /// Audio frames that lay in the past.
    pub dropped_overlap: u64,
    /// Video groups longer than [`Options::group_duration_max`].
    pub long_groups: u64,
    /// Samples of a returning publisher that were old when they came.
    pub dropped_backlog: u64,
    /// Samples lost on the way, as the feed says.
    pub lost: u64,
}

impl Counters {
    pub(crate) fn count(&mut self, verdict: timeline::Verdict) {
        match verdict {
            timeline::Verdict::Believed => {}
            timeline::Verdict::Restamped => self.restamped += 1,
            timeline::Verdict::Jumped => self.jumps += 1,
        }
    }
}

/// Turns the samples of one feed into the objects of one broadcast.
#[derive(Debug)]
pub struct Packager {
    options: Options,
    tracks: Vec<Track>,
    /// Described, but how large their pictures are their first keyframe will tell; at most [`TRACKS_MAX`].
    sizeless: Vec<TrackConfig>,
    slots: u32,
    timeline: Timeline,
    groups: Groups,
    counters: Counters,
    announcement: Announcement,
    restarted: bool,
    stale_at: Option<Instant>,
    /// Wall time of the newest sample, for the MSF catalog.
    wall: Option<Duration>,
    backlog: Backlog,
    /// What arrivals are counted from.
    epoch: Option<Instant>,
    ended: bool,
    outputs: VecDeque<Output>,
}

/// When the catalogs are due.
#[derive(Debug)]
struct Announcement {
    group: u64,
    first_due: Option<Instant>,
    next_due: Option<Instant>,
    dirty: bool,
}

impl Packager {
    /// A packager with no tracks yet.
    pub fn new(options: Options) -> Self {
        Self {
            tracks: Vec::new(),
            sizeless: Vec::new(),
            slots: 0,
            timeline: Timeline::default(),
            groups: Groups::new(options.first_group),
            counters: Counters::default(),
            announcement: Announcement {
                group: options.first_group,
                first_due: None,
                next_due: None,
                dirty: false,
            },
            restarted: false,
            stale_at: None,
            wall: None,
            backlog: Backlog::default(),
            epoch: None,
            ended: false,
            outputs: VecDeque::new(),
            options,
        }
    }

    /// A track appears or changes. Repeating a known configuration is free; a changed one means a new init segment, a new
    /// catalog at once, and for video a wait for the next keyframe.
    pub fn handle_track(&mut self, config: TrackConfig, now: Instant) -> Result<(), Error> {
        if self.ended {
            return Err(Error::Ended);
        }
        if !(1..=1_000_000_000).contains(&config.timescale) {
            return Err(Error::Timescale(config.timescale));
        }
        self.sizeless.retain(|waiting| waiting.track != config.track);
        if config.codec.size_in() == SizeIn::Keyframes {
            config.codec.check()?;
            let unchanged = |track: &&Track| track.id == config.track && !track.stale;
            if self.tracks.iter().find(unchanged).is_none_or(|track| track.codec != config.codec) {
                if self.sizeless.len() >= TRACKS_MAX {
                    return Err(Error::TooManyTracks(TRACKS_MAX));
                }
                self.sizeless.push(config);
            }
            return Ok(());
        }
        self.describe(config, None, now)
    }

    /// Takes a configuration that is complete, if need be by the size a keyframe told.
    fn describe(
        &mut self,
        config: TrackConfig,
        size: Option<(u32, u32)>,
        now: Instant,
    ) -> Result<(), Error> {
        let parsed = Track::new(config.clone(), size, self.slots + 1)?;
        if std::mem::take(&mut self.restarted) {
            self.stale_at = Some(now + STALE_MAX);
        }
        match self.position_for(&parsed) {
            Some(index) => self.change(index, config, size)?,
            None => self.add(parsed)?,
        }
        self.announcement.first_due.get_or_insert(now + self.options.catalog_wait);
        self.settle(now);
        Ok(())
    }

    /// A sample arrives; `captured_wall` is when it was captured (or reached us), since the Unix epoch. An error is about
    /// this sample only.
    pub fn handle_sample(
        &mut self,
        sample: Sample,
        captured_wall: Duration,
        now: Instant,
    ) -> Result<(), Error> {
        if self.ended {
            return Err(Error::Ended);
        }
        if sample.data.is_empty() {
            return Err(Error::Sample("empty"));
        }
        if sample.data.len() > SAMPLE_BYTES_MAX {
            return Err(Error::SampleTooLarge { size: sample.data.len(), max: SAMPLE_BYTES_MAX });
        }
        if !self.learn_size(&sample, now)? {
            self.counters.dropped_before_keyframe += 1;
            return Ok(());
        }
        let arrival = self.arrival(now);
        let has_video = self.tracks.iter().any(|track| track.kind() == Kind::Video);
        let track = self.tracks.iter().find(|track| track.id == sample.track && !track.stale);
        let track = track.ok_or(Error::UnknownTrack(sample.track.0))?;
        let starts = sample.keyframe && (track.kind() == Kind::Video || !has_video);
        let source = track.source_time(sample.dts);
        match self.backlog.handle(sample, starts, source, arrival, captured_wall) {
            Verdict::Pass(sample) => self.place(&sample, captured_wall, now),
            Verdict::Held { dropped } => {
                self.counters.dropped_backlog += dropped;
                Ok(())
            }
            Verdict::Release(held) => {
                self.handle_jump();
                let mut result = Ok(());
                for (sample, captured) in held {
                    result = self.place(&sample, captured, now).and(result);
                }
                result
            }
        }
    }

    /// The publisher's time base changed without a restart: its timestamps start anew, ours go on.
    pub fn handle_jump(&mut self) {
        self.counters.jumps += 1;
        self.timeline.restart();
        for track in &mut self.tracks {
            self.outputs.extend(track.flush().map(Output::Object));
            track.gauge.restart();
        }
    }

    /// A sample of this track was lost on the way. What depends on it may look broken until the next keyframe; holding it
    /// back would freeze the picture instead, which decoders do better themselves.
    pub fn handle_loss(&mut self, _track: TrackId) {
        self.counters.lost += 1;
    }

    /// What can be said of the feed now.
    pub fn health(&self, now: Instant) -> Health {
        let at = self.epoch.map_or(0, |epoch| nanos(now.saturating_duration_since(epoch)));
        let live = || self.tracks.iter().filter(|track| !track.stale);
        let delay = |kind| live().filter(|t| t.kind() == kind).find_map(|t| t.gauge.delay());
        let later = delay(Kind::Audio).zip(delay(Kind::Video)).map(|(audio, video)| audio - video);
        Health {
            tracks: live().map(|track| track.health(at)).collect(),
            drift_ppm: self.timeline.drift().ppm(),
            slew_ms: self.timeline.drift().slew() / NANOS_PER_MILLI,
            audio_delay_ms: later.map(|later| later / NANOS_PER_MILLI),
            counters: self.counters,
        }
    }

    fn arrival(&mut self, now: Instant) -> i64 {
        let epoch = *self.epoch.get_or_insert(now);
        nanos(now.saturating_duration_since(epoch))
    }

    /// Puts a sample where it belongs.
    fn place(
        &mut self,
        sample: &Sample,
        captured_wall: Duration,
        now: Instant,
    ) -> Result<(), Error> {
        let arrival = self.arrival(now);
        self.timeline.arrive(arrival);
        let video_at = self.tracks.iter().filter_map(Track::video_at).max();
        let track = self
            .tracks
            .iter_mut()
            .find(|track| track.id == sample.track && !track.stale)
            .ok_or(Error::UnknownTrack(sample.track.0))?;
        let mut context = Context {
            options: &self.options,
            timeline: &mut self.timeline,
            groups: &mut self.groups,
            counters: &mut self.counters,
            video_at,
        };
        let objects = track.handle_sample(sample, captured_wall, &mut context)?;
        let opens = objects.iter().flatten().any(|object| object.object == 0);
        track.measure(sample, opens, arrival);
        self.wall = Some(captured_wall);
        // A catalog that is due goes first.
        self.settle(now);
        self.outputs.extend(objects.into_iter().flatten().map(Output::Object));
        Ok(())
    }

    /// The publisher restarted: its timestamps start anew, ours continue right behind what was sent, group ids go on and
    /// video waits for a keyframe. Tracks keep their names if they come back with the same kind and size; those that are
    /// not described again within 5 s of the first that is are ended.
    pub fn handle_discontinuity(&mut self) {
        self.timeline.restart();
        self.restarted = true;
        if !self.tracks.is_empty() {
            self.backlog.arm();
        }
        for track in &mut self.tracks {
            track.gauge.restart();
            self.outputs.extend(track.flush().map(Output::Object));
            track.restart();
        }
    }

    /// The deadline of [`Self::poll_timeout`] has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.ended {
            self.settle(now);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.ended || self.tracks.is_empty() {
            return None;
        }
        let catalog = self.announcement.next_due.or(self.announcement.first_due);
        catalog.into_iter().chain(self.stale_at).min()
    }

    /// The broadcast is over: flushes what is pending, publishes a last catalog that is not live and ends every track.
    pub fn handle_end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        for track in &mut self.tracks {
            self.outputs.extend(track.flush().map(Output::Object));
        }
        let announced = self.announcement.next_due.is_some();
        if announced {
            self.publish_catalogs(false);
        }
        let media = self.tracks.iter().map(|track| Arc::clone(&track.name));
        let catalogs =
            [CATALOG_TRACK, MSF_CATALOG_TRACK].into_iter().filter(|_| announced).map(Arc::from);
        self.outputs.extend(media.chain(catalogs).map(|name| Output::TrackEnded { name }));
    }

    /// The next output, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What had to be done to the samples so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The track a configuration is about: the one with its id, or after a restart one of its kind that nobody has
    /// claimed yet, since the new connection counts its tracks anew.
    fn position_for(&self, parsed: &Track) -> Option<usize> {
        let same_kind = |track: &&Track| track.kind() == parsed.kind();
        let by_id = self
            .tracks
            .iter()
            .filter(same_kind)
            .find(|track| track.id == parsed.id && !track.stale);
        let stale = || {
            let stale = || self.tracks.iter().filter(same_kind).filter(|track| track.stale);
            stale().find(|track| track.codec == parsed.codec).or(stale().next())
        };
        let slot = by_id.or_else(stale)?.slot;
        self.tracks.iter().position(|track| track.slot == slot)
    }

    /// Keyframes of some codecs tell the picture size. False if the sample's track still waits for one.
    fn learn_size(&mut self, sample: &Sample, now: Instant) -> Result<bool, Error> {
        if let Some(index) = self.sizeless.iter().position(|config| config.track == sample.track) {
            let size = self
                .sizeless
                .get(index)
                .and_then(|config| config.codec.keyframe_size(&sample.data));
            let Some(size) = size else { return Ok(false) };
            let config = self.sizeless.swap_remove(index);
            self.describe(config, Some(size), now)?;
        } else if let Some(track) =
            self.tracks.iter().find(|track| track.id == sample.track && !track.stale)
            && let Some(size) = track.codec.keyframe_size(&sample.data)
            && track.size() != Some(size)
        {
            self.describe(track.description(), Some(size), now)?;
        }
        Ok(true)
    }

    fn add(&mut self, mut track: Track) -> Result<(), Error> {
        // An id that now means another kind of track: the old one is gone.
        let id = track.id;
        self.remove(|old| old.id == id && !old.stale);
        if self.tracks.len() >= TRACKS_MAX {
            return Err(Error::TooManyTracks(TRACKS_MAX));
        }
        self.slots += 1;
        track.rename(self.free_name(&track.base_name()));
        self.outputs.push_back(Output::Track { name: Arc::clone(&track.name) });
        self.tracks.push(track);
        self.announcement.dirty = true;
        Ok(())
    }

    fn change(
        &mut self,
        index: usize,
        config: TrackConfig,
        size: Option<(u32, u32)>,
    ) -> Result<(), Error> {
        let Some(track) = self.tracks.get_mut(index) else { return Ok(()) };
        let id: TrackId = config.track;
        let was = track.base_name();
        self.outputs.extend(track.flush().map(Output::Object));
        if track.reconfigure(config, size)? {
            self.announcement.dirty = true;
        }
        track.id = id;
        track.stale = false;
        let name = track.base_name();
        if name != was {
            let name = self.free_name(&name);
            let Some(track) = self.tracks.get_mut(index) else { return Ok(()) };
            self.outputs.push_back(Output::TrackEnded { name: Arc::clone(&track.name) });
            self.outputs.push_back(Output::Track { name: Arc::clone(&name) });
            track.rename(name);
        }
        Ok(())
    }

    fn remove(&mut self, gone: impl Fn(&Track) -> bool) {
        let (removed, kept) =
            std::mem::take(&mut self.tracks).into_iter().partition::<Vec<_>, _>(gone);
        self.tracks = kept;
        for mut track in removed {
            self.announcement.dirty = true;
            self.outputs.extend(track.flush().map(Output::Object));
            self.outputs.push_back(Output::TrackEnded { name: track.name });
        }
    }

    /// `audio`, then `audio/2`, `audio/3`, …
    fn free_name(&self, base: &str) -> Arc<str> {
        let free = |name: &str| self.tracks.iter().all(|track| &*track.name != name);
        if free(base) {
            return base.into();
        }
        // One more candidate than there are tracks, so one is free.
        (2..=TRACKS_MAX + 2)
            .map(|number| format!("{base}/{number}"))
            .find(|name| free(name))
            .unwrap_or_default()
            .into()
    }

    /// Publishes what is due.
    fn settle(&mut self, now: Instant) {
        if self.stale_at.is_some_and(|at| at <= now) {
            self.stale_at = None;
            self.remove(|track| track.stale);
        }
        let announcement = &self.announcement;
        let due = match announcement.next_due {
            None => {
                let has = |kind| self.tracks.iter().any(|track| track.kind() == kind);
                let complete = has(Kind::Video) && has(Kind::Audio);
                complete || announcement.first_due.is_some_and(|due| due <= now)
            }
            Some(next) => announcement.dirty || next <= now,
        };
        if !due || self.tracks.is_empty() {
            return;
        }
        if announcement.next_due.is_none() {
            for name in [CATALOG_TRACK, MSF_CATALOG_TRACK] {
                self.outputs.push_back(Output::Track { name: name.into() });
            }
        }
        self.publish_catalogs(true);
        self.announcement.dirty = false;
        self.announcement.next_due = Some(now + self.options.catalog_interval);
    }

    fn publish_catalogs(&mut self, live: bool) {
        let catalog = Catalog {
            version: VERSION,
            live,
            capture_clock: Some("prft".into()),
            tracks: self.tracks.iter_mut().map(Track::describe).collect(),
        };
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let msf = catalog.to_msf(millis(self.options.target_latency), self.wall.map(millis));
        let group = self.announcement.group;
        self.announcement.group += 1;
        for (name, payload) in [(CATALOG_TRACK, catalog.to_json()), (MSF_CATALOG_TRACK, msf)] {
            self.outputs.push_back(Output::Object(Object {
                track: name.into(),
                group,
                object: 0,
                priority: CATALOG_PRIORITY,
                end_of_group: true,
                payload: payload.into(),
            }));
        }
    }
}
