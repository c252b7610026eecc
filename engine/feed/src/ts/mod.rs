//! MPEG transport streams (ISO/IEC 13818-1) made into tracks and samples, piece by piece as bytes come. Owns finding
//! the packets, what is lost between them, which elementary streams there are and whole access units; takes the first
//! programme and no other, and leaves times as they come but for their wrap.

mod ac3;
mod adts;
mod audio;
mod latm;
mod opus;
mod pes;
mod psi;
mod time;

use std::collections::BTreeMap;
use std::time::Instant;

use crate::annexb::{Assembler, Format};
use crate::{Codec, Event, Sample, TrackConfig, TrackId};
use audio::Framer;
use pes::{Pes, Unit};
use psi::{Kind, PacketId, Pat, Pmt, Sections};
use time::Unroll;

pub use time::Drift;

/// Bytes of a packet (§2.4.3.2).
const PACKET_BYTES: usize = 188;

/// First byte of every packet.
const SYNC: u8 = 0x47;

/// All times count this.
const TIMESCALE: u32 = 90_000;

/// Elementary streams of a programme that are read; real ones have two to six.
const STREAMS_MAX: usize = 16;

/// Bytes of one access unit: 8 MiB, as for a message of RTMP.
const UNIT_BYTES_MAX: usize = 8 << 20;

/// Packets, units and streams that were not used, by cause.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Counters {
    /// Decoder configurations and parameter sets that do not parse.
    pub bad_configurations: u64,
    /// Tables with a wrong check sum or wrong lengths.
    pub bad_sections: u64,
    /// Packets whose continuity counter says that some before them are missing.
    pub discontinuities: u64,
    /// Packets that say they are damaged.
    pub errors: u64,
    /// Access units that were incomplete and dropped.
    pub lost_units: u64,
    /// Packet headers, units and audio frames that do not add up.
    pub malformed: u64,
    /// Times that packets were not where they should be, and found again.
    pub resyncs: u64,
    /// Packets of encrypted streams.
    pub scrambled: u64,
    /// Bytes passed over while packets were searched for.
    pub skipped_bytes: u64,
    /// Elementary streams of a kind that is not carried, or too many.
    pub unsupported_streams: u64,
    /// Samples before any decoder configuration of their track.
    pub without_configuration: u64,
    /// Access units without a time before any that had one.
    pub without_time: u64,
}

/// Bytes in, events out.
#[derive(Debug, Default)]
pub struct Demuxer {
    /// The beginning of a packet whose end has not come.
    held: Vec<u8>,
    in_sync: bool,
    pat: Sections,
    programme: Option<Programme>,
    streams: BTreeMap<PacketId, Stream>,
    unroll: Unroll,
    drift: Drift,
    tracks: u32,
    counters: Counters,
    /// Kinds met that are not carried, for whoever tells the operator.
    unsupported: Vec<u8>,
}

/// The one programme that is read.
#[derive(Debug)]
struct Programme {
    number: u16,
    map: PacketId,
    sections: Sections,
    table: Option<Pmt>,
}

/// An elementary stream.
#[derive(Debug)]
struct Stream {
    kind: Kind,
    track: TrackId,
    continuity: Option<u8>,
    pes: Pes,
    essence: Essence,
    configured: bool,
}

#[derive(Debug)]
enum Essence {
    Video(Assembler),
    Audio(Framer),
}

impl Demuxer {
    /// Reads what came; `now` is when, for the measurement of drift. Packets may be cut anywhere.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant, emit: &mut impl FnMut(Event)) {
        if self.held.is_empty() {
            let used = self.packets(bytes, now, emit);
            self.held.extend_from_slice(bytes.get(used..).unwrap_or_default());
            return;
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let used = self.packets(&held, now, emit);
        held.drain(..used);
        self.held = held;
    }

    /// Bytes are known to be missing here: what is under way ends, and packets are looked for anew.
    pub fn handle_loss(&mut self) {
        self.held.clear();
    }

    /// Nothing follows: the last units are whole.
    pub fn handle_end(&mut self, emit: &mut impl FnMut(Event)) {
        for stream in self.streams.values_mut() {
            stream.finish(&mut self.unroll, &mut self.counters, emit);
        }
    }

    /// What was not used so far.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        for stream in self.streams.values() {
            if let Essence::Video(assembler) = &stream.essence {
                let video = assembler.counters();
                counters.bad_configurations += video.bad_parameter_sets;
                counters.without_configuration += video.without_configuration;
                counters.malformed += video.without_picture;
            }
        }
        counters
    }

    /// The encoder's clock against ours.
    pub fn drift(&self) -> &Drift {
        &self.drift
    }

    /// Stream types that are not carried, each once.
    pub fn unsupported(&self) -> &[u8] {
        &self.unsupported
    }

    /// Reads all whole packets; how many bytes are done with.
    fn packets(&mut self, bytes: &[u8], now: Instant, emit: &mut impl FnMut(Event)) -> usize {
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            let Some((packet, after)) = rest.split_first_chunk::<PACKET_BYTES>() else {
                // Out of step, what cannot begin a packet is not kept.
                if !self.in_sync {
                    let begin = rest.iter().position(|byte| *byte == SYNC).unwrap_or(rest.len());
                    self.counters.skipped_bytes += begin as u64;
                    used += begin;
                }
                return used;
            };
            if self.in_sync && packet[0] == SYNC {
                used += PACKET_BYTES;
                self.packet(packet, now, emit);
                continue;
            }
            if self.in_sync {
                self.in_sync = false;
                self.counters.resyncs += 1;
            }
            // A second sync byte one packet on tells a packet from a byte that looks like one.
            let Some(next) = after.first() else {
                if packet[0] == SYNC {
                    return used;
                }
                used += 1;
                self.counters.skipped_bytes += 1;
                continue;
            };
            if packet[0] == SYNC && *next == SYNC {
                self.in_sync = true;
            } else {
                used += 1;
                self.counters.skipped_bytes += 1;
            }
        }
    }

    fn packet(&mut self, packet: &[u8; PACKET_BYTES], now: Instant, emit: &mut impl FnMut(Event)) {
        let [_, high, low, flags, body @ ..] = packet;
        if high & 0x80 != 0 {
            self.counters.errors += 1;
            return;
        }
        let id = PacketId(u16::from(high & 0x1f) << 8 | u16::from(*low));
        let starts_unit = high & 0x40 != 0;
        let mut payload: &[u8] = body;
        let mut jumps = false;
        if flags & 0x20 != 0 {
            let Some((adaptation, after)) = adaptation(body) else {
                self.counters.malformed += 1;
                return;
            };
            payload = after;
            let field = adaptation.first().copied().unwrap_or(0);
            jumps = field & 0x80 != 0;
            if jumps && self.is_clock(id) {
                emit(Event::Discontinuity);
            }
            if field & 0x10 != 0
                && self.is_clock(id)
                && let Some(clock) =
                    adaptation.get(1..).and_then(|rest| rest.first_chunk::<6>().copied())
            {
                self.drift.handle_clock(clock, jumps, now);
            }
        }
        if flags & 0x10 == 0 || payload.is_empty() {
            return;
        }
        if id == PacketId::PAT {
            self.handle_pat(starts_unit, payload);
        } else if self.programme.as_ref().is_some_and(|programme| programme.map == id) {
            self.handle_pmt(starts_unit, payload, emit);
        } else if let Some(stream) = self.streams.get_mut(&id) {
            if flags & 0xc0 != 0 {
                self.counters.scrambled += 1;
                return;
            }
            let continuity = flags & 0x0f;
            match stream.continuity.replace(continuity) {
                // A packet may come twice in a row (§2.4.3.3).
                Some(last) if last == continuity && !jumps => return,
                Some(last) if (last + 1) & 0x0f != continuity && !jumps => {
                    self.counters.discontinuities += 1;
                    stream.pes.handle_gap();
                }
                _ => {}
            }
            if starts_unit {
                stream.finish(&mut self.unroll, &mut self.counters, emit);
                stream.pes.start(payload, &mut self.counters);
            } else {
                stream.pes.extend(payload, &mut self.counters);
            }
            // One whose length is known need not wait for the next.
            if let Some(unit) = stream.pes.poll_whole() {
                stream.unit(&unit, &mut self.unroll, &mut self.counters, emit);
            }
        }
    }

    fn is_clock(&self, id: PacketId) -> bool {
        let table = self.programme.as_ref().and_then(|programme| programme.table.as_ref());
        table.is_some_and(|table| table.clock == id)
    }

    fn handle_pat(&mut self, starts: bool, payload: &[u8]) {
        let Self { pat, counters, .. } = self;
        let mut found = None;
        pat.handle_payload(starts, payload, &mut |section| match Pat::parse(section) {
            Some(table) => found = Some(table),
            None => counters.bad_sections += 1,
        });
        let Some((number, map)) = found.and_then(|table| table.first) else { return };
        let same =
            self.programme.as_ref().is_some_and(|held| (held.number, held.map) == (number, map));
        if !same {
            self.programme =
                Some(Programme { number, map, sections: Sections::default(), table: None });
        }
    }

    fn handle_pmt(&mut self, starts: bool, payload: &[u8], emit: &mut impl FnMut(Event)) {
        let Some(programme) = &mut self.programme else { return };
        let (number, mut found) = (programme.number, None);
        let counters = &mut self.counters;
        programme.sections.handle_payload(starts, payload, &mut |section| {
            match Pmt::parse(section) {
                // Several programmes may share one packet id.
                Some(table) if table.number == number => found = Some(table),
                Some(_) => {}
                None => counters.bad_sections += 1,
            }
        });
        let Some(table) = found else { return };
        if programme.table.as_ref() == Some(&table) {
            return;
        }
        programme.table = Some(table.clone());
        self.retune(&table, emit);
    }

    /// The table changed: streams that are the same go on, others end or begin.
    fn retune(&mut self, table: &Pmt, emit: &mut impl FnMut(Event)) {
        let mut held = std::mem::take(&mut self.streams);
        for (id, kind) in &table.streams {
            if let Some(stream) = held.remove(id) {
                if stream.kind == *kind {
                    self.streams.insert(*id, stream);
                    continue;
                }
                held.insert(*id, stream);
            }
            let essence = match kind {
                Kind::H264 => Essence::Video(Assembler::new(Format::H264)),
                Kind::Hevc => Essence::Video(Assembler::new(Format::Hevc)),
                Kind::Other(code) => {
                    if !self.unsupported.contains(code) {
                        self.unsupported.push(*code);
                        self.counters.unsupported_streams += 1;
                    }
                    continue;
                }
                Kind::Silent => continue,
                kind => match Framer::new(*kind) {
                    Some(framer) => Essence::Audio(framer),
                    None => continue,
                },
            };
            if self.streams.len() >= STREAMS_MAX || self.tracks == u32::MAX {
                self.counters.unsupported_streams += 1;
                continue;
            }
            let track = TrackId(self.tracks);
            self.tracks += 1;
            self.streams.insert(
                *id,
                Stream {
                    kind: *kind,
                    track,
                    continuity: None,
                    pes: Pes::default(),
                    essence,
                    configured: false,
                },
            );
        }
        for mut stream in held.into_values() {
            stream.finish(&mut self.unroll, &mut self.counters, emit);
        }
    }
}

impl Stream {
    /// Ends the unit under way: given on when whole, told as a loss when not.
    fn finish(
        &mut self,
        unroll: &mut Unroll,
        counters: &mut Counters,
        emit: &mut impl FnMut(Event),
    ) {
        match self.pes.finish() {
            Some(Ok(unit)) => self.unit(&unit, unroll, counters, emit),
            Some(Err(pes::Incomplete)) => {
                counters.lost_units += 1;
                if self.configured {
                    emit(Event::Loss { track: self.track });
                }
            }
            None => {}
        }
    }

    fn unit(
        &mut self,
        unit: &Unit,
        unroll: &mut Unroll,
        counters: &mut Counters,
        emit: &mut impl FnMut(Event),
    ) {
        let Self { track, essence, configured, .. } = self;
        let track = *track;
        let mut configure = |codec: Codec, emit: &mut dyn FnMut(Event)| {
            *configured = true;
            emit(Event::Track(TrackConfig { track, timescale: TIMESCALE, codec }));
        };
        match essence {
            Essence::Video(assembler) => {
                let times = unit.times.map(|(pts, dts)| {
                    let dts = unroll.at(dts);
                    (time::nearest(pts, dts), dts)
                });
                let (codec, picture) = assembler.handle_access_unit(&unit.data);
                if let Some(codec) = codec {
                    configure(codec, emit);
                }
                let Some((data, keyframe)) = picture else { return };
                let Some((pts, dts)) = times else {
                    counters.without_time += 1;
                    return;
                };
                // Half a minute and more between decoding and showing is damage, not reordering.
                let offset = pts.saturating_sub(dts);
                let composition_offset =
                    if offset.abs() < 30 * i64::from(TIMESCALE) { offset as i32 } else { 0 };
                emit(Event::Sample(Sample { track, dts, composition_offset, keyframe, data }));
            }
            Essence::Audio(framer) => {
                let time = unit.times.map(|(pts, _)| unroll.at(pts));
                framer.handle_unit(unit, time, counters, &mut |frame| match frame {
                    audio::Output::Codec(codec) => configure(codec, emit),
                    audio::Output::Frame { time: dts, data } => emit(Event::Sample(Sample {
                        track,
                        dts,
                        composition_offset: 0,
                        keyframe: true,
                        data,
                    })),
                });
            }
        }
    }
}

/// The adaptation field without its length, and what follows it.
fn adaptation(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = body.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

#[cfg(test)]
mod tests;
