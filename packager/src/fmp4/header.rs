//! `moov` to track configurations. Tracks of unknown codecs are left out, their samples skipped.

use bytes::Bytes;

use super::Error;
use crate::boxes::{children, find, u16_at, u32_at, version_flags};
use crate::{Codec, TrackConfig, TrackId};

const TRACKS_MAX: usize = 16;

/// A track with the defaults its fragments build upon.
#[derive(Debug, Clone)]
pub(super) struct Track {
    pub(super) config: TrackConfig,
    pub(super) default_duration: u32,
    pub(super) default_size: u32,
    pub(super) default_flags: u32,
    /// Where the next fragment starts if it does not say.
    pub(super) next_dts: u64,
}

/// The tracks of an initialisation segment (`ftyp` and `moov`).
pub fn tracks_of(init: &[u8]) -> Result<Vec<TrackConfig>, Error> {
    let moov = find(init, *b"moov").ok_or(Error::Malformed("moov"))?;
    Ok(parse(moov.body)?.tracks.into_iter().map(|track| track.config).collect())
}

/// Tracks we can read, and the sample entries of those we cannot.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) tracks: Vec<Track>,
    pub(super) unknown: Vec<[u8; 4]>,
}

pub(super) fn parse(moov: &[u8]) -> Result<Header, Error> {
    let mut tracks: Vec<Track> = Vec::new();
    let mut unknown: Vec<[u8; 4]> = Vec::new();
    for child in children(moov) {
        let child = child.ok_or(Error::Malformed("moov"))?;
        if &child.kind != b"trak" {
            continue;
        }
        if tracks.len() + unknown.len() >= TRACKS_MAX {
            return Err(Error::TooMany("tracks"));
        }
        let Trak { track_id, timescale, entry, codec } =
            trak(child.body).ok_or(Error::Malformed("trak"))?;
        let Some(codec) = codec.filter(|_| timescale > 0) else {
            unknown.push(entry);
            continue;
        };
        if tracks.iter().any(|track| track.config.track == TrackId(track_id)) {
            return Err(Error::Malformed("trak"));
        }
        tracks.push(Track {
            config: TrackConfig { track: TrackId(track_id), timescale, codec },
            default_duration: 0,
            default_size: 0,
            default_flags: 0,
            next_dts: 0,
        });
    }
    if let Some(mvex) = find(moov, *b"mvex") {
        for trex in children(mvex.body).flatten().filter(|child| &child.kind == b"trex") {
            let word = |index: usize| u32_at(trex.body, index * 4);
            let (Some(id), Some(duration), Some(size), Some(flags)) =
                (word(1), word(3), word(4), word(5))
            else {
                return Err(Error::Malformed("trex"));
            };
            if let Some(track) = tracks.iter_mut().find(|track| track.config.track == TrackId(id)) {
                (track.default_duration, track.default_size, track.default_flags) =
                    (duration, size, flags);
            }
        }
    }
    Ok(Header { tracks, unknown })
}

/// What a `trak` says of its samples.
struct Trak {
    track_id: u32,
    timescale: u32,
    /// Kind of the sample entry.
    entry: [u8; 4],
    /// If we know it.
    codec: Option<Codec>,
}

fn trak(body: &[u8]) -> Option<Trak> {
    let tkhd = find(body, *b"tkhd")?.body;
    let track_id = u32_at(tkhd, if version_flags(tkhd)?.0 == 1 { 20 } else { 12 })?;
    let mdia = find(body, *b"mdia")?.body;
    let mdhd = find(mdia, *b"mdhd")?.body;
    let timescale = u32_at(mdhd, if version_flags(mdhd)?.0 == 1 { 20 } else { 12 })?;
    let minf = find(mdia, *b"minf")?.body;
    let stbl = find(minf, *b"stbl")?.body;
    let stsd = find(stbl, *b"stsd")?.body;
    let entry = children(stsd.get(8..)?).next()??;
    let codec = codec(entry.kind, entry.body);
    Some(Trak { track_id, timescale, entry: entry.kind, codec })
}

/// The codec of a sample entry.
fn codec(kind: [u8; 4], body: &[u8]) -> Option<Codec> {
    // The fixed part of a visual sample entry is 78 bytes, of an audio one 28 (ISO/IEC 14496-12 §12.1.3, §12.2.3).
    let video = |config: [u8; 4]| Some(find(body.get(78..)?, config)?.body);
    let audio = |config: [u8; 4]| Some(find(body.get(audio_entry_bytes(body)?..)?, config)?.body);
    let copy = Bytes::copy_from_slice;
    Some(match &kind {
        b"avc1" | b"avc3" => Codec::H264 { record: copy(video(*b"avcC")?) },
        b"hvc1" | b"hev1" => Codec::Hevc { record: copy(video(*b"hvcC")?) },
        b"av01" => Codec::Av1 { record: copy(video(*b"av1C")?) },
        b"vp09" => Codec::Vp9 { record: copy(video(*b"vpcC")?.get(4..)?) },
        b"mp4a" => Codec::Aac { config: copy(specific(audio(*b"esds")?.get(4..)?)?) },
        b"Opus" => Codec::Opus { head: copy(audio(*b"dOps")?) },
        // A full box, then the header of the first metadata block, which must be STREAMINFO.
        b"fLaC" => {
            let body = audio(*b"dfLa")?.get(4..)?;
            let is_stream_info = matches!(body.first()?, 0 | 0x80);
            Codec::Flac { stream_info: copy(body.get(4..38).filter(|_| is_stream_info)?) }
        }
        b"ac-3" => Codec::Ac3 { specific: copy(audio(*b"dac3")?) },
        b"ec-3" => Codec::Eac3 { specific: copy(audio(*b"dec3")?) },
        _ => return None,
    })
}

/// `QuickTime`'s version 1 and 2 entries carry more fields.
fn audio_entry_bytes(entry: &[u8]) -> Option<usize> {
    Some(match u16_at(entry, 8)? {
        1 => 28 + 16,
        2 => 28 + 36,
        _ => 28,
    })
}

/// Digs the decoder specific descriptor out of the nested descriptors of ISO/IEC 14496-1 §7.2.6.
fn specific(mut body: &[u8]) -> Option<&[u8]> {
    // An elementary stream descriptor holds a decoder config descriptor holds the decoder specific one.
    for (tag, fixed) in [(3, 3), (4, 13), (5, 0)] {
        let content = loop {
            let (found, content, rest) = descriptor(body)?;
            if found == tag {
                break content;
            }
            body = rest;
        };
        let optional = if tag == 3 { es_optional_bytes(content)? } else { 0 };
        body = content.get(fixed + optional..)?;
    }
    Some(body)
}

fn es_optional_bytes(content: &[u8]) -> Option<usize> {
    let flags = *content.get(2)?;
    let depends = if flags & 0x80 != 0 { 2 } else { 0 };
    let url = if flags & 0x40 != 0 { 1 + usize::from(*content.get(3 + depends)?) } else { 0 };
    Some(depends + url + if flags & 0x20 != 0 { 2 } else { 0 })
}

fn descriptor(body: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, mut rest) = body.split_first()?;
    let mut size = 0usize;
    for _ in 0..4 {
        let (&byte, tail) = rest.split_first()?;
        rest = tail;
        size = size << 7 | usize::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    let (content, rest) = rest.split_at_checked(size)?;
    Some((tag, content, rest))
}
