//! `weir up` with `shards.port = "xdp"` as an operator runs it, in a network namespace of its own with a viewer in another
//! across a veth pair: every packet of the viewers comes through the XDP program, and the recording is whole. Privileges are with
//! its keeper alone meanwhile.

#![expect(clippy::unwrap_used, reason = "a test ends where it finds something wrong")]

mod process;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use process::namespace::{Guard, Namespace, PATIENCE, say};
use process::{WEIR, confined};
use serde_json::Value;

fn scratch() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("weir-frames-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn viewers_on_two_shards_are_served_by_frames_past_the_kernel() {
    let (Some(host), Some(viewer)) = (Namespace::new(), Namespace::new()) else {
        return say("NOT TESTED: no network namespace for a node with frames");
    };
    let peer = viewer.path();
    host.ip("link set lo up");
    host.ip(&format!(
        "link add v0 numrxqueues 2 numtxqueues 2 type veth peer name v1 numrxqueues 2 numtxqueues 2 netns {peer}"
    ));
    host.ip("address add 10.9.0.1/24 dev v0");
    viewer.ip("address add 10.9.0.2/24 dev v1");
    host.ip("link set v0 up");
    viewer.ip("link set v1 up");

    let dir = scratch();
    let mut node = host.command(WEIR);
    node.args(["up", "--demo", "--shards", "2", "--data-dir"]).arg(dir.join("data"));
    node.arg("--ready-file").arg(dir.join("ready.json"));
    node.args(["--http", "127.0.0.1:8080", "--https", "10.9.0.1:4443", "--quic", "10.9.0.1:4443"]);
    node.env("WEIR_PORT", "xdp").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut node = Guard(node.stderr(File::create(dir.join("log")).unwrap()).spawn().unwrap());
    let mut card = BufReader::new(node.0.stdout.take().unwrap());
    let mut line = String::new();
    while card.read_line(&mut line).unwrap() > 0 && !line.contains("Ctrl-C") {}
    let log = || fs::read_to_string(dir.join("log")).unwrap();
    let ready = fs::read_to_string(dir.join("ready.json"));
    let ready: Value =
        serde_json::from_str(&ready.unwrap_or_else(|_| unreachable!("{}", log()))).unwrap();
    let url = ready["demo"]["playback_url"].as_str().unwrap();

    // Four viewers, so that both shards and both queues are used, whatever the hashes.
    let viewers: Vec<_> = (0..4)
        .map(|number| {
            let mut play = viewer.command(WEIR);
            play.args(["play", "--insecure", "--duration", "3", "-o"]);
            play.arg(dir.join(format!("{number}.mp4"))).arg(url).stdin(Stdio::null());
            play.stdout(Stdio::null()).stderr(Stdio::null());
            Guard(play.spawn().unwrap())
        })
        .collect();
    // nsenter(1) has become the node.
    confined::expect(node.0.id());
    let keepers = confined::children(node.0.id());
    for (number, mut viewer) in viewers.into_iter().enumerate() {
        assert!(viewer.0.wait().unwrap().success(), "viewer {number}: {}", log());
        let bytes = fs::metadata(dir.join(format!("{number}.mp4"))).unwrap().len();
        assert!(bytes > 20_000, "viewer {number} recorded {bytes} bytes");
    }

    let ask = "import urllib.request;print(urllib.request.urlopen('http://127.0.0.1:8080/metrics').read().decode())";
    let page = host.command("python3").args(["-c", ask]).output().unwrap();
    let page = String::from_utf8(page.stdout).unwrap();
    let sample = |name: &str| -> u64 {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| unreachable!("{name} is not on the page")).parse().unwrap()
    };
    if log().contains("the kernel refuses") {
        return say("NOT TESTED: the kernel refuses bpf(2); the viewers were served by UDP");
    }
    for shard in [0, 1] {
        assert_eq!(sample(&format!("weir_port_rung{{shard=\"{shard}\",rung=\"xdp_copy\"}}")), 1);
        let refused = format!("weir_port_rung_refused{{shard=\"{shard}\",rung=\"xdp_zero_copy\"}}");
        assert_eq!(sample(&refused), 1, "veth has no zero-copy");
    }
    let received =
        |shard| sample(&format!("weir_quic_datagrams_received_total{{shard=\"{shard}\"}}"));
    let taken = sample("weir_xdp_packets_total{shard=\"0\",fate=\"taken\"}");
    // The page is laid out four times a second, shard by shard.
    assert!(taken > 50 && received(0) + received(1) > 50, "{taken} taken: {}", log());
    assert_eq!(sample("weir_xdp_packets_total{shard=\"0\",fate=\"empty_slot\"}"), 0);
    // A shard takes who comes by its queue, and who does not move stays there.
    let handed =
        |shard| sample(&format!("weir_quic_datagrams_handed_over_total{{shard=\"{shard}\"}}"));
    let (handed, received) = (handed(0) + handed(1), received(0) + received(1));
    assert!(handed * 50 <= received, "{handed} of {received} were handed over");
    assert!(log().matches("packet port refused").count() == 1, "said once: {}", log());
    let [keeper] = keepers[..] else { unreachable!("one keeper for the program: {keepers:?}") };
    // To bind low ports, to set up interfaces, to make raw sockets, to pin memory, to load BPF programs.
    let held = u64::from_str_radix(&confined::of(keeper, "CapEff"), 16).unwrap();
    assert_eq!(held & !(1 << 10 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 39), 0, "{held:x}");
    assert_eq!(confined::of(keeper, "NoNewPrivs"), "1");
    drop(node);
    // It ends with the node, which was killed.
    let until = Instant::now() + PATIENCE;
    while confined::is_alive(keeper) {
        assert!(Instant::now() < until, "the keeper outlives its node");
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = fs::remove_dir_all(&dir);
}
