//! What the machine did while something was measured, and what machine it is: time a core was busy and time it was
//! stolen, how long work had to wait for a core, overflowed socket buffers, and the facts that belong beside every
//! figure. Owns the parsers of `/proc`; knows nothing of what is measured.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

/// Ticks a second in `/proc/stat`, as in [`crate::process`].
const USER_HZ: u64 = 100;

/// A core since the machine started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Core {
    /// User, nice, system, hard and soft interrupts.
    pub busy: Duration,
    /// What the host gave to others.
    pub stolen: Duration,
}

impl Core {
    /// Reads one core.
    pub fn of(core: usize) -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        parse_core(&text, core)
    }

    /// Since an earlier reading of the same core.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(earlier.busy),
            stolen: self.stolen.saturating_sub(earlier.stolen),
        }
    }
}

/// The line `cpuN user nice system idle iowait irq softirq steal …` of proc(5).
fn parse_core(text: &str, core: usize) -> Result<Core> {
    let name = format!("cpu{core}");
    let line = text
        .lines()
        .find(|line| line.split_whitespace().next() == Some(name.as_str()))
        .ok_or_else(|| anyhow!("/proc/stat has no {name}"))?;
    let fields: Vec<u64> =
        line.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let ticks = |positions: &[usize]| -> Duration {
        let sum: u64 = positions.iter().filter_map(|at| fields.get(*at)).sum();
        Duration::from_millis(sum * 1000 / USER_HZ)
    };
    Ok(Core { busy: ticks(&[0, 1, 2, 5, 6]), stolen: ticks(&[7]) })
}

/// Time in which some task was ready and had no core, since the machine started; `None` where the kernel does not say.
pub fn waited_for_a_core() -> Option<Duration> {
    parse_pressure(&std::fs::read_to_string("/proc/pressure/cpu").ok()?)
}

fn parse_pressure(text: &str) -> Option<Duration> {
    let some = text.lines().find(|line| line.starts_with("some"))?;
    let total = some.split_whitespace().find_map(|field| field.strip_prefix("total="))?;
    Some(Duration::from_micros(total.parse().ok()?))
}

/// `RcvbufErrors` of UDP, over IPv4 and IPv6, in the network namespace of this process.
pub fn receive_buffer_errors() -> u64 {
    let snmp = std::fs::read_to_string("/proc/net/snmp").unwrap_or_default();
    let snmp6 = std::fs::read_to_string("/proc/net/snmp6").unwrap_or_default();
    column(&snmp, "Udp:", "RcvbufErrors").unwrap_or(0)
        + snmp6
            .lines()
            .find_map(|line| line.strip_prefix("Udp6RcvbufErrors")?.trim().parse().ok())
            .unwrap_or(0)
}

/// A value of `/proc/net/snmp`, which has a line of names above each line of values.
fn column(text: &str, table: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(table));
    let at = lines.next()?.split_whitespace().position(|column| column == name)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

/// The machine on which figures were taken.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Facts {
    /// As the kernel names it.
    pub processor: String,
    /// Logical cores.
    pub cores: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Its release.
    pub kernel: String,
    /// Largest receive and send buffer a program may ask for.
    pub socket_buffer_bytes_max: [u64; 2],
    /// What the kernel knows of a hypervisor around it.
    pub virtual_machine: bool,
}

impl Facts {
    /// Of this machine.
    pub fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let number = |path: &str| text(path).trim().parse().unwrap_or_default();
        let processors = text("/proc/cpuinfo");
        let memory = text("/proc/meminfo");
        Self {
            processor: after(&processors, "model name").unwrap_or_default().to_owned(),
            cores: processors.lines().filter(|line| line.starts_with("processor")).count(),
            memory_bytes: after(&memory, "MemTotal")
                .and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or_default()
                * 1024,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            socket_buffer_bytes_max: [
                number("/proc/sys/net/core/rmem_max"),
                number("/proc/sys/net/core/wmem_max"),
            ],
            virtual_machine: after(&processors, "flags")
                .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor")),
        }
    }
}

/// What stands behind `name` and a colon on its first line.
fn after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find(|line| line.starts_with(name))?.split_once(':').map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_found_by_its_name() {
        let text = "Tcp: A B\nTcp: 1 2\nUdp: InDatagrams RcvbufErrors\nUdp: 17 4\n";
        assert_eq!(column(text, "Udp:", "RcvbufErrors"), Some(4));
        assert_eq!(column(text, "Udp:", "Nothing"), None);
        assert_eq!(column("", "Udp:", "RcvbufErrors"), None);
    }

    #[test]
    fn a_core_is_busy_in_interrupts_and_idle_in_waiting() {
        let text = "cpu  9 9 9 9\ncpu1 100 200 300 4000 5000 600 700 800 0 0\ncpu10 1 1 1 1\n";
        let core = parse_core(text, 1).expect("a core");
        assert_eq!(core.busy, Duration::from_secs(19));
        assert_eq!(core.stolen, Duration::from_secs(8));
        assert!(parse_core(text, 2).is_err());
    }

    #[test]
    fn pressure_is_the_total_of_some() {
        let text = "some avg10=1.00 avg60=1.00 avg300=1.00 total=2500000\nfull avg10=0 total=7\n";
        assert_eq!(parse_pressure(text), Some(Duration::from_millis(2_500)));
        assert_eq!(parse_pressure("none"), None);
    }
}
