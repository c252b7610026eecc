//! Gives up what a serving process does not need, before it has threads, listeners or peers: its
//! privileges go to a keeper, if it has any, and system calls are filtered. It owns the order; what
//! each step does is `weir_host`'s and `weir_xdp::keeper`'s matter.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use weir_host::rights::{self, Capabilities};
use weir_host::seccomp::{self, Filtered};
use weir_xdp::keeper::{self, Keeper, Terms};
use weir_xdp::ladder::Choice;

use crate::cli::{Failure, KEEPER_COMMAND};
use crate::config::Security;
use crate::topology::Topology;

/// Ports under this need a privilege (`net.ipv4.ip_unprivileged_port_start` as it is by default).
const LOW_PORTS: std::ops::Range<u16> = 1..1_024;

/// System calls this process made that are not on its list, each counted once.
static UNLISTED: AtomicU64 = AtomicU64::new(0);

/// How many different system calls that are not on the list this process has made.
pub(super) fn unlisted_calls() -> u64 {
    UNLISTED.load(Ordering::Relaxed)
}

/// Confines this process, which so far has one thread. A host that does not grant a step is no
/// reason not to serve: what is missing is said in one line each.
pub(super) fn confine(topology: &Topology, data_dir: &Path, security: Security) {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    debug_assert_eq!(threads, 1, "rights belong to threads, so they are given up by the only one");
    let held = Capabilities::effective().unwrap_or_default().and(Capabilities::NETWORK);
    if !held.is_empty() {
        match Keeper::start(keeper_command(), &terms(topology)) {
            Ok(started) => {
                tracing::debug!(pid = started.pid(), "network privileges are with a keeper");
                keeper::install(started);
            }
            Err(error) => {
                tracing::warn!(%error, "no keeper of privileges: frames, low ports and larger buffers are not to be had");
            }
        }
    }
    // Without the privilege the host's limit holds, which `weir host check` looks at.
    let _ = rights::raise_memlock();
    let owner = rights::owner_to_become(data_dir);
    match rights::give_up(Capabilities::NONE, owner) {
        Ok(()) => {
            let user = owner.map(|owner| owner.user);
            tracing::debug!(user, "no capability is left");
        }
        Err(error) => tracing::warn!(%error, "privileges could not all be given up"),
    }
    let filtered = seccomp::confine(security.seccomp.0, |unlisted| {
        UNLISTED.fetch_add(1, Ordering::Relaxed);
        let seccomp::Unlisted { number, name, refused } = unlisted;
        tracing::warn!(number, name, refused, "a system call that is not on the list of this node");
    });
    match filtered {
        Ok(Some(Filtered::Whole)) => {
            tracing::debug!(mode = %security.seccomp, "system calls are filtered");
        }
        Ok(None) => {}
        Ok(Some(Filtered::Silent)) => {
            tracing::info!(
                "system calls are filtered; the host does not let us say which are refused"
            );
        }
        Err(error) => tracing::warn!(%error, "system calls are not filtered on this host"),
    }
}

/// `weir keeper`: the process that holds the privileges, until the one that started it ends.
pub fn keep() -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(format!("the keeper of privileges ends: {error}"))
            .help("`weir up` and `weir relay` start it where it is needed")
    };
    rights::give_up(Capabilities::NETWORK, None).map_err(failed)?;
    keeper::serve(std::io::stdin().as_fd()).map_err(failed)
}

/// The same binary again: one file to install, and never two versions that do not understand each
/// other. Nothing of our environment goes along, since secrets may be in it.
fn keeper_command() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(KEEPER_COMMAND).env_clear();
    command
}

/// What the keeper is to do for us, and nothing else.
fn terms(topology: &Topology) -> Terms {
    let at = &topology.listeners;
    let all = [at.http, at.https, at.quic, at.rtmp, at.rtmps, at.srt, at.whip];
    let is_low = |address: &SocketAddr| LOW_PORTS.contains(&address.port());
    let has_frames = matches!(topology.port, Choice::Auto | Choice::Xdp);
    let frames = has_frames.then(|| (at.quic, topology.interface.clone()));
    Terms { frames, binds: all.into_iter().filter(is_low).collect() }
}
