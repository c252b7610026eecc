//! What is in a media file, by ffmpeg: coded pictures byte for byte, hashes of coded sounds, and whether they are those
//! that were sent.
#![allow(
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a failing test panics"
)]

use std::path::Path;
use std::process::Command;

fn ffmpeg(ffmpeg: &str, args: &[&str]) -> Vec<u8> {
    let output =
        Command::new(ffmpeg).args(["-nostdin", "-v", "error"]).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The slices of a file's pictures, as NAL units; `format` is `h264` or `hevc`.
pub fn pictures(program: &str, file: &Path, format: &str) -> Vec<Vec<u8>> {
    let (file, filter) = (file.to_str().unwrap(), format!("{format}_mp4toannexb"));
    let stream = ffmpeg(
        program,
        &["-i", file, "-map", "0:v", "-c", "copy", "-bsf:v", &filter, "-f", format, "-"],
    );
    let is_slice = |unit: &&[u8]| {
        let head = unit.first().copied().unwrap_or_default();
        match format {
            "h264" => (1..=5).contains(&(head & 0x1f)),
            _ => head >> 1 & 0x3f < 32,
        }
    };
    weir_feed::annexb::Units::new(&stream).filter(is_slice).map(<[u8]>::to_vec).collect()
}

/// Size and hash of each of a file's coded sounds, without what the container puts around them.
pub fn sounds(program: &str, file: &Path, is_aac: bool) -> Vec<(usize, String)> {
    let mut args = vec!["-i", file.to_str().unwrap(), "-map", "0:a", "-c", "copy"];
    if is_aac {
        args.extend(["-bsf:a", "aac_adtstoasc"]);
    }
    args.extend(["-f", "framehash", "-hash", "md5", "-"]);
    let text = String::from_utf8(ffmpeg(program, &args)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            // Stream, decode time, presentation time, duration, size, hash, and what the container says beside.
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            (fields[4].parse().unwrap(), fields[5].to_owned())
        })
        .collect()
}

/// Everything that arrived was sent, in this order, with nothing missing in between.
pub fn assert_part<T: PartialEq>(what: &str, got: &[T], sent: &[T], at_least: usize) {
    assert!(got.len() >= at_least, "{what}: {} arrived", got.len());
    // Coded silence and the like may come more than once.
    let same =
        |at: usize| got.iter().zip(&sent[at..]).take_while(|(got, sent)| got == sent).count();
    let most = (0..sent.len()).map(same).max().unwrap_or(0);
    assert!(most == got.len(), "{what}: number {most} of {} is not what was sent", got.len());
}
