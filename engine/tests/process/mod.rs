//! The real binary as a child process: a node with a demo, a player, and a little HTTP to ask the node how it is.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "each test file uses a part, and a failing test panics"
)]

pub mod confined;
pub mod namespace;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// Far above what a loaded machine needs, far below a hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node that runs for one test; its folder goes with it.
pub struct Node {
    dir: PathBuf,
    child: Child,
    ready: Value,
}

impl Node {
    /// A node with the demo.
    pub fn start(name: &str) -> Self {
        Self::start_with(name, &["up", "--demo"])
    }

    /// A node by this command and these flags.
    pub fn start_with(name: &str, command: &[&str]) -> Self {
        Self::start_sharded(name, command, 1)
    }

    /// The same with so many shards.
    pub fn start_sharded(name: &str, command: &[&str], shards: u16) -> Self {
        Self::start_on_port(name, command, shards, "udp")
    }

    /// The same with a kind of packet port.
    pub fn start_on_port(name: &str, command: &[&str], shards: u16, port: &str) -> Self {
        Self::start_from(Command::new(WEIR), name, command, shards, &[("WEIR_PORT", port)], &[])
    }

    /// The same by whatever starts the binary, with an environment, and with some listeners elsewhere than on a free port.
    pub fn start_from(
        mut program: Command,
        name: &str,
        command: &[&str],
        shards: u16,
        environment: &[(&str, &str)],
        listeners: &[(&str, &str)],
    ) -> Self {
        let dir = std::env::temp_dir().join(format!("weir-node-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let log = File::create(dir.join("log")).unwrap();
        program.args(command);
        for flag in ["--http", "--https", "--quic", "--rtmp", "--rtmps", "--srt", "--whip"] {
            let chosen = listeners.iter().find(|(listener, _)| *listener == flag);
            program.args([flag, chosen.map_or("127.0.0.1:0", |(_, address)| *address)]);
        }
        let mut child = program
            .args(["--shards", &shards.to_string(), "--log", "debug", "--data-dir"])
            .arg(dir.join("data"))
            .arg("--ready-file")
            .arg(dir.join("ready.json"))
            .env_clear()
            .env("WEIR_PORT", "udp")
            .envs(environment.iter().copied())
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

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// `HOST:PORT` of a listener.
    pub fn address(&self, listener: &str) -> &str {
        self.ready[listener].as_str().unwrap()
    }

    pub fn demo(&self, field: &str) -> String {
        self.ready["demo"][field].as_str().unwrap().to_owned()
    }

    pub fn log(&self) -> String {
        read(&self.dir.join("log"))
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Stops the node and gives its log.
    pub fn stop(mut self) -> String {
        self.signal("INT");
        assert!(self.wait().success());
        self.log()
    }

    /// Waits until `/metrics` has this line.
    pub fn wait_for_metric(&self, line: &str) {
        self.wait_until(line, |node| {
            get(node.address("http"), "/metrics").lines().any(|held| held == line)
        });
    }

    /// Waits until something holds.
    pub fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < end, "{what} is not to be seen:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A number of `/metrics`, 0 when it is not there.
    pub fn metric(&self, sample: &str) -> u64 {
        let page = get(self.address("http"), "/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(sample));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    }

    /// Posts JSON to the API with the key of the ready file; the whole answer.
    pub fn post(&self, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.address("http")).unwrap();
        let (key, length) = (self.ready["api_key"].as_str().unwrap(), body.len());
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Plays to the end.
pub fn play(url: &str, more: &[&str]) -> Output {
    Command::new(WEIR)
        .args(["play", url, "--insecure", "--log", "debug"])
        .args(more)
        .env_clear()
        .output()
        .unwrap()
}

/// A whole answer, headers included.
pub fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
