//! Real SRT senders against the real binary, each ending at `weir play`: what ffmpeg sends is written to a file beside it,
//! and every NAL unit and audio frame of the recording must be one of that file, in order, with none missing in between. Debian's ffmpeg
//! (5.1) comes from PATH; `WEIR_FFMPEG9` names a newer one.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where it finds something wrong"
)]

mod media;
#[path = "../../bench/src/netem.rs"]
#[expect(unreachable_pub, reason = "it is public where it lives")]
mod netem;
mod process;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use media::{assert_part, pictures, sounds};
use process::{Node, WEIR, play, text};
use serde_json::Value;

/// An input of a node, with its key.
struct Input {
    id: String,
    srt: String,
}

fn input(node: &Node, more: &[&str]) -> Input {
    let output = Command::new(WEIR)
        .args(["input", "create", "--name", "srt", "--ingest", "srt", "--json", "--data-dir"])
        .arg(node.data_dir())
        .args(more)
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    Input { id: word(&made["id"]), srt: word(&made["urls"]["srt"]) }
}

fn playback(node: &Node, input: &Input) -> String {
    let output = Command::new(WEIR)
        .args(["token", "mint", &input.id, "--json", "--data-dir"])
        .arg(node.data_dir())
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let minted: Value = serde_json::from_slice(&output.stdout).unwrap();
    minted["playback_url"].as_str().unwrap().to_owned()
}

/// A sender that runs until it is dropped.
struct Sender {
    child: Child,
    sent: PathBuf,
}

impl Sender {
    /// Sends what it writes to a file too: the same packets through the same muxer.
    fn start(ffmpeg: &str, codecs: &[&str], url: &str, folder: &Path) -> Self {
        let sent = folder.join("sent.ts");
        let both = format!("[f=mpegts]{url}|[f=mpegts]{}", sent.to_str().unwrap());
        let child = Command::new(ffmpeg)
            .args(["-nostdin", "-v", "error", "-y", "-re", "-f", "lavfi", "-i"])
            .args(["testsrc=s=320x180:r=25", "-re", "-f", "lavfi", "-i", "anoisesrc=r=48000:a=0.3"])
            .args(["-t", "60", "-pix_fmt", "yuv420p", "-preset", "ultrafast", "-g", "25"])
            .args(codecs)
            .args(["-map", "0:v", "-map", "1:a", "-f", "tee", &both])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, sent }
    }

    /// Stops it and gives the file of what it sent.
    fn stop(mut self) -> PathBuf {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.child.wait().unwrap();
        self.sent.clone()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("weir-srt-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// What one sender sends.
struct Case {
    name: &'static str,
    ffmpeg: String,
    codecs: &'static [&'static str],
    /// ffmpeg's format of the video as a byte stream.
    format: &'static str,
    /// Flags of the input.
    flags: &'static [&'static str],
}

impl Case {
    fn new(name: &'static str, ffmpeg: &str, flags: &'static [&'static str]) -> Self {
        let ffmpeg = ffmpeg.to_owned();
        Self { name, ffmpeg, codecs: H264, format: "h264", flags }
    }
}

/// Publishes, records three seconds, and compares.
fn publish_and_compare(node: &Node, case: &Case, url: &str, input: &Input) {
    let Case { name, ffmpeg, codecs, format, .. } = case;
    let folder = folder(name);
    let sender = Sender::start(ffmpeg, codecs, url, &folder);
    node.wait_until("a live input", |node| {
        node.log().contains(&format!("\"input\":\"{}\",\"state\":\"live\"", input.id))
    });
    let recorded = folder.join("out.mp4");
    let output =
        play(&playback(node, input), &["--duration", "3", "-o", recorded.to_str().unwrap()]);
    assert!(output.status.success(), "{name}: {}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(table.contains("video") && table.contains("audio"), "{name}: {table}");
    let sent = sender.stop();
    let (of_sender, of_viewer) =
        (pictures(ffmpeg, &sent, format), pictures("ffmpeg", &recorded, format));
    assert_part(&format!("{name}: pictures"), &of_viewer, &of_sender, 50);
    let is_aac = codecs.contains(&"aac");
    let (of_sender, of_viewer) = (sounds(ffmpeg, &sent, is_aac), sounds(ffmpeg, &recorded, is_aac));
    assert_part(&format!("{name}: sounds"), &of_viewer, &of_sender, 50);
    let decoded = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-xerror", "-i", recorded.to_str().unwrap()])
        .args(["-f", "null", "-"])
        .output()
        .unwrap();
    assert!(decoded.status.success(), "{name}: {}", text(&decoded.stderr));
    fs::remove_dir_all(&folder).unwrap();
}

const H264: &[&str] = &["-c:v", "libx264", "-c:a", "aac"];
const HEVC: &[&str] =
    &["-c:v", "libx265", "-x265-params", "log-level=error:keyint=25", "-c:a", "libopus"];

fn newer() -> String {
    std::env::var("WEIR_FFMPEG9").unwrap_or_else(|_| {
        panic!("WEIR_FFMPEG9 names no ffmpeg; scripts/test sets it from imageio-ffmpeg")
    })
}

#[test]
fn ffmpegs_publish_over_srt_in_the_clear_and_encrypted_and_every_byte_arrives() {
    let node = Node::start_sharded("srt-senders", &["up"], 2);
    let newer = newer();
    let cases = [
        Case::new("debian", "ffmpeg", &[]),
        Case::new("aes-128", &newer, &["--passphrase", "auto"]),
        Case::new("aes-192", &newer, &["--passphrase", "auto", "--pbkeylen", "24"]),
        Case::new("aes-256", "ffmpeg", &["--passphrase", "0123456789", "--pbkeylen", "32"]),
        Case { codecs: HEVC, format: "hevc", ..Case::new("hevc", &newer, &[]) },
    ];
    for case in &cases {
        let input = input(&node, case.flags);
        publish_and_compare(&node, case, &input.srt, &input);
        let secret = input.srt.split("passphrase=").nth(1).unwrap_or("no passphrase");
        assert!(!node.log().contains(secret.split('&').next().unwrap()), "a passphrase in the log");
    }
    node.stop();
}

#[test]
fn five_percent_loss_and_twenty_milliseconds_lose_no_frame() {
    let node = Node::start_sharded("srt-loss", &["up"], 1);
    let input = input(&node, &[]);
    let path = netem::Path {
        loss: 0.05,
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(5),
        reorder: 0.01,
        reorder_by: Duration::from_millis(8),
        ..netem::Path::default()
    };
    let target = node.address("srt").parse().unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let relay =
        netem::Netem::start(netem::Options { listen, target, there: path, back: path, seed: 5 });
    let relay = relay.unwrap();
    let url = input.srt.replace(node.address("srt"), &relay.address().to_string());
    let url = format!("{url}&latency=400000");
    publish_and_compare(&node, &Case::new("loss", &newer(), &[]), &url, &input);
    assert!(relay.counts().lost > 0, "nothing was lost on the way");
    assert_eq!(node.metric("weir_samples_lost_total{shard=\"0\"} "), 0);
    node.stop();
}

#[test]
fn a_refused_caller_hears_why_and_delays_nobody() {
    let node = Node::start_sharded("srt-refused", &["up"], 1);
    let (open, sealed) = (input(&node, &[]), input(&node, &["--passphrase", "auto"]));
    let address = node.address("srt");
    let wrong = format!("srt://{address}?streamid={}:sk_live_wrong", open.id);
    let nobody = format!("srt://{address}?streamid=lv_nobody:sk_live_wrong");
    let clear = sealed.srt.split("&passphrase").next().unwrap().to_owned();
    let bad_secret = format!("{clear}&passphrase=not-the-right-one");
    let not_needed = format!("{}&passphrase=not-needed-here", open.srt);
    let reading = format!("srt://{address}?streamid=#!::r={},m=request", open.id);
    for url in [&wrong, &nobody, &clear, &bad_secret, &not_needed, &reading] {
        let output = Command::new("ffmpeg")
            .args([
                "-nostdin",
                "-v",
                "error",
                "-f",
                "lavfi",
                "-i",
                "testsrc=s=64x64:r=5",
                "-t",
                "1",
            ])
            .args(["-f", "mpegts", url])
            .output()
            .unwrap();
        assert!(!output.status.success(), "{url} was let in");
    }
    // Logged once for an address and a minute; counted each time.
    assert_eq!(node.log().matches("SRT publisher refused").count(), 1);
    node.wait_until("refusals", |node| {
        node.metric("weir_srt_publishers_refused_total{shard=\"0\"} ") == 6
    });
    let folder = folder("refused");
    let sender = Sender::start("ffmpeg", H264, &open.srt, &folder);
    node.wait_for_metric("weir_srt_publishers{shard=\"0\"} 1");
    drop(sender);
    fs::remove_dir_all(&folder).unwrap();
    node.stop();
}
