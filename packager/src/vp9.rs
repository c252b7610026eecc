//! VP9 as far as a packager must understand it: the configuration record and the first bits of a frame, which hold the
//! picture size that the record lacks. Owns no stream state.

use crate::bits::Bits;
use crate::{AccessUnit, Error};

/// Levels by luma picture size (the level definitions of the VP9 bitstream), for records that state none.
const LEVELS: [(u64, u8); 8] = [
    (36_864, 10),
    (73_728, 11),
    (122_880, 20),
    (245_760, 21),
    (552_960, 30),
    (983_040, 31),
    (2_228_224, 40),
    (8_912_896, 50),
];

/// A parsed `VPCodecConfigurationRecord` (VP in ISOBMFF §2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vp9Config {
    /// 0..=3.
    pub profile: u8,
    /// Ten times the level; 0 if unknown.
    pub level: u8,
    /// 8, 10 or 12.
    pub bit_depth: u8,
}

impl Vp9Config {
    /// Reads and checks a record.
    pub fn parse(record: &[u8]) -> Result<Self, Error> {
        let refuse = |reason| Error::Config { codec: "VP9", reason };
        let ([profile, level, depth, ..], rest) =
            record.split_first_chunk::<8>().ok_or(refuse("record cut short"))?;
        if *profile > 3 || !matches!(depth >> 4, 8 | 10 | 12) {
            return Err(refuse("no such profile or bit depth"));
        }
        if !rest.is_empty() {
            return Err(refuse("initialization data, which VP9 does not have"));
        }
        Ok(Self { profile: *profile, level: *level, bit_depth: depth >> 4 })
    }

    /// The RFC 6381 string, `vp09.PP.LL.DD` (VP in ISOBMFF §3).
    pub fn codec_string(&self, width: u32, height: u32) -> String {
        let level = if self.level == 0 { level_of(width, height) } else { self.level };
        format!("vp09.{:02}.{level:02}.{:02}", self.profile, self.bit_depth)
    }
}

fn level_of(width: u32, height: u32) -> u8 {
    let size = u64::from(width) * u64::from(height);
    LEVELS.iter().find(|(largest, _)| size <= *largest).map_or(60, |(_, level)| *level)
}

/// What a frame (or the first of a superframe) is, and its size if decoding can start there.
pub(crate) fn classify(data: &[u8]) -> Result<(AccessUnit, Option<(u32, u32)>), Error> {
    match header(&mut Bits::new(data)) {
        Some(Some(size)) => Ok((AccessUnit::Idr, Some(size))),
        Some(None) => Ok((AccessUnit::Dependent, None)),
        None => Err(Error::Sample("not a VP9 frame")),
    }
}

/// `uncompressed_header` up to the frame size (VP9 bitstream §6.2); `Some(None)` for a frame that depends on others.
#[expect(clippy::option_option, reason = "no frame and no key frame are different answers")]
fn header(bits: &mut Bits<'_>) -> Option<Option<(u32, u32)>> {
    if bits.take(2)? != 2 {
        return None;
    }
    let profile = bits.take(1)? | bits.take(1)? << 1;
    if profile == 3 {
        bits.skip(1)?;
    }
    let show_existing = bits.bit()?;
    if show_existing || bits.bit()? {
        return Some(None);
    }
    bits.skip(2)?; // show_frame, error_resilient_mode
    if bits.take(24)? != 0x49_8342 {
        return None;
    }
    if profile >= 2 {
        bits.skip(1)?; // ten_or_twelve_bit
    }
    // color_config (§6.2.2): colour space 7 is RGB.
    let subsampling = profile & 1 == 1;
    if bits.take(3)? == 7 {
        bits.skip(usize::from(subsampling))?;
    } else {
        bits.skip(1 + if subsampling { 3 } else { 0 })?;
    }
    Some(Some((bits.take(16)? + 1, bits.take(16)? + 1)))
}
