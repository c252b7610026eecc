//! HEVC as far as a packager must understand it: the decoder configuration record, the sequence parameter set and whether
//! decoding can start at an access unit. Owns no stream state and never looks inside a slice.

use bytes::Bytes;

use crate::bits::Bits;
use crate::h264::unescape;
use crate::{AccessUnit, Error, Nals};

/// As for H.264: far above what encoders write.
const RECORD_BYTES_MAX: usize = 64 * 1024;
/// Level 6.2 ends at 35651584 luma samples and a side of sqrt(8 * that) (ITU-T H.265 table A.8, §A.4.1).
const SIDE_MAX: u32 = 16_888;
const LUMA_SAMPLES_MAX: u64 = 35_651_584;

const NAL_BLA_FIRST: u8 = 16;
const NAL_IRAP_LAST: u8 = 23;
const NAL_VCL_LAST: u8 = 31;
const NAL_SPS: u8 = 33;

/// A parsed `HEVCDecoderConfigurationRecord` (ISO/IEC 14496-15 §8.3.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HevcConfig {
    /// Profile, tier and level as the record states them.
    pub profile: HevcProfile,
    /// Bytes of the length in front of each NAL unit: 1, 2 or 4.
    pub length_size: u8,
    /// The first sequence parameter set, read.
    pub sps: HevcSps,
    /// Frames per second as (numerator, denominator), if the record states one.
    pub frame_rate: Option<(u32, u32)>,
}

/// `profile_tier_level` of ITU-T H.265 §7.3.3, its general part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HevcProfile {
    /// `general_profile_space`, 0..=3.
    pub space: u8,
    /// `general_tier_flag`: high tier.
    pub high_tier: bool,
    /// `general_profile_idc`.
    pub idc: u8,
    /// `general_profile_compatibility_flag`, flag 0 in the highest bit.
    pub compatibility: u32,
    /// The six bytes of constraint flags.
    pub constraints: [u8; 6],
    /// `general_level_idc`: thirty times the level.
    pub level: u8,
}

/// What we need of a sequence parameter set (ITU-T H.265 §7.3.2.2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HevcSps {
    /// Profile, tier and level.
    pub profile: HevcProfile,
    /// `sps_max_sub_layers_minus1` plus 1.
    pub sub_layers: u8,
    /// `sps_temporal_id_nesting_flag`.
    pub temporal_id_nested: bool,
    /// `chroma_format_idc`.
    pub chroma_format: u8,
    /// Bits of a luma sample.
    pub bit_depth_luma: u8,
    /// Bits of a chroma sample.
    pub bit_depth_chroma: u8,
    /// Width in luma samples after cropping.
    pub width: u32,
    /// Height in luma samples after cropping.
    pub height: u32,
}

impl HevcConfig {
    /// Reads and checks a record.
    pub fn parse(record: &Bytes) -> Result<Self, Error> {
        if record.len() > RECORD_BYTES_MAX {
            return Err(refuse("record longer than 64 KiB"));
        }
        let (head, mut rest) =
            record.split_first_chunk::<23>().ok_or(refuse("record cut short"))?;
        let [version, profile, c0, c1, c2, c3, constraints @ .., arrays] = *head;
        let [f0, f1, f2, f3, f4, f5, level, _, _, _, _, _, _, rate_high, rate_low, last] =
            constraints;
        if version != 1 {
            return Err(refuse("record version is not 1"));
        }
        let length_size = (last & 3) + 1;
        if length_size == 3 {
            return Err(refuse("NAL length size of 3 bytes"));
        }
        let mut sps = None;
        for _ in 0..arrays {
            let ([kind, high, low], tail) =
                rest.split_first_chunk::<3>().ok_or(refuse("array cut short"))?;
            rest = tail;
            for _ in 0..u16::from_be_bytes([*high, *low]) {
                let (length, tail) =
                    rest.split_first_chunk::<2>().ok_or(refuse("parameter set cut short"))?;
                let (unit, tail) = tail
                    .split_at_checked(usize::from(u16::from_be_bytes(*length)))
                    .ok_or(refuse("parameter set cut short"))?;
                rest = tail;
                if kind & 0x3f == NAL_SPS && sps.is_none() {
                    sps = Some(HevcSps::parse(unit)?);
                }
            }
        }
        // In units of 1/256 frame per second; 0 is unspecified.
        let rate = u32::from(u16::from_be_bytes([rate_high, rate_low]));
        Ok(Self {
            profile: HevcProfile {
                space: profile >> 6,
                high_tier: profile & 0x20 != 0,
                idc: profile & 0x1f,
                compatibility: u32::from_be_bytes([c0, c1, c2, c3]),
                constraints: [f0, f1, f2, f3, f4, f5],
                level,
            },
            length_size,
            sps: sps.ok_or(refuse("no sequence parameter set"))?,
            frame_rate: (rate >= 256).then_some((rate, 256)),
        })
    }

    /// The RFC 6381 string, as ISO/IEC 14496-15 §E.3 writes it, for instance `hvc1.1.6.L93.90`.
    pub fn codec_string(&self) -> String {
        let HevcProfile { space, high_tier, idc, compatibility, constraints, level } = self.profile;
        let space = match space {
            0 => "",
            1 => "A",
            2 => "B",
            _ => "C",
        };
        let tier = if high_tier { 'H' } else { 'L' };
        let mut text =
            format!("hvc1.{space}{idc}.{:x}.{tier}{level}", compatibility.reverse_bits());
        let used = constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for byte in constraints.iter().take(used) {
            text = format!("{text}.{byte:x}");
        }
        text
    }
}

impl HevcSps {
    /// Reads a sequence parameter set NAL unit, the two header bytes included.
    pub fn parse(unit: &[u8]) -> Result<Self, Error> {
        let (header, body) =
            unit.split_first_chunk::<2>().ok_or(refuse("empty sequence parameter set"))?;
        if nal_type(header[0]) != NAL_SPS {
            return Err(refuse("not a sequence parameter set"));
        }
        let rbsp = unescape(body);
        fields(&mut Bits::new(&rbsp)).ok_or(refuse("sequence parameter set cut short or absurd"))
    }
}

fn refuse(reason: &'static str) -> Error {
    Error::Config { codec: "HEVC", reason }
}

fn nal_type(header: u8) -> u8 {
    header >> 1 & 0x3f
}

fn fields(bits: &mut Bits<'_>) -> Option<HevcSps> {
    bits.skip(4)?; // sps_video_parameter_set_id
    let sub_layers = bits.take(3)? as u8 + 1;
    let temporal_id_nested = bits.bit()?;
    let profile = profile_tier_level(bits, sub_layers)?;
    bits.ue()?; // sps_seq_parameter_set_id
    let chroma_format = bits.ue()?;
    if chroma_format > 3 {
        return None;
    }
    let separate_planes = chroma_format == 3 && bits.bit()?;
    let coded_width = bits.ue()?;
    let coded_height = bits.ue()?;
    let mut crop = [0; 4];
    if bits.bit()? {
        for side in &mut crop {
            *side = bits.ue()?;
        }
    }
    let bit_depth_luma = bits.ue()?.checked_add(8).filter(|depth| *depth <= 16)?;
    let bit_depth_chroma = bits.ue()?.checked_add(8).filter(|depth| *depth <= 16)?;
    // Table 6-1; with separate planes each is monochrome.
    let unit_x = if matches!(chroma_format, 1 | 2) && !separate_planes { 2 } else { 1 };
    let unit_y = if chroma_format == 1 { 2 } else { 1 };
    let [left, right, top, bottom] = crop;
    if u64::from(coded_width) * u64::from(coded_height) > LUMA_SAMPLES_MAX {
        return None;
    }
    let width = coded_width.checked_sub(left.checked_add(right)?.checked_mul(unit_x)?)?;
    let height = coded_height.checked_sub(top.checked_add(bottom)?.checked_mul(unit_y)?)?;
    let sane = |side| (1..=SIDE_MAX).contains(&side);
    (sane(width) && sane(height)).then_some(HevcSps {
        profile,
        sub_layers,
        temporal_id_nested,
        chroma_format: chroma_format as u8,
        bit_depth_luma: bit_depth_luma as u8,
        bit_depth_chroma: bit_depth_chroma as u8,
        width,
        height,
    })
}

/// ITU-T H.265 §7.3.3 with `profilePresentFlag` 1.
fn profile_tier_level(bits: &mut Bits<'_>, sub_layers: u8) -> Option<HevcProfile> {
    let space = bits.take(2)? as u8;
    let high_tier = bits.bit()?;
    let idc = bits.take(5)? as u8;
    let compatibility = bits.take(32)?;
    let mut constraints = [0; 6];
    for byte in &mut constraints {
        *byte = bits.take(8)? as u8;
    }
    let level = bits.take(8)? as u8;
    if sub_layers > 1 {
        let mut sizes = [0usize; 7];
        for size in sizes.iter_mut().take(usize::from(sub_layers) - 1) {
            let profile_present = bits.bit()?;
            let level_present = bits.bit()?;
            *size = if profile_present { 88 } else { 0 } + if level_present { 8 } else { 0 };
        }
        bits.skip(2 * (9 - usize::from(sub_layers)))?;
        bits.skip(sizes.iter().sum())?;
    }
    Some(HevcProfile { space, high_tier, idc, compatibility, constraints, level })
}

/// Looks at the NAL unit types of a sample. Every intra random access point (IDR, BLA, CRA) is a sync sample of HEVC
/// (ISO/IEC 14496-15 §8.4.3): many encoders send no IDR picture but the first.
pub(crate) fn classify(data: &[u8], length_size: u8) -> Result<AccessUnit, Error> {
    let (mut start, mut picture) = (false, false);
    for unit in Nals::new(data, length_size) {
        let Some(header) = unit?.first() else { continue };
        let kind = nal_type(*header);
        start |= (NAL_BLA_FIRST..=NAL_IRAP_LAST).contains(&kind);
        picture |= kind <= NAL_VCL_LAST;
    }
    match (start, picture) {
        (true, _) => Ok(AccessUnit::Idr),
        (_, true) => Ok(AccessUnit::Dependent),
        _ => Err(Error::Sample("no coded slice")),
    }
}
