//! What `weir up` may do to its host while it serves, as an operator runs it: asked of the kernel, thread by thread, and of the
//! node's own log. The same for a node with frames is in `frames.rs`.

#![expect(clippy::unwrap_used, reason = "a test ends where it finds something wrong")]

mod forbid;
mod process;

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use process::namespace::{Guard, Namespace, say};
use process::{Node, WEIR, confined, get, play, text};
use serde_json::Value;

/// What the log says of a call that the list does not have.
const UNLISTED: &str = "is not on the list";

#[test]
fn node_on_udp_keeps_no_privilege_and_no_keeper_while_a_viewer_watches() {
    let node = Node::start_sharded("privilege", &["up", "--demo"], 2);
    let url = node.demo("playback_url");
    let mut player = Command::new(WEIR)
        .args(["play", &url, "--insecure", "-o", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The header in the pipe means that media flows.
    let mut head = [0; 8];
    let mut out = player.stdout.take().unwrap();
    out.read_exact(&mut head).unwrap();
    assert_eq!(&head[4..], b"ftyp");
    let names = confined::expect(node.pid());
    assert!(names.len() > 3, "{names:?}");
    assert_eq!(confined::children(node.pid()), Vec::<u32>::new(), "nothing is left to ask for");
    let log = node.stop();
    // The player saw the end of the broadcast.
    assert!(player.wait().unwrap().success());
    assert!(!log.contains(UNLISTED), "{log}");
    assert!(!log.contains("could not all be given up"), "{log}");
    assert!(!log.contains("not filtered on this host"), "{log}");
}

/// An input made by the API of a node.
fn new_input(node: &Node, ingest: &str) -> Value {
    let asked = format!("{{\"name\":\"Stage\",\"ingest\":\"{ingest}\"}}");
    let answer = node.post("/v1/live-inputs", &asked);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

/// Where an input is watched.
fn playback(node: &Node, input: &str) -> String {
    let minted = Command::new(WEIR)
        .args(["token", "mint", input, "--json", "--data-dir"])
        .arg(node.data_dir())
        .env_clear()
        .output()
        .unwrap();
    assert!(minted.status.success(), "{}", text(&minted.stderr));
    let minted: Value = serde_json::from_slice(&minted.stdout).unwrap();
    let url = minted["playback_url"].as_str().unwrap();
    // Commands name the ports of the configuration; this node took free ones.
    let tail = url.splitn(4, '/').nth(3).unwrap();
    format!("https://{}/{tail}", node.address("quic"))
}

/// An encoder that runs until it is dropped.
fn encoder(mut ffmpeg: Command, format: &str, url: &str) -> Guard {
    ffmpeg
        .args(["-nostdin", "-v", "error", "-re", "-f", "lavfi", "-i", "testsrc=s=320x180:r=25"])
        .args(["-re", "-f", "lavfi", "-i", "anoisesrc=r=48000:a=0.3", "-t", "60"])
        .args(["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-g", "25"])
        .args(["-c:a", "aac", "-f", format, url])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Guard(ffmpeg.spawn().unwrap())
}

fn wait_for_live(node: &Node, input: &str) {
    let live = format!("\"input\":\"{input}\",\"state\":\"live\"");
    node.wait_until("a live input", |node| node.log().contains(&live));
}

fn assert_decodes(file: &Path) {
    let decoded = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-xerror", "-i"])
        .arg(file)
        .args(["-f", "null", "-"])
        .output()
        .unwrap();
    assert_eq!((decoded.status.code(), text(&decoded.stderr)), (Some(0), String::new()));
}

#[test]
fn node_that_refuses_unlisted_calls_takes_broadcasts_serves_them_and_is_drained_without_one() {
    let program = Command::new(WEIR);
    let refusing = [("WEIR_SECCOMP", "on")];
    let mut node = Node::start_from(program, "refusing", &["up", "--demo"], 2, &refusing, &[]);
    let rtmp = new_input(&node, "rtmp");
    let srt = new_input(&node, "srt");
    let encoders =
        [(&rtmp, "rtmp", "flv"), (&srt, "srt", "mpegts")].map(|(input, name, format)| {
            encoder(Command::new("ffmpeg"), format, input["urls"][name].as_str().unwrap())
        });
    for input in [&rtmp, &srt] {
        let id = input["id"].as_str().unwrap();
        wait_for_live(&node, id);
        let url = playback(&node, id);
        // WebTransport and raw QUIC.
        for url in [url.clone(), url.replace("https://", "moqt://")] {
            let file = node.data_dir().join("out.mp4");
            let played = play(&url, &["--duration", "1", "-o", file.to_str().unwrap()]);
            assert!(played.status.success(), "{}\n{}", text(&played.stderr), node.log());
            assert_decodes(&file);
        }
    }
    for page in ["/", "/healthz", "/metrics", "/certificate.sha256", "/player.json", "/golive"] {
        let answer = get(node.address("http"), page);
        assert!(answer.starts_with("HTTP/1.1 200"), "{page}: {answer}");
    }
    confined::expect(node.pid());
    drop(encoders);
    node.wait_for_metric("weir_system_calls_unlisted 0");
    node.signal("TERM");
    let status = node.wait();
    let log = node.log();
    assert!(status.success() && log.contains("drained"), "{status}: {log}");
    assert!(!log.contains(UNLISTED) && !log.contains("Operation not permitted"), "{log}");
    // Where something around us listens to the filter already, refusals are silent and the node still served.
    let refuses = log.contains("\"mode\":\"on\"") || log.contains("does not let us say");
    assert!(refuses, "{log}");
}

#[test]
fn every_tcp_listener_may_have_a_low_port_that_is_bound_before_privileges_go() {
    let Some(host) = Namespace::new() else {
        return say("NOT TESTED: no network namespace for a node with low ports");
    };
    host.ip("link set lo up");
    let listeners = [
        ("--http", "127.0.0.1:80"),
        ("--https", "127.0.0.1:443"),
        ("--rtmp", "127.0.0.1:935"),
        ("--rtmps", "127.0.0.1:936"),
    ];
    let program = host.command(WEIR);
    let node = Node::start_from(program, "low", &["up"], 2, &[], &listeners);
    assert_eq!(node.address("rtmp"), "127.0.0.1:935");
    let made = Command::new(WEIR)
        .args(["input", "create", "--name", "Stage", "--json", "--data-dir"])
        .arg(node.data_dir())
        .output()
        .unwrap();
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let (id, key) = (made["id"].as_str().unwrap(), made["stream_key"].as_str().unwrap());
    let url = format!("rtmp://127.0.0.1:935/live/{id}?sk={key}");
    let _encoder = encoder(host.command("ffmpeg"), "flv", &url);
    wait_for_live(&node, id);
    confined::expect(node.pid());
    assert_eq!(confined::children(node.pid()), Vec::<u32>::new(), "all is bound");
    node.stop();
}

#[test]
fn host_without_io_uring_is_told_in_one_line_why_no_node_starts() {
    let cases = [
        (libc::ENOSYS, "this kernel has no io_uring"),
        (libc::EPERM, "io_uring is forbidden to this process: "),
    ];
    for (error, why) in cases {
        let data = std::env::temp_dir().join(format!("weir-ringless-{}", std::process::id()));
        let mut command = Command::new(WEIR);
        command.args(["up", "--shards", "2", "--log", "error", "--data-dir"]).arg(&data);
        for flag in ["--http", "--https", "--quic", "--rtmp", "--rtmps", "--srt", "--whip"] {
            command.args([flag, "127.0.0.1:0"]);
        }
        command.env_clear().env("WEIR_PORT", "udp").stdin(Stdio::null());
        let run = forbid::io_uring(command, error);
        let said = text(&run.stderr);
        assert_eq!(run.status.code(), Some(1), "{said}");
        let lines: Vec<&str> = said.lines().collect();
        let [what, help] = lines[..] else { unreachable!("{said}") };
        assert!(
            what.starts_with(&format!("error: no shard can run on this host: {why}")),
            "{said}"
        );
        assert!(help.starts_with("help: shards wait by io_uring"), "{said}");
        std::fs::remove_dir_all(&data).unwrap();
    }
}

#[test]
fn keeper_started_by_hand_is_refused() {
    let run = Command::new(WEIR).arg("keeper").stdin(Stdio::null()).output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(
        said.contains("error: the keeper of privileges ends") && said.contains("help: "),
        "{said}"
    );
}
