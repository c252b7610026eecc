//! Opus as far as a packager must understand it: the identification header and how long a packet lasts. Owns no stream
//! state and decodes nothing.

use crate::Error;

/// Opus always decodes at this rate (RFC 6716 §2).
pub(crate) const SAMPLE_RATE: u32 = 48_000;
/// 120 ms, the longest packet there is (RFC 6716 §3.2.5).
const PACKET_SAMPLES_MAX: u32 = 5_760;

/// A parsed `dOps` body (Opus in ISOBMFF §4.3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpusConfig {
    /// Output channels.
    pub channels: u8,
    /// Samples at 48 kHz that a decoder throws away at the start.
    pub pre_skip: u16,
}

impl OpusConfig {
    /// Reads and checks a header.
    pub fn parse(head: &[u8]) -> Result<Self, Error> {
        let refuse = |reason| Error::Config { codec: "Opus", reason };
        let ([version, channels, skip_high, skip_low, _, _, _, _, _, _, family], mapping) =
            head.split_first_chunk::<11>().ok_or(refuse("header cut short"))?;
        if *version != 0 {
            return Err(refuse("header version is not 0"));
        }
        // Family 0 is mono and stereo in one stream; others bring stream counts and a mapping (RFC 7845 §5.1.1).
        let fits = match family {
            0 => (1..=2).contains(channels) && mapping.is_empty(),
            1 => (1..=8).contains(channels) && mapping.len() == 2 + usize::from(*channels),
            _ => {
                *channels >= 1
                    && mapping.len() >= 2 + usize::from(*channels)
                    && mapping.len() <= 257
            }
        };
        if !fits {
            return Err(refuse("channels and mapping do not fit together"));
        }
        Ok(Self { channels: *channels, pre_skip: u16::from_be_bytes([*skip_high, *skip_low]) })
    }
}

/// Samples in a packet, from its table-of-contents byte (RFC 6716 §3.1).
pub(crate) fn packet_samples(packet: &[u8]) -> Result<u32, Error> {
    let bad = Error::Sample("not an Opus packet");
    let (&toc, rest) = packet.split_first().ok_or(bad.clone())?;
    let frame = match toc >> 3 {
        config @ 0..12 => [480, 960, 1920, 2880].get(usize::from(config & 3)).copied(),
        config @ 12..16 => [480, 960].get(usize::from(config & 1)).copied(),
        config => [120, 240, 480, 960].get(usize::from(config & 3)).copied(),
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(rest.first().ok_or(bad.clone())? & 0x3f),
    };
    let samples = frame.unwrap_or(0) * frames;
    (1..=PACKET_SAMPLES_MAX).contains(&samples).then_some(samples).ok_or(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_last_as_long_as_their_first_byte_says() {
        for (packet, samples) in [
            (&[0xfc][..], 960),    // CELT fullband 20 ms
            (&[0xe0], 120),        // CELT 2.5 ms
            (&[0x18], 2880),       // SILK 60 ms
            (&[0x78], 960),        // hybrid 20 ms
            (&[0xfd], 1920),       // two frames
            (&[0xff, 0x83], 2880), // three of 20 ms, flags set
        ] {
            assert_eq!(packet_samples(packet).unwrap(), samples, "{packet:02x?}");
        }
        for packet in [&[][..], &[0xff], &[0xff, 0], &[0x1b, 3]] {
            assert!(packet_samples(packet).is_err(), "{packet:02x?}");
        }
    }

    #[test]
    fn channels_have_to_fit_their_mapping() {
        let stereo = [0, 2, 1, 0x38, 0, 0, 0xbb, 0x80, 0, 0, 0];
        let config = OpusConfig::parse(&stereo).unwrap();
        assert_eq!((config.channels, config.pre_skip), (2, 312));
        let surround = [0, 6, 1, 0x38, 0, 0, 0xbb, 0x80, 0, 0, 1, 4, 2, 0, 4, 1, 2, 3, 5];
        assert_eq!(OpusConfig::parse(&surround).unwrap().channels, 6);
        assert!(OpusConfig::parse(&surround[..18]).is_err());
        assert!(OpusConfig::parse(&[0, 3, 1, 0x38, 0, 0, 0xbb, 0x80, 0, 0, 0]).is_err());
        assert!(OpusConfig::parse(&[1, 2, 1, 0x38, 0, 0, 0xbb, 0x80, 0, 0, 0]).is_err());
        assert!(OpusConfig::parse(&stereo[..10]).is_err());
    }
}
