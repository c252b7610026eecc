//! Publishers of a real node over RTMP: what they leave behind, and what is said of them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

mod process;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use process::{Node, WEIR, text};
use serde_json::Value;
use weir_feed::rtmp::client::{Replies, Writer, tags};

/// What is there without publishers, at most: each shard tells the nodes below it two things on tracks
/// of its own.
const QUIET: [(&str, u64); 6] = [
    ("weir_broadcasts", 0),
    ("weir_broadcasts_live", 0),
    ("weir_cache_bytes", 2_048 * SHARDS as u64),
    ("weir_namespaces", 0),
    ("weir_subscriptions", 0),
    ("weir_tracks", 2 * SHARDS as u64),
];
const SHARDS: u16 = 2;

/// A publisher that speaks RTMP by hand.
struct Publisher {
    stream: TcpStream,
    writer: Writer,
    said: Vec<String>,
}

impl Publisher {
    /// Connects and asks; what the node answered is in `said`.
    fn ask(node: &Node, input: &Value) -> Self {
        let mut stream = TcpStream::connect(node.address("rtmp")).unwrap();
        let (id, key) = (input["id"].as_str().unwrap(), input["stream_key"].as_str().unwrap());
        let mut writer = Writer::publishing("live", &format!("{id}?sk={key}"));
        stream.write_all(&writer.take()).unwrap();
        let mut replies = Replies::new();
        let mut said: Vec<String> = Vec::new();
        let mut buffer = [0; 4096];
        while !said.iter().any(|line| line.contains("NetStream.Publish")) {
            let length = stream.read(&mut buffer).unwrap();
            assert!(length > 0, "closed after {said:?}");
            said.extend(replies.read(&buffer[..length]));
        }
        Self { stream, writer, said }
    }

    fn is_accepted(&self) -> bool {
        self.said.iter().any(|line| line.contains("NetStream.Publish.Start"))
    }

    /// A second of pictures and sound.
    fn send(&mut self) {
        let writer = &mut self.writer;
        writer.set_chunk_size(65_536);
        writer.video(0, tags::VIDEO_CONFIGURATION).audio(0, tags::AUDIO_CONFIGURATION);
        for frame in 0..30 {
            writer.video(frame * 33, &tags::picture(frame == 0, 0, 2_000));
            writer.audio(frame * 33, &tags::audio(200));
        }
        self.stream.write_all(&self.writer.take()).unwrap();
    }

    /// Pictures, one every 20 ms, until `over` and for a minute at most: a publisher that is silent for a second has lost its place.
    fn send_on(&mut self, over: &AtomicBool) {
        let mut at = 1_000;
        while !over.load(Ordering::Relaxed) && at < 61_000 {
            self.writer.video(at, &tags::picture(false, 0, 2_000));
            self.stream.write_all(&self.writer.take()).unwrap();
            at += 20;
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Says goodbye and waits until the node has closed.
    fn leave(mut self) {
        self.writer.unpublish();
        self.stream.write_all(&self.writer.take()).unwrap();
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = self.stream.read_to_end(&mut Vec::new());
    }
}

fn weir(node: &Node, line: &[&str]) -> Value {
    let output =
        Command::new(WEIR).args(line).arg("--data-dir").arg(node.data_dir()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn new_input(node: &Node, more: &[&str]) -> Value {
    let create = ["input", "create", "--name", "Stage", "--json"];
    weir(node, &[&create[..], more].concat())
}

/// The sum of a family over the shards.
fn sum(node: &Node, name: &str) -> u64 {
    (0..SHARDS).map(|shard| node.metric(&format!("{name}{{shard=\"{shard}\"}}"))).sum()
}

fn sockets(node: &Node) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap();
    let target = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
    files
        .filter_map(|entry| target(entry.ok()?))
        .filter(|path| path.to_string_lossy().starts_with("socket:"))
        .count()
}

fn resident_kib(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn two_hundred_publishers_come_and_go_and_leave_nothing_behind() {
    let node = Node::start_sharded("leaks", &["up"], SHARDS);
    let inputs: Vec<Value> =
        (0..20).map(|_| new_input(&node, &["--reconnect-window", "0s"])).collect();
    let round = |number: usize| {
        let mut publishers: Vec<_> =
            inputs.iter().map(|input| Publisher::ask(&node, input)).collect();
        for publisher in &mut publishers {
            assert!(publisher.is_accepted(), "{:?}", publisher.said);
            publisher.send();
        }
        let samples = 60 * 20 * (number as u64 + 1);
        node.wait_until("all media", |node| sum(node, "weir_samples_received_total") == samples);
        assert_eq!(sum(&node, "weir_broadcasts"), 20);
        for (place, publisher) in publishers.into_iter().enumerate() {
            // Half of them say goodbye, the others break off.
            if place % 2 == 0 {
                publisher.leave();
            }
        }
        for (name, most) in QUIET {
            node.wait_until(name, |node| sum(node, name) <= most);
        }
    };
    (0..2).for_each(&round);
    let (open, resident) = (sockets(&node), resident_kib(&node));
    (2..12).for_each(&round);
    // The first count may have seen a connection of a page that was about to close.
    node.wait_until("every socket closed", |node| sockets(node) <= open);
    let grown = resident_kib(&node).saturating_sub(resident);
    // A publisher's session, packager and caches are some 500 KiB: 200 of them would be 100 MiB.
    assert!(grown < 16 * 1024, "{grown} KiB more after 200 publishers");
    for input in &inputs {
        let id = input["id"].as_str().unwrap();
        node.wait_until("the input idle", |node| {
            weir(node, &["input", "show", id, "--json"])["state"] == "idle"
        });
    }
    node.stop();
}

#[test]
fn an_input_tells_its_state_and_health_and_takes_its_own_protocol_only() {
    let node = Node::start_sharded("states", &["up"], SHARDS);
    let input = new_input(&node, &["--reconnect-window", "1s"]);
    let id = input["id"].as_str().unwrap();
    let is = |state: &'static str| {
        node.wait_until(state, |node| {
            weir(node, &["input", "show", id, "--json"])["state"] == state
        });
    };
    assert_eq!(weir(&node, &["input", "show", id, "--json"])["state"], "idle");
    let mut publisher = Publisher::ask(&node, &input);
    assert!(publisher.is_accepted(), "{:?}", publisher.said);
    is("connected");
    publisher.send();
    is("live");
    let over = AtomicBool::new(false);
    let second = std::thread::scope(|scope| {
        scope.spawn(|| publisher.send_on(&over));
        let second = Publisher::ask(&node, &input);
        over.store(true, Ordering::Relaxed);
        second
    });
    assert!(second.said.iter().any(|line| line.contains("BadName")), "{:?}", second.said);
    node.wait_until("its health", |node| {
        let told = weir(node, &["input", "health", id, "--json"]);
        let (health, codec) = (&told["health"], &told["health"]["video_codec"]);
        *codec == "avc1.42c00c" && health["width"] == 320 && told["measured_at"].is_string()
    });
    publisher.leave();
    is("reconnecting");
    is("idle");
    let shown = weir(&node, &["input", "show", id, "--json"]);
    assert_eq!(shown["state_reason"], "window_over");
    assert_eq!(shown["protocol"], "rtmp");

    let other = new_input(&node, &["--ingest", "srt"]);
    let refused = Publisher::ask(&node, &other);
    let said = refused.said.join("\n");
    assert!(said.contains("input_disabled") && said.contains("another protocol"), "{said}");
    let log = node.stop();
    let key = input["stream_key"].as_str().unwrap();
    assert!(!log.contains(key), "the key is in the log");
    for state in ["connected", "live", "reconnecting", "idle"] {
        assert!(log.contains(&format!("\"state\":\"{state}\"")), "no line for {state}");
    }
}
