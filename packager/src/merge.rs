//! Joins single-track CMAF into one file: several track headers become one `moov`, and chunks get the track id they have
//! there. Works by splicing boxes, so nothing a header says is lost; reads no samples.

use bytes::Bytes;

use crate::boxes::{Child, children, find, u32_at, u64_at, version_flags};
use crate::fmp4::Error;

const TRACKS_MAX: usize = 16;
const INIT_BYTES_MAX: usize = 256 * 1024;

/// One header for all the tracks. The track at index `i` gets the track id `i + 1`; pass that to [`rewrite_chunk`].
pub fn merge_inits<'a>(inits: impl IntoIterator<Item = &'a [u8]>) -> Result<Bytes, Error> {
    let mut mvhd: Option<Vec<u8>> = None;
    let (mut traks, mut trexs) = (Vec::new(), Vec::new());
    let mut count = 0u32;
    for init in inits {
        count += 1;
        if count as usize > TRACKS_MAX {
            return Err(Error::TooMany("tracks"));
        }
        if init.len() > INIT_BYTES_MAX {
            return Err(Error::TooLarge {
                kind: "init",
                size: init.len() as u64,
                max: INIT_BYTES_MAX as u64,
            });
        }
        let moov = find(init, *b"moov").ok_or(Error::Malformed("moov"))?.body;
        let whole = |child: Child<'_>, parent: &[u8]| {
            parent.get(child.at..child.body_at + child.body.len()).map(<[u8]>::to_vec)
        };
        if mvhd.is_none() {
            mvhd = find(moov, *b"mvhd").and_then(|child| whole(child, moov));
        }
        let trak = find(moov, *b"trak").ok_or(Error::Malformed("trak"))?;
        let tkhd = find(trak.body, *b"tkhd").ok_or(Error::Malformed("tkhd"))?;
        let id_at =
            if version_flags(tkhd.body).ok_or(Error::Malformed("tkhd"))?.0 == 1 { 20 } else { 12 };
        let mut bytes = whole(trak, moov).ok_or(Error::Malformed("trak"))?;
        put(&mut bytes, trak.body_at - trak.at + tkhd.body_at + id_at, count)?;
        traks.extend(bytes);
        let mvex = find(moov, *b"mvex").ok_or(Error::Malformed("mvex"))?;
        let trex = find(mvex.body, *b"trex").ok_or(Error::Malformed("trex"))?;
        let mut bytes = whole(trex, mvex.body).ok_or(Error::Malformed("trex"))?;
        put(&mut bytes, trex.body_at - trex.at + 4, count)?;
        trexs.extend(bytes);
    }
    let mut mvhd = mvhd.ok_or(Error::Truncated)?;
    // next_track_ID is the last field (ISO/IEC 14496-12 §8.2.2.2).
    let next_at = mvhd.len().checked_sub(4).ok_or(Error::Malformed("mvhd"))?;
    put(&mut mvhd, next_at, count + 1)?;
    let mvex = plain_box(*b"mvex", &[&trexs]);
    let mut out = plain_box(*b"ftyp", &[b"iso6\0\0\0\0", b"iso6", b"cmfc", b"mp41"]);
    out.extend(plain_box(*b"moov", &[&mvhd, &traks, &mvex]));
    Ok(out.into())
}

/// Gives a chunk another track id and sequence number, in place: `prft`, `mfhd` and `tfhd` are patched, nothing moves.
pub fn rewrite_chunk(chunk: &mut [u8], track_id: u32, sequence: u32) -> Result<(), Error> {
    let mut patches = [None; 3];
    let [reference, number, track] = &mut patches;
    for child in children(chunk) {
        let child = child.ok_or(Error::Malformed("chunk"))?;
        match &child.kind {
            b"prft" => *reference = Some((child.body_at + 4, track_id)),
            b"moof" => {
                let mfhd = find(child.body, *b"mfhd").ok_or(Error::Malformed("mfhd"))?;
                *number = Some((child.body_at + mfhd.body_at + 4, sequence));
                let traf = find(child.body, *b"traf").ok_or(Error::Malformed("traf"))?;
                let tfhd = find(traf.body, *b"tfhd").ok_or(Error::Malformed("tfhd"))?;
                *track = Some((child.body_at + traf.body_at + tfhd.body_at + 4, track_id));
            }
            _ => {}
        }
    }
    if track.is_none() {
        return Err(Error::Malformed("moof"));
    }
    for (at, value) in patches.into_iter().flatten() {
        put(chunk, at, value)?;
    }
    Ok(())
}

/// The decode time a chunk starts at, in its track's timescale.
pub fn decode_time(chunk: &[u8]) -> Option<u64> {
    let (at, version) = tfdt_at(chunk)?;
    let body = chunk.get(at..)?;
    if version == 1 { u64_at(body, 0) } else { u32_at(body, 0).map(u64::from) }
}

/// Moves a chunk `ticks` back in time, in place, and no further than to zero. The producer reference keeps its wall time and
/// moves along.
pub fn rebase_chunk(chunk: &mut [u8], ticks: u64) -> Result<(), Error> {
    let (at, version) = tfdt_at(chunk).ok_or(Error::Malformed("tfdt"))?;
    let mut places = vec![(at, version)];
    if let Some(Some(first)) = children(chunk).next()
        && &first.kind == b"prft"
        && let Some((version, _)) = version_flags(first.body)
        && first.body.len() >= if version == 1 { 24 } else { 20 }
    {
        places.push((first.body_at + 16, version));
    }
    for (at, version) in places {
        let body = chunk.get(at..).ok_or(Error::Malformed("box"))?;
        if version == 1 {
            let time = u64_at(body, 0).ok_or(Error::Malformed("box"))?.saturating_sub(ticks);
            put(chunk, at, (time >> 32) as u32)?;
            put(chunk, at + 4, time as u32)?;
        } else {
            let time = u64::from(u32_at(body, 0).ok_or(Error::Malformed("box"))?);
            put(chunk, at, time.saturating_sub(ticks) as u32)?;
        }
    }
    Ok(())
}

/// Where the decode time of a chunk stands, and the version of its box.
fn tfdt_at(chunk: &[u8]) -> Option<(usize, u8)> {
    let moof = find(chunk, *b"moof")?;
    let traf = find(moof.body, *b"traf")?;
    let tfdt = find(traf.body, *b"tfdt")?;
    let (version, _) = version_flags(tfdt.body)?;
    Some((moof.body_at + traf.body_at + tfdt.body_at + 4, version))
}

fn put(bytes: &mut [u8], at: usize, value: u32) -> Result<(), Error> {
    let end = at.checked_add(4).ok_or(Error::Malformed("box"))?;
    bytes.get_mut(at..end).ok_or(Error::Malformed("box"))?.copy_from_slice(&value.to_be_bytes());
    Ok(())
}

fn plain_box(kind: [u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let size = 8 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Vec::with_capacity(size);
    out.extend((size as u32).to_be_bytes());
    out.extend(kind);
    for part in parts {
        out.extend(*part);
    }
    out
}
