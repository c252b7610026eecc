//! AV1 as far as a packager must understand it: the configuration record, the sequence header and whether decoding can
//! start at a temporal unit. Owns no stream state and reads no tile.

use crate::bits::Bits;
use crate::{AccessUnit, Error};

/// A record is four bytes and a sequence header; metadata may follow.
const RECORD_BYTES_MAX: usize = 16 * 1024;
const OBU_SEQUENCE_HEADER: u8 = 1;
const OBU_TEMPORAL_DELIMITER: u8 = 2;
const OBU_FRAME_HEADER: u8 = 3;
const OBU_FRAME: u8 = 6;
const FRAME_TYPE_KEY: u32 = 0;

/// A parsed `AV1CodecConfigurationRecord` (AV1 in ISOBMFF §2.3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Av1Config {
    /// `seq_profile`.
    pub profile: u8,
    /// `seq_level_idx_0`.
    pub level: u8,
    /// `seq_tier_0`.
    pub high_tier: bool,
    /// 8, 10 or 12.
    pub bit_depth: u8,
    /// The sequence header among the record's OBUs, if there is one.
    pub sequence: Option<Av1Sequence>,
}

/// What we need of a sequence header (AV1 §5.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Av1Sequence {
    /// `max_frame_width_minus_1` plus 1.
    pub width: u32,
    /// `max_frame_height_minus_1` plus 1.
    pub height: u32,
    /// Frames per second as (numerator, denominator), if pictures come at equal intervals and it is believable.
    pub frame_rate: Option<(u32, u32)>,
}

impl Av1Config {
    /// Reads and checks a record.
    pub fn parse(record: &[u8]) -> Result<Self, Error> {
        let refuse = |reason| Error::Config { codec: "AV1", reason };
        if record.len() > RECORD_BYTES_MAX {
            return Err(refuse("record longer than 16 KiB"));
        }
        let ([marker, profile_level, flags, _], units) =
            record.split_first_chunk::<4>().ok_or(refuse("record cut short"))?;
        if *marker != 0x81 {
            return Err(refuse("record marker and version are not 1"));
        }
        let mut sequence = None;
        for unit in Obus::new(units) {
            let unit = unit.map_err(|_| refuse("OBU cut short"))?;
            if unit.kind == OBU_SEQUENCE_HEADER {
                sequence =
                    Some(Av1Sequence::parse(unit.body).ok_or(refuse("sequence header cut short"))?);
            }
        }
        Ok(Self {
            profile: profile_level >> 5,
            level: profile_level & 0x1f,
            high_tier: flags & 0x80 != 0,
            bit_depth: match (flags & 0x40 != 0, flags & 0x20 != 0) {
                (false, _) => 8,
                (true, false) => 10,
                (true, true) => 12,
            },
            sequence,
        })
    }

    /// The RFC 6381 string, `av01.P.LLT.DD` (AV1 in ISOBMFF §5).
    pub fn codec_string(&self) -> String {
        let tier = if self.high_tier { 'H' } else { 'M' };
        format!("av01.{}.{:02}{tier}.{:02}", self.profile, self.level, self.bit_depth)
    }
}

impl Av1Sequence {
    /// Reads the body of a sequence header OBU.
    fn parse(body: &[u8]) -> Option<Self> {
        let bits = &mut Bits::new(body);
        bits.skip(3 + 1)?; // seq_profile, still_picture
        let mut frame_rate = None;
        if bits.bit()? {
            bits.skip(5)?; // reduced_still_picture_header: seq_level_idx_0 and nothing else
        } else {
            let mut delay_bits = None;
            if bits.bit()? {
                frame_rate = timing(bits)?;
                if bits.bit()? {
                    delay_bits = Some(bits.take(5)? as usize + 1);
                    bits.skip(32 + 5 + 5)?; // decoding tick, lengths of removal and presentation times
                }
            }
            let display_delay = bits.bit()?;
            for _ in 0..=bits.take(5)? {
                bits.skip(12)?; // operating_point_idc
                if bits.take(5)? > 7 {
                    bits.skip(1)?; // seq_tier
                }
                if let Some(delay_bits) = delay_bits
                    && bits.bit()?
                {
                    bits.skip(2 * delay_bits + 1)?;
                }
                if display_delay && bits.bit()? {
                    bits.skip(4)?;
                }
            }
        }
        let width_bits = bits.take(4)? + 1;
        let height_bits = bits.take(4)? + 1;
        Some(Self {
            width: bits.take(width_bits)? + 1,
            height: bits.take(height_bits)? + 1,
            frame_rate,
        })
    }
}

/// `timing_info` (AV1 §5.5.3).
#[expect(
    clippy::option_option,
    reason = "a rate that is not stated and bits that are missing are different"
)]
fn timing(bits: &mut Bits<'_>) -> Option<Option<(u32, u32)>> {
    let units = bits.take(32)?;
    let scale = bits.take(32)?;
    if !bits.bit()? {
        return Some(None);
    }
    // uvlc() counts as Exp-Golomb does (§4.10.3).
    let denominator = bits.ue()?.checked_add(1).and_then(|ticks| ticks.checked_mul(units));
    Some(
        denominator
            .filter(|denominator| {
                *denominator > 0
                    && (*denominator..=denominator.saturating_mul(300)).contains(&scale)
            })
            .map(|denominator| (scale, denominator)),
    )
}

/// What a temporal unit is, and the sequence header in it.
pub(crate) fn classify(data: &[u8]) -> Result<(AccessUnit, Option<Av1Sequence>), Error> {
    let mut sequence = None;
    for unit in Obus::new(data) {
        let unit = unit?;
        match unit.kind {
            OBU_SEQUENCE_HEADER => sequence = Av1Sequence::parse(unit.body),
            OBU_FRAME_HEADER | OBU_FRAME => {
                // uncompressed_header (§5.9.2): only a key frame that is shown is a place to start at.
                let bits = &mut Bits::new(unit.body);
                let shown_key = (|| {
                    let show_existing = bits.bit()?;
                    let key = bits.take(2)? == FRAME_TYPE_KEY;
                    Some(!show_existing && key && bits.bit()?)
                })();
                return Ok(match shown_key {
                    Some(true) => (AccessUnit::Idr, sequence),
                    _ => (AccessUnit::Dependent, sequence),
                });
            }
            _ => {}
        }
    }
    Err(Error::Sample("no frame header"))
}

/// An AV1 sample without temporal delimiters, which the container's samples replace (AV1 in ISOBMFF §2.4). `None` if there
/// are none, which is how it should be; OBUs that do not add up are an error.
pub fn without_delimiters(data: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let mut found = false;
    for unit in Obus::new(data) {
        found |= unit?.kind == OBU_TEMPORAL_DELIMITER;
    }
    if !found {
        return Ok(None);
    }
    let mut kept = Vec::with_capacity(data.len());
    for unit in Obus::new(data).flatten() {
        if unit.kind != OBU_TEMPORAL_DELIMITER {
            kept.extend_from_slice(unit.whole);
        }
    }
    Ok(Some(kept))
}

struct Obu<'a> {
    kind: u8,
    body: &'a [u8],
    whole: &'a [u8],
}

/// OBUs one after the other (AV1 §5.3).
struct Obus<'a> {
    rest: &'a [u8],
}

impl<'a> Obus<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    fn split(data: &'a [u8]) -> Option<(Obu<'a>, &'a [u8])> {
        let (&header, mut body) = data.split_first()?;
        if header & 0x80 != 0 {
            return None;
        }
        if header & 0x04 != 0 {
            body = body.get(1..)?;
        }
        let mut rest: &[u8] = &[];
        if header & 0x02 != 0 {
            let mut size = 0u64;
            for shift in (0..56).step_by(7) {
                let (&byte, tail) = body.split_first()?;
                body = tail;
                size |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            (body, rest) = body.split_at_checked(usize::try_from(size).ok()?)?;
        }
        let whole = data.get(..data.len() - rest.len())?;
        Some((Obu { kind: header >> 3 & 0x0f, body, whole }, rest))
    }
}

impl<'a> Iterator for Obus<'a> {
    type Item = Result<Obu<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let split = Self::split(std::mem::take(&mut self.rest));
        Some(split.ok_or(Error::Sample("OBU cut short")).map(|(unit, rest)| {
            self.rest = rest;
            unit
        }))
    }
}
