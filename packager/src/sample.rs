//! What a feed hands over: track configurations and coded samples. Owns the vocabulary shared by feed, packager and the
//! fMP4 reader; knows nothing of how either came over the wire.

use bytes::Bytes;

/// A track of one feed. The feed assigns it and never uses it twice for different tracks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackId(pub u32);

/// How the samples of a track are coded, with the out-of-band configuration a decoder needs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Codec {
    /// H.264 in length-prefixed form.
    H264 {
        /// The `AVCDecoderConfigurationRecord` (ISO/IEC 14496-15 §5.3.3.1).
        record: Bytes,
    },
    /// HEVC in length-prefixed form.
    Hevc {
        /// The `HEVCDecoderConfigurationRecord` (ISO/IEC 14496-15 §8.3.3.1).
        record: Bytes,
    },
    /// AV1; a sample is the OBUs of one temporal unit, without its temporal delimiter.
    Av1 {
        /// The `AV1CodecConfigurationRecord` (AV1 in ISOBMFF §2.3.3).
        record: Bytes,
    },
    /// VP9; a sample is one frame or superframe.
    Vp9 {
        /// The `VPCodecConfigurationRecord`: the body of `vpcC` behind its version and flags (VP in ISOBMFF §2.2).
        record: Bytes,
    },
    /// Raw AAC frames.
    Aac {
        /// The `AudioSpecificConfig` (ISO/IEC 14496-3 §1.6.2.1).
        config: Bytes,
    },
    /// Opus packets, each of 2.5 to 120 ms.
    Opus {
        /// The body of `dOps` (Opus in ISOBMFF §4.3.2): version 0, big-endian.
        head: Bytes,
    },
    /// FLAC frames.
    Flac {
        /// The STREAMINFO block without its header, 34 bytes (RFC 9639 §8.2).
        stream_info: Bytes,
    },
    /// AC-3 syncframes.
    Ac3 {
        /// The body of `dac3` (ETSI TS 102 366 §F.4).
        specific: Bytes,
    },
    /// Enhanced AC-3 syncframes, those of all substreams of one time span together.
    Eac3 {
        /// The body of `dec3` (ETSI TS 102 366 §F.6).
        specific: Bytes,
    },
}

/// Describes a track; sent before its first sample and again whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackConfig {
    /// Which track.
    pub track: TrackId,
    /// Units per second of [`Sample::dts`] and [`Sample::composition_offset`].
    pub timescale: u32,
    /// Codec and its configuration.
    pub codec: Codec,
}

/// One coded access unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The track it belongs to.
    pub track: TrackId,
    /// Decode time in the track's timescale, as the publisher stamped it (unrolled, but otherwise not to be trusted).
    pub dts: i64,
    /// Presentation time minus decode time, in the track's timescale.
    pub composition_offset: i32,
    /// The publisher says that decoding can start here. Audio samples are all keyframes.
    pub keyframe: bool,
    /// What [`Codec`] calls a sample: length-prefixed NAL units, a temporal unit, one audio frame.
    pub data: Bytes,
}
