//! A node that is drained, as an operator and its viewers see it: the real binary, real sockets on loopback.

#![expect(clippy::unwrap_used, reason = "a test ends where it finds something wrong")]

mod process;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use process::{Node, WEIR, get, play, text};
use weir_feed::rtmp::client::{Replies, Writer, tags};

/// A player that runs until something ends it.
fn player(url: &str) -> Child {
    Command::new(WEIR)
        .args(["play", url, "--insecure", "--log", "info"])
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn drain(node: &Node, more: &[&str]) -> Command {
    let mut command = Command::new(WEIR);
    command.args(["drain", "--data-dir"]).arg(node.data_dir()).args(more).env_clear();
    command
}

#[test]
fn nobody_there_is_nobody_to_wait_for() {
    let mut node = Node::start("alone");
    let begun = Instant::now();
    node.signal("TERM");
    assert!(node.wait().success());
    // Far below the default deadline of 30 s.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(node.log().contains("drained"), "{}", node.log());
}

#[test]
fn a_draining_node_refuses_newcomers_in_their_own_words_and_closes_who_stays() {
    let mut node = Node::start("refuse");
    let url = node.demo("playback_url");
    let raw = url.replace("https://", "moqt://");
    let stays = player(&raw);
    node.wait_for_metric("weir_sessions{shard=\"0\"} 1");
    // Nobody answers there, so the viewer cannot move.
    let away = ["--new-uri", "moqt://127.0.0.1:9", "--deadline", "8s"];
    let mut order = drain(&node, &[&away[..], &["--json"]].concat());
    let waiting = order.stdout(Stdio::piped()).spawn().unwrap();
    node.wait_for_metric("weir_draining{shard=\"0\"} 1");

    let health = get(node.address("http"), "/healthz");
    assert!(health.starts_with("HTTP/1.1 503") && health.ends_with("draining\n"), "{health}");
    let refused = play(&url, &["--duration", "5"]);
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("503"), "{}", text(&refused.stderr));
    let refused = play(&raw, &["--duration", "5"]);
    assert!(text(&refused.stderr).contains("draining"), "{}", text(&refused.stderr));
    let encoder = Command::new("ffmpeg")
        .args(["-v", "verbose", "-re", "-f", "lavfi", "-i", "testsrc", "-c:v", "libx264"])
        .args(["-t", "20", "-f", "flv"])
        .arg(node.demo("rtmp_url"))
        .output()
        .unwrap();
    assert!(!encoder.status.success());
    let said = text(&encoder.stderr);
    assert!(said.contains("draining"), "{said}");

    let told = waiting.wait_with_output().unwrap();
    let told = text(&told.stdout);
    let first = told.lines().next().unwrap();
    assert!(first.contains("\"state\":\"draining\",\"sessions\":1,\"publishers\":0"), "{told}");
    let last = told.lines().last().unwrap();
    assert!(last.contains("\"state\":\"done\"") && last.contains("\"closed\":1"), "{told}");
    assert!(node.wait().success());
    let stays = stays.wait_with_output().unwrap();
    assert!(!stays.status.success());
    let said = text(&stays.stderr);
    assert!(said.contains("deadline of GOAWAY") && said.contains("could not move"), "{said}");
    assert!(node.log().contains("code\":16") || node.log().contains("code=16"), "{}", node.log());
}

#[test]
fn a_publisher_that_understands_is_asked_to_go_where_the_viewers_go() {
    let mut node = Node::start("reconnect");
    let url = node.demo("rtmp_url");
    let (authority, path) = url["rtmp://".len()..].split_once('/').unwrap();
    let (app, name) = path.split_once('/').unwrap();
    let mut socket = TcpStream::connect(authority).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut writer = Writer::new();
    // A publisher that announces the capability, as enhanced RTMP v2 has it.
    writer.handshake().connect_enhanced(app, 1).create_stream().publish(name);
    writer.video(0, tags::VIDEO_CONFIGURATION).video(0, &tags::picture(true, 0, 900));
    socket.write_all(&writer.take()).unwrap();
    let mut heard = Vec::new();
    let mut until = |what: &str| {
        let mut buffer = [0; 4096];
        while !Replies::new().read(&heard).iter().any(|line| line.contains(what)) {
            let length = socket.read(&mut buffer).unwrap();
            assert!(length > 0, "hung up before {what}: {:?}", Replies::new().read(&heard));
            heard.extend_from_slice(&buffer[..length]);
        }
    };
    until("NetStream.Publish.Start");
    let away = ["--new-uri", "moqt://other.example:4443", "--deadline", "5m", "--no-wait"];
    let told = drain(&node, &away).output().unwrap();
    assert!(text(&told.stdout).contains("1 publisher left"), "{}", text(&told.stdout));
    until("NetConnection.Connect.ReconnectRequest");
    let port = authority.rsplit(':').next().unwrap();
    let place = format!("rtmp://other.example:{port}/{app}");
    assert!(String::from_utf8_lossy(&heard).contains(&place), "{place}");
    // It has gone on elsewhere and leaves.
    drop(socket);
    node.signal("TERM");
    assert!(node.wait().success());
}

#[test]
fn a_second_signal_ends_the_wait() {
    for second in ["TERM", "INT"] {
        let mut node = Node::start(&format!("second-{second}"));
        let viewer = player(&node.demo("playback_url"));
        node.wait_for_metric("weir_sessions{shard=\"0\"} 1");
        let away = ["--new-uri", "moqt://127.0.0.1:9", "--deadline", "5m", "--no-wait"];
        let told = drain(&node, &away).output().unwrap();
        assert!(told.status.success(), "{}", text(&told.stderr));
        assert!(text(&told.stdout).contains("1 session and 0 publishers left"));
        node.signal(second);
        assert!(node.wait().success());
        let viewer = viewer.wait_with_output().unwrap();
        assert!(text(&viewer.stdout).contains("video"), "{}", text(&viewer.stderr));
    }
}

#[test]
fn there_is_nothing_to_drain_where_nothing_runs() {
    let node = Node::start("gone");
    let dir = node.data_dir();
    let mut refused = drain(&node, &["--new-uri", "http://b/playback/x?tok=y"]);
    assert_eq!(refused.output().unwrap().status.code(), Some(2));
    node.stop();
    let output = Command::new(WEIR).args(["drain", "--data-dir"]).arg(&dir).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no node runs on"), "{}", text(&output.stderr));
}
