//! Who is measured: how each relay is started alone on its core, and how the generator reaches it. Owns command lines and
//! the processes behind them; each is gone when its value is dropped.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a relay may take to listen.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// A relay or a limit.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Contender {
    /// Ours over UDP sockets.
    WeirUdp,
    /// Ours over `io_uring`.
    WeirUring,
    /// Ours over `AF_XDP`.
    WeirXdp,
    /// moq-relay as its documentation says it is fastest.
    MoqRelayBest,
    /// moq-relay as it comes.
    MoqRelayDefault,
    /// The limit program.
    Limit(u8),
}

impl Contender {
    /// Everybody, in the order of a pass.
    pub const ALL: [Self; 8] = [
        Self::WeirUdp,
        Self::WeirUring,
        Self::WeirXdp,
        Self::MoqRelayBest,
        Self::MoqRelayDefault,
        Self::Limit(2),
        Self::Limit(1),
        Self::Limit(0),
    ];

    /// In results and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::WeirUdp => "weir-udp",
            Self::WeirUring => "weir-uring",
            Self::WeirXdp => "weir-xdp",
            Self::MoqRelayBest => "moq-relay-best",
            Self::MoqRelayDefault => "moq-relay-default",
            Self::Limit(0) => "limit-l0",
            Self::Limit(1) => "limit-l1",
            Self::Limit(_) => "limit-l2",
        }
    }

    /// By its name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// Those measured in every pass; the others bound the picture and need fewer.
    pub fn every_pass(self) -> bool {
        !matches!(self, Self::Limit(0 | 1) | Self::MoqRelayDefault | Self::WeirXdp)
    }
}

/// Where everything runs.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Network namespace of the relay, its core, and its address.
    pub relay: Place,
    /// The same of publishers and receivers.
    pub load: Place,
    /// Our program.
    pub weir: PathBuf,
    /// The rival's.
    pub moq_relay: Option<PathBuf>,
    /// Further arguments of its best settings.
    pub moq_relay_arguments: Vec<String>,
    /// This program.
    pub own: PathBuf,
}

/// One end of the pair of interfaces.
#[derive(Clone, Debug)]
pub struct Place {
    /// Network namespace.
    pub namespace: String,
    /// Its interface.
    pub interface: String,
    /// The only core.
    pub core: usize,
    /// With a port.
    pub address: SocketAddr,
}

impl Place {
    /// A command that runs there, on its core.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, "taskset", "-c", &self.core.to_string()]);
        command.arg(program);
        command
    }
}

/// A process, and the folder it works in.
pub struct Running {
    child: Child,
    folder: PathBuf,
    /// Whether it is one of ours.
    ours: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Running {
    /// Its process; the programs before it in the command line replaced themselves by it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How the generator is told to reach it.
    pub fn arguments(&self, layout: &Layout) -> Vec<String> {
        let pid = ["--pid".to_owned(), self.pid().to_string()];
        let place = if self.ours {
            ["--data-dir".to_owned(), self.folder.join("data").display().to_string()]
        } else {
            ["--open".to_owned(), layout.relay.address.to_string()]
        };
        pid.into_iter().chain(place).collect()
    }
}

/// Options of a start that are not the contender's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    /// Every stranger must answer a Retry first; ours only.
    pub retry: bool,
}

/// Starts a relay and waits until it listens. Its messages go to `log`.
pub fn start(contender: Contender, layout: &Layout, start: Start, log: &Path) -> Result<Running> {
    let folder = folder()?;
    let (mut command, ours) = match contender {
        Contender::WeirUdp => (weir(layout, &folder, "udp", start)?, true),
        Contender::WeirUring => (weir(layout, &folder, "uring", start)?, true),
        Contender::WeirXdp => (weir(layout, &folder, "xdp", start)?, true),
        Contender::MoqRelayBest | Contender::MoqRelayDefault => {
            (moq_relay(layout, &folder, contender == Contender::MoqRelayBest)?, false)
        }
        Contender::Limit(_) => bail!("the limit program is no relay"),
    };
    let file = std::fs::File::create(log)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let child = command.spawn().context("cannot run ip")?;
    let mut running = Running { child, folder, ours };
    let patience = Instant::now() + STARTS_WITHIN;
    let listens = |running: &Running| {
        if ours {
            let ready = running.folder.join("ready.json");
            ready.metadata().is_ok_and(|it| it.len() > 0)
        } else {
            is_bound(running.pid(), layout.relay.address.port())
        }
    };
    while !listens(&running) {
        if let Some(status) = running.child.try_wait()? {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            bail!("{} ended with {status}: {}", contender.name(), last_lines(&said));
        }
        ensure!(Instant::now() < patience, "{} does not listen", contender.name());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(running)
}

/// The command line of a contender, for the results.
pub fn command_line(contender: Contender, layout: &Layout) -> String {
    let folder = Path::new("DIR");
    let command = match contender {
        Contender::WeirUdp => weir_command(layout, folder),
        Contender::WeirUring => weir_command(layout, folder),
        Contender::WeirXdp => weir_command(layout, folder),
        Contender::MoqRelayBest => moq_relay_command(layout, folder, true),
        Contender::MoqRelayDefault => moq_relay_command(layout, folder, false),
        Contender::Limit(level) => return format!("weir-bench limit --level {level}"),
    };
    let words: Vec<_> = command
        .get_args()
        // Namespace and core are the layout's.
        .skip(6)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    words
        .iter()
        .enumerate()
        .map(|(at, word)| if at == 0 { name(word) } else { word.clone() })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Our settings file.
fn weir(layout: &Layout, folder: &Path, port: &str, start: Start) -> Result<Command> {
    std::fs::write(folder.join("weir.toml"), settings(layout, port, start))?;
    Ok(weir_command(layout, folder))
}

/// Ours has one shard, since it has one core, and no limit on how many come from the one address of the generator.
pub fn settings(layout: &Layout, port: &str, start: Start) -> String {
    let interface = &layout.relay.interface;
    let retry = if start.retry { "half_open = 0\n" } else { "" };
    format!(
        "[shards]\ncount = 1\nport = \"{port}\"\ninterface = \"{interface}\"\n\n\
         [limits]\nconnections_per_address = 20000\nconnections_per_address_per_second = 100000\n\
         sessions_per_token = 100000\nsessions_per_viewer = 100000\n\
         viewers_per_broadcast = 100000\n{retry}"
    )
}

fn weir_command(layout: &Layout, folder: &Path) -> Command {
    let mut command = layout.relay.command(&layout.weir);
    command.arg("up").arg("--config").arg(folder.join("weir.toml"));
    command.arg("--data-dir").arg(folder.join("data"));
    command.arg("--ready-file").arg(folder.join("ready.json"));
    command.args(["--quic", &layout.relay.address.to_string()]);
    for listener in ["http", "https", "rtmp", "rtmps", "srt", "whip"] {
        command.args([&format!("--{listener}"), "127.0.0.1:0"]);
    }
    command.args(["--log", "warn"]);
    command
}

/// A certificate on P-256, as ours is, since several workers cannot make one each.
fn moq_relay(layout: &Layout, folder: &Path, best: bool) -> Result<Command> {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::write(folder.join("certificate.pem"), certified.cert.pem())?;
    std::fs::write(folder.join("key.pem"), certified.signing_key.serialize_pem())?;
    Ok(moq_relay_command(layout, folder, best))
}

fn moq_relay_command(layout: &Layout, folder: &Path, best: bool) -> Command {
    let program = layout.moq_relay.clone().unwrap_or_else(|| "moq-relay".into());
    let mut command = layout.relay.command(&program);
    command.args(["--listen", &layout.relay.address.to_string()]);
    command.arg("--listen-tls-cert").arg(folder.join("certificate.pem"));
    command.arg("--listen-tls-key").arg(folder.join("key.pem"));
    command.args(["--auth-public", "**"]);
    if best {
        command.args(&layout.moq_relay_arguments);
    }
    command.env("RUST_LOG", "warn");
    command
}

fn folder() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("weir-bench-{:016x}", fastrand::u64(..)));
    std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Whether a UDP socket in the namespace of this process is bound to the port.
fn is_bound(pid: u32, port: u16) -> bool {
    let needle = format!(":{port:04X} ");
    ["udp", "udp6"].iter().any(|table| {
        std::fs::read_to_string(format!("/proc/{pid}/net/{table}"))
            .is_ok_and(|text| text.lines().skip(1).any(|line| line.contains(&needle)))
    })
}

pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_is_found_by_its_name() {
        for contender in Contender::ALL {
            assert_eq!(Contender::by_name(contender.name()), Some(contender));
        }
        assert_eq!(Contender::by_name("limit"), None);
    }
}
