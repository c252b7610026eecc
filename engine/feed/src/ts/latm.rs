//! AAC in LATM with synchronisation (LOAS, ISO/IEC 14496-3 §1.7): one programme, one layer, one frame in each element,
//! as encoders send it. The frame is moved to whole bytes; its bits stay as they are.

use bytes::{BufMut, Bytes, BytesMut};
use weir_packager::Bits;

use super::adts::{FRAME_SAMPLES, RATES};
use super::audio::{Cut, Frame, next_sync};
use crate::Codec;

/// The configuration in force.
#[derive(Debug, Default)]
pub(super) struct Reader {
    config: Option<Config>,
}

#[derive(Clone, Debug)]
struct Config {
    specific: Bytes,
    rate: u32,
    samples: u32,
    has_other: Option<u32>,
    has_check: bool,
}

impl Reader {
    /// Cuts one `AudioSyncStream` element from the front.
    pub(super) fn cut(&mut self, bytes: &Bytes) -> Cut {
        let Some(head) = bytes.first_chunk::<3>() else { return Cut::More };
        let [a, b, c] = *head;
        if a != 0x56 || b & 0xe0 != 0xe0 {
            return Cut::Skip(next_sync(bytes, 0xffe0, 0x56e0));
        }
        let length = 3 + (usize::from(b & 0x1f) << 8 | usize::from(c));
        let Some(element) = bytes.get(3..length) else { return Cut::More };
        match self.element(element) {
            Some(frame) => Cut::Frame(frame, length),
            None => Cut::Skip(length),
        }
    }

    /// `AudioMuxElement` with its configuration inside (table 1.41).
    fn element(&mut self, element: &[u8]) -> Option<Frame> {
        let mut bits = Bits::new(element);
        if !bits.bit()? {
            self.config = Some(Config::parse(&mut bits, element)?);
        }
        let config = self.config.as_ref()?;
        let mut length = 0_usize;
        loop {
            let part = bits.take(8)?;
            length += part as usize;
            if part != 255 {
                break;
            }
        }
        let data = bytes_of(&mut bits, length)?;
        // What may follow, other data and a check sum, is of no use.
        let _ = (config.has_other, config.has_check);
        let codec = Codec::Aac { config: config.specific.clone() };
        (!data.is_empty()).then_some(Frame {
            data,
            samples: config.samples,
            rate: config.rate,
            codec,
        })
    }
}

impl Config {
    /// `StreamMuxConfig` (table 1.42).
    fn parse(bits: &mut Bits<'_>, element: &[u8]) -> Option<Self> {
        let version = bits.bit()?;
        if version && bits.bit()? {
            return None; // audioMuxVersionA: reserved
        }
        if version {
            latm_value(bits)?; // taraBufferFullness
        }
        let same_framing = bits.bit()?;
        let frames_more = bits.take(6)?;
        let programmes_more = bits.take(4)?;
        let layers_more = bits.take(3)?;
        if !same_framing || frames_more != 0 || programmes_more != 0 || layers_more != 0 {
            return None;
        }
        let promised = if version { Some(latm_value(bits)? as usize) } else { None };
        let begin = element.len() * 8 - bits.remaining();
        let (rate, samples) = specific_config(bits)?;
        let read = element.len() * 8 - bits.remaining() - begin;
        let length = promised.unwrap_or(read);
        bits.skip(length.checked_sub(read)?)?;
        let mut again = Bits::new(element);
        again.skip(begin)?;
        let specific = bits_of(&mut again, length)?;
        if bits.take(3)? != 0 {
            return None; // frameLengthType: only frames that say their length
        }
        bits.skip(8)?; // latmBufferFullness
        let has_other = if bits.bit()? {
            Some(if version {
                latm_value(bits)?
            } else {
                let mut length = 0_u32;
                loop {
                    let more = bits.bit()?;
                    length = length.checked_mul(256)?.checked_add(bits.take(8)?)?;
                    if !more {
                        break length;
                    }
                }
            })
        } else {
            None
        };
        let has_check = bits.bit()?;
        if has_check {
            bits.skip(8)?;
        }
        Some(Self { specific, rate, samples, has_other, has_check })
    }
}

/// `LatmGetValue` (table 1.43).
fn latm_value(bits: &mut Bits<'_>) -> Option<u32> {
    let count = bits.take(2)? + 1;
    bits.take(count * 8)
}

/// `AudioSpecificConfig` of the AAC family (table 1.15), as far as its end: rate and frame length.
fn specific_config(bits: &mut Bits<'_>) -> Option<(u32, u32)> {
    let object = |bits: &mut Bits<'_>| match bits.take(5)? {
        31 => Some(32 + bits.take(6)?),
        other => Some(other),
    };
    let frequency = |bits: &mut Bits<'_>| match bits.take(4)? {
        15 => bits.take(24),
        index => RATES.get(index as usize).copied(),
    };
    let mut kind = object(bits)?;
    let rate = frequency(bits)?;
    let channels = bits.take(4)?;
    if kind == 5 || kind == 29 {
        frequency(bits)?; // of the extension; frames are counted in the core's rate
        kind = object(bits)?;
    }
    // GASpecificConfig (table 4.1) of the plain kinds.
    if !matches!(kind, 1..=4) || channels == 0 || rate == 0 {
        return None;
    }
    let short = bits.bit()?;
    if bits.bit()? {
        bits.skip(14)?; // coreCoderDelay
    }
    bits.skip(1)?; // extensionFlag
    Some((rate, if short { 960 } else { FRAME_SAMPLES }))
}

fn bytes_of(bits: &mut Bits<'_>, count: usize) -> Option<Bytes> {
    bits_of(bits, count.checked_mul(8)?)
}

/// So many bits, moved to whole bytes; the last is filled with zeros.
fn bits_of(bits: &mut Bits<'_>, count: usize) -> Option<Bytes> {
    if bits.remaining() < count {
        return None;
    }
    let mut bytes = BytesMut::with_capacity(count.div_ceil(8));
    for _ in 0..count / 8 {
        bytes.put_u8(bits.take(8)? as u8);
    }
    let rest = (count % 8) as u32;
    if rest > 0 {
        bytes.put_u8((bits.take(rest)? << (8 - rest)) as u8);
    }
    Some(bytes.freeze())
}
