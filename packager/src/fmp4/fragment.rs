//! `moof` and its `mdat` to samples (ISO/IEC 14496-12 §8.8).

use std::collections::VecDeque;

use bytes::Bytes;

use super::header::Track;
use super::{Error, Event, ProducerReference};
use crate::boxes::{Child, children, find, u32_at, u64_at, version_flags};
use crate::cmaf::FLAG_NON_SYNC;
use crate::{Sample, TrackId};

/// Ten seconds of the smallest AAC frames are 700 samples; this is far above, and 65536 events are still < 16 MiB.
const SAMPLES_MAX: u32 = 65_536;

pub(super) struct Mdat {
    pub(super) data: Bytes,
    /// File position of the first byte of `data`.
    pub(super) at: u64,
}

pub(super) fn read(
    tracks: &mut [Track],
    moof_at: u64,
    moof: &[u8],
    mdat: &Mdat,
    reference: Option<ProducerReference>,
    events: &mut VecDeque<Event>,
) -> Result<(), Error> {
    let mut budget = SAMPLES_MAX;
    for child in children(moof) {
        let child = child.ok_or(Error::Malformed("moof"))?;
        if &child.kind == b"traf" {
            traf(tracks, moof_at, child, mdat, reference, &mut budget, events)?;
        }
    }
    Ok(())
}

fn traf(
    tracks: &mut [Track],
    moof_at: u64,
    traf: Child<'_>,
    mdat: &Mdat,
    reference: Option<ProducerReference>,
    budget: &mut u32,
    events: &mut VecDeque<Event>,
) -> Result<(), Error> {
    let tfhd = find(traf.body, *b"tfhd")
        .and_then(|tfhd| Tfhd::parse(tfhd.body))
        .ok_or(Error::Malformed("tfhd"))?;
    let Some(track) = tracks.iter_mut().find(|track| track.config.track == TrackId(tfhd.track_id))
    else {
        return Ok(());
    };
    let base = tfhd.base.unwrap_or(moof_at);
    let mut dts = match find(traf.body, *b"tfdt") {
        Some(tfdt) => decode_time(tfdt.body).ok_or(Error::Malformed("tfdt"))?,
        None => track.next_dts,
    };
    let mut captured = reference
        .filter(|reference| reference.track_id == tfhd.track_id)
        .map(|reference| reference.captured);
    let mut position = None;
    for child in children(traf.body) {
        let child = child.ok_or(Error::Malformed("traf"))?;
        if &child.kind != b"trun" {
            continue;
        }
        let trun = Trun::parse(child.body).ok_or(Error::Malformed("trun"))?;
        *budget = budget.checked_sub(trun.count).ok_or(Error::TooMany("samples"))?;
        let mut at = match (trun.data_offset, position) {
            (Some(offset), _) => {
                base.checked_add_signed(i64::from(offset)).ok_or(Error::OutsideMdat)?
            }
            (None, Some(position)) => position,
            (None, None) => mdat.at,
        };
        for index in 0..trun.count {
            let entry = trun.entry(index).ok_or(Error::Malformed("trun"))?;
            let size = entry.size.or(tfhd.size).unwrap_or(track.default_size);
            let duration = entry.duration.or(tfhd.duration).unwrap_or(track.default_duration);
            let flags = entry.flags.or(tfhd.flags).unwrap_or(track.default_flags);
            let data = mdat_slice(mdat, at, size).ok_or(Error::OutsideMdat)?;
            at += u64::from(size);
            let keyframe = flags & FLAG_NON_SYNC == 0 || track.config.codec.is_audio();
            events.push_back(Event::Sample {
                sample: Sample {
                    track: track.config.track,
                    dts: i64::try_from(dts).map_err(|_| Error::Malformed("tfdt"))?,
                    composition_offset: entry.composition_offset,
                    keyframe,
                    data,
                },
                duration,
                captured: captured.take(),
            });
            dts = dts.checked_add(u64::from(duration)).ok_or(Error::Malformed("tfdt"))?;
        }
        position = Some(at);
    }
    track.next_dts = dts;
    Ok(())
}

fn decode_time(tfdt: &[u8]) -> Option<u64> {
    match version_flags(tfdt)?.0 {
        0 => u32_at(tfdt, 4).map(u64::from),
        _ => u64_at(tfdt, 4),
    }
}

fn mdat_slice(mdat: &Mdat, at: u64, size: u32) -> Option<Bytes> {
    let start = usize::try_from(at.checked_sub(mdat.at)?).ok()?;
    let end = start.checked_add(size as usize)?;
    (end <= mdat.data.len()).then(|| mdat.data.slice(start..end))
}

/// Reads 32-bit fields one after the other.
struct Words<'a> {
    body: &'a [u8],
    at: usize,
}

impl Words<'_> {
    fn next(&mut self) -> Option<u32> {
        let word = u32_at(self.body, self.at)?;
        self.at += 4;
        Some(word)
    }

    /// `Some(None)` when the field is absent by its flag, `None` when it is missing.
    #[expect(clippy::option_option, reason = "absent and cut short are different answers")]
    fn next_if(&mut self, present: bool) -> Option<Option<u32>> {
        if present { self.next().map(Some) } else { Some(None) }
    }
}

struct Tfhd {
    track_id: u32,
    base: Option<u64>,
    duration: Option<u32>,
    size: Option<u32>,
    flags: Option<u32>,
}

impl Tfhd {
    fn parse(body: &[u8]) -> Option<Self> {
        let (_, bits) = version_flags(body)?;
        let mut words = Words { body, at: 4 };
        let track_id = words.next()?;
        let base = if bits & 0x1 != 0 {
            Some(u64::from(words.next()?) << 32 | u64::from(words.next()?))
        } else {
            None
        };
        words.next_if(bits & 0x2 != 0)?; // sample description index
        Some(Self {
            track_id,
            base,
            duration: words.next_if(bits & 0x8 != 0)?,
            size: words.next_if(bits & 0x10 != 0)?,
            flags: words.next_if(bits & 0x20 != 0)?,
        })
    }
}

struct Trun<'a> {
    count: u32,
    data_offset: Option<i32>,
    first_flags: Option<u32>,
    bits: u32,
    entries: &'a [u8],
    entry_bytes: usize,
}

#[derive(Default)]
struct Entry {
    duration: Option<u32>,
    size: Option<u32>,
    flags: Option<u32>,
    composition_offset: i32,
}

impl<'a> Trun<'a> {
    fn parse(body: &'a [u8]) -> Option<Self> {
        let (_, bits) = version_flags(body)?;
        let mut words = Words { body, at: 4 };
        let count = words.next()?;
        let data_offset = words.next_if(bits & 0x1 != 0)?.map(|word| word as i32);
        let first_flags = words.next_if(bits & 0x4 != 0)?;
        let entry_bytes = 4 * (bits >> 8 & 0xf).count_ones() as usize;
        Some(Self {
            count,
            data_offset,
            first_flags,
            bits,
            entries: body.get(words.at..)?,
            entry_bytes,
        })
    }

    fn entry(&self, index: u32) -> Option<Entry> {
        let at = self.entry_bytes.checked_mul(index as usize)?;
        let mut words = Words { body: self.entries, at };
        let duration = words.next_if(self.bits & 0x100 != 0)?;
        let size = words.next_if(self.bits & 0x200 != 0)?;
        let flags = words.next_if(self.bits & 0x400 != 0)?;
        // Version 0 says unsigned, but writers have put negative offsets there too; none exceeds 31 bits honestly.
        let offset = words.next_if(self.bits & 0x800 != 0)?;
        Some(Entry {
            duration,
            size,
            flags: if index == 0 { self.first_flags.or(flags) } else { flags },
            composition_offset: offset.unwrap_or(0) as i32,
        })
    }
}
