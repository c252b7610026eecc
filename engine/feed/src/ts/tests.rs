//! Streams made by hand, then damaged. The muxer here is the oracle: it knows what it wrote.

use std::time::Instant;

use super::psi::crc32;
use super::{Counters, Demuxer, PACKET_BYTES};
use crate::{Codec, Event, Sample, TrackConfig, TrackId};

const MAP: u16 = 0x1000;
const VIDEO: u16 = 0x100;
const AUDIO: u16 = 0x101;

const SPS: &[u8] = &[
    0x67, 0xf4, 0x00, 0x0b, 0x91, 0x96, 0x82, 0x84, 0x7e, 0x27, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00,
    0x10, 0x00, 0x00, 0x03, 0x03, 0x20, 0xf1, 0x42, 0xaa,
];
const PPS: &[u8] = &[0x68, 0xce, 0x0f, 0x19, 0x20];

/// Writes packets.
#[derive(Default)]
struct Muxer {
    out: Vec<u8>,
    continuity: std::collections::BTreeMap<u16, u8>,
    version: u8,
}

impl Muxer {
    fn new(streams: &[(u8, u16, &[u8])]) -> Self {
        let mut muxer = Self::default();
        muxer.tables(streams);
        muxer
    }

    fn tables(&mut self, streams: &[(u8, u16, &[u8])]) {
        self.section(0, 0, 1, &[0, 1, 0xe0 | (MAP >> 8) as u8, MAP as u8]);
        let mut body = vec![0xe0 | (VIDEO >> 8) as u8, VIDEO as u8, 0xf0, 0];
        for (kind, pid, descriptors) in streams {
            body.extend([
                *kind,
                0xe0 | (pid >> 8) as u8,
                *pid as u8,
                0xf0,
                descriptors.len() as u8,
            ]);
            body.extend_from_slice(descriptors);
        }
        self.section(MAP, 2, 1, &body);
        self.version += 1;
    }

    fn section(&mut self, pid: u16, table: u8, id: u16, body: &[u8]) {
        let length = body.len() + 9;
        let mut section = vec![table, 0xb0 | (length >> 8) as u8, length as u8];
        section.extend(id.to_be_bytes());
        section.extend([0xc1 | self.version << 1, 0, 0]);
        section.extend_from_slice(body);
        section.extend(crc32(&section).to_be_bytes());
        let mut payload = vec![0];
        payload.extend(section);
        payload.resize(PACKET_BYTES - 4, 0xff);
        self.packet(pid, true, &payload);
    }

    fn packet(&mut self, pid: u16, start: bool, payload: &[u8]) {
        let continuity = self.continuity.entry(pid).or_default();
        let room = PACKET_BYTES - 4;
        assert!(payload.len() <= room);
        let stuffing = room - payload.len();
        let adaptation = if stuffing > 0 { 0x20 } else { 0 };
        self.out.extend([
            0x47,
            u8::from(start) << 6 | (pid >> 8) as u8,
            pid as u8,
            adaptation | 0x10 | *continuity,
        ]);
        *continuity = (*continuity + 1) & 15;
        if stuffing > 0 {
            self.out.push((stuffing - 1) as u8);
            if stuffing > 1 {
                self.out.push(0);
                self.out.extend(std::iter::repeat_n(0xff, stuffing - 2));
            }
        }
        self.out.extend_from_slice(payload);
    }

    /// One PES packet; `says` whether its length is in the header.
    fn pes(&mut self, pid: u16, pts: u64, dts: Option<u64>, data: &[u8], says: bool) {
        let stamp = |mark: u8, time: u64| {
            let t = time & 0x1_ffff_ffff;
            [
                mark << 4 | ((t >> 30) as u8) << 1 | 1,
                (t >> 22) as u8,
                ((t >> 15) as u8) << 1 | 1,
                (t >> 7) as u8,
                (t as u8) << 1 | 1,
            ]
        };
        let mut header = Vec::new();
        // The prefix of a phone app (1010 where 0010 belongs): nobody may look at it.
        header.extend(stamp(0b1010, pts));
        if let Some(dts) = dts {
            header.extend(stamp(1, dts));
        }
        let length = if says { (3 + header.len() + data.len()) as u16 } else { 0 };
        let flags = if dts.is_some() { 0xc0 } else { 0x80 };
        let mut bytes = vec![0, 0, 1, 0xe0, (length >> 8) as u8, length as u8, 0x80, flags];
        bytes.push(header.len() as u8);
        bytes.extend(header);
        bytes.extend_from_slice(data);
        for (n, piece) in bytes.chunks(PACKET_BYTES - 4).enumerate() {
            self.packet(pid, n == 0, piece);
        }
    }

    fn picture(&mut self, pts: u64, dts: u64, n: u8, key: bool) {
        self.pes(VIDEO, pts, Some(dts), &picture(n, key), false);
    }
}

fn picture(n: u8, key: bool) -> Vec<u8> {
    let code = [0, 0, 0, 1];
    // Longer than a packet, so that there is something to lose.
    let slice = |head: u8| [&[head, 0x88][..], &[n | 1; 700]].concat();
    if key {
        [&code, SPS, &code, PPS, &code, &slice(0x65)].concat()
    } else {
        [&code[..], &slice(0x41)].concat()
    }
}

fn adts(frames: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        let length = frame.len() + 7;
        // AAC-LC, 48 kHz, stereo.
        bytes.extend([0xff, 0xf1, 0x4c, 0x80 | (length >> 11) as u8]);
        bytes.extend([(length >> 3) as u8, ((length & 7) << 5) as u8 | 0x1f, 0xfc]);
        bytes.extend_from_slice(frame);
    }
    bytes
}

#[derive(Debug, Default)]
struct Story {
    tracks: Vec<TrackConfig>,
    samples: Vec<Sample>,
    losses: Vec<TrackId>,
}

impl Story {
    fn times(&self, track: u32) -> Vec<i64> {
        let of = self.samples.iter().filter(|sample| sample.track.0 == track);
        of.map(|sample| sample.dts).collect()
    }
}

#[expect(clippy::disallowed_methods, reason = "any instant does")]
fn demux(bytes: &[u8], piece: usize) -> (Story, Counters) {
    let (mut demuxer, mut story) = (Demuxer::default(), Story::default());
    let now = Instant::now();
    let mut emit = |event| match event {
        Event::Track(config) => story.tracks.push(config),
        Event::Sample(sample) => story.samples.push(sample),
        Event::Loss { track } => story.losses.push(track),
        other => panic!("{other:?}"),
    };
    for piece in bytes.chunks(piece) {
        demuxer.handle_bytes(piece, now, &mut emit);
    }
    demuxer.handle_end(&mut emit);
    (story, demuxer.counters())
}

const BOTH: &[(u8, u16, &[u8])] = &[(0x1b, VIDEO, &[]), (0x0f, AUDIO, &[])];

/// A second of two tracks.
fn programme() -> Muxer {
    let mut muxer = Muxer::new(BOTH);
    for n in 0..25_u64 {
        let dts = 126_000 + n * 3600;
        muxer.picture(dts + 3600, dts, n as u8, n % 10 == 0);
        let frame = [n as u8; 20];
        muxer.pes(AUDIO, dts, None, &adts(&[&frame, &frame]), true);
    }
    muxer
}

#[test]
fn a_stream_is_the_same_however_it_is_cut() {
    let muxer = programme();
    let (whole, counters) = demux(&muxer.out, muxer.out.len());
    assert_eq!(counters, Counters::default());
    assert_eq!((whole.tracks.len(), whole.samples.len()), (2, 75));
    assert!(whole.tracks.iter().all(|track| track.timescale == 90_000));
    let Codec::Aac { config } = &whole.tracks[0].codec else { panic!("{:?}", whole.tracks) };
    assert_eq!(config[..], [0x11, 0x90]);
    assert_eq!(whole.times(0), (0..25).map(|n| 126_000 + n * 3600).collect::<Vec<_>>());
    let first = whole.samples.iter().find(|sample| sample.track.0 == 0).expect("a picture");
    assert_eq!((first.composition_offset, first.keyframe), (3600, true));
    assert_eq!(whole.times(1)[..3], [126_000, 127_920, 129_600]);
    for piece in [1, 7, 188, 189, 1316] {
        assert_eq!(demux(&muxer.out, piece).0.samples, whole.samples, "{piece}");
    }
}

#[test]
fn times_go_on_over_the_wrap() {
    let mut muxer = Muxer::new(BOTH);
    let wrap = 1_u64 << 33;
    for n in 0..10 {
        let dts = wrap - 5 * 3600 + n * 3600;
        muxer.picture(dts + 7200, dts, 0, n == 0);
    }
    let (story, _) = demux(&muxer.out, 1316);
    let begin = (wrap - 5 * 3600) as i64;
    assert_eq!(story.times(0), (0..10).map(|n| begin + n * 3600).collect::<Vec<_>>());
    assert!(story.samples.iter().all(|sample| sample.composition_offset == 7200));
}

#[test]
fn a_lost_packet_costs_its_access_unit_and_no_other() {
    let muxer = programme();
    let packets: Vec<_> = muxer.out.chunks(PACKET_BYTES).collect();
    let (whole, _) = demux(&muxer.out, 1316);
    // Every packet in turn but the tables, and but the last picture: nothing tells that its end is missing.
    for missing in 2..packets.len() - 5 {
        let left: Vec<u8> = packets
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != missing)
            .flat_map(|(_, packet)| packet.to_vec())
            .collect();
        let (story, _) = demux(&left, 1316);
        let lost: Vec<_> =
            whole.samples.iter().filter(|sample| !story.samples.contains(sample)).collect();
        let pictures = lost.iter().filter(|sample| sample.track.0 == 0).count();
        // A lost beginning of a picture may take the one under way with it: its end is not known.
        assert!(lost.len() <= 2 || pictures > 0 && missing < 9, "{missing}: {} lost", lost.len());
        assert!(!lost.is_empty(), "{missing}");
        let strange = story.samples.iter().filter(|sample| !whole.samples.contains(sample));
        assert_eq!(strange.count(), 0, "{missing}: a damaged unit came through");
    }
}

#[test]
fn packets_are_found_again_behind_garbage_and_torn_packets() {
    let muxer = programme();
    let mut bytes = vec![0x47, 1, 2, 0x47, 0x47];
    bytes.extend_from_slice(&muxer.out[..188 * 20]);
    // Half a packet is missing, then there is too much.
    bytes.extend_from_slice(&muxer.out[188 * 20..188 * 20 + 90]);
    bytes.extend_from_slice(&muxer.out[188 * 21..188 * 60]);
    bytes.extend([0; 333]);
    bytes.extend_from_slice(&muxer.out[188 * 60..]);
    for piece in [1, 188, 1316, bytes.len()] {
        let (story, counters) = demux(&bytes, piece);
        assert!(story.samples.len() >= 70, "{}", story.samples.len());
        assert_eq!(counters.resyncs, 2);
        assert!(counters.skipped_bytes >= 333 + 5, "{counters:?}");
    }
}

#[test]
fn a_changed_map_ends_tracks_and_begins_others() {
    let mut muxer = programme();
    muxer.tables(&[(0x1b, VIDEO, &[]), (0x0f, AUDIO + 1, &[]), (0x0f, AUDIO, &[])]);
    let frame = [7; 20];
    muxer.pes(AUDIO + 1, 300_000, None, &adts(&[&frame]), true);
    muxer.pes(AUDIO, 300_000, None, &adts(&[&frame]), true);
    // The same stream as video of another kind is another track.
    muxer.tables(&[(0x24, VIDEO, &[])]);
    muxer.pes(AUDIO, 300_000, None, &adts(&[&frame]), true);
    let (story, counters) = demux(&muxer.out, 1316);
    assert_eq!(story.tracks.len(), 3);
    assert_eq!(story.times(2), [300_000], "the new stream has a track of its own");
    assert_eq!(story.times(1).len(), 51, "the one that stayed goes on, and ends with its entry");
    assert_eq!(counters.bad_sections, 0);
}

#[test]
fn a_damaged_table_changes_nothing() {
    let mut muxer = programme();
    let clean = demux(&muxer.out, 1316).0.samples;
    let at = muxer.out.len();
    muxer.tables(&[(0x0f, AUDIO + 9, &[])]);
    muxer.out[at + 188 + 20] ^= 0x10;
    let (story, counters) = demux(&muxer.out, 1316);
    assert_eq!((story.samples == clean, counters.bad_sections), (true, 1));
}

#[test]
fn an_audio_frame_may_straddle_units_and_keeps_its_own_time() {
    let mut muxer = Muxer::new(BOTH);
    let frames: Vec<Vec<u8>> = (0..4_u8).map(|n| vec![n; 50]).collect();
    let all = adts(&frames.iter().map(|frame| &frame[..]).collect::<Vec<_>>());
    // The second unit begins within the second frame; its stamp is that of the third.
    muxer.pes(AUDIO, 90_000, None, &all[..80], true);
    muxer.pes(AUDIO, 95_000, None, &all[80..], true);
    let (story, counters) = demux(&muxer.out, 1316);
    assert_eq!(story.times(1), [90_000, 91_920, 95_000, 96_920]);
    assert_eq!(story.samples[1].data, frames[1]);
    assert_eq!(counters, Counters::default());
}

#[test]
fn opus_keeps_its_packets_and_gets_its_head() {
    let registration = [5, 4, b'O', b'p', b'u', b's', 0x7f, 2, 0x80, 2];
    let mut muxer = Muxer::new(&[(0x06, AUDIO, &registration)]);
    let packet = [0xfc, 1, 2, 3]; // 20 ms, one frame, stereo
    let mut unit = vec![0x7f, 0xf0, 4, 0x01, 0x38];
    unit.extend(packet);
    unit.extend([0x7f, 0xe0, 4]);
    unit.extend(packet);
    muxer.pes(AUDIO, 90_000, None, &unit, true);
    let (story, _) = demux(&muxer.out, 1316);
    let Codec::Opus { head } = &story.tracks[0].codec else { panic!("{:?}", story.tracks) };
    assert_eq!(head[..], [0, 2, 0x01, 0x38, 0, 0, 0xbb, 0x80, 0, 0, 0]);
    assert_eq!(story.times(0), [90_000, 91_800]);
    assert!(story.samples.iter().all(|sample| sample.data[..] == packet));
}

#[test]
fn what_is_not_carried_is_named() {
    let mut demuxer = Demuxer::default();
    let muxer = Muxer::new(&[(0x03, AUDIO, &[]), (0x02, VIDEO, &[]), (0x86, 0x1f0, &[])]);
    #[expect(clippy::disallowed_methods, reason = "any instant does")]
    demuxer.handle_bytes(&muxer.out, Instant::now(), &mut |_| {});
    assert_eq!(demuxer.unsupported(), [3, 2]);
}

#[test]
fn a_unit_without_end_is_dropped_at_its_limit() {
    let mut muxer = Muxer::new(BOTH);
    muxer.picture(90_000, 90_000, 0, true);
    let filler = [0xaa; PACKET_BYTES - 4];
    for _ in 0..super::UNIT_BYTES_MAX / filler.len() + 2 {
        muxer.packet(VIDEO, false, &filler);
    }
    muxer.picture(93_600, 93_600, 1, true);
    let (story, counters) = demux(&muxer.out, 1316);
    assert_eq!((story.samples.len(), counters.lost_units, counters.malformed), (1, 1, 1));
}
