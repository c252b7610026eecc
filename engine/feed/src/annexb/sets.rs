//! Parameter sets of one video track, and the record made of them: `AVCDecoderConfigurationRecord` or
//! `HEVCDecoderConfigurationRecord` (ISO/IEC 14496-15 §5.3.3.1, §8.3.3.1). Owns which set replaces which.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use weir_packager::{AvcConfig, Bits, unescape};

use super::{Format, Set};

/// Bytes of one parameter set. Real ones stay under 200; scaling lists may add about 1000.
const SET_BYTES_MAX: usize = 4096;

/// Sets of one kind: what the count of sequence parameter sets in the record can say (five bits).
const SETS_MAX: usize = 31;

/// Parameter sets by identifier.
#[derive(Debug, Default)]
pub(super) struct Sets {
    video: BTreeMap<u32, Bytes>,
    sequence: BTreeMap<u32, Bytes>,
    picture: BTreeMap<u32, Bytes>,
}

impl Sets {
    /// Keeps a set; false if it is none that we can use.
    pub(super) fn insert(&mut self, format: Format, set: Set, unit: &[u8]) -> bool {
        if unit.len() > SET_BYTES_MAX {
            return false;
        }
        let id = match (format, set) {
            (_, Set::Video) => unit.get(2).map(|byte| u32::from(byte >> 4)),
            (Format::H264, Set::Sequence) => H264Sequence::parse(unit).map(|sps| sps.id),
            (Format::Hevc, Set::Sequence) => HevcSequence::parse(unit).map(|sps| sps.id),
            (Format::H264, Set::Picture) => first_number(unit.get(1..)),
            (Format::Hevc, Set::Picture) => first_number(unit.get(2..)),
        };
        let Some(id) = id else { return false };
        let sets = match set {
            Set::Video => &mut self.video,
            Set::Sequence => &mut self.sequence,
            Set::Picture => &mut self.picture,
        };
        if sets.len() >= SETS_MAX && !sets.contains_key(&id) {
            return false;
        }
        sets.insert(id, Bytes::copy_from_slice(unit));
        true
    }

    /// Takes in what one access unit brought; true if anything is new. A different sequence
    /// parameter set begins another coded sequence, of which the old sets are no part.
    pub(super) fn take_in(&mut self, found: Self) -> bool {
        let restart = found.sequence.iter().any(|(id, unit)| self.sequence.get(id) != Some(unit));
        let pairs = [
            (&mut self.video, found.video),
            (&mut self.sequence, found.sequence),
            (&mut self.picture, found.picture),
        ];
        let mut changed = false;
        for (held, found) in pairs {
            if restart && !found.is_empty() {
                changed |= *held != found;
                *held = found;
                continue;
            }
            for (id, unit) in found {
                if held.get(&id) != Some(&unit) && (held.len() < SETS_MAX || held.contains_key(&id))
                {
                    held.insert(id, unit);
                    changed = true;
                }
            }
        }
        changed
    }

    /// The record, once there is a set of each kind.
    pub(super) fn record(&self, format: Format) -> Option<Bytes> {
        if self.picture.is_empty() {
            return None;
        }
        let first = self.sequence.values().next()?;
        match format {
            Format::H264 => self.avc_record(first),
            Format::Hevc => self.hevc_record(first),
        }
    }

    fn avc_record(&self, first: &Bytes) -> Option<Bytes> {
        let sps = H264Sequence::parse(first)?;
        let mut record = BytesMut::new();
        record.put_u8(1); // configurationVersion
        record.put_slice(first.get(1..4)?); // profile, constraints, level
        record.put_u8(0xff); // lengthSizeMinusOne: 3
        record.put_u8(0xe0 | count(&self.sequence));
        put_units(&mut record, &self.sequence);
        record.put_u8(count(&self.picture));
        put_units(&mut record, &self.picture);
        if sps.has_chroma {
            record.put_u8(0xfc | sps.chroma_format);
            record.put_u8(0xf8 | sps.luma_depth);
            record.put_u8(0xf8 | sps.chroma_depth);
            record.put_u8(0); // no sequence parameter set extensions
        }
        let record = record.freeze();
        AvcConfig::parse(&record).is_ok().then_some(record)
    }

    fn hevc_record(&self, first: &Bytes) -> Option<Bytes> {
        if self.video.is_empty() {
            return None;
        }
        let sps = HevcSequence::parse(first)?;
        let mut record = BytesMut::new();
        record.put_u8(1); // configurationVersion
        record.put_slice(&sps.profile_tier_level);
        record.put_u16(0xf000); // min_spatial_segmentation_idc: not said
        record.put_u8(0xfc); // parallelismType: not said
        record.put_u8(0xfc | sps.chroma_format);
        record.put_u8(0xf8 | sps.luma_depth);
        record.put_u8(0xf8 | sps.chroma_depth);
        record.put_u16(0); // avgFrameRate: not said
        record.put_u8(sps.temporal_layers << 3 | u8::from(sps.temporal_nesting) << 2 | 3);
        record.put_u8(3); // arrays
        for (kind, sets) in [(32, &self.video), (33, &self.sequence), (34, &self.picture)] {
            record.put_u8(0x80 | kind); // all sets of the kind are here
            record.put_u16(u16::from(count(sets)));
            put_units(&mut record, sets);
        }
        Some(record.freeze())
    }
}

fn count(sets: &BTreeMap<u32, Bytes>) -> u8 {
    // No more than SETS_MAX ever get in.
    sets.len() as u8
}

fn put_units(record: &mut BytesMut, sets: &BTreeMap<u32, Bytes>) {
    for unit in sets.values() {
        record.put_u16(unit.len() as u16);
        record.put_slice(unit);
    }
}

/// The identifier that opens a picture parameter set.
fn first_number(body: Option<&[u8]>) -> Option<u32> {
    let body = body?;
    let head = unescape(body.get(..16).unwrap_or(body));
    Bits::new(&head).ue().filter(|id| *id <= 255)
}

/// The head of a sequence parameter set (H.264 §7.3.2.1.1).
struct H264Sequence {
    id: u32,
    has_chroma: bool,
    chroma_format: u8,
    luma_depth: u8,
    chroma_depth: u8,
}

impl H264Sequence {
    fn parse(unit: &[u8]) -> Option<Self> {
        let rbsp = unescape(unit.get(1..)?);
        let mut bits = Bits::new(&rbsp);
        let profile = bits.take(8)?;
        bits.skip(16)?; // constraints, level
        let id = bits.ue().filter(|id| *id <= 31)?;
        let has_chroma = matches!(
            profile,
            44 | 83 | 86 | 100 | 110 | 118 | 122 | 128 | 134 | 135 | 138 | 139 | 244
        );
        let (mut chroma_format, mut luma_depth, mut chroma_depth) = (1, 0, 0);
        if has_chroma {
            chroma_format = bits.ue().filter(|format| *format <= 3)? as u8;
            if chroma_format == 3 {
                bits.skip(1)?; // separate_colour_plane_flag
            }
            luma_depth = bits.ue().filter(|depth| *depth <= 7)? as u8;
            chroma_depth = bits.ue().filter(|depth| *depth <= 7)? as u8;
        }
        Some(Self { id, has_chroma, chroma_format, luma_depth, chroma_depth })
    }
}

/// The head of a sequence parameter set (H.265 §7.3.2.2, §7.3.3).
struct HevcSequence {
    id: u32,
    /// General profile, compatibility, constraints and level, as the record repeats them.
    profile_tier_level: [u8; 12],
    temporal_layers: u8,
    temporal_nesting: bool,
    chroma_format: u8,
    luma_depth: u8,
    chroma_depth: u8,
}

impl HevcSequence {
    fn parse(unit: &[u8]) -> Option<Self> {
        let rbsp = unescape(unit.get(2..)?);
        let profile_tier_level = *rbsp.get(1..)?.first_chunk::<12>()?;
        let mut bits = Bits::new(&rbsp);
        bits.skip(4)?; // sps_video_parameter_set_id
        let layers_more = bits.take(3).filter(|more| *more <= 6)?;
        let temporal_nesting = bits.bit()?;
        bits.skip(96)?;
        let mut skip = 0;
        for layer in 0..if layers_more > 0 { 8 } else { 0 } {
            let flags = bits.take(2)?; // profile present, level present
            if layer < layers_more {
                skip += if flags & 2 != 0 { 88 } else { 0 } + if flags & 1 != 0 { 8 } else { 0 };
            }
        }
        bits.skip(skip)?;
        let id = bits.ue().filter(|id| *id <= 15)?;
        let chroma_format = bits.ue().filter(|format| *format <= 3)? as u8;
        if chroma_format == 3 {
            bits.skip(1)?; // separate_colour_plane_flag
        }
        bits.ue()?; // width
        bits.ue()?; // height
        if bits.bit()? {
            for _ in 0..4 {
                bits.ue()?; // conformance window
            }
        }
        let luma_depth = bits.ue().filter(|depth| *depth <= 7)? as u8;
        let chroma_depth = bits.ue().filter(|depth| *depth <= 7)? as u8;
        let temporal_layers = layers_more as u8 + 1;
        Some(Self {
            id,
            profile_tier_level,
            temporal_layers,
            temporal_nesting,
            chroma_format,
            luma_depth,
            chroma_depth,
        })
    }
}
