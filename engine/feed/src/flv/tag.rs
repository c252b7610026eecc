//! Headers of FLV tag bodies, in the old dialect (codec numbers) and enhanced RTMP's (`FourCC`s,
//! modifiers, several tracks in one tag). Both end in the same parts, so that a further codec is one
//! more arm here and one more configuration above. Knows nothing of tracks' histories or of what is
//! inside a coded picture.

use bytes::{Buf, Bytes};

use super::TagKind;
use crate::Unsupported;

/// What one tag carries for one track.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Part {
    /// Enhanced RTMP's track id; 0 where there is none.
    pub(super) number: u8,
    pub(super) coding: Coding,
    /// To add to the time of the message, below a millisecond.
    pub(super) nanos: u32,
    pub(super) body: Body,
}

#[derive(Debug, Eq, PartialEq)]
pub(super) enum Body {
    /// What the codec's sequence start holds, as it came.
    Configuration(Bytes),
    /// One coded access unit, and its presentation minus its decode time.
    Coded { composition_offset: i32, data: Bytes },
    /// A tag cut short.
    Malformed,
}

/// The codecs that are carried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Coding {
    Aac,
    Ac3,
    Av1,
    Avc,
    Eac3,
    Flac,
    Hevc,
    Opus,
    Vp9,
}

const FLV_AVC: u8 = 7;
/// What several vendors agreed on before enhanced RTMP existed: the header of AVC, an hvcC record.
const FLV_HEVC: u8 = 12;
const FLV_AAC: u8 = 10;
/// Sound format that announces an enhanced audio header.
const FLV_ENHANCED_AUDIO: u8 = 9;
/// Frame type of a tag that holds a seek command instead of a picture.
const FRAME_COMMAND: u8 = 5;
/// Modifiers in front of one tag. One kind is defined; a tag of nothing else is a joke.
const MODIFIERS_MAX: usize = 8;

/// Packet types of enhanced video and, where they exist, audio.
mod packet {
    pub(super) const SEQUENCE_START: u8 = 0;
    pub(super) const CODED_FRAMES: u8 = 1;
    pub(super) const SEQUENCE_END: u8 = 2;
    /// Video: coded frames without a composition offset.
    pub(super) const CODED_FRAMES_X: u8 = 3;
    pub(super) const VIDEO_METADATA: u8 = 4;
    /// Video: AV1's configuration as a descriptor of MPEG-2 transport streams.
    pub(super) const MPEG2TS_SEQUENCE_START: u8 = 5;
    pub(super) const AUDIO_CHANNELS: u8 = 4;
    pub(super) const AUDIO_MULTITRACK: u8 = 5;
    pub(super) const VIDEO_MULTITRACK: u8 = 6;
    pub(super) const MODIFIER: u8 = 7;
}

/// How tracks share a tag.
mod multitrack {
    pub(super) const ONE: u8 = 0;
    // 1: many tracks of one codec.
    pub(super) const MANY_CODECS: u8 = 2;
}

/// Reads a tag body part by part. An error is about what cannot be carried at all.
pub(super) fn read(
    kind: TagKind,
    body: &Bytes,
    emit: &mut impl FnMut(Part),
) -> Result<(), Unsupported> {
    let mut rest = body.clone();
    let Ok(first) = rest.try_get_u8() else { return Ok(()) };
    match kind {
        TagKind::Video if first & 0x80 != 0 => {
            enhanced(kind, (first >> 4) & 0x07, first & 0x0f, rest, emit)
        }
        TagKind::Video => video(first, rest, emit),
        TagKind::Audio if first >> 4 == FLV_ENHANCED_AUDIO => {
            enhanced(kind, 0, first & 0x0f, rest, emit)
        }
        TagKind::Audio => audio(first, rest, emit),
    }
}

/// The old video header.
fn video(first: u8, mut rest: Bytes, emit: &mut impl FnMut(Part)) -> Result<(), Unsupported> {
    if (first >> 4) & 0x07 == FRAME_COMMAND {
        return Ok(());
    }
    let coding = match first & 0x0f {
        FLV_AVC => Coding::Avc,
        FLV_HEVC => Coding::Hevc,
        id => return Err(Unsupported::VideoCodecId(id)),
    };
    let body = match (rest.try_get_u8().ok(), take_i24(&mut rest)) {
        (Some(0), Some(_)) => Body::Configuration(rest),
        (Some(1), Some(_)) if rest.is_empty() => return Ok(()),
        (Some(1), Some(composition_offset)) => Body::Coded { composition_offset, data: rest },
        (Some(2), Some(_)) => return Ok(()),
        _ => Body::Malformed,
    };
    emit(Part { number: 0, coding, nanos: 0, body });
    Ok(())
}

/// The old audio header.
fn audio(first: u8, mut rest: Bytes, emit: &mut impl FnMut(Part)) -> Result<(), Unsupported> {
    if first >> 4 != FLV_AAC {
        return Err(Unsupported::AudioFormat(first >> 4));
    }
    let body = match rest.try_get_u8() {
        Ok(0 | 1) if rest.is_empty() => return Ok(()),
        Ok(0) => Body::Configuration(rest),
        Ok(1) => Body::Coded { composition_offset: 0, data: rest },
        _ => Body::Malformed,
    };
    emit(Part { number: 0, coding: Coding::Aac, nanos: 0, body });
    Ok(())
}

/// Enhanced RTMP v2, "Enhanced Video" and "Enhanced Audio": modifiers, then perhaps a table of
/// tracks, then bodies behind a `FourCC`.
fn enhanced(
    kind: TagKind,
    frame_type: u8,
    packet_type: u8,
    mut rest: Bytes,
    emit: &mut impl FnMut(Part),
) -> Result<(), Unsupported> {
    let malformed =
        Part { number: 0, coding: default_coding(kind), nanos: 0, body: Body::Malformed };
    let Some((mut packet_type, nanos)) = modifiers(packet_type, &mut rest) else {
        emit(malformed);
        return Ok(());
    };
    let command = kind == TagKind::Video && frame_type == FRAME_COMMAND;
    if command && packet_type != packet::VIDEO_METADATA {
        return Ok(());
    }
    let multitrack = match kind {
        TagKind::Video => packet::VIDEO_MULTITRACK,
        TagKind::Audio => packet::AUDIO_MULTITRACK,
    };
    if packet_type != multitrack {
        let Some(coding) = four_cc(kind, &mut rest)? else {
            emit(malformed);
            return Ok(());
        };
        return one(kind, 0, coding, packet_type, nanos, rest, emit);
    }
    let Ok(layout) = rest.try_get_u8() else {
        emit(malformed);
        return Ok(());
    };
    packet_type = layout & 0x0f;
    let layout = layout >> 4;
    if layout > multitrack::MANY_CODECS || packet_type == multitrack {
        emit(malformed);
        return Ok(());
    }
    let shared = if layout == multitrack::MANY_CODECS { None } else { four_cc(kind, &mut rest)? };
    loop {
        let coding = match shared {
            None if layout == multitrack::MANY_CODECS => four_cc(kind, &mut rest)?,
            shared => shared,
        };
        let (Some(coding), Ok(number)) = (coding, rest.try_get_u8()) else {
            emit(malformed);
            return Ok(());
        };
        let body = match layout {
            multitrack::ONE => std::mem::take(&mut rest),
            // Many of one codec or of several: a length each.
            _ => match take_u24(&mut rest) {
                Some(length) if length <= rest.len() => rest.split_to(length),
                _ => {
                    emit(malformed);
                    return Ok(());
                }
            },
        };
        one(kind, number, coding, packet_type, nanos, body, emit)?;
        if rest.is_empty() {
            return Ok(());
        }
    }
}

/// The body of one track.
fn one(
    kind: TagKind,
    number: u8,
    coding: Coding,
    packet_type: u8,
    nanos: u32,
    mut rest: Bytes,
    emit: &mut impl FnMut(Part),
) -> Result<(), Unsupported> {
    let body = match (kind, packet_type) {
        (_, packet::SEQUENCE_END)
        | (TagKind::Video, packet::VIDEO_METADATA)
        | (TagKind::Audio, packet::AUDIO_CHANNELS) => return Ok(()),
        (TagKind::Video, packet::MPEG2TS_SEQUENCE_START) => return Err(Unsupported::Mpeg2Ts),
        (TagKind::Audio, packet::SEQUENCE_START) if rest.is_empty() => return Ok(()),
        (_, packet::SEQUENCE_START) => Body::Configuration(rest),
        (TagKind::Video, packet::CODED_FRAMES) if matches!(coding, Coding::Avc | Coding::Hevc) => {
            match take_i24(&mut rest) {
                Some(_) if rest.is_empty() => return Ok(()),
                Some(composition_offset) => Body::Coded { composition_offset, data: rest },
                None => Body::Malformed,
            }
        }
        (TagKind::Video, packet::CODED_FRAMES | packet::CODED_FRAMES_X)
        | (TagKind::Audio, packet::CODED_FRAMES) => {
            if rest.is_empty() {
                return Ok(());
            }
            Body::Coded { composition_offset: 0, data: rest }
        }
        _ => Body::Malformed,
    };
    emit(Part { number, coding, nanos, body });
    Ok(())
}

/// For damage in front of the `FourCC`.
fn default_coding(kind: TagKind) -> Coding {
    match kind {
        TagKind::Audio => Coding::Aac,
        TagKind::Video => Coding::Avc,
    }
}

/// Reads `ModEx` blocks: a length less one in 8 bits (255 of it: 16 bits follow), that many bytes,
/// then a byte with the block's type and the next packet type. Type 0 is an offset in nanoseconds;
/// others mean nothing yet. Gives the packet type behind them.
fn modifiers(mut packet_type: u8, rest: &mut Bytes) -> Option<(u8, u32)> {
    let mut nanos = 0;
    let mut count = 0;
    while packet_type == packet::MODIFIER {
        count += 1;
        let mut length = usize::from(rest.try_get_u8().ok()?) + 1;
        if length == 256 {
            length = usize::from(rest.try_get_u16().ok()?) + 1;
        }
        if rest.len() < length || count > MODIFIERS_MAX {
            return None;
        }
        let mut value = rest.split_to(length);
        let next = rest.try_get_u8().ok()?;
        if next >> 4 == 0 {
            // Three bytes, less than a millisecond; what else stands there is not believed.
            nanos = take_u24(&mut value).filter(|nanos| *nanos < 1_000_000).unwrap_or(0) as u32;
        }
        packet_type = next & 0x0f;
    }
    Some((packet_type, nanos))
}

/// `None` if the tag is cut short.
fn four_cc(kind: TagKind, rest: &mut Bytes) -> Result<Option<Coding>, Unsupported> {
    let Ok(four_cc) = rest.try_get_u32().map(u32::to_be_bytes) else { return Ok(None) };
    Ok(Some(match (kind, &four_cc) {
        (TagKind::Video, b"avc1") => Coding::Avc,
        (TagKind::Video, b"hvc1") => Coding::Hevc,
        (TagKind::Video, b"av01") => Coding::Av1,
        (TagKind::Video, b"vp09") => Coding::Vp9,
        (TagKind::Audio, b"mp4a") => Coding::Aac,
        (TagKind::Audio, b"Opus") => Coding::Opus,
        (TagKind::Audio, b"fLaC") => Coding::Flac,
        (TagKind::Audio, b"ac-3") => Coding::Ac3,
        (TagKind::Audio, b"ec-3") => Coding::Eac3,
        (TagKind::Video, _) => return Err(Unsupported::VideoFourCc(four_cc)),
        (TagKind::Audio, _) => return Err(Unsupported::AudioFourCc(four_cc)),
    }))
}

fn take_i24(rest: &mut Bytes) -> Option<i32> {
    if rest.len() < 3 {
        return None;
    }
    Some(rest.get_int(3) as i32)
}

fn take_u24(rest: &mut Bytes) -> Option<usize> {
    if rest.len() < 3 {
        return None;
    }
    Some(rest.get_uint(3) as usize)
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
