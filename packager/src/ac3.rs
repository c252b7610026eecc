//! AC-3 and E-AC-3 as far as a packager must understand them: the `dac3` and `dec3` boxes, and syncframes, out of which
//! those boxes can be made where a protocol sends none. Owns no stream state.

use bytes::Bytes;

use crate::bits::Bits;
use crate::{Codec, Error};

const RATES: [u32; 3] = [48_000, 44_100, 32_000];
/// Full-bandwidth channels by `acmod` (ETSI TS 102 366 table 4.3).
const CHANNELS: [u16; 8] = [2, 1, 2, 3, 3, 4, 4, 5];
/// Kilobits a second by half of `frmsizecod` (table 4.13).
const KILOBITS: [u32; 19] =
    [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640];
/// Every block of either codec.
const BLOCK_SAMPLES: u32 = 256;
/// E-AC-3 has at most 8 independent substreams, each with at most 8 dependent ones, and 6 frames of one block in a sample.
const SYNCFRAMES_MAX: usize = 8 * 9 * 6;

/// What a `dac3` or `dec3` box says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ac3Config {
    /// Samples per second.
    pub sample_rate: u32,
    /// Channels of the first independent substream, the low-frequency one included.
    pub channels: u16,
}

impl Ac3Config {
    /// Reads a `dac3` body (ETSI TS 102 366 §F.4).
    pub fn parse_ac3(specific: &[u8]) -> Result<Self, Error> {
        let bits = &mut Bits::new(specific);
        let fields = (|| {
            let rate = bits.take(2)?;
            bits.skip(5 + 3)?; // bsid, bsmod
            config(rate, bits.take(3)?, bits.bit()?)
        })();
        fields.ok_or(Error::Config { codec: "AC-3", reason: "cut short or reserved values" })
    }

    /// Reads a `dec3` body (§F.6).
    pub fn parse_eac3(specific: &[u8]) -> Result<Self, Error> {
        let bits = &mut Bits::new(specific);
        let fields = (|| {
            bits.skip(13 + 3)?; // data_rate, num_ind_sub
            let rate = bits.take(2)?;
            bits.skip(5 + 1 + 1 + 3)?; // bsid, reserved, asvc, bsmod
            config(rate, bits.take(3)?, bits.bit()?)
        })();
        fields.ok_or(Error::Config { codec: "E-AC-3", reason: "cut short or reserved values" })
    }
}

fn config(rate: u32, mode: u32, low_frequency: bool) -> Option<Ac3Config> {
    let channels = CHANNELS.get(mode as usize)? + u16::from(low_frequency);
    Some(Ac3Config { sample_rate: *RATES.get(rate as usize)?, channels })
}

/// The configuration that a syncframe (or several in a row, for E-AC-3) implies. `None` if it is no syncframe.
pub fn ac3_codec_of(sample: &[u8]) -> Option<Codec> {
    let first = Syncframe::parse(sample)?;
    match first.kind {
        Kind::Ac3 { bsid, bsmod, rate_code } => {
            let value = first.rate_index << 22
                | bsid << 17
                | bsmod << 14
                | first.mode << 11
                | u32::from(first.low_frequency) << 10
                | rate_code << 5;
            let specific = Bytes::copy_from_slice(value.to_be_bytes().get(1..)?);
            Some(Codec::Ac3 { specific })
        }
        Kind::Eac3 { bsid, .. } => {
            // One independent substream without dependent ones: five bytes, all there is to say about most streams.
            let bits_per_frame = first.bytes as u64 * 8;
            let rate = u64::from(first.rate().unwrap_or(48_000));
            let kilobits = bits_per_frame * rate / u64::from(first.samples()) / 1000;
            let head = (kilobits.min(0x1fff) as u16) << 3;
            let tail = first.rate_index << 22
                | bsid << 17
                | first.mode << 9
                | u32::from(first.low_frequency) << 8;
            let mut specific = head.to_be_bytes().to_vec();
            specific.extend_from_slice(tail.to_be_bytes().get(1..)?);
            Some(Codec::Eac3 { specific: specific.into() })
        }
    }
}

/// Samples in a sample of either codec: the blocks of its first independent substream.
pub(crate) fn frame_samples(sample: &[u8]) -> Result<u32, Error> {
    let bad = Error::Sample("not an AC-3 syncframe");
    let (mut rest, mut samples) = (sample, 0);
    for _ in 0..SYNCFRAMES_MAX {
        if rest.is_empty() {
            break;
        }
        let frame = Syncframe::parse(rest).ok_or(bad.clone())?;
        if matches!(
            frame.kind,
            Kind::Ac3 { .. } | Kind::Eac3 { independent: true, substream: 0, .. }
        ) {
            samples += frame.samples();
        }
        // The last frame may be padded or cut by its container; what counts is its header.
        rest = rest.get(frame.bytes..).unwrap_or_default();
    }
    if samples == 0 { Err(bad) } else { Ok(samples) }
}

struct Syncframe {
    kind: Kind,
    bytes: usize,
    rate_index: u32,
    /// E-AC-3 with `fscod` 3: half the rate.
    half_rate: Option<u32>,
    mode: u32,
    low_frequency: bool,
    blocks: u32,
}

enum Kind {
    Ac3 { bsid: u32, bsmod: u32, rate_code: u32 },
    Eac3 { bsid: u32, independent: bool, substream: u32 },
}

impl Syncframe {
    /// The head of a syncframe; `bsid` tells the two syntaxes apart (ETSI TS 102 366 §4.3, §E.1.2).
    fn parse(data: &[u8]) -> Option<Self> {
        if data.get(..2)? != [0x0b, 0x77] {
            return None;
        }
        match data.get(5)? >> 3 {
            0..=8 => Self::ac3(&mut Bits::new(data.get(4..)?)),
            11..=16 => Self::eac3(&mut Bits::new(data.get(2..)?)),
            _ => None,
        }
    }

    fn ac3(bits: &mut Bits<'_>) -> Option<Self> {
        let rate_index = bits.take(2)?;
        let frame_code = bits.take(6)?;
        let bsid = bits.take(5)?;
        let bsmod = bits.take(3)?;
        let mode = bits.take(3)?;
        if mode & 1 != 0 && mode != 1 {
            bits.skip(2)?; // cmixlev
        }
        if mode & 4 != 0 {
            bits.skip(2)?; // surmixlev
        }
        if mode == 2 {
            bits.skip(2)?; // dsurmod
        }
        // Words a frame, by bit rate and sample rate.
        let kilobits = *KILOBITS.get(frame_code as usize / 2)?;
        let words = match rate_index {
            0 => kilobits * 2,
            1 => kilobits * 96_000 / 44_100 + (frame_code & 1),
            2 => kilobits * 3,
            _ => return None,
        };
        Some(Self {
            kind: Kind::Ac3 { bsid, bsmod, rate_code: frame_code / 2 },
            bytes: words as usize * 2,
            rate_index,
            half_rate: None,
            mode,
            low_frequency: bits.bit()?,
            blocks: 6,
        })
    }

    fn eac3(bits: &mut Bits<'_>) -> Option<Self> {
        let kind = bits.take(2)?;
        let substream = bits.take(3)?;
        let bytes = (bits.take(11)? as usize + 1) * 2;
        let rate_index = bits.take(2)?;
        let (half_rate, blocks) = if rate_index == 3 {
            (Some(RATES.get(bits.take(2)? as usize)? / 2), 6)
        } else {
            (None, *[1, 2, 3, 6].get(bits.take(2)? as usize)?)
        };
        let mode = bits.take(3)?;
        let low_frequency = bits.bit()?;
        let bsid = bits.take(5)?;
        Some(Self {
            kind: Kind::Eac3 { bsid, independent: kind != 1, substream },
            bytes,
            rate_index,
            half_rate,
            mode,
            low_frequency,
            blocks,
        })
    }

    fn rate(&self) -> Option<u32> {
        self.half_rate.or_else(|| RATES.get(self.rate_index as usize).copied())
    }

    fn samples(&self) -> u32 {
        self.blocks * BLOCK_SAMPLES
    }
}
