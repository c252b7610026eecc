//! What each [`Codec`] means for a track: its name in a catalog, its sample entry, its size or rate, where decoding can start
//! and how long a sample lasts. The one place that asks which codec it is; bitstreams are read in the codecs' own files.

use std::borrow::Cow;

use bytes::Bytes;

use crate::aac::AacConfig;
use crate::ac3::{self, Ac3Config};
use crate::av1::{self, Av1Config};
use crate::cmaf::entry;
use crate::flac::{self, FlacConfig};
use crate::h264::AvcConfig;
use crate::hevc::{self, HevcConfig};
use crate::opus::{self, OpusConfig};
use crate::vp9::{self, Vp9Config};
use crate::{AccessUnit, Codec, Error};

/// AC-3 and most E-AC-3: six blocks of 256.
const AC3_FRAME_SAMPLES: u32 = 1536;

/// A codec's configuration, read.
#[derive(Debug, Clone)]
pub(crate) enum Configuration {
    Video(VideoConfig),
    Audio(AudioConfig),
}

/// How pictures are coded.
#[derive(Debug, Clone)]
pub(crate) struct VideoConfig {
    pub(crate) codec_string: String,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) frame_rate: Option<(u32, u32)>,
    /// The sample entry of the init segment.
    pub(crate) entry: Vec<u8>,
    syntax: Syntax,
}

#[derive(Debug, Clone, Copy)]
enum Syntax {
    Avc { length_size: u8 },
    Hevc { length_size: u8 },
    Av1,
    Vp9,
}

/// How sound is coded.
#[derive(Debug, Clone)]
pub(crate) struct AudioConfig {
    pub(crate) codec_string: Cow<'static, str>,
    /// Also the track's timescale.
    pub(crate) sample_rate: u32,
    pub(crate) channels: u16,
    /// The sample entry of the init segment.
    pub(crate) entry: Vec<u8>,
    frame: Frame,
}

/// How long a sample lasts.
#[derive(Debug, Clone, Copy)]
enum Frame {
    Always(u32),
    Opus,
    Flac,
    Ac3,
}

/// Where a codec keeps its picture size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SizeIn {
    /// In the configuration.
    Configuration,
    /// In every keyframe: the configuration has none, or may be outlived by it.
    Keyframes,
}

impl Codec {
    /// Whether its samples are sound.
    pub fn is_audio(&self) -> bool {
        match self {
            Self::Aac { .. }
            | Self::Opus { .. }
            | Self::Flac { .. }
            | Self::Ac3 { .. }
            | Self::Eac3 { .. } => true,
            Self::H264 { .. } | Self::Hevc { .. } | Self::Av1 { .. } | Self::Vp9 { .. } => false,
        }
    }

    /// Reads the configuration, as a packager will: an error here is an error there.
    pub fn check(&self) -> Result<(), Error> {
        // Any size does where the configuration has none.
        Configuration::parse(self, Some((16, 16))).map(drop)
    }

    /// Bytes of the length in front of each NAL unit, for codecs that have NAL units.
    pub fn nal_length_size(&self) -> Option<u8> {
        let (record, at) = match self {
            Self::H264 { record } => (record, 4),
            Self::Hevc { record } => (record, 21),
            _ => return None,
        };
        Some(record.get(at).map_or(4, |byte| (byte & 3) + 1))
    }

    /// Whether decoding can start at a sample of this codec; an error if it is none. Sound can start anywhere.
    pub fn access_unit(&self, data: &[u8]) -> Result<AccessUnit, Error> {
        let length_size =
            |at: usize, record: &Bytes| record.get(at).map_or(4, |byte| (byte & 3) + 1);
        match self {
            Self::H264 { record } => AccessUnit::classify(data, length_size(4, record)),
            Self::Hevc { record } => hevc::classify(data, length_size(21, record)),
            Self::Av1 { .. } => av1::classify(data).map(|(unit, _)| unit),
            Self::Vp9 { .. } => vp9::classify(data).map(|(unit, _)| unit),
            _ => Ok(AccessUnit::Idr),
        }
    }

    pub(crate) fn size_in(&self) -> SizeIn {
        match self {
            Self::Av1 { .. } | Self::Vp9 { .. } => SizeIn::Keyframes,
            _ => SizeIn::Configuration,
        }
    }

    /// Picture size of a keyframe, where keyframes have it ([`SizeIn::Keyframes`]).
    pub(crate) fn keyframe_size(&self, data: &[u8]) -> Option<(u32, u32)> {
        match self {
            Self::Av1 { .. } => match av1::classify(data) {
                Ok((AccessUnit::Idr, Some(sequence))) => Some((sequence.width, sequence.height)),
                _ => None,
            },
            Self::Vp9 { .. } => vp9::classify(data).ok().and_then(|(_, size)| size),
            _ => None,
        }
    }
}

impl Configuration {
    /// Reads a codec's configuration; `size` is what a keyframe said, and goes before what the configuration says.
    pub(crate) fn parse(codec: &Codec, size: Option<(u32, u32)>) -> Result<Self, Error> {
        Ok(match codec {
            Codec::H264 { record } => Self::Video(VideoConfig::avc(&AvcConfig::parse(record)?)),
            Codec::Hevc { record } => {
                Self::Video(VideoConfig::hevc(&HevcConfig::parse(record)?, record))
            }
            Codec::Av1 { record } => {
                Self::Video(VideoConfig::av1(&Av1Config::parse(record)?, record, size)?)
            }
            Codec::Vp9 { record } => {
                Self::Video(VideoConfig::vp9(&Vp9Config::parse(record)?, record, size)?)
            }
            Codec::Aac { config } => {
                let aac = AacConfig::parse(config)?;
                Self::Audio(AudioConfig {
                    codec_string: aac.codec_string().into(),
                    sample_rate: aac.sample_rate,
                    channels: aac.channels,
                    entry: entry::aac(aac.channels, aac.sample_rate, config),
                    frame: Frame::Always(aac.frame_samples),
                })
            }
            Codec::Opus { head } => {
                let opus = OpusConfig::parse(head)?;
                let channels = u16::from(opus.channels);
                Self::Audio(AudioConfig {
                    codec_string: "opus".into(),
                    sample_rate: opus::SAMPLE_RATE,
                    channels,
                    entry: entry::audio(
                        *b"Opus",
                        channels,
                        16,
                        opus::SAMPLE_RATE,
                        *b"dOps",
                        &[head],
                    ),
                    frame: Frame::Opus,
                })
            }
            Codec::Flac { stream_info } => {
                let flac = FlacConfig::parse(stream_info)?;
                let channels = u16::from(flac.channels);
                // A full box with one metadata block, the last one: STREAMINFO of 34 bytes.
                let body = [&[0, 0, 0, 0, 0x80, 0, 0, 34], stream_info.as_ref()];
                let depth = u16::from(flac.bit_depth);
                Self::Audio(AudioConfig {
                    codec_string: "flac".into(),
                    sample_rate: flac.sample_rate,
                    channels,
                    entry: entry::audio(
                        *b"fLaC",
                        channels,
                        depth,
                        flac.sample_rate,
                        *b"dfLa",
                        &body,
                    ),
                    frame: Frame::Flac,
                })
            }
            Codec::Ac3 { specific } => {
                let ac3 = Ac3Config::parse_ac3(specific)?;
                Self::Audio(AudioConfig::ac3("ac-3", &ac3, *b"dac3", specific))
            }
            Codec::Eac3 { specific } => {
                let ac3 = Ac3Config::parse_eac3(specific)?;
                Self::Audio(AudioConfig::ac3("ec-3", &ac3, *b"dec3", specific))
            }
        })
    }
}

impl VideoConfig {
    fn avc(avc: &AvcConfig) -> Self {
        let (width, height) = (avc.sps.width, avc.sps.height);
        Self {
            codec_string: avc.codec_string(),
            width,
            height,
            frame_rate: avc.sps.frame_rate,
            entry: entry::video(*b"avc1", width, height, *b"avcC", &[&avc.to_record()]),
            syntax: Syntax::Avc { length_size: avc.length_size },
        }
    }

    fn hevc(hevc: &HevcConfig, record: &Bytes) -> Self {
        let (width, height) = (hevc.sps.width, hevc.sps.height);
        Self {
            codec_string: hevc.codec_string(),
            width,
            height,
            frame_rate: hevc.frame_rate,
            entry: entry::video(*b"hvc1", width, height, *b"hvcC", &[record]),
            syntax: Syntax::Hevc { length_size: hevc.length_size },
        }
    }

    fn av1(av1: &Av1Config, record: &Bytes, size: Option<(u32, u32)>) -> Result<Self, Error> {
        let stated = av1.sequence.map(|sequence| (sequence.width, sequence.height));
        let (width, height) =
            size.or(stated).ok_or(Error::Config { codec: "AV1", reason: "no picture size yet" })?;
        Ok(Self {
            codec_string: av1.codec_string(),
            width,
            height,
            frame_rate: av1.sequence.and_then(|sequence| sequence.frame_rate),
            entry: entry::video(*b"av01", width, height, *b"av1C", &[record]),
            syntax: Syntax::Av1,
        })
    }

    fn vp9(vp9: &Vp9Config, record: &Bytes, size: Option<(u32, u32)>) -> Result<Self, Error> {
        let (width, height) =
            size.ok_or(Error::Config { codec: "VP9", reason: "no picture size yet" })?;
        Ok(Self {
            codec_string: vp9.codec_string(width, height),
            width,
            height,
            frame_rate: None,
            // A full box of version 1.
            entry: entry::video(*b"vp09", width, height, *b"vpcC", &[&[1, 0, 0, 0], record]),
            syntax: Syntax::Vp9,
        })
    }

    /// Whether decoding can start at a sample.
    pub(crate) fn classify(&self, data: &[u8]) -> Result<AccessUnit, Error> {
        match self.syntax {
            Syntax::Avc { length_size } => AccessUnit::classify(data, length_size),
            Syntax::Hevc { length_size } => hevc::classify(data, length_size),
            Syntax::Av1 => av1::classify(data).map(|(unit, _)| unit),
            Syntax::Vp9 => vp9::classify(data).map(|(unit, _)| unit),
        }
    }
}

impl AudioConfig {
    fn ac3(codec: &'static str, config: &Ac3Config, kind: [u8; 4], specific: &Bytes) -> Self {
        let fourcc = if codec == "ac-3" { *b"ac-3" } else { *b"ec-3" };
        Self {
            codec_string: codec.into(),
            sample_rate: config.sample_rate,
            channels: config.channels,
            entry: entry::audio(fourcc, config.channels, 16, config.sample_rate, kind, &[specific]),
            frame: if codec == "ac-3" { Frame::Always(AC3_FRAME_SAMPLES) } else { Frame::Ac3 },
        }
    }

    /// Samples that come out of one coded frame.
    pub(crate) fn frame_samples(&self, data: &[u8]) -> Result<u32, Error> {
        match self.frame {
            Frame::Always(samples) => Ok(samples),
            Frame::Opus => opus::packet_samples(data),
            Frame::Flac => flac::frame_samples(data),
            Frame::Ac3 => ac3::frame_samples(data),
        }
    }
}
