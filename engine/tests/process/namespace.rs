//! Network namespaces for processes of a test: what they listen on is nobody else's.

use std::fs;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ends a test that has already failed.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A process that is stopped with the test.
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network namespace that lives as long as the process in it.
pub struct Namespace(Guard);

impl Namespace {
    /// Nothing if this process may make none.
    pub fn new() -> Option<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "600"]).stdin(Stdio::null()).stderr(Stdio::null());
        let mut holder = Guard(command.spawn().unwrap());
        let ours = fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", holder.0.id());
        let until = Instant::now() + PATIENCE;
        while fs::read_link(&theirs).is_ok_and(|theirs| theirs == ours) {
            if holder.0.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(Instant::now() < until, "unshare neither works nor fails");
            std::thread::sleep(Duration::from_millis(5));
        }
        holder.0.try_wait().unwrap().is_none().then_some(Self(holder))
    }

    /// Its name for `ip link`.
    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.0.id())
    }

    /// A command that runs inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg(program);
        command
    }

    pub fn ip(&self, arguments: &str) {
        let run = self.command("ip").args(arguments.split_whitespace()).output().unwrap();
        assert!(run.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&run.stderr));
    }
}

/// Past the capture of the test runner, which hides what passing tests print.
pub fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("standard error is open");
}
