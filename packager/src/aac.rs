//! AAC as far as a packager must understand it: the `AudioSpecificConfig` (ISO/IEC 14496-3 §1.6.2.1). Owns no stream
//! state and never looks inside a frame.

use crate::Error;
use crate::bits::Bits;

/// Longer than any configuration with a program config element and its comment.
const CONFIG_BYTES_MAX: usize = 1024;
const RATES: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
    7_350,
];

/// A parsed `AudioSpecificConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AacConfig {
    /// Audio object type as a player should be told: 2 is LC, 5 HE-AAC, 29 HE-AAC v2.
    pub object_type: u8,
    /// Samples per second that come out of a decoder; with explicit SBR twice the core's.
    pub sample_rate: u32,
    /// Output channels; HE-AAC v2 turns one core channel into two.
    pub channels: u16,
    /// Samples per frame at [`Self::sample_rate`].
    pub frame_samples: u32,
}

impl AacConfig {
    /// Reads and checks a configuration.
    pub fn parse(config: &[u8]) -> Result<Self, Error> {
        let refuse = |reason| Error::Config { codec: "AAC", reason };
        if config.len() > CONFIG_BYTES_MAX {
            return Err(refuse("longer than 1024 bytes"));
        }
        let fields =
            fields(&mut Bits::new(config)).ok_or(refuse("cut short or reserved values"))?;
        if !(7_350..=192_000).contains(&fields.sample_rate) {
            return Err(refuse("sample rate outside 7350..=192000"));
        }
        if !(1..=64).contains(&fields.channels) {
            return Err(refuse("no channels"));
        }
        Ok(fields)
    }

    /// The RFC 6381 string, `mp4a.40.N`.
    pub fn codec_string(&self) -> String {
        format!("mp4a.40.{}", self.object_type)
    }
}

fn fields(bits: &mut Bits<'_>) -> Option<AacConfig> {
    let mut object_type = object_type_of(bits)?;
    let core_rate = rate(bits)?;
    let channel_configuration = bits.take(4)?;
    let mut core_type = object_type;
    let mut output_rate = core_rate;
    // Explicit hierarchical signalling of SBR and PS: the extension comes first, the core type after it.
    let explicit = matches!(object_type, 5 | 29);
    if explicit {
        output_rate = rate(bits)?;
        core_type = object_type_of(bits)?;
    }
    let mut frame_samples = 1024;
    let mut channels = channels_of(channel_configuration);
    if matches!(core_type, 1..=4 | 6 | 7 | 17 | 19..=23) {
        // GASpecificConfig, ISO/IEC 14496-3 §4.4.1.
        if bits.bit()? {
            frame_samples = 960;
        }
        if bits.bit()? {
            bits.skip(14)?; // coreCoderDelay
        }
        bits.skip(1)?; // extensionFlag
        if channel_configuration == 0 {
            channels = program_config_channels(bits)?;
        }
    } else if core_type == 39 {
        // ELDSpecificConfig begins with its frame length flag.
        frame_samples = if bits.bit()? { 480 } else { 512 };
    }
    // Explicit backward compatible signalling hides behind the core configuration.
    if !explicit
        && bits.remaining() >= 16
        && bits.take(11)? == 0x2b7
        && object_type_of(bits)? == 5
        && bits.bit()?
    {
        output_rate = rate(bits)?;
        object_type = 5;
        if bits.remaining() >= 12 && bits.take(11)? == 0x548 && bits.bit()? {
            object_type = 29;
        }
    }
    if output_rate == core_rate.checked_mul(2)? {
        frame_samples *= 2;
    } else {
        output_rate = core_rate;
    }
    if object_type == 29 && channels == 1 {
        channels = 2;
    }
    Some(AacConfig {
        object_type: object_type as u8,
        sample_rate: output_rate,
        channels,
        frame_samples,
    })
}

fn object_type_of(bits: &mut Bits<'_>) -> Option<u32> {
    match bits.take(5)? {
        0 => None,
        31 => Some(32 + bits.take(6)?),
        object_type => Some(object_type),
    }
}

fn rate(bits: &mut Bits<'_>) -> Option<u32> {
    match bits.take(4)? {
        15 => bits.take(24),
        index => RATES.get(index as usize).copied(),
    }
}

/// ISO/IEC 14496-3 table 1.19.
fn channels_of(configuration: u32) -> u16 {
    match configuration {
        1..=6 => configuration as u16,
        7 | 12 | 14 => 8,
        11 => 7,
        13 => 24,
        _ => 0,
    }
}

/// Counts the channels of a program config element (§4.4.1.1).
fn program_config_channels(bits: &mut Bits<'_>) -> Option<u16> {
    bits.skip(4 + 2 + 4)?; // instance tag, object type, rate index
    let pairs_or_singles = bits.take(4)? + bits.take(4)? + bits.take(4)?;
    let low_frequency = bits.take(2)?;
    let associated = bits.take(3)?;
    let coupling = bits.take(4)?;
    for mixdown_bits in [4, 4, 3] {
        if bits.bit()? {
            bits.skip(mixdown_bits)?;
        }
    }
    let mut channels = low_frequency;
    for _ in 0..pairs_or_singles {
        channels += if bits.bit()? { 2 } else { 1 };
        bits.skip(4)?;
    }
    bits.skip((low_frequency * 4 + associated * 4 + coupling * 5) as usize)?;
    // The comment at the end is byte aligned; nothing after it is of use here.
    Some(channels as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &[u8], object_type: u8, rate: u32, channels: u16, frame: u32) {
        let parsed = AacConfig::parse(config).unwrap();
        assert_eq!(
            (parsed.object_type, parsed.sample_rate, parsed.channels, parsed.frame_samples),
            (object_type, rate, channels, frame),
            "{config:02x?}"
        );
    }

    #[test]
    fn configurations_seen_in_the_wild() {
        check(&[0x11, 0x90], 2, 48_000, 2, 1024); // LC 48 kHz stereo
        check(&[0x12, 0x10], 2, 44_100, 2, 1024); // LC 44.1 kHz stereo
        check(&[0x12, 0x08], 2, 44_100, 1, 1024); // mono
        check(&[0x11, 0xb0], 2, 48_000, 6, 1024); // 5.1
        check(&[0x11, 0xb8], 2, 48_000, 8, 1024); // 7.1
        check(&[0x11, 0x94], 2, 48_000, 2, 960); // frame length flag
        check(&[0x2b, 0x11, 0x88, 0x00], 5, 48_000, 2, 2048); // explicit HE-AAC, 24 kHz core
        check(&[0xeb, 0x09, 0x88, 0x00], 29, 48_000, 2, 2048); // explicit HE-AAC v2, mono core
        check(&[0x13, 0x10, 0x56, 0xe5, 0x98], 5, 48_000, 2, 2048); // backward compatible HE-AAC
        check(&[0x11, 0x90, 0x56, 0xe5, 0x00], 2, 48_000, 2, 1024); // SBR explicitly absent (libavcodec)
    }

    #[test]
    fn codec_string_names_the_object_type() {
        assert_eq!(AacConfig::parse(&[0x11, 0x90]).unwrap().codec_string(), "mp4a.40.2");
        assert_eq!(
            AacConfig::parse(&[0x2b, 0x11, 0x88, 0x00]).unwrap().codec_string(),
            "mp4a.40.5"
        );
    }

    #[test]
    fn absurd_configurations_are_refused() {
        for config in [
            &[][..],
            &[0x11],
            &[0, 0],
            &[0x17, 0x80, 0, 0, 0, 0, 0],
            &[0x16, 0x90],
            &[0x11, 0x80],
            &[0xff; 3],
        ] {
            assert!(AacConfig::parse(config).is_err(), "{config:02x?}");
        }
        assert!(AacConfig::parse(&[0x11; 2000]).is_err());
    }
}
