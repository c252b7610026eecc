//! `weir up --demo` and `weir play` as an operator runs them: two processes of the real binary, real sockets, and ffprobe
//! and ffmpeg as judges of what was recorded.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where it finds something wrong"
)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// A node that runs for one test; stopped by SIGINT when the test is done.
struct Node {
    dir: PathBuf,
    child: Child,
    ready: Value,
}

impl Node {
    fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("weir-play-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let log = File::create(dir.join("log")).unwrap();
        let mut child = Command::new(WEIR)
            .args(["up", "--demo", "--shards", "1", "--log", "debug", "--data-dir"])
            .arg(dir.join("data"))
            .arg("--ready-file")
            .arg(dir.join("ready.json"))
            .args(["--http", "127.0.0.1:0", "--https", "127.0.0.1:0"])
            .args(["--quic", "127.0.0.1:0", "--rtmp", "127.0.0.1:0"])
            .args(["--rtmps", "127.0.0.1:0", "--srt", "127.0.0.1:0", "--whip", "127.0.0.1:0"])
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        // The card is printed once everything serves and the ready file is whole.
        let mut card = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while card.read_line(&mut line).unwrap() > 0 && !line.contains("Ctrl-C") {}
        let ready = fs::read_to_string(dir.join("ready.json"));
        let ready = ready.unwrap_or_else(|_| panic!("not ready: {}", read(&dir.join("log"))));
        let ready = serde_json::from_str(&ready).unwrap();
        Self { dir, child, ready }
    }

    fn demo(&self, field: &str) -> String {
        self.ready["demo"][field].as_str().unwrap().to_owned()
    }

    /// Stops the node and gives its log.
    fn stop(mut self) -> String {
        self.interrupt();
        assert!(self.child.wait().unwrap().success());
        read(&self.dir.join("log"))
    }

    fn interrupt(&self) {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-INT", &pid]).status().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn play(url: &str, more: &[&str]) -> Output {
    Command::new(WEIR)
        .args(["play", url, "--insecure", "--log", "debug"])
        .args(more)
        .env_clear()
        .output()
        .unwrap()
}

fn read(path: &Path) -> String {
    let mut text = String::new();
    File::open(path).unwrap().read_to_string(&mut text).unwrap();
    text
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn probe(file: &Path, entries: &str) -> Value {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "json", "-show_entries", entries])
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_broadcast_is_recorded_whole_over_both_transports_and_a_draft_of_each_family() {
    let node = Node::start("record");
    let webtransport = node.demo("playback_url");
    let quic = webtransport.replace("https://", "moqt://");
    let mut said = String::new();
    for (url, draft) in [
        (&webtransport, "22"),
        (&quic, "20"),
        (&webtransport, "18"),
        (&quic, "16"),
        (&webtransport, "16"),
        (&quic, "18"),
        (&webtransport, "14"),
        (&quic, "14"),
    ] {
        let file = node.dir.join("out.mp4");
        let path = file.to_str().unwrap();
        let output = play(url, &["--duration", "3", "--draft", draft, "-o", path]);
        said += &text(&output.stderr);
        assert!(output.status.success(), "draft {draft}: {}", text(&output.stderr));
        let table = text(&output.stdout);
        assert!(table.contains("video") && table.contains("audio"), "{table}");

        let streams = probe(&file, "stream=codec_name,start_time:format=duration");
        let codecs: Vec<_> =
            streams["streams"].as_array().unwrap().iter().map(|s| &s["codec_name"]).collect();
        assert_eq!(codecs.len(), 2, "{streams}");
        assert!(codecs.contains(&&Value::from("h264")) && codecs.contains(&&Value::from("aac")));
        let duration: f64 = streams["format"]["duration"].as_str().unwrap().parse().unwrap();
        assert!((1.0..10.0).contains(&duration), "the file starts at zero: {streams}");

        let packets = probe(&file, "packet=stream_index,dts");
        for stream in 0..2 {
            let times: Vec<i64> = packets["packets"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|packet| packet["stream_index"] == stream)
                .map(|packet| packet["dts"].as_i64().unwrap())
                .collect();
            assert!(times.len() > 20 && times.is_sorted_by(|a, b| a < b), "{times:?}");
        }
        let decoded = Command::new("ffmpeg")
            .args(["-v", "error", "-xerror", "-i", path, "-f", "null", "-"])
            .output()
            .unwrap();
        assert!(decoded.status.success(), "{}", text(&decoded.stderr));
        assert_eq!(text(&decoded.stderr), "");
    }

    let (key, url) = (node.demo("stream_key"), webtransport);
    let token = url.split("tok=").nth(1).unwrap().to_owned();
    said += &node.stop();
    assert!(said.len() > 1000, "debug logs were written");
    for (name, secret) in [("stream key", &key), ("token", &token)] {
        assert!(!said.contains(secret.as_str()), "the {name} is in a log");
    }
}

#[test]
fn a_bad_token_is_one_clear_error() {
    let node = Node::start("token");
    let good = node.demo("playback_url");
    let (place, token) = good.split_once("?tok=").unwrap();
    for bad in [format!("{good}x"), place.to_owned(), format!("{place}?tok=abc")] {
        for url in [bad.clone(), bad.replace("https://", "moqt://")] {
            let output = play(&url, &["--duration", "5"]);
            assert_eq!(output.status.code(), Some(1));
            let said = text(&output.stderr);
            assert!(said.contains("error: auth_failed: "), "{said}");
            assert!(!said.contains(token), "the token is in an error");
            assert_eq!(text(&output.stdout), "");
        }
    }
    node.stop();
}

#[test]
fn a_certificate_of_no_authority_is_refused_unless_asked() {
    let node = Node::start("trust");
    let url = node.demo("playback_url");
    let output = Command::new(WEIR).args(["play", &url, "--duration", "5"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--insecure"), "{}", text(&output.stderr));
    node.stop();
}

#[test]
fn the_end_of_the_node_ends_the_recording_without_error() {
    let node = Node::start("end");
    let url = node.demo("playback_url").replace("https://", "moqt://");
    let mut player = Command::new(WEIR)
        .args(["play", &url, "--insecure", "-o", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The header in the pipe means that media flows.
    let mut head = [0; 8];
    let mut out = player.stdout.take().unwrap();
    out.read_exact(&mut head).unwrap();
    assert_eq!(&head[4..], b"ftyp");
    node.interrupt();
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    let output = player.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("video"), "{}", text(&output.stderr));
    node.stop();
}

#[test]
fn a_port_in_use_is_one_clear_error() {
    let dir = std::env::temp_dir().join(format!("weir-play-{}-ports", std::process::id()));
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = tcp.local_addr().unwrap().to_string();
    let udp = udp.local_addr().unwrap().to_string();
    for (flag, address) in
        [("--http", &tcp), ("--https", &tcp), ("--rtmp", &tcp), ("--quic", &udp), ("--srt", &udp)]
    {
        let mut command = Command::new(WEIR);
        command.args(["up", "--shards", "1", "--log", "error", "--data-dir"]).arg(&dir);
        for listener in ["--http", "--https", "--rtmp", "--quic", "--rtmps", "--srt", "--whip"] {
            let here = if listener == flag { address } else { "127.0.0.1:0" };
            command.args([listener, here]);
        }
        let output = command.env_clear().output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{flag}");
        let said = text(&output.stderr);
        assert!(said.contains(&format!("{address} is in use")) && said.contains(flag), "{said}");
        assert_eq!(said.lines().count(), 2, "one error, one help: {said}");
    }
    let _ = fs::remove_dir_all(dir);
}
