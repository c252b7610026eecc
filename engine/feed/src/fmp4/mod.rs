//! Contribution of fragmented MP4 over MoQT: the objects of a publisher's tracks in, samples out. It owns the check of
//! what arrives (initialisation, codecs, timing, where groups begin) and the order in which a track's groups are read;
//! a track that holds no MP4 is none of its business and is told apart by its first bytes. It knows no session, no
//! namespace and no clock.

mod order;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_packager::fmp4::{self, Reader};
use weir_packager::{Packager, TrackConfig, TrackId};

use crate::{EndReason, Event, Unsupported};
use order::{Order, Step};

/// Names under which a publisher may describe its tracks: ours and that of MSF.
pub const CATALOGS: [&str; 2] = [".catalog", "catalog"];

/// Caps of one [`Intake`], and how long it waits for what is late.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Tracks with media, by MoQT name: 4 renditions, 6 languages, and room.
    pub tracks: usize,
    /// Payload that waits for an older group or for its initialisation, over all tracks: 4 s at 32 Mb/s.
    pub held_bytes: usize,
    /// How long a newer group waits for the rest of the one before: a packet lost twice on a path of 200 ms.
    pub late: Duration,
    /// How long chunks wait for their initialisation. It travels on another stream, sent before them.
    pub init_wait: Duration,
    /// Chunks in a row whose decode times run backwards before the publisher is told: one second at 30 fps. A single
    /// one is the packager's to put right.
    pub backwards: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tracks: 12,
            held_bytes: 16 << 20,
            late: Duration::from_millis(500),
            init_wait: Duration::from_secs(3),
            backwards: 30,
        }
    }
}

/// Sample entries of neither sound nor picture, which encoders add by themselves: left out without a word.
const DATA: [[u8; 4]; 8] =
    [*b"tmcd", *b"text", *b"tx3g", *b"mebx", *b"gpmd", *b"wvtt", *b"stpp", *b"mett"];

/// Why a publisher cannot go on. The text begins with the code of the API and names the track.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A codec that is not carried.
    #[error("codec_unsupported: {track} has codec '{}'", .entry.escape_ascii())]
    Codec {
        /// MoQT name.
        track: String,
        /// Sample entry.
        entry: [u8; 4],
    },
    /// A configuration of a known codec that cannot be used.
    #[error("codec_unsupported: {track}: {reason}")]
    Config {
        /// MoQT name.
        track: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Boxes that do not hold together.
    #[error("fmp4_invalid: {track}: {reason}")]
    Malformed {
        /// MoQT name.
        track: String,
        /// What is wrong.
        reason: String,
    },
    /// No initialisation in the catalog, in an init track or in front of the chunks.
    #[error(
        "fmp4_invalid: {0} has no initialisation, neither in the catalog nor in front of its chunks"
    )]
    NoInit(String),
    /// A group of pictures that cannot be joined.
    #[error("group_misaligned: group {group} of {track} does not begin with a keyframe")]
    GroupStart {
        /// MoQT name.
        track: String,
        /// Which.
        group: u64,
    },
    /// Decode times that keep running backwards.
    #[error("timing_invalid: the decode times of {0} run backwards")]
    Backwards(String),
    /// A limit.
    #[error("capacity: more than {0} media tracks")]
    Tracks(usize),
    /// A catalog that is none.
    #[error("catalog_invalid: {0}")]
    Catalog(String),
}

impl Error {
    /// How the feed ends by it.
    pub fn end_reason(&self) -> EndReason {
        match self {
            Self::Codec { entry, .. } => EndReason::Unsupported(Unsupported::SampleEntry(*entry)),
            Self::Config { .. } => EndReason::Unsupported(Unsupported::Configuration),
            _ => EndReason::Protocol,
        }
    }
}

/// What an object turned out to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Taken {
    /// Ours: a chunk, an initialisation or a catalog.
    Media,
    /// Not MP4: the object goes on as it is.
    Other,
}

/// What arrives from one publisher.
#[derive(Debug)]
pub struct Intake {
    limits: Limits,
    tracks: BTreeMap<u64, Track>,
    /// Initialisations that the catalog names, by MoQT name.
    catalog: BTreeMap<String, Bytes>,
    /// The newest initialisation that came alone on a track: it may serve the others.
    shared: Option<Bytes>,
    next_id: u32,
    held_bytes: usize,
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Track {
    name: String,
    kind: Kind,
    order: Order,
}

#[derive(Debug)]
enum Kind {
    /// Nothing came yet.
    New,
    Catalog,
    Other,
    Media(Box<Media>),
}

/// A MoQT track with MP4 in it: mostly one ISO track.
#[derive(Debug, Default)]
struct Media {
    reader: Reader,
    /// The initialisation in use; the catalog's counts when it changes.
    init: Option<Bytes>,
    in_band: bool,
    configs: Vec<TrackConfig>,
    /// ISO tracks that had samples, and what the rest of the engine calls them.
    known: Vec<Known>,
    /// Chunks that wait for an initialisation, and since when.
    waiting: Vec<(u64, u64, Bytes)>,
    waiting_since: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    iso: TrackId,
    config: TrackConfig,
    last_dts: i64,
    backwards: u32,
    /// Pictures are dropped up to the next keyframe.
    lost: bool,
}

impl Intake {
    /// Nothing has come yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            tracks: BTreeMap::new(),
            catalog: BTreeMap::new(),
            shared: None,
            next_id: 1,
            held_bytes: 0,
            events: VecDeque::new(),
        }
    }

    /// A track of the publisher, under a number of the caller's.
    pub fn open_track(&mut self, key: u64, name: &[u8]) {
        let name = String::from_utf8_lossy(name).into_owned();
        let kind = if CATALOGS.contains(&name.as_str()) { Kind::Catalog } else { Kind::New };
        self.tracks.insert(key, Track { name, kind, order: Order::default() });
    }

    /// An object, in the order of its stream.
    pub fn handle_object(
        &mut self,
        key: u64,
        group: u64,
        object: u64,
        payload: &Bytes,
        now: Instant,
    ) -> Result<Taken, Error> {
        let Some(track) = self.tracks.get_mut(&key) else { return Ok(Taken::Other) };
        if matches!(track.kind, Kind::New) {
            if payload.is_empty() {
                return Ok(Taken::Other);
            }
            track.kind = if is_mp4(payload) { Kind::Media(Box::default()) } else { Kind::Other };
            self.count_media()?;
        }
        let Some(track) = self.tracks.get_mut(&key) else { return Ok(Taken::Other) };
        match track.kind {
            Kind::New | Kind::Other => return Ok(Taken::Other),
            Kind::Catalog => {
                if !payload.is_empty() {
                    self.read_catalog(payload, now)?;
                }
                return Ok(Taken::Media);
            }
            Kind::Media(_) => {}
        }
        if payload.is_empty() {
            // An object without payload marks an end, which the end of its stream tells too.
            return Ok(Taken::Media);
        }
        let free = self.limits.held_bytes.saturating_sub(self.held_bytes);
        let steps = track.order.handle_object(group, object, payload.clone(), free, now);
        self.take(key, steps, now)?;
        Ok(Taken::Media)
    }

    /// The stream of a group has ended, or was given up.
    pub fn handle_group_end(&mut self, key: u64, group: u64, now: Instant) -> Result<(), Error> {
        let Some(track) = self.tracks.get_mut(&key) else { return Ok(()) };
        let steps = track.order.handle_end(group, now);
        self.take(key, steps, now)
    }

    /// Nothing more comes of a track.
    pub fn handle_track_end(&mut self, key: u64, now: Instant) -> Result<(), Error> {
        let Some(track) = self.tracks.get_mut(&key) else { return Ok(()) };
        let steps = track.order.flush();
        let done = self.take(key, steps, now);
        self.tracks.remove(&key);
        self.recount();
        done
    }

    /// The deadline of [`Intake::poll_timeout`] has passed.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        let late = self.limits.late;
        let keys: Vec<u64> = self.tracks.keys().copied().collect();
        for key in keys {
            let Some(track) = self.tracks.get_mut(&key) else { continue };
            if let Kind::Media(media) = &track.kind
                && let Some(since) = media.waiting_since
                && now.saturating_duration_since(since) >= self.limits.init_wait
            {
                return Err(Error::NoInit(track.name.clone()));
            }
            let steps = track.order.handle_timeout(late, now);
            self.take(key, steps, now)?;
        }
        Ok(())
    }

    /// When [`Intake::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = self.tracks.values().flat_map(|track| {
            let init = match &track.kind {
                Kind::Media(media) => media.waiting_since.map(|at| at + self.limits.init_wait),
                _ => None,
            };
            [init, track.order.since().map(|at| at + self.limits.late)]
        });
        deadlines.flatten().min()
    }

    /// The next thing for the broadcast.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Payload held back, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn count_media(&self) -> Result<(), Error> {
        let media = self.tracks.values().filter(|track| matches!(track.kind, Kind::Media(_)));
        if media.count() > self.limits.tracks {
            return Err(Error::Tracks(self.limits.tracks));
        }
        Ok(())
    }

    fn recount(&mut self) {
        let held = self.tracks.values().map(|track| {
            let waiting: usize = match &track.kind {
                Kind::Media(media) => media.waiting.iter().map(|(.., bytes)| bytes.len()).sum(),
                _ => 0,
            };
            track.order.held_bytes() + waiting
        });
        self.held_bytes = held.sum();
    }

    fn read_catalog(&mut self, payload: &[u8], now: Instant) -> Result<(), Error> {
        let inits = weir_packager::inits_of(payload);
        let inits = inits.map_err(|error| Error::Catalog(error.to_string()))?;
        self.catalog = inits.into_iter().map(|(name, init)| (name, init.into())).collect();
        self.inits_changed(now)
    }

    /// Chunks that waited for an initialisation may have it now.
    fn inits_changed(&mut self, now: Instant) -> Result<(), Error> {
        let waiting: Vec<u64> = self
            .tracks
            .iter()
            .filter(|(_, track)| match &track.kind {
                Kind::Media(media) => !media.waiting.is_empty(),
                _ => false,
            })
            .map(|(key, _)| *key)
            .collect();
        for key in waiting {
            let Some(Track { kind: Kind::Media(media), .. }) = self.tracks.get_mut(&key) else {
                continue;
            };
            media.waiting_since = None;
            let steps = std::mem::take(&mut media.waiting).into_iter();
            let steps = steps.map(|(group, object, payload)| Step::Object(group, object, payload));
            self.take(key, steps.collect(), now)?;
        }
        Ok(())
    }

    fn take(&mut self, key: u64, steps: Vec<Step>, now: Instant) -> Result<(), Error> {
        let mut shared = None;
        for step in steps {
            let Some(track) = self.tracks.get_mut(&key) else { break };
            let Kind::Media(media) = &mut track.kind else { break };
            match step {
                Step::Lost => {
                    for known in &mut media.known {
                        known.lost = true;
                        let track = known.config.track;
                        self.events.push_back(Event::Loss { track });
                    }
                }
                Step::Object(group, object, payload) => {
                    let inits = Inits {
                        catalog: self.catalog.get(&track.name),
                        shared: self.shared.as_ref(),
                    };
                    let mut chunk = Chunk {
                        name: &track.name,
                        group,
                        object,
                        backwards_max: self.limits.backwards,
                        next_id: &mut self.next_id,
                        events: &mut self.events,
                        now,
                    };
                    if media.read(&mut chunk, payload, inits)? {
                        shared.clone_from(&media.init);
                    }
                }
            }
        }
        self.recount();
        if shared.is_none() && self.held_bytes > self.limits.held_bytes {
            // More than waits for an older group: nobody explains these chunks.
            let waits = self.tracks.values().find(|track| match &track.kind {
                Kind::Media(media) => !media.waiting.is_empty(),
                _ => false,
            });
            if let Some(track) = waits {
                return Err(Error::NoInit(track.name.clone()));
            }
        }
        match shared {
            Some(init) => {
                self.shared = Some(init);
                self.inits_changed(now)
            }
            None => Ok(()),
        }
    }
}

/// Where an initialisation may come from besides the track itself.
#[derive(Clone, Copy)]
struct Inits<'a> {
    catalog: Option<&'a Bytes>,
    shared: Option<&'a Bytes>,
}

/// The object under way.
struct Chunk<'a> {
    name: &'a str,
    group: u64,
    object: u64,
    backwards_max: u32,
    next_id: &'a mut u32,
    events: &'a mut VecDeque<Event>,
    now: Instant,
}

impl Media {
    /// Reads one object; true when it was an initialisation and nothing else.
    fn read(
        &mut self,
        chunk: &mut Chunk<'_>,
        payload: Bytes,
        inits: Inits<'_>,
    ) -> Result<bool, Error> {
        let malformed = |error: fmp4::Error| Error::Malformed {
            track: chunk.name.to_owned(),
            reason: error.to_string(),
        };
        let shape = Shape::of(&payload);
        if shape.has_moov {
            self.in_band = true;
        } else if !self.in_band && chunk.object == 0 || self.init.is_none() {
            // A new one takes effect where a group begins.
            let Some(init) = inits.catalog.or(inits.shared) else {
                self.waiting.push((chunk.group, chunk.object, payload));
                self.waiting_since.get_or_insert(chunk.now);
                return Ok(false);
            };
            if self.init.as_ref() != Some(init) {
                self.init = Some(init.clone());
                self.reader.handle_input(init).map_err(malformed)?;
                self.drain(chunk)?;
            }
        }
        self.reader.handle_input(&payload).map_err(malformed)?;
        // An object is whole: what is left open in it never closes.
        self.reader.handle_end().map_err(malformed)?;
        self.drain(chunk)?;
        if shape.has_moov {
            self.init = Some(payload);
        }
        Ok(shape.has_moov && !shape.has_moof)
    }

    fn drain(&mut self, chunk: &mut Chunk<'_>) -> Result<(), Error> {
        let mut first = true;
        while let Some(event) = self.reader.poll_event() {
            match event {
                fmp4::Event::Tracks(configs) => {
                    let unknown = self.reader.unknown().iter();
                    if let Some(entry) = unknown.copied().find(|entry| !DATA.contains(entry)) {
                        return Err(Error::Codec { track: chunk.name.to_owned(), entry });
                    }
                    for config in &configs {
                        check(chunk.name, config, chunk.now)?;
                    }
                    self.configs = configs;
                }
                fmp4::Event::Sample { sample, .. } => {
                    let at = self.known(chunk, sample.track)?;
                    let Some(known) = self.known.get_mut(at) else { continue };
                    let video = !known.config.codec.is_audio();
                    if video && first && chunk.object == 0 && !sample.keyframe {
                        let (track, group) = (chunk.name.to_owned(), chunk.group);
                        return Err(Error::GroupStart { track, group });
                    }
                    first = false;
                    if sample.dts < known.last_dts {
                        known.backwards += 1;
                        if known.backwards > chunk.backwards_max {
                            return Err(Error::Backwards(chunk.name.to_owned()));
                        }
                    } else {
                        known.backwards = 0;
                    }
                    known.last_dts = sample.dts;
                    if known.lost && video && !sample.keyframe {
                        continue;
                    }
                    known.lost = false;
                    let track = known.config.track;
                    chunk
                        .events
                        .push_back(Event::Sample(weir_packager::Sample { track, ..sample }));
                }
            }
        }
        Ok(())
    }

    /// The ISO track of a sample, told to the broadcast if it is new or has changed.
    fn known(&mut self, chunk: &mut Chunk<'_>, iso: TrackId) -> Result<usize, Error> {
        let config = self.configs.iter().find(|config| config.track == iso);
        let config = config.ok_or_else(|| Error::NoInit(chunk.name.to_owned()))?;
        let found = self.known.iter().position(|known| known.iso == iso);
        let at = found.unwrap_or_else(|| {
            let track = TrackId(*chunk.next_id);
            *chunk.next_id += 1;
            let config = TrackConfig { track, ..config.clone() };
            chunk.events.push_back(Event::Track(config.clone()));
            self.known.push(Known { iso, config, last_dts: i64::MIN, backwards: 0, lost: false });
            self.known.len() - 1
        });
        if let Some(known) = self.known.get_mut(at)
            && (known.config.codec != config.codec || known.config.timescale != config.timescale)
        {
            known.config = TrackConfig { track: known.config.track, ..config.clone() };
            if known.config.timescale != config.timescale {
                known.last_dts = i64::MIN;
            }
            chunk.events.push_back(Event::Track(known.config.clone()));
        }
        Ok(at)
    }
}

/// Whether the packager will take a track; it judges by the same code.
fn check(track: &str, config: &TrackConfig, now: Instant) -> Result<(), Error> {
    let mut judge = Packager::new(weir_packager::Options::default());
    let judged = judge.handle_track(config.clone(), now);
    judged.map_err(|error| Error::Config { track: track.to_owned(), reason: error.to_string() })
}

/// What kinds of box an object holds.
#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    has_moov: bool,
    has_moof: bool,
}

impl Shape {
    fn of(payload: &[u8]) -> Self {
        let mut shape = Self::default();
        for kind in fmp4::box_kinds(payload) {
            shape.has_moov |= &kind == b"moov";
            shape.has_moof |= &kind == b"moof";
        }
        shape
    }
}

/// Whether bytes begin as MP4 does.
fn is_mp4(payload: &[u8]) -> bool {
    let first = fmp4::box_kinds(payload).next();
    first.is_some_and(|kind| {
        matches!(&kind, b"ftyp" | b"styp" | b"moov" | b"moof" | b"prft" | b"emsg" | b"sidx")
    })
}
