//! The CMAF header of one track: `ftyp` and a `moov` without samples, with `mvex` to announce fragments (ISO/IEC 14496-12
//! §8). Written by hand, since all of it but the sample entry is the same for every track.

use bytes::Bytes;

use super::entry::boxed;
use super::{FLAGS_DEPENDENT, FLAGS_SYNC};
use crate::codec::{AudioConfig, VideoConfig};
use crate::fmp4;

/// The unity matrix of §6.2.2.
const MATRIX: [u8; 36] = {
    let mut matrix = [0; 36];
    matrix[1] = 1;
    matrix[17] = 1;
    matrix[32] = 0x40;
    matrix
};
/// ISO 639-2 "und", five bits a letter.
const UNDETERMINED: [u8; 4] = [0x55, 0xc4, 0, 0];

/// `ftyp` and `moov` of a video track.
pub(crate) fn video(track_id: u32, timescale: u32, config: &VideoConfig) -> Bytes {
    // vmhd: flags 1, copy mode, no colour.
    let media_header = full(*b"vmhd", 1, &[&[0; 8]]);
    let sides = [(config.width << 16).to_be_bytes(), (config.height << 16).to_be_bytes()].concat();
    let track = Track { id: track_id, timescale, handler: *b"vide", volume: 0, sides: &sides };
    write(&track, &media_header, &config.entry, FLAGS_DEPENDENT)
}

/// `ftyp` and `moov` of an audio track; its timescale is the sample rate.
pub(crate) fn audio(track_id: u32, config: &AudioConfig) -> Bytes {
    let media_header = full(*b"smhd", 0, &[&[0; 4]]);
    let timescale = config.sample_rate;
    let track = Track { id: track_id, timescale, handler: *b"soun", volume: 1, sides: &[0; 8] };
    write(&track, &media_header, &config.entry, FLAGS_SYNC)
}

struct Track<'a> {
    id: u32,
    timescale: u32,
    handler: [u8; 4],
    volume: u8,
    /// Width and height in 16.16 fixed point.
    sides: &'a [u8],
}

fn write(track: &Track<'_>, media_header: &[u8], entry: &[u8], flags: u32) -> Bytes {
    let id = track.id.to_be_bytes();
    let next_id = track.id.wrapping_add(1).to_be_bytes();
    let one = 1u32.to_be_bytes();
    let mvhd = full(
        *b"mvhd",
        0,
        // Times, 1000 a second, no duration, rate and volume 1.
        &[
            &[0; 8],
            &1000u32.to_be_bytes(),
            &[0; 4],
            &[0, 1, 0, 0, 1, 0],
            &[0; 10],
            &MATRIX,
            &[0; 24],
            &next_id,
        ],
    );
    // Flags: enabled, in the movie. Times, id, no duration, layer and group 0.
    let tkhd = full(
        *b"tkhd",
        3,
        &[&[0; 8], &id, &[0; 8], &[0; 12], &[track.volume, 0, 0, 0], &MATRIX, track.sides],
    );
    let mdhd =
        full(*b"mdhd", 0, &[&[0; 8], &track.timescale.to_be_bytes(), &[0; 4], &UNDETERMINED]);
    let hdlr = full(*b"hdlr", 0, &[&[0; 4], &track.handler, &[0; 12], b"weir\0"]);
    // The media is in this very file.
    let dref = full(*b"dref", 0, &[&one, &full(*b"url ", 1, &[])]);
    let dinf = boxed(*b"dinf", &[&dref]);
    let stsd = full(*b"stsd", 0, &[&one, entry]);
    let empty = [0; 4];
    let stbl = boxed(
        *b"stbl",
        &[
            &stsd,
            &full(*b"stts", 0, &[&empty]),
            &full(*b"stsc", 0, &[&empty]),
            &full(*b"stsz", 0, &[&empty, &empty]),
            &full(*b"stco", 0, &[&empty]),
        ],
    );
    let minf = boxed(*b"minf", &[media_header, &dinf, &stbl]);
    let mdia = boxed(*b"mdia", &[&mdhd, &hdlr, &minf]);
    let trak = boxed(*b"trak", &[&tkhd, &mdia]);
    let trex = full(*b"trex", 0, &[&id, &one, &[0; 8], &flags.to_be_bytes()]);
    let moov = boxed(*b"moov", &[&mvhd, &trak, &boxed(*b"mvex", &[&trex])]);
    let mut bytes = boxed(*b"ftyp", &[b"iso6\0\0\0\0", b"iso6", b"cmfc", b"mp41"]);
    bytes.extend(moov);
    debug_assert!(fmp4::tracks_of(&bytes).is_ok_and(|tracks| tracks.len() == 1));
    bytes.into()
}

/// A full box of version 0.
fn full(kind: [u8; 4], flags: u32, parts: &[&[u8]]) -> Vec<u8> {
    boxed(kind, &[&flags.to_be_bytes(), &parts.concat()])
}
