//! What a running process has cost so far, read from `/proc`: processor time of all its threads and resident memory.
//! Owns the two parsers; knows nothing of what the process does.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

/// Ticks a second in `/proc/PID/stat`. `USER_HZ` is 100 on every Linux this project runs on (x86-64 and arm64).
const USER_HZ: u32 = 100;

/// Processor time and memory of a process at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cost {
    /// Time spent in the program itself, all threads, living and ended.
    pub user: Duration,
    /// Time the kernel spent on its behalf, all threads, living and ended.
    pub system: Duration,
    /// Resident memory.
    pub resident_bytes: u64,
}

impl Cost {
    /// Reads the cost of a process so far.
    pub fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let (user, system) = parse_stat(&read("stat")?)?;
        Ok(Self { user, system, resident_bytes: parse_status(&read("status")?)? })
    }

    /// Processor time, user and system.
    pub fn processor(&self) -> Duration {
        self.user + self.system
    }

    /// Processor time since an earlier reading of the same process; memory is the present one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            resident_bytes: self.resident_bytes,
        }
    }
}

/// Files, sockets and other descriptors a process holds.
pub fn open_files(pid: u32) -> Result<usize> {
    let path = format!("/proc/{pid}/fd");
    Ok(std::fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?.count())
}

/// Fields 14 (utime) and 15 (stime) of proc(5). The command name before them may hold blanks and brackets, so counting
/// starts after its last closing bracket.
fn parse_stat(text: &str) -> Result<(Duration, Duration)> {
    let (_, rest) = text.rsplit_once(')').ok_or_else(|| anyhow!("no command name in {text:?}"))?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |position: usize| -> Result<Duration> {
        let text =
            fields.get(position - 3).ok_or_else(|| anyhow!("field {position} is missing"))?;
        let ticks: u32 = text.parse().with_context(|| format!("field {position} is {text:?}"))?;
        Ok(Duration::from_secs(1) * ticks / USER_HZ)
    };
    Ok((ticks(14)?, ticks(15)?))
}

fn parse_status(text: &str) -> Result<u64> {
    let Some(line) = text.lines().find_map(|line| line.strip_prefix("VmRSS:")) else {
        bail!("no VmRSS: the process has ended");
    };
    let kilobytes: u64 = line
        .trim()
        .strip_suffix("kB")
        .map(str::trim)
        .ok_or_else(|| anyhow!("VmRSS without kB: {line:?}"))?
        .parse()?;
    Ok(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_blanks_and_brackets_does_not_shift_the_fields() {
        let line = "42 (we ir) (x)) S 1 42 42 0 -1 4194560 900 0 3 0 1234 56 7 8 20 0 9 0 100 1 2";
        let (user, system) = parse_stat(line).expect("parses");
        assert_eq!((user, system), (Duration::from_millis(12_340), Duration::from_millis(560)));
    }

    #[test]
    fn a_truncated_line_says_which_field_is_missing() {
        let error = parse_stat("42 (weir) S 1 42").expect_err("too short");
        assert_eq!(error.to_string(), "field 14 is missing");
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let text = "Name:\tweir\nVmHWM:\t   9000 kB\nVmRSS:\t    2048 kB\nThreads:\t4\n";
        assert_eq!(parse_status(text).expect("parses"), 2 << 20);
    }

    #[test]
    fn own_process_has_memory_and_a_cost_that_only_grows() {
        let pid = std::process::id();
        let first = Cost::of(pid).expect("own process");
        assert!(first.resident_bytes > 0);
        let second = Cost::of(pid).expect("own process");
        assert!(second.processor() >= first.processor());
        assert_eq!(first.since(&second).processor(), Duration::ZERO);
    }

    #[test]
    fn a_process_that_is_gone_is_named() {
        let error = Cost::of(u32::MAX).expect_err("no such process");
        assert!(error.to_string().contains("/proc/4294967295/stat"), "{error}");
    }
}
