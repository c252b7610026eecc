//! FLAC as far as a packager must understand it: the STREAMINFO block and how long a frame lasts. Owns no stream state.

use crate::Error;
use crate::bits::Bits;

/// A parsed STREAMINFO block (RFC 9639 §8.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlacConfig {
    /// Samples per second.
    pub sample_rate: u32,
    /// 1..=8.
    pub channels: u8,
    /// Bits per sample.
    pub bit_depth: u8,
}

impl FlacConfig {
    /// Reads and checks a block without its header.
    pub fn parse(stream_info: &[u8]) -> Result<Self, Error> {
        let refuse = |reason| Error::Config { codec: "FLAC", reason };
        if stream_info.len() != 34 {
            return Err(refuse("STREAMINFO is not 34 bytes"));
        }
        let bits = &mut Bits::new(stream_info);
        let fields = (|| {
            bits.skip(16 + 16 + 24 + 24)?; // block and frame size bounds
            Some((bits.take(20)?, bits.take(3)? + 1, bits.take(5)? + 1))
        })();
        let (sample_rate, channels, bit_depth) = fields.ok_or(refuse("cut short"))?;
        if !(4_000..=655_350).contains(&sample_rate) {
            return Err(refuse("sample rate outside 4000..=655350"));
        }
        Ok(Self { sample_rate, channels: channels as u8, bit_depth: bit_depth as u8 })
    }
}

/// Samples in a frame, from its header (RFC 9639 §9.1).
pub(crate) fn frame_samples(frame: &[u8]) -> Result<u32, Error> {
    header(frame).ok_or(Error::Sample("not a FLAC frame"))
}

fn header(frame: &[u8]) -> Option<u32> {
    let bits = &mut Bits::new(frame);
    if bits.take(15)? != 0x7ffc {
        return None;
    }
    bits.skip(1)?; // blocking strategy
    let size = bits.take(4)?;
    bits.skip(4 + 4 + 3 + 1)?; // rate, channels, bit depth
    let coded = match size {
        1 => return Some(192),
        2..=5 => return Some(144 << size),
        8..=15 => return Some(1 << size),
        6 => 8,
        7 => 16,
        _ => return None,
    };
    // The frame or sample number is coded like UTF-8: as many bytes as it has leading ones.
    let first = bits.take(8)? as u8;
    bits.skip(8 * (first.leading_ones().max(1) as usize - 1))?;
    Some(bits.take(coded)? + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_last_as_long_as_their_header_says() {
        for (frame, samples) in [
            (&[0xff, 0xf8, 0xc9, 0x18, 0x00, 0xc2][..], 4096),
            (&[0xff, 0xf8, 0x19, 0x18, 0x00], 192),
            (&[0xff, 0xf8, 0x59, 0x18, 0x00], 4608),
            (&[0xff, 0xf8, 0x69, 0x18, 0x05, 0x0f], 16),
            (&[0xff, 0xf8, 0x79, 0x18, 0xc3, 0x80, 0x03, 0xff], 1024),
        ] {
            assert_eq!(frame_samples(frame).unwrap(), samples, "{frame:02x?}");
        }
        for frame in
            [&[][..], &[0xff, 0xf8], &[0xff, 0xf8, 0x09, 0x18, 0], &[0x66, 0x4c, 0x61, 0x43]]
        {
            assert!(frame_samples(frame).is_err(), "{frame:02x?}");
        }
    }
}
