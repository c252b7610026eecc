//! `weir publish` into an input with ingest fmp4, and `weir play` out of it: processes of the real binary, real sockets, on
//! two shards, so that publishers meet their input on the other one, too.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where it finds something wrong"
)]

mod process;

use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use process::{Node, WEIR, text};
use serde_json::Value;
use weir_packager::fmp4::{Event, Reader};

/// The demo clip: 16 s of H.264 and AAC.
fn demo() -> PathBuf {
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("set by cargo");
    Path::new(&root).join("assets/demo.mp4")
}

/// What an operator gets from `weir input create`, and a token to watch it.
struct Input {
    publish: String,
    playback: String,
}

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

fn input(node: &Node, more: &[&str]) -> Input {
    let args = [&["input", "create", "--name", "Stage", "--ingest", "fmp4"], more].concat();
    let made = weir(node, &args);
    let id = made["id"].as_str().unwrap().to_owned();
    let minted = weir(node, &["token", "mint", &id]);
    // The commands name the ports of the configuration; this node took free ones.
    let here = |url: &str, scheme: &str| {
        let tail = url.splitn(4, '/').nth(3).unwrap();
        format!("{scheme}://{}/{tail}", node.address("quic"))
    };
    Input {
        publish: here(made["urls"]["publish"].as_str().unwrap(), "moqt"),
        playback: here(minted["playback_url"].as_str().unwrap(), "https"),
    }
}

fn publish(url: &str, source: &Path, more: &[&str]) -> Child {
    Command::new(WEIR)
        .arg("publish")
        .arg(source)
        .args([url, "--insecure", "--log", "info"])
        .args(more)
        .env_clear()
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(mut child: Child) -> (Option<i32>, String) {
    let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), text(&output.stderr))
}

/// Waits until inputs went live this often.
fn wait_for_lives(node: &Node, times: usize) {
    node.wait_until("an input that goes live", |node| states(&node.log(), "live") >= times);
}

/// How often an input changed to this state.
fn states(log: &str, state: &str) -> usize {
    log.lines()
        .filter(|line| line.contains("protocol") && line.contains(&format!("\"{state}\"")))
        .count()
}

/// Plays until something was recorded for `seconds`.
fn record(node: &Node, input: &Input, seconds: &str) -> Vec<u8> {
    let file = node.data_dir().join("out.mp4");
    let played = Command::new(WEIR)
        .args(["play", &input.playback, "--insecure", "--duration", seconds, "-o"])
        .arg(&file)
        .env_clear()
        .output()
        .unwrap();
    assert!(played.status.success(), "{} {}", text(&played.stderr), node.log());
    std::fs::read(file).unwrap()
}

fn samples(file: &[u8]) -> Vec<(u32, i64, Bytes)> {
    let mut reader = Reader::new();
    reader.handle_input(file).unwrap();
    let events = std::iter::from_fn(|| reader.poll_event());
    events
        .filter_map(|event| match event {
            Event::Sample { sample, .. } => Some((sample.track.0, sample.dts, sample.data)),
            Event::Tracks(_) => None,
        })
        .collect()
}

#[test]
fn every_byte_of_a_published_file_reaches_the_viewer_and_a_restart_continues_the_timeline() {
    let node = Node::start_sharded("publish", &["up"], 2);
    let source: HashSet<Bytes> =
        samples(&std::fs::read(demo()).unwrap()).into_iter().map(|(.., data)| data).collect();
    let mut last = [0i64; 3];
    // Several publishers, so that both shards get sessions; each one continues the same broadcast.
    let input = input(&node, &[]);
    for round in 0..3 {
        let url =
            if round == 1 { input.publish.replace("moqt", "https") } else { input.publish.clone() };
        let publisher = publish(&url, &demo(), &["--loop"]);
        wait_for_lives(&node, round + 1);
        let recorded = samples(&record(&node, &input, "2"));
        let (code, said) = end(publisher);
        assert_eq!(code, Some(0), "{said}");
        assert!(recorded.iter().filter(|(track, ..)| *track == 1).count() > 30, "{said}");
        for (track, dts, data) in &recorded {
            assert!(source.contains(data), "a sample of track {track} at {dts} was changed");
            let _ = last.get_mut(*track as usize).map(|last| *last = *dts);
        }
    }
    let log = node.stop();
    let key = input.publish.split("sk=").nth(1).unwrap();
    assert!(!log.contains(key), "the stream key is in the log");
    assert!(states(&log, "reconnecting") > 1, "the window held the broadcast: {log}");
    assert!(states(&log, "idle") == 0, "the broadcast never ended: {log}");
}

#[test]
fn a_second_publisher_is_refused_or_takes_over_by_policy_and_a_wrong_key_is_refused() {
    let node = Node::start_sharded("second", &["up"], 2);
    for (policy, first_stays) in [("refuse", true), ("takeover", false)] {
        let input = input(&node, &["--policy", policy]);
        let wrong = format!("{}x", input.publish);
        let output = publish(&wrong, &demo(), &["--loop"]).wait_with_output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("error: auth_failed: stream_key_invalid"), "{said}");
        assert!(!said.contains("sk_live"), "{said}");

        let first = publish(&input.publish, &demo(), &["--loop"]);
        wait_for_lives(&node, if first_stays { 1 } else { 2 });
        let second = publish(&input.publish, &demo(), &["--loop"]);
        let (loser, winner) = if first_stays { (second, first) } else { (first, second) };
        let lost = loser.wait_with_output().unwrap();
        let said = text(&lost.stderr);
        assert_eq!(lost.status.code(), Some(1), "{policy}: {said}");
        assert!(said.contains("error: input_busy"), "{policy}: {said}");
        // Who is refused was never told that it is live.
        assert_eq!(said.contains("published"), !first_stays, "{policy}: {said}");
        assert!(samples(&record(&node, &input, "1")).len() > 10, "{policy}");
        assert_eq!(end(winner).0, Some(0), "{policy}");
    }
    node.stop();
}

#[test]
fn what_ffmpeg_fragments_on_a_pipe_is_published_and_the_broken_is_refused_with_a_reason() {
    let node = Node::start_sharded("pipe", &["up"], 2);
    let input = input(&node, &[]);
    let mut camera = Command::new("ffmpeg")
        .args(["-v", "error", "-re", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25"])
        .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"])
        .args([
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-bf",
            "2",
            "-g",
            "25",
            "-pix_fmt",
            "yuv420p",
        ])
        .args([
            "-c:a",
            "aac",
            "-f",
            "mp4",
            "-movflags",
            "+frag_every_frame+empty_moov+default_base_moof",
            "-",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let publisher = Command::new(WEIR)
        .args(["publish", "-", &input.publish, "--insecure"])
        .env_clear()
        .stdin(camera.stdout.take().unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_lives(&node, 1);
    let recorded = record(&node, &input, "3");
    let file = node.data_dir().join("judged.mp4");
    std::fs::write(&file, &recorded).unwrap();
    let decoded = Command::new("ffmpeg")
        .args(["-v", "error", "-xerror", "-i"])
        .arg(&file)
        .args(["-f", "null", "-"])
        .output()
        .unwrap();
    assert_eq!((text(&decoded.stderr), decoded.status.code()), (String::new(), Some(0)));
    // The camera ends: so does the publisher, by itself and without error.
    let _ = Command::new("kill").args(["-INT", &camera.id().to_string()]).status();
    camera.wait().unwrap();
    let output = publisher.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));

    let mut noise = publish(&input.publish, Path::new("-"), &[]);
    noise.stdin.take().unwrap().write_all(&[0; 4096]).unwrap();
    let output = noise.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: the source is no fragmented MP4"), "{said}");
    node.stop();
}
