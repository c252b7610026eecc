//! A real WHIP sender against the real binary, ending at `weir play`: ffmpeg writes what it sends to a file beside it, and
//! every slice and every Opus packet of the recording must be one of that file. `WEIR_FFMPEG9` names the ffmpeg.

#![expect(clippy::unwrap_used, reason = "a test ends where it finds something wrong")]

mod media;
mod process;

use std::process::{Command, Stdio};

use media::{assert_part, pictures, sounds};
use process::{Node, WEIR, play, text};
use serde_json::Value;

fn weir(node: &Node, args: &[&str]) -> Value {
    let output = Command::new(WEIR)
        .args(args)
        .arg("--data-dir")
        .arg(node.data_dir())
        .arg("--json")
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The longest packet that we put where none came.
const SILENCE_BYTES_MAX: usize = 3;

#[test]
fn what_ffmpeg_publishes_by_whip_reaches_the_viewer_byte_for_byte() {
    let ffmpeg = std::env::var("WEIR_FFMPEG9").unwrap_or_else(|_| {
        panic!("WEIR_FFMPEG9 names no ffmpeg; scripts/test sets it from imageio-ffmpeg")
    });
    let node = Node::start_sharded("whip-sender", &["up"], 2);
    let made = weir(&node, &["input", "create", "--name", "whip", "--ingest", "whip"]);
    let (id, key) = (made["id"].as_str().unwrap(), made["stream_key"].as_str().unwrap());
    let minted = weir(&node, &["token", "mint", id]);
    let tail = minted["playback_url"].as_str().unwrap().splitn(4, '/').nth(3).unwrap().to_owned();
    let playback = format!("https://{}/{tail}", node.address("quic"));
    let (sent, recorded) = (node.data_dir().join("sent.ts"), node.data_dir().join("out.mp4"));
    let both = format!(
        "[f=whip:authorization={key}]http://{}/whip/{id}|[f=mpegts]{}",
        node.address("http"),
        sent.to_str().unwrap(),
    );
    let mut sender = Command::new(&ffmpeg)
        .args(["-nostdin", "-v", "error", "-y", "-re", "-f", "lavfi", "-i"])
        .args(["testsrc=s=320x180:r=25", "-re", "-f", "lavfi", "-i", "anoisesrc=r=48000:a=0.3"])
        .args(["-t", "60", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast"])
        .args(["-profile:v", "baseline", "-g", "25", "-c:a", "libopus", "-ac", "2"])
        // The WHIP muxer wants the parameter sets beside the stream.
        .args(["-map", "0:v", "-map", "1:a", "-flags", "+global_header", "-f", "tee", &both])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    node.wait_until("a live input", |node| {
        node.log().contains(&format!("\"input\":\"{id}\",\"state\":\"live\""))
    });
    let output = play(&playback, &["--duration", "3", "-o", recorded.to_str().unwrap()]);
    assert!(output.status.success(), "{} {}", text(&output.stderr), node.log());
    assert!(
        Command::new("kill").args(["-INT", &sender.id().to_string()]).status().unwrap().success()
    );
    sender.wait().unwrap();
    let (of_sender, of_viewer) =
        (pictures(&ffmpeg, &sent, "h264"), pictures(&ffmpeg, &recorded, "h264"));
    assert_part("pictures", &of_viewer, &of_sender, 50);
    // A machine that stalls for long lets silence in; what was sent is whole all the same.
    let was_sent = |(bytes, _): &(usize, String)| *bytes > SILENCE_BYTES_MAX;
    let of_viewer: Vec<_> =
        sounds(&ffmpeg, &recorded, false).into_iter().filter(was_sent).collect();
    assert_part("sounds", &of_viewer, &sounds(&ffmpeg, &sent, false), 50);
    let log = node.stop();
    assert!(!log.contains(key), "the key is in the log");
}
