//! `weir-bench`: measures a running Weir from outside. Owns the command line; the statistics are in the library.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use weir_bench::process::Cost;

#[derive(Parser)]
#[command(name = "weir-bench", about = "Measures a running Weir", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints what a process spends over a span: processor seconds, share of a core, resident memory.
    Cost {
        /// Process id, for instance of `weir up`.
        pid: u32,
        /// Length of the span in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// One JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Cost { pid, seconds, json } => cost(pid, Duration::from_secs(seconds), json),
    }
}

fn cost(pid: u32, span: Duration, json: bool) -> Result<()> {
    ensure!(!span.is_zero(), "--seconds must be at least 1");
    let before = Cost::of(pid)?;
    std::thread::sleep(span);
    let spent = Cost::of(pid)?.since(&before);
    let share = spent.processor().as_secs_f64() / span.as_secs_f64();
    let mut out = std::io::stdout().lock();
    if json {
        let line = serde_json::json!({
            "pid": pid,
            "seconds": span.as_secs(),
            "user_s": spent.user.as_secs_f64(),
            "system_s": spent.system.as_secs_f64(),
            "cores": share,
            "resident_bytes": spent.resident_bytes,
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(
            out,
            "user {:.2} s, system {:.2} s, {:.1} % of a core, {} KB resident",
            spent.user.as_secs_f64(),
            spent.system.as_secs_f64(),
            share * 100.0,
            spent.resident_bytes / 1000
        )?;
    }
    Ok(())
}
