//! An engine, a region and an edge as an operator runs them: three processes of the real binary on loopback, the demo
//! broadcast at the engine, `weir play` at the edge.

#![expect(clippy::unwrap_used, reason = "a test ends where it finds something wrong")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// Ends a test that has already failed.
const PATIENCE: Duration = Duration::from_mins(1);

/// One process; killed when the test is done.
struct Node {
    dir: PathBuf,
    child: Child,
    card: String,
}

impl Node {
    fn start(test: &str, name: &str, arguments: &[&str]) -> Self {
        Self::start_with(test, name, arguments, &[])
    }

    fn start_with(test: &str, name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_on(None, test, name, arguments, variables)
    }

    /// With a copy of the data of another node, which has ended.
    fn start_on(
        data: Option<&Path>,
        test: &str,
        name: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let dir = std::env::temp_dir().join(format!("weir-mesh-{}-{test}", std::process::id()));
        let dir = dir.join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        if let Some(data) = data {
            let copied =
                Command::new("cp").arg("-a").arg(data).arg(dir.join("data")).status().unwrap();
            assert!(copied.success());
        }
        let log = File::create(dir.join("log")).unwrap();
        let mut child = Command::new(WEIR)
            .args(arguments)
            .args(["--log", "debug", "--data-dir"])
            .arg(dir.join("data"))
            .args(["--http", "127.0.0.1:0", "--https", "127.0.0.1:0"])
            .env_clear()
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut card = String::new();
        while !card.contains("Ctrl-C") {
            let read = out.read_line(&mut card).unwrap();
            assert!(read > 0, "{name} did not start: {}", read_file(&dir.join("log")));
        }
        Self { dir, child, card }
    }

    fn engine(test: &str) -> Self {
        let ready = std::env::temp_dir().join(format!("weir-mesh-{}-{test}", std::process::id()));
        fs::create_dir_all(&ready).unwrap();
        let ready = ready.join("ready.json");
        let mut arguments = vec!["up", "--demo", "--shards", "1"];
        for listener in ["--quic", "--rtmp", "--rtmps", "--srt", "--whip"] {
            arguments.extend([listener, "127.0.0.1:0"]);
        }
        let ready = ready.to_str().unwrap().to_owned();
        Self::start(test, "engine", &[&arguments[..], &["--ready-file", &ready]].concat())
    }

    /// An engine on a copy of the data of one that has ended, in this term.
    fn engine_on(data: &Path, test: &str, name: &str, term: &str) -> Self {
        let mut arguments = vec!["up", "--demo", "--shards", "1", "--term", term];
        for listener in ["--quic", "--rtmp", "--rtmps", "--srt", "--whip"] {
            arguments.extend([listener, "127.0.0.1:0"]);
        }
        Self::start_on(Some(data), test, name, &arguments, &[])
    }

    /// An edge below `upstreams`.
    fn relay(test: &str, name: &str, upstreams: &str, key: &Path, shards: &str) -> Self {
        Self::relay_with(test, name, upstreams, key, shards, &[])
    }

    fn relay_with(
        test: &str,
        name: &str,
        upstreams: &str,
        key: &Path,
        shards: &str,
        variables: &[(&str, &str)],
    ) -> Self {
        let key = key.to_str().unwrap();
        let arguments = ["relay", "--upstream", upstreams, "--node-key-file", key, "--insecure"];
        let more = ["--node-id", name, "--shards", shards, "--quic", "127.0.0.1:0"];
        Self::start_with(test, name, &[&arguments[..], &more].concat(), variables)
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    fn addresses(&self) -> Value {
        serde_json::from_str(&read_file(&self.dir.join("data/runtime.json"))).unwrap()
    }

    fn quic(&self) -> String {
        self.addresses()["quic"].as_str().unwrap().to_owned()
    }

    fn upstream(&self) -> String {
        format!("moqt://{}", self.quic())
    }

    fn log(&self) -> String {
        read_file(&self.dir.join("log"))
    }

    /// Body of a page.
    fn get(&self, path: &str) -> String {
        let http = self.addresses()["http"].as_str().unwrap().to_owned();
        let mut stream = TcpStream::connect(&http).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Sum of a metric over shards and labels.
    fn metric(&self, name: &str) -> u64 {
        let page = self.get("/metrics");
        let samples = page.lines().filter(|line| {
            line.strip_prefix("weir_").and_then(|line| line.split(['{', ' ']).next()) == Some(name)
        });
        samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }

    fn wait_healthy(&self) {
        wait_for("a way to the engine", || self.get("/healthz").contains("200 OK"), || self.log());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Looks until something holds: what is waited for is told by another process.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool, otherwise: impl Fn() -> String) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}\n{}", otherwise());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn read_file(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A short command on the engine's data.
fn weir(engine: &Node, arguments: &[&str]) -> String {
    let data = engine.dir.join("data");
    let output = Command::new(WEIR)
        .args(arguments)
        .arg("--data-dir")
        .arg(data)
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// A node key in a file, and its id.
fn node_key(engine: &Node) -> (PathBuf, String, String) {
    let made = weir(engine, &["node-key", "create", "--name", "test", "--json"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let key = made["node_key"].as_str().unwrap().to_owned();
    let path = engine.dir.join("node.key");
    fs::write(&path, &key).unwrap();
    (path, made["id"].as_str().unwrap().to_owned(), key)
}

/// A token for the demo, and its input.
fn demo_token(engine: &Node) -> (String, String) {
    let inputs: Value = serde_json::from_str(&weir(engine, &["input", "list", "--json"])).unwrap();
    let input = inputs["data"][0]["id"].as_str().unwrap().to_owned();
    let minted = weir(engine, &["token", "mint", &input, "--json"]);
    let minted: Value = serde_json::from_str(&minted).unwrap();
    (input, minted["token"].as_str().unwrap().to_owned())
}

fn play(at: &Node, input: &str, token: &str, more: &[&str]) -> Output {
    let url = format!("moqt://{}/playback/{input}?tok={token}", at.quic());
    Command::new(WEIR)
        .args(["play", &url, "--insecure", "--log", "debug"])
        .args(more)
        .env_clear()
        .output()
        .unwrap()
}

#[test]
fn a_viewer_at_the_edge_of_three_tiers_sees_the_broadcast_and_no_secret_is_logged() {
    let engine = Node::engine("tiers");
    let (key_file, key_id, key) = node_key(&engine);
    let (input, token) = demo_token(&engine);
    let refusing = [("WEIR_SECCOMP", "on")];
    let up = engine.upstream();
    let region = Node::relay_with("tiers", "region", &up, &key_file, "1", &refusing);
    region.wait_healthy();
    // Two shards: whichever gets the viewer, the broadcast comes once from above.
    let up = region.upstream();
    let edge = Node::relay_with("tiers", "edge", &up, &key_file, "2", &refusing);
    let hops = || edge.metric("mesh_hops") == 2 * 3;
    wait_for("edge, region, engine on both shards", hops, || edge.log());
    assert!(edge.card.contains("Weir relays") && edge.card.contains(&region.upstream()));

    let file = edge.dir.join("out.mp4");
    let output = play(&edge, &input, &token, &["--duration", "4", "-o", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}\n{}", text(&output.stderr), edge.log());
    let table = text(&output.stdout);
    assert!(table.contains("video") && table.contains("audio"), "{table}");
    let decoded = Command::new("ffmpeg")
        .args(["-v", "error", "-xerror", "-i", file.to_str().unwrap(), "-f", "null", "-"])
        .output()
        .unwrap();
    assert!(decoded.status.success() && decoded.stderr.is_empty(), "{}", text(&decoded.stderr));

    // The edge checks tokens itself.
    let refused = play(&edge, &input, &format!("{token}x"), &["--duration", "3"]);
    assert!(text(&refused.stderr).contains("error: auth_failed: "), "{}", text(&refused.stderr));
    let refused = play(&edge, "lv_00000000000000000000000000", &token, &["--duration", "3"]);
    assert!(text(&refused.stderr).contains("error: auth_failed: "), "{}", text(&refused.stderr));

    // A key withdrawn at the engine cuts off both tiers below it.
    weir(&engine, &["node-key", "revoke", &key_id]);
    wait_for("cut off", || edge.metric("mesh_hops") == 0, || edge.log());
    assert!(edge.get("/healthz").contains("503"));

    let secret = key.split('.').next().unwrap();
    for (name, log) in [("engine", engine.log()), ("region", region.log()), ("edge", edge.log())] {
        assert!(log.len() > 200, "{name} logged");
        assert!(!log.contains(secret) && !log.contains(&token), "a secret is in the log of {name}");
        assert!(
            !log.contains("is not on the list"),
            "{name} makes calls that are not on its list: {log}"
        );
    }
}

#[test]
fn a_signing_key_withdrawn_at_the_engine_ends_the_session_at_the_edge() {
    let engine = Node::engine("revoke");
    let (key_file, _, _) = node_key(&engine);
    let (input, token) = demo_token(&engine);
    let region = Node::relay("revoke", "region", &engine.upstream(), &key_file, "1");
    let edge = Node::relay("revoke", "edge", &region.upstream(), &key_file, "1");
    edge.wait_healthy();
    let url = format!("moqt://{}/playback/{input}?tok={token}", edge.quic());
    let mut player = Command::new(WEIR)
        .args(["play", &url, "--insecure", "-o", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = player.stdout.take().unwrap();
    let mut head = [0; 8];
    out.read_exact(&mut head).unwrap();
    assert_eq!(&head[4..], b"ftyp", "media flows");
    let kid = weir(&engine, &["signing-key", "list"]);
    let kid = kid.split_whitespace().next().unwrap();
    weir(&engine, &["signing-key", "deactivate", kid]);
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    let output = player.wait_with_output().unwrap();
    assert!(text(&output.stderr).contains("revoked"), "{}", text(&output.stderr));
}

#[test]
fn an_edge_turns_to_its_second_upstream_when_the_first_is_killed_and_viewers_stay() {
    leaves_its_first_upstream("KILL");
}

#[test]
fn an_edge_turns_to_its_second_upstream_when_the_first_stops_and_viewers_stay() {
    leaves_its_first_upstream("STOP");
}

#[test]
fn sigterm_empties_an_edge_and_its_viewer_goes_on_at_the_other() {
    let engine = Node::engine("drain");
    let (key_file, _, _) = node_key(&engine);
    let (input, token) = demo_token(&engine);
    let other = Node::relay("drain", "other", &engine.upstream(), &key_file, "1");
    other.wait_healthy();
    let uri = other.upstream();
    let away = [("WEIR_DRAIN_NEW_URI", &uri[..])];
    let mut edge = Node::relay_with("drain", "edge", &engine.upstream(), &key_file, "1", &away);
    edge.wait_healthy();
    let player = Player::start(&edge, &input, &token, &[]);
    player.wait_for_media();
    edge.signal("TERM");
    player.wait_for_move();
    let status = edge.child.wait().unwrap();
    assert!(status.success() && edge.log().contains("drained"), "{status} {}", edge.log());
    player.wait_for_media();
    player.stop();
}

#[test]
fn f1_a_viewer_whose_edge_is_killed_goes_on_at_the_other_address_it_knows() {
    let engine = Node::engine("silence");
    let (key_file, _, _) = node_key(&engine);
    let (input, token) = demo_token(&engine);
    let edge = Node::relay("silence", "edge", &engine.upstream(), &key_file, "1");
    let other = Node::relay("silence", "other", &engine.upstream(), &key_file, "1");
    edge.wait_healthy();
    other.wait_healthy();
    let player = Player::start(&edge, &input, &token, &["--also", &other.upstream()]);
    player.wait_for_media();
    edge.signal("KILL");
    player.wait_for_move();
    player.wait_for_media();
    let table = player.stop();
    assert!(table.contains("moved ") && table.contains(&other.quic()), "{table}");
}

#[test]
fn f2_an_edge_goes_over_to_the_engine_that_stands_by_when_the_first_is_killed_and_viewers_stay() {
    let test = "standby";
    let mut store = Node::engine(test);
    let (key_file, _, _) = node_key(&store);
    let (input, token) = demo_token(&store);
    store.signal("INT");
    assert!(store.child.wait().unwrap().success(), "{}", store.log());
    let data = store.dir.join("data");
    let first = Node::engine_on(&data, test, "first", "0");
    let second = Node::engine_on(&data, test, "second", "1");
    let upstreams = format!("{},{}", first.upstream(), second.upstream());
    let edge = Node::relay(test, "edge", &upstreams, &key_file, "1");
    wait_for("the first in use", || first_in_use(&edge), || edge.log());
    let unasked = second.metric("subscriptions_accepted_total");
    let player = Player::start(&edge, &input, &token, &[]);
    player.wait_for_media();
    first.signal("KILL");
    wait_for("the second in use", || in_use(&edge, 1), || edge.log());
    player.wait_for_media();
    assert!(second.metric("subscriptions_accepted_total") > unasked, "{}", second.log());
    let table = player.stop();
    assert!(table.contains("video"), "{table}");
    wait_for("health", || edge.get("/healthz").contains("200 OK"), || edge.log());
}

/// A viewer that records until it is told to stop. What it has is asked of itself: a node that has sent does not know what
/// has arrived, and what one node counts says nothing of when another process acts.
struct Player {
    child: Child,
    said: PathBuf,
    recorded: PathBuf,
}

impl Player {
    fn start(at: &Node, input: &str, token: &str, more: &[&str]) -> Self {
        let url = format!("moqt://{}/playback/{input}?tok={token}", at.quic());
        let (said, recorded) = (at.dir.join("player.log"), at.dir.join("player.mp4"));
        let child = Command::new(WEIR)
            .args(["play", &url, "--insecure", "--log", "info", "-o"])
            .arg(&recorded)
            .args(more)
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(File::create(&said).unwrap())
            .spawn()
            .unwrap();
        Self { child, said, recorded }
    }

    fn said(&self) -> String {
        read_file(&self.said)
    }

    /// Waits until it has recorded more than it has now: about a second of the demo.
    fn wait_for_media(&self) {
        let bytes = || fs::metadata(&self.recorded).map_or(0, |file| file.len());
        let before = bytes();
        wait_for("media at the viewer", || bytes() > before + 20_000, || self.said());
    }

    /// Waits until it watches from another relay than the first.
    fn wait_for_move(&self) {
        wait_for("the move", || self.said().contains("\"moved\""), || self.said());
    }

    /// Ends it, and gives what it says of what it has seen.
    fn stop(mut self) -> String {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let mut table = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut table).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.said());
        table
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether an edge takes tracks from the upstream at this place. A busy host may have made it turn there before it had to.
fn in_use(edge: &Node, place: usize) -> bool {
    let place = format!("place=\"{place}\"");
    let page = edge.get("/metrics");
    let state = |line: &&str| line.starts_with("weir_upstream_state") && line.contains(&place);
    page.lines().find(state).is_some_and(|line| line.contains("state=\"active\""))
}

/// The first in order is in use, though the second may have been there first.
fn first_in_use(edge: &Node) -> bool {
    in_use(edge, 0) && edge.get("/metrics").contains("state=\"ready\"")
}

/// The first of two upstreams falls silent by a signal, while somebody watches at the edge.
fn leaves_its_first_upstream(signal: &str) {
    let test = format!("failover-{signal}");
    let test = test.as_str();
    let engine = Node::engine(test);
    let (key_file, _, _) = node_key(&engine);
    let (input, token) = demo_token(&engine);
    let first = Node::relay(test, "first", &engine.upstream(), &key_file, "1");
    let second = Node::relay(test, "second", &engine.upstream(), &key_file, "1");
    first.wait_healthy();
    second.wait_healthy();
    let upstreams = format!("{},{}", first.upstream(), second.upstream());
    let edge = Node::relay(test, "edge", &upstreams, &key_file, "1");
    wait_for("the first in use", || first_in_use(&edge), || edge.log());
    let player = Player::start(&edge, &input, &token, &[]);
    player.wait_for_media();
    first.signal(signal);
    let silent = || edge.metric("upstream_silences_total") > 0;
    wait_for("silence", silent, || edge.log());
    wait_for("the second in use", || in_use(&edge, 1), || edge.log());
    player.wait_for_media();
    player.stop();
    let malformed = edge.get("/metrics");
    assert!(malformed.contains("weir_objects_refused_total{shard=\"0\",reason=\"malformed\"} 0"));
}
