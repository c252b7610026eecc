//! One fragmented MP4 from the chunks of all tracks: one header merged from theirs, then the chunks in order of arrival
//! under new track ids. Nothing is written before the first picture can be decoded, and the file starts at time zero.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use weir_packager::catalog::{Catalog, Kind};
use weir_packager::fmp4::tracks_of;
use weir_packager::merge::{decode_time, merge_inits, rebase_chunk, rewrite_chunk};

use crate::cli::Failure;
use crate::client::Object;

/// Chunks held until the first picture: 4 s of 8 tracks at 128 kb/s are 0.5 MB.
const HELD_BYTES_MAX: usize = 4 << 20;

pub(super) struct Recording {
    out: BufWriter<Box<dyn Write>>,
    header: Option<Bytes>,
    tracks: Vec<Track>,
    /// Chunks of sound that came before the first picture, by track.
    held: Vec<(usize, Bytes)>,
    held_bytes: usize,
    started: bool,
    /// The decode time that becomes zero: ticks and their timescale.
    origin: (u64, u32),
    sequence: u32,
    /// Nobody reads any more.
    closed: bool,
}

struct Track {
    name: Arc<str>,
    init: Vec<u8>,
    is_video: bool,
    timescale: u32,
    /// Decodable from here on; false after a loss, until the next group.
    synced: bool,
}

impl Recording {
    pub(super) fn to_file(path: &Path) -> Result<Self, Failure> {
        let file = File::create(path).map_err(|error| {
            Failure::new(format!("cannot write {}: {error}", path.display()))
                .help("name a file in a directory you may write to with -o")
        })?;
        Ok(Self::new(Box::new(file)))
    }

    pub(super) fn new(out: Box<dyn Write>) -> Self {
        Self {
            out: BufWriter::with_capacity(256 * 1024, out),
            header: None,
            tracks: Vec::new(),
            held: Vec::new(),
            held_bytes: 0,
            started: false,
            origin: (0, 1),
            sequence: 0,
            closed: false,
        }
    }

    /// The first catalog makes the header; later ones must not contradict it.
    pub(super) fn handle_catalog(&mut self, catalog: &Catalog) -> Result<(), Failure> {
        if self.header.is_none() {
            let media = catalog.tracks.iter().filter(|track| track.kind != Kind::Unknown);
            self.tracks = media
                .map(|track| Track {
                    name: track.name.as_str().into(),
                    init: track.init.clone(),
                    is_video: track.kind == Kind::Video,
                    timescale: timescale(&track.init),
                    synced: false,
                })
                .collect();
            if self.tracks.is_empty() {
                return Ok(());
            }
            let header = merge_inits(self.tracks.iter().map(|track| track.init.as_slice()))
                .map_err(|error| Failure::new(format!("the headers cannot be merged: {error}")))?;
            self.header = Some(header);
            return Ok(());
        }
        for track in &catalog.tracks {
            match self.tracks.iter().find(|known| *known.name == *track.name) {
                Some(known) if known.init != track.init => {
                    return Err(Failure::new(format!(
                        "the header of track {} changed; the recording ends before the change",
                        track.name
                    ))
                    .help("start `weir play` again to record what follows into another file"));
                }
                Some(_) => {}
                None => {
                    tracing::warn!(track = track.name, "a new track, not part of the recording");
                }
            }
        }
        Ok(())
    }

    /// Writes a chunk. False when nobody reads any more.
    pub(super) fn handle_object(&mut self, object: &Object) -> Result<bool, Failure> {
        let Some(at) = self.tracks.iter().position(|track| track.name == object.track) else {
            return Ok(!self.closed);
        };
        let has_video = self.tracks.iter().any(|track| track.is_video);
        let Some(track) = self.tracks.get_mut(at) else { return Ok(!self.closed) };
        track.synced |= object.object == 0;
        if track.is_video && !track.synced {
            return Ok(!self.closed);
        }
        if !self.started {
            if has_video && !track.is_video {
                self.hold(at, object.payload.clone());
                return Ok(!self.closed);
            }
            self.started = true;
            if let Some(header) = self.header.clone() {
                self.write(&header)?;
            }
            self.origin = self.earliest(at, &object.payload);
            self.held_bytes = 0;
            for (at, chunk) in std::mem::take(&mut self.held) {
                self.write_chunk(at, &chunk)?;
            }
        }
        self.write_chunk(at, &object.payload)?;
        Ok(!self.closed)
    }

    /// Something of this track is missing.
    pub(super) fn handle_gap(&mut self, name: &str) {
        if let Some(track) = self.tracks.iter_mut().find(|track| *track.name == *name) {
            track.synced = false;
        }
    }

    /// Passes on what was written. False when nobody reads any more.
    pub(super) fn flush(&mut self) -> Result<bool, Failure> {
        if !self.closed {
            let result = self.out.flush();
            self.judge(result)?;
        }
        Ok(!self.closed)
    }

    /// Whether there is anything in the file.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        if self.started || self.closed {
            return Ok(());
        }
        Err(Failure::new("nothing was recorded: no media arrived in time")
            .help("check that somebody publishes, or give it longer with --duration"))
    }

    /// The start of the earliest chunk among those held and this one.
    fn earliest(&self, at: usize, chunk: &Bytes) -> (u64, u32) {
        let held = self.held.iter().map(|(at, chunk)| (*at, chunk));
        held.chain([(at, chunk)])
            .filter_map(|(at, chunk)| Some((decode_time(chunk)?, self.tracks.get(at)?.timescale)))
            .min_by(|a, b| {
                (u128::from(a.0) * u128::from(b.1)).cmp(&(u128::from(b.0) * u128::from(a.1)))
            })
            .unwrap_or((0, 1))
    }

    fn hold(&mut self, at: usize, chunk: Bytes) {
        self.held_bytes += chunk.len();
        self.held.push((at, chunk));
        while self.held_bytes > HELD_BYTES_MAX && !self.held.is_empty() {
            self.held_bytes -= self.held.remove(0).1.len();
        }
    }

    fn write_chunk(&mut self, at: usize, chunk: &Bytes) -> Result<(), Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut chunk = BytesMut::from(&chunk[..]);
        let back = self.tracks.get(at).map_or(0, |track| convert(self.origin, track.timescale));
        if decode_time(&chunk).is_some_and(|time| time < back) {
            // Its joining fetch was slower than the picture's: it lies before the beginning.
            return Ok(());
        }
        // `merge_inits` numbers tracks from 1.
        let rewritten = rewrite_chunk(&mut chunk, at as u32 + 1, self.sequence)
            .and_then(|()| rebase_chunk(&mut chunk, back));
        if let Err(error) = rewritten {
            tracing::warn!(%error, "a chunk that is not CMAF, left out");
            return Ok(());
        }
        self.write(&chunk)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        let result = self.out.write_all(bytes);
        self.judge(result)
    }

    fn judge(&mut self, result: io::Result<()>) -> Result<(), Failure> {
        match result {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(error) => Err(Failure::new(format!("cannot write the recording: {error}"))),
        }
    }
}

/// A time in another timescale, rounded down.
fn convert((ticks, from): (u64, u32), to: u32) -> u64 {
    let ticks = u128::from(ticks) * u128::from(to) / u128::from(from.max(1));
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// Units per second of a track, from its header.
fn timescale(init: &[u8]) -> u32 {
    let tracks = tracks_of(init).unwrap_or_default();
    tracks.first().map_or(1, |track| track.timescale.max(1))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use weir_packager::fmp4::{self, Looper, TimedSample};
    use weir_packager::{CATALOG_TRACK, Options, Output, Packager, TrackId};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("one thread").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A few seconds of the demo as the packager makes them.
    fn objects() -> Vec<Object> {
        let now = Instant::now();
        let mut packager = Packager::new(Options::default());
        let looper = Looper::new(include_bytes!("../../assets/demo.mp4")).expect("our own clip");
        for config in looper.tracks().to_vec() {
            packager.handle_track(config, now).expect("a track");
        }
        let mut made = Vec::new();
        for TimedSample { due, sample } in looper.take_while(|timed| timed.due.as_secs() < 5) {
            packager.handle_sample(sample, Duration::from_secs(9), now + due).expect("a sample");
            while let Some(output) = packager.poll_output() {
                let Output::Object(object) = output else { continue };
                made.push(Object {
                    track: object.track,
                    group: object.group,
                    object: object.object,
                    payload: object.payload,
                    properties: Bytes::new(),
                });
            }
        }
        made
    }

    #[test]
    fn sound_from_before_the_first_picture_does_not_pile_up_at_zero() {
        let made = objects();
        let out = Shared::default();
        let mut recording = Recording::new(Box::new(out.clone()));
        let of = |track: &'static str| made.iter().filter(move |object| &*object.track == track);
        let catalog = of(CATALOG_TRACK).last().expect("a catalog");
        let catalog = Catalog::parse(&catalog.payload).expect("our own catalog");
        recording.handle_catalog(&catalog).expect("a header");
        // The picture's join is answered from its third group on, then comes the sound's from its
        // first.
        let pictures: Vec<_> = of("video/360p").filter(|object| object.group >= 2).collect();
        for object in &pictures[..10] {
            recording.handle_object(object).expect("written");
        }
        for object in of("audio") {
            recording.handle_object(object).expect("written");
        }
        recording.flush().expect("written");
        let mut reader = fmp4::Reader::new();
        reader.handle_input(&out.0.lock().expect("one thread")).expect("a file we can read");
        let mut last: std::collections::BTreeMap<TrackId, i64> = std::collections::BTreeMap::new();
        let mut seen = 0;
        while let Some(event) = reader.poll_event() {
            if let fmp4::Event::Sample { sample, .. } = event {
                seen += 1;
                let before = last.insert(sample.track, sample.dts);
                assert!(before.is_none_or(|before| before < sample.dts), "{before:?}");
            }
        }
        assert!(seen > 100, "{seen} samples");
    }
}
