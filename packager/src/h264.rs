//! H.264 as far as a packager must understand it: the decoder configuration record, the sequence parameter set and the
//! kind of an access unit. Owns no stream state and never looks inside a slice.

use bytes::Bytes;

use crate::Error;
use crate::bits::Bits;

/// Records beyond this are refused: 32 parameter sets of 2 KiB, far above what encoders write.
const RECORD_BYTES_MAX: usize = 64 * 1024;
/// Level 6.2 ends at 139264 macroblocks and a side of 16888 samples (ITU-T H.264 table A-1, §A.3.1).
const SIDE_MAX: u32 = 16_888;
const MACROBLOCKS_MAX: u64 = 139_264;

/// A parsed `AVCDecoderConfigurationRecord` (ISO/IEC 14496-15 §5.3.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AvcConfig {
    /// `AVCProfileIndication`.
    pub profile: u8,
    /// `profile_compatibility`: the constraint flags.
    pub compatibility: u8,
    /// `AVCLevelIndication`.
    pub level: u8,
    /// Bytes of the length in front of each NAL unit: 1, 2 or 4.
    pub length_size: u8,
    /// The first sequence parameter set, read.
    pub sps: Sps,
    /// All sequence parameter sets, whole NAL units.
    pub sps_units: Vec<Bytes>,
    /// All picture parameter sets, whole NAL units.
    pub pps_units: Vec<Bytes>,
    /// Chroma format, luma and chroma bit depth of the high profiles' extension, if the record has it.
    pub(crate) extension: Option<Extension>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extension {
    pub(crate) chroma_format: u8,
    pub(crate) bit_depth_luma: u8,
    pub(crate) bit_depth_chroma: u8,
    pub(crate) sps_ext: Vec<Bytes>,
}

impl AvcConfig {
    /// Reads and checks a record.
    pub fn parse(record: &Bytes) -> Result<Self, Error> {
        let refuse = |reason| Error::Config { codec: "H.264", reason };
        if record.len() > RECORD_BYTES_MAX {
            return Err(refuse("record longer than 64 KiB"));
        }
        let mut rest = record.clone();
        let mut byte =
            |what| take(&mut rest, 1).and_then(|b| b.first().copied()).ok_or(refuse(what));
        if byte("empty record")? != 1 {
            return Err(refuse("record version is not 1"));
        }
        let profile = byte("no profile")?;
        let compatibility = byte("no compatibility flags")?;
        let level = byte("no level")?;
        let length_size = (byte("no length size")? & 3) + 1;
        if length_size == 3 {
            return Err(refuse("NAL length size of 3 bytes"));
        }
        let sps_count = byte("no parameter set count")? & 0x1f;
        let sps_units =
            units(&mut rest, sps_count).ok_or(refuse("sequence parameter set cut short"))?;
        let pps_count = take(&mut rest, 1)
            .and_then(|b| b.first().copied())
            .ok_or(refuse("no picture parameter set count"))?;
        let pps_units =
            units(&mut rest, pps_count).ok_or(refuse("picture parameter set cut short"))?;
        let first = sps_units.first().ok_or(refuse("no sequence parameter set"))?;
        let sps = Sps::parse(first)?;
        let extension = extension(profile, &mut rest);
        Ok(Self {
            profile,
            compatibility,
            level,
            length_size,
            sps,
            sps_units,
            pps_units,
            extension,
        })
    }

    /// The record again, with a tail for the high profiles only if theirs made sense.
    pub(crate) fn to_record(&self) -> Vec<u8> {
        let mut record =
            vec![1, self.profile, self.compatibility, self.level, 0xfc | (self.length_size - 1)];
        put_units(&mut record, 0xe0, &self.sps_units);
        put_units(&mut record, 0, &self.pps_units);
        if let Some(extension) = &self.extension {
            record.extend([
                0xfc | extension.chroma_format,
                0xf8 | (extension.bit_depth_luma - 8),
                0xf8 | (extension.bit_depth_chroma - 8),
            ]);
            put_units(&mut record, 0, &extension.sps_ext);
        }
        record
    }

    /// The RFC 6381 string, `avc1.PPCCLL`.
    pub fn codec_string(&self) -> String {
        format!("avc1.{:02x}{:02x}{:02x}", self.profile, self.compatibility, self.level)
    }
}

fn take(rest: &mut Bytes, count: usize) -> Option<Bytes> {
    (rest.len() >= count).then(|| rest.split_to(count))
}

fn units(rest: &mut Bytes, count: u8) -> Option<Vec<Bytes>> {
    (0..count)
        .map(|_| {
            let length = take(rest, 2)?;
            let length = usize::from(u16::from_be_bytes(length.as_ref().try_into().ok()?));
            take(rest, length)
        })
        .collect()
}

/// A count in one byte beside reserved bits, then each unit behind its 16-bit length; no more than could be read.
fn put_units(record: &mut Vec<u8>, reserved: u8, units: &[Bytes]) {
    record.push(reserved | units.len() as u8);
    for unit in units {
        record.extend((unit.len() as u16).to_be_bytes());
        record.extend_from_slice(unit);
    }
}

/// The optional tail for the high profiles. Many encoders leave it out or get it wrong, so a bad tail is no tail.
fn extension(profile: u8, rest: &mut Bytes) -> Option<Extension> {
    if !matches!(profile, 100 | 110 | 122 | 144) {
        return None;
    }
    let head = take(rest, 4)?;
    let &[chroma, luma, depth, count] = head.as_ref() else { return None };
    Some(Extension {
        chroma_format: chroma & 3,
        bit_depth_luma: (luma & 7) + 8,
        bit_depth_chroma: (depth & 7) + 8,
        sps_ext: units(rest, count)?,
    })
}

/// What we need of a sequence parameter set (ITU-T H.264 §7.3.2.1.1 and annex E).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sps {
    /// Width in luma samples after cropping.
    pub width: u32,
    /// Height in luma samples after cropping.
    pub height: u32,
    /// Frames per second as (numerator, denominator), if the VUI states a believable rate.
    pub frame_rate: Option<(u32, u32)>,
    /// How many frames may precede another in decode order and follow it in output order, if it can be told.
    pub reorder_depth: Option<u32>,
}

impl Sps {
    /// Reads a sequence parameter set NAL unit, header byte included.
    pub fn parse(unit: &[u8]) -> Result<Self, Error> {
        let refuse = |reason| Error::Config { codec: "H.264", reason };
        let (header, body) = unit.split_first().ok_or(refuse("empty sequence parameter set"))?;
        if header & 0x1f != NAL_SPS {
            return Err(refuse("not a sequence parameter set"));
        }
        let rbsp = unescape(body);
        let fields =
            sps_fields(&mut Bits::new(&rbsp)).ok_or(refuse("sequence parameter set cut short"))?;
        let size = fields.size().ok_or(refuse("absurd picture size"))?;
        Ok(Self {
            width: size.0,
            height: size.1,
            frame_rate: fields.frame_rate,
            reorder_depth: fields.reorder_depth,
        })
    }
}

struct SpsFields {
    macroblocks_wide: u32,
    map_units_high: u32,
    frames_only: bool,
    chroma_format: u32,
    crop: [u32; 4],
    frame_rate: Option<(u32, u32)>,
    reorder_depth: Option<u32>,
}

impl SpsFields {
    fn size(&self) -> Option<(u32, u32)> {
        let rows = self.map_units_high.checked_mul(if self.frames_only { 1 } else { 2 })?;
        if u64::from(self.macroblocks_wide) * u64::from(rows) > MACROBLOCKS_MAX {
            return None;
        }
        let (coded_width, coded_height) =
            (self.macroblocks_wide.checked_mul(16)?, rows.checked_mul(16)?);
        // Crop units, ITU-T H.264 equations 7-19 to 7-22.
        let unit_x = if matches!(self.chroma_format, 1 | 2) { 2 } else { 1 };
        let unit_y =
            if self.chroma_format == 1 { 2 } else { 1 } * if self.frames_only { 1 } else { 2 };
        let [left, right, top, bottom] = self.crop;
        let width = coded_width.checked_sub(left.checked_add(right)?.checked_mul(unit_x)?)?;
        let height = coded_height.checked_sub(top.checked_add(bottom)?.checked_mul(unit_y)?)?;
        let sane = |side| (1..=SIDE_MAX).contains(&side);
        (sane(width) && sane(height)).then_some((width, height))
    }
}

fn sps_fields(bits: &mut Bits<'_>) -> Option<SpsFields> {
    let profile = bits.take(8)?;
    let constraints = bits.take(8)?;
    bits.skip(8)?; // level_idc
    bits.ue()?; // seq_parameter_set_id
    let mut chroma_format = 1;
    if matches!(profile, 44 | 83 | 86 | 100 | 110 | 118 | 122 | 128 | 134 | 135 | 138 | 139 | 244) {
        chroma_format = bits.ue()?;
        if chroma_format > 3 {
            return None;
        }
        // With separate colour planes the crop unit is that of monochrome.
        if chroma_format == 3 && bits.bit()? {
            chroma_format = 0;
        }
        bits.ue()?; // bit_depth_luma_minus8
        bits.ue()?; // bit_depth_chroma_minus8
        bits.skip(1)?; // qpprime_y_zero_transform_bypass_flag
        if bits.bit()? {
            for list in 0..if chroma_format == 3 { 12 } else { 8 } {
                if bits.bit()? {
                    skip_scaling_list(bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.ue()?; // log2_max_frame_num_minus4
    let order_type = bits.ue()?;
    match order_type {
        0 => drop(bits.ue()?),
        1 => {
            bits.skip(1)?; // delta_pic_order_always_zero_flag
            bits.se()?; // offset_for_non_ref_pic
            bits.se()?; // offset_for_top_to_bottom_field
            let cycle = bits.ue()?;
            if cycle > 255 {
                return None;
            }
            for _ in 0..cycle {
                bits.se()?;
            }
        }
        2 => {}
        _ => return None,
    }
    bits.ue()?; // max_num_ref_frames
    bits.skip(1)?; // gaps_in_frame_num_value_allowed_flag
    let macroblocks_wide = bits.ue()?.checked_add(1)?;
    let map_units_high = bits.ue()?.checked_add(1)?;
    let frames_only = bits.bit()?;
    if !frames_only {
        bits.skip(1)?; // mb_adaptive_frame_field_flag
    }
    bits.skip(1)?; // direct_8x8_inference_flag
    let mut crop = [0; 4];
    if bits.bit()? {
        for side in &mut crop {
            *side = bits.ue()?;
        }
    }
    // Baseline has no B pictures; order type 2 means output order is decode order (§8.2.1.3); constraint_set3 of the
    // intra profiles means every picture is an IDR (§E.2.1).
    let never = profile == 66 || order_type == 2 || (profile >= 100 && constraints & 0x10 != 0);
    let mut fields = SpsFields {
        macroblocks_wide,
        map_units_high,
        frames_only,
        chroma_format,
        crop,
        frame_rate: None,
        reorder_depth: never.then_some(0),
    };
    if bits.bit()? {
        // A VUI cut short costs the hints in it, not the stream.
        let _ = vui(bits, &mut fields);
    }
    Some(fields)
}

fn skip_scaling_list(bits: &mut Bits<'_>, entries: u32) -> Option<()> {
    let (mut last, mut next) = (8i64, 8i64);
    for _ in 0..entries {
        if next != 0 {
            next = (last + i64::from(bits.se()?)).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

/// Annex E.1.1.
fn vui(bits: &mut Bits<'_>, fields: &mut SpsFields) -> Option<()> {
    if bits.bit()? && bits.take(8)? == 255 {
        bits.skip(32)?; // sar_width, sar_height
    }
    if bits.bit()? {
        bits.skip(1)?; // overscan_appropriate_flag
    }
    if bits.bit()? {
        bits.skip(4)?; // video_format, video_full_range_flag
        if bits.bit()? {
            bits.skip(24)?; // colour description
        }
    }
    if bits.bit()? {
        bits.ue()?; // chroma sample location, top
        bits.ue()?; // and bottom
    }
    if bits.bit()? {
        let units = bits.take(32)?;
        let scale = bits.take(32)?;
        bits.skip(1)?; // fixed_frame_rate_flag
        fields.frame_rate = believable_rate(units, scale);
    }
    let nal_hrd = bits.bit()?;
    if nal_hrd {
        skip_hrd(bits)?;
    }
    let vcl_hrd = bits.bit()?;
    if vcl_hrd {
        skip_hrd(bits)?;
    }
    if nal_hrd || vcl_hrd {
        bits.skip(1)?; // low_delay_hrd_flag
    }
    bits.skip(1)?; // pic_struct_present_flag
    if bits.bit()? {
        bits.skip(1)?; // motion_vectors_over_pic_boundaries_flag
        for _ in 0..4 {
            bits.ue()?; // size limits and motion vector lengths
        }
        let reorder = bits.ue()?;
        if reorder <= 16 {
            fields.reorder_depth = Some(reorder);
        }
    }
    Some(())
}

/// One frame is two units of `num_units_in_tick` (§E.2.1). Rates outside 1..=300 are misuse of the field.
fn believable_rate(units: u32, scale: u32) -> Option<(u32, u32)> {
    let denominator = units.checked_mul(2)?;
    (denominator > 0 && (denominator..=denominator.saturating_mul(300)).contains(&scale))
        .then_some((scale, denominator))
}

/// Annex E.1.2.
fn skip_hrd(bits: &mut Bits<'_>) -> Option<()> {
    let count = bits.ue()?;
    if count > 31 {
        return None;
    }
    bits.skip(8)?; // scales
    for _ in 0..=count {
        bits.ue()?;
        bits.ue()?;
        bits.skip(1)?;
    }
    bits.skip(20)
}

/// Drops the emulation prevention bytes of a NAL unit (ITU-T H.264 §7.4.1; HEVC has the same).
pub fn unescape(body: &[u8]) -> Vec<u8> {
    let mut rbsp = Vec::with_capacity(body.len());
    let mut zeros = 0;
    for &byte in body {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        rbsp.push(byte);
    }
    rbsp
}

const NAL_SLICE: u8 = 1;
const NAL_IDR: u8 = 5;
const NAL_SEI: u8 = 6;
const NAL_SPS: u8 = 7;

/// Walks the NAL units of a length-prefixed access unit.
#[derive(Debug, Clone)]
pub struct Nals<'a> {
    rest: &'a [u8],
    length_size: usize,
}

impl<'a> Nals<'a> {
    /// `length_size` as in the record.
    pub fn new(data: &'a [u8], length_size: u8) -> Self {
        Self { rest: data, length_size: usize::from(length_size) }
    }
}

impl<'a> Iterator for Nals<'a> {
    type Item = Result<&'a [u8], Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        let Some((prefix, rest)) = rest.split_at_checked(self.length_size) else {
            return Some(Err(Error::Sample("NAL length cut short")));
        };
        let length = prefix.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
        let Some((unit, rest)) = rest.split_at_checked(length) else {
            return Some(Err(Error::Sample("NAL unit longer than its sample")));
        };
        self.rest = rest;
        Some(Ok(unit))
    }
}

/// Where decoding can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessUnit {
    /// An IDR picture: every player can start here.
    Idr,
    /// A recovery point SEI without an IDR picture: decoders can start here, browsers refuse to.
    RecoveryPoint,
    /// Depends on earlier pictures.
    Dependent,
}

impl AccessUnit {
    /// Looks at the NAL unit types of a sample. A sample without a coded slice is not an access unit.
    pub fn classify(data: &[u8], length_size: u8) -> Result<Self, Error> {
        let (mut idr, mut slice, mut recovery) = (false, false, false);
        for unit in Nals::new(data, length_size) {
            let Some((header, body)) = unit?.split_first() else { continue };
            match header & 0x1f {
                NAL_IDR => idr = true,
                NAL_SLICE..=4 => slice = true,
                NAL_SEI => recovery |= has_recovery_point(body),
                _ => {}
            }
        }
        match (idr, slice, recovery) {
            (true, ..) => Ok(Self::Idr),
            (_, true, true) => Ok(Self::RecoveryPoint),
            (_, true, false) => Ok(Self::Dependent),
            _ => Err(Error::Sample("no coded slice")),
        }
    }
}

/// Walks SEI messages (§7.3.2.3.1) for payload type 6. Emulation prevention is ignored: it could only hide a message
/// behind an escaped one, and such a picture is then treated as dependent.
fn has_recovery_point(mut body: &[u8]) -> bool {
    while body.len() > 2 {
        let mut fields = [0usize; 2];
        for field in &mut fields {
            loop {
                let Some((&byte, rest)) = body.split_first() else { return false };
                body = rest;
                *field += usize::from(byte);
                if byte != 0xff {
                    break;
                }
            }
        }
        let [kind, size] = fields;
        if kind == 6 {
            return true;
        }
        let Some(rest) = body.get(size..) else { return false };
        body = rest;
    }
    false
}

#[cfg(test)]
#[path = "h264_tests.rs"]
mod tests;
