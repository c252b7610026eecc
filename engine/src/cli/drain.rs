//! `weir drain`: orders the node of a data directory to empty itself, and shows how far it is.

use std::io::{ErrorKind, IsTerminal as _, Write};
use std::path::Path;

use indicatif::ProgressBar;

use super::{Failure, args::Drain, failure::written};
use crate::config::Config;
use crate::drain::{Order, Progress, Stage, ask};

pub(super) fn drain(config: &Config, command: &Drain, out: &mut dyn Write) -> Result<(), Failure> {
    let order = Order {
        new_uri: command.new_uri.as_ref().map(|uri| uri.as_str().to_owned()),
        deadline_secs: command.deadline.map(|deadline| deadline.0.as_secs()),
    };
    let dir = &config.data_dir;
    let heard = ask(dir, &order).map_err(|error| failure(dir, &error))?;
    let bar = if !command.json && std::io::stderr().is_terminal() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    };
    let mut last = None;
    for progress in heard {
        let progress = match progress {
            Ok(progress) => progress,
            // It has ended with the line half written.
            Err(error) if last.is_some() && error.kind() != ErrorKind::InvalidInput => break,
            Err(error) => return Err(failure(dir, &error)),
        };
        if command.json {
            let text = serde_json::to_string(&progress).unwrap_or_default();
            written(writeln!(out, "{text}"))?;
        } else if bar.is_hidden() {
            // Each second would be noise in a log; a session that leaves is not.
            let counts = |progress: &Progress| (progress.sessions, progress.publishers);
            if last.as_ref().map(counts) != Some(counts(&progress))
                && progress.state == Stage::Draining
            {
                written(writeln!(out, "{}", line(&progress)))?;
            }
        } else {
            bar.set_message(line(&progress));
            bar.tick();
        }
        last = Some(progress);
        if command.no_wait {
            break;
        }
    }
    bar.finish_and_clear();
    if command.json {
        return Ok(());
    }
    written(writeln!(out, "{}", verdict(last)))
}

fn line(progress: &Progress) -> String {
    let sessions = counted(progress.sessions, "session");
    let publishers = counted(progress.publishers, "publisher");
    format!("draining: {sessions} and {publishers} left, {} s to go", progress.seconds_left)
}

fn verdict(last: Option<Progress>) -> String {
    match last {
        Some(Progress { state: Stage::Done, closed: 0, publishers: 0, .. }) => {
            "drained: everybody has left".to_owned()
        }
        Some(Progress { state: Stage::Done, closed, publishers, .. }) => format!(
            "drained: at the deadline {} and {} were still there and have been closed",
            counted(closed, "session"),
            counted(publishers, "publisher"),
        ),
        Some(progress) => line(&progress),
        None => "the node has ended".to_owned(),
    }
}

fn counted(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn failure(data_dir: &Path, error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            Failure::new(format!("no node runs on {}", data_dir.display()))
                .help("name the directory of `weir up` with --data-dir")
        }
        ErrorKind::PermissionDenied => {
            Failure::new(format!("not allowed to use the node of {}", data_dir.display()))
                .help("run it as the user who owns the data directory")
        }
        ErrorKind::InvalidInput => Failure::new(format!("the node refuses the order: {error}"))
            .help("`weir drain --help` says what it takes")
            .usage(),
        _ => Failure::new(format!("cannot talk to the node of {}: {error}", data_dir.display()))
            .help("send SIGTERM to the process, which does the same"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_who_was_left() {
        let done = Progress { state: Stage::Done, ..Progress::SERVING };
        assert_eq!(verdict(Some(done)), "drained: everybody has left");
        let late = verdict(Some(Progress { closed: 1, publishers: 2, ..done }));
        assert!(late.contains("1 session and 2 publishers"), "{late}");
        let leaving = Progress { state: Stage::Draining, sessions: 3, seconds_left: 9, ..done };
        assert_eq!(verdict(Some(leaving)), "draining: 3 sessions and 0 publishers left, 9 s to go");
    }
}
