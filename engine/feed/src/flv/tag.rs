//! Headers of FLV tag bodies, in the old dialect (codec numbers) and enhanced RTMP's (`FourCC`s).
//! Both end in the same two enums, so that a further codec is one more arm here and one more
//! configuration above. Knows nothing of tracks or of what is inside a coded picture.

use bytes::{Buf, Bytes};

use super::TagKind;
use crate::Unsupported;

/// What a video tag carries.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum VideoBody {
    /// An `AVCDecoderConfigurationRecord`.
    Configuration(Bytes),
    Malformed,
    /// Seek commands, end of sequence, colour metadata, empty tags.
    Nothing,
    /// Length-prefixed NAL units and presentation minus decode time.
    Picture {
        composition_offset: i32,
        nals: Bytes,
    },
}

/// What an audio tag carries.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum AudioBody {
    /// An `AudioSpecificConfig`.
    Configuration(Bytes),
    Malformed,
    Nothing,
    /// One raw AAC frame.
    Raw(Bytes),
}

const FLV_AVC: u8 = 7;
const FLV_AAC: u8 = 10;
/// Sound format that announces an enhanced audio header.
const FLV_ENHANCED_AUDIO: u8 = 9;
/// Frame type of a tag that holds a seek command instead of a picture.
const FRAME_COMMAND: u8 = 5;

/// Packet types of enhanced video and, where they exist, audio.
mod packet {
    pub(super) const SEQUENCE_START: u8 = 0;
    pub(super) const CODED_FRAMES: u8 = 1;
    pub(super) const SEQUENCE_END: u8 = 2;
    /// Video: coded frames without a composition offset.
    pub(super) const CODED_FRAMES_X: u8 = 3;
    pub(super) const VIDEO_METADATA: u8 = 4;
    pub(super) const AUDIO_CHANNELS: u8 = 4;
    pub(super) const AUDIO_MULTITRACK: u8 = 5;
    pub(super) const VIDEO_MULTITRACK: u8 = 6;
    pub(super) const MODIFIER: u8 = 7;
}

/// Reads a video tag body.
pub(super) fn video(body: &Bytes) -> Result<VideoBody, Unsupported> {
    let mut rest = body.clone();
    let Ok(first) = rest.try_get_u8() else { return Ok(VideoBody::Nothing) };
    let frame_type = (first >> 4) & 0x07;
    if first & 0x80 != 0 {
        return enhanced_video(frame_type, first & 0x0f, rest);
    }
    if frame_type == FRAME_COMMAND {
        return Ok(VideoBody::Nothing);
    }
    if first & 0x0f != FLV_AVC {
        return Err(Unsupported::VideoCodecId(first & 0x0f));
    }
    let Ok(packet_type) = rest.try_get_u8() else { return Ok(VideoBody::Malformed) };
    let Some(composition_offset) = take_i24(&mut rest) else { return Ok(VideoBody::Malformed) };
    Ok(match packet_type {
        0 => VideoBody::Configuration(rest),
        1 if rest.is_empty() => VideoBody::Nothing,
        1 => VideoBody::Picture { composition_offset, nals: rest },
        2 => VideoBody::Nothing,
        _ => VideoBody::Malformed,
    })
}

/// Reads an audio tag body.
pub(super) fn audio(body: &Bytes) -> Result<AudioBody, Unsupported> {
    let mut rest = body.clone();
    let Ok(first) = rest.try_get_u8() else { return Ok(AudioBody::Nothing) };
    match first >> 4 {
        FLV_AAC => {}
        FLV_ENHANCED_AUDIO => return enhanced_audio(first & 0x0f, rest),
        format => return Err(Unsupported::AudioFormat(format)),
    }
    let Ok(packet_type) = rest.try_get_u8() else { return Ok(AudioBody::Malformed) };
    Ok(match packet_type {
        0 | 1 if rest.is_empty() => AudioBody::Nothing,
        0 => AudioBody::Configuration(rest),
        1 => AudioBody::Raw(rest),
        _ => AudioBody::Malformed,
    })
}

/// Enhanced RTMP v2, "Enhanced Video": the low four bits are the packet type, a `FourCC` follows.
fn enhanced_video(
    frame_type: u8,
    packet_type: u8,
    mut rest: Bytes,
) -> Result<VideoBody, Unsupported> {
    let Some(packet_type) = skip_modifiers(packet_type, &mut rest) else {
        return Ok(VideoBody::Malformed);
    };
    match packet_type {
        packet::VIDEO_MULTITRACK => return Err(Unsupported::Multitrack),
        packet::VIDEO_METADATA => return Ok(VideoBody::Nothing),
        _ if frame_type == FRAME_COMMAND => return Ok(VideoBody::Nothing),
        _ => {}
    }
    match take_four_cc(&mut rest) {
        Some(four_cc) if &four_cc == b"avc1" => {}
        Some(four_cc) => return Err(Unsupported::VideoFourCc(four_cc)),
        None => return Ok(VideoBody::Malformed),
    }
    let composition_offset = match packet_type {
        packet::SEQUENCE_START => return Ok(VideoBody::Configuration(rest)),
        packet::SEQUENCE_END => return Ok(VideoBody::Nothing),
        packet::CODED_FRAMES_X => Some(0),
        packet::CODED_FRAMES => take_i24(&mut rest),
        _ => None,
    };
    Ok(match composition_offset {
        Some(_) if rest.is_empty() => VideoBody::Nothing,
        Some(composition_offset) => VideoBody::Picture { composition_offset, nals: rest },
        None => VideoBody::Malformed,
    })
}

/// Enhanced RTMP v2, "Enhanced Audio".
fn enhanced_audio(packet_type: u8, mut rest: Bytes) -> Result<AudioBody, Unsupported> {
    let Some(packet_type) = skip_modifiers(packet_type, &mut rest) else {
        return Ok(AudioBody::Malformed);
    };
    if packet_type == packet::AUDIO_MULTITRACK {
        return Err(Unsupported::Multitrack);
    }
    match take_four_cc(&mut rest) {
        Some(four_cc) if &four_cc == b"mp4a" => {}
        Some(four_cc) => return Err(Unsupported::AudioFourCc(four_cc)),
        None => return Ok(AudioBody::Malformed),
    }
    Ok(match packet_type {
        packet::SEQUENCE_END | packet::AUDIO_CHANNELS => AudioBody::Nothing,
        packet::SEQUENCE_START | packet::CODED_FRAMES if rest.is_empty() => AudioBody::Nothing,
        packet::SEQUENCE_START => AudioBody::Configuration(rest),
        packet::CODED_FRAMES => AudioBody::Raw(rest),
        _ => AudioBody::Malformed,
    })
}

/// Skips `ModEx` blocks: a length less one in 8 bits (255 of it: 16 bits follow), that many bytes,
/// then a byte whose low half is the next packet type.
fn skip_modifiers(mut packet_type: u8, rest: &mut Bytes) -> Option<u8> {
    while packet_type == packet::MODIFIER {
        let mut length = usize::from(rest.try_get_u8().ok()?) + 1;
        if length == 256 {
            length = usize::from(rest.try_get_u16().ok()?) + 1;
        }
        if rest.len() < length {
            return None;
        }
        rest.advance(length);
        packet_type = rest.try_get_u8().ok()? & 0x0f;
    }
    Some(packet_type)
}

fn take_four_cc(rest: &mut Bytes) -> Option<[u8; 4]> {
    rest.try_get_u32().ok().map(u32::to_be_bytes)
}

fn take_i24(rest: &mut Bytes) -> Option<i32> {
    if rest.len() < 3 {
        return None;
    }
    Some(rest.get_int(3) as i32)
}

/// Tags inside an RTMP aggregate message (RTMP 1.0 section 7.1.6): kind, timestamp relative to the
/// first, body. Stops quietly where the bytes stop making sense.
#[derive(Debug)]
pub(crate) struct Aggregate {
    rest: Bytes,
    first_timestamp: Option<u32>,
}

impl Aggregate {
    pub(crate) fn new(payload: &Bytes) -> Self {
        Self { rest: payload.clone(), first_timestamp: None }
    }
}

impl Iterator for Aggregate {
    type Item = (TagKind, u32, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let [kind, l0, l1, l2, t0, t1, t2, t3, ..] = *self.rest.first_chunk::<11>()?;
            let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
            // The high byte of the timestamp comes last.
            let timestamp = u32::from_be_bytes([t3, t0, t1, t2]);
            self.rest.advance(11);
            if self.rest.len() < length {
                self.rest.clear();
                return None;
            }
            let body = self.rest.split_to(length);
            // A back pointer follows each tag; the last one is sometimes missing.
            self.rest.advance(self.rest.len().min(4));
            let first = *self.first_timestamp.get_or_insert(timestamp);
            let timestamp = timestamp.wrapping_sub(first);
            match kind & 0x1f {
                8 => return Some((TagKind::Audio, timestamp, body)),
                9 => return Some((TagKind::Video, timestamp, body)),
                _ => {}
            }
        }
    }
}
