//! `weir host`: shows what a fast host needs, sets it, takes it back. What that is, `weir_host::tuning`
//! knows; here it becomes lines and exit codes, and the record of changes a file.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::json;
use weir_host::tuning::{self, Host as System, Item, Outcome, Record};

use super::{Failure, args::Host, failure::written};

pub(super) fn host(command: Host, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        Host::Check { interface, json } => check(&interface, json, out),
        Host::Init { interface, state } => {
            let mut record = load(&state)?;
            let outcomes = record.init(&mut System::default(), &interface, &mut keep(&state));
            told(&outcomes, "nothing to set: this host is as it should be", out)
        }
        Host::Undo { state } => {
            let mut record = load(&state)?;
            let outcomes = record.undo(&mut System::default(), &mut keep(&state));
            told(&outcomes, "nothing to take back", out)
        }
    }
}

fn check(interfaces: &[String], json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let items = tuning::look(&System::default(), interfaces);
    let missing = items.iter().filter(|item| !item.is_fine()).count();
    if json {
        let items: Vec<_> = items.iter().map(described).collect();
        written(writeln!(out, "{}", json!({ "ok": missing == 0, "items": items })))?;
    } else {
        items.iter().try_for_each(|item| written(out.write_all(line(item).as_bytes())))?;
    }
    match missing {
        0 => Ok(()),
        missing => {
            Err(Failure::new(format!("{missing} of {} things slow this host down", items.len()))
                .help("`weir host init` as root sets those marked `set`; the others are for you"))
        }
    }
}

fn described(item: &Item) -> serde_json::Value {
    json!({
        "name": item.name,
        "why": item.why,
        "current": item.current,
        "wanted": item.wanted(),
        "ok": item.is_fine(),
        "settable": item.is_settable(),
    })
}

fn line(item: &Item) -> String {
    let Item { name, why, current, .. } = item;
    let mark = match (item.is_fine(), item.is_settable()) {
        (true, _) => "ok",
        (false, true) => "set",
        (false, false) => "you",
    };
    let values =
        if item.is_fine() { current.clone() } else { format!("{current} -> {}", item.wanted()) };
    format!("{mark:<4} {name:<34} {values}\n     {why}\n")
}

fn told(outcomes: &[Outcome], nothing: &str, out: &mut dyn Write) -> Result<(), Failure> {
    if outcomes.is_empty() {
        return written(writeln!(out, "{nothing}"));
    }
    for outcome in outcomes {
        written(match outcome {
            Outcome::Changed { name, from, to } => writeln!(out, "set  {name:<34} {from} -> {to}"),
            Outcome::Foreign { name, current, ours } => {
                writeln!(out, "left {name:<34} {current}: somebody else set it after us ({ours})")
            }
            Outcome::Failed { name, why } => writeln!(out, "FAIL {name:<34} {why}"),
        })?;
    }
    match outcomes.iter().filter(|outcome| !outcome.is_done()).count() {
        0 => Ok(()),
        left => Err(Failure::new(format!("{left} of {} were not done", outcomes.len()))
            .help("this takes root; what was done is on record, and the command can be repeated")),
    }
}

fn load(path: &Path) -> Result<Record, Failure> {
    let unusable = |why: String| {
        Failure::new(format!("cannot use the record {}: {why}", path.display()))
            .help("name another with --state FILE")
    };
    match fs::read_to_string(path) {
        Ok(text) => Record::parse(&text).map_err(|error| unusable(error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
        Err(error) => Err(unusable(error.to_string())),
    }
}

/// Stores the record whole or not at all; an empty one leaves no file.
fn keep(path: &Path) -> impl FnMut(&Record) -> io::Result<()> {
    let path = path.to_owned();
    move |record| {
        if record.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let fresh = PathBuf::from(format!("{}.new", path.display()));
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o644).open(&fresh)?;
        file.write_all(record.render().as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::TempDir;

    #[test]
    fn record_is_kept_whole_and_leaves_nothing_when_it_is_empty() {
        let dir = TempDir::new();
        let path = dir.path().join("deep").join("host.json");
        let text = "{\"changes\":[{\"name\":\"n\",\"place\":\"/proc/sys/x\",\"before\":\"1\",\"after\":\"2\"}]}";
        let record = Record::parse(text).expect("a record");
        keep(&path)(&record).expect("room");
        assert_eq!(load(&path).expect("just written"), record);
        keep(&path)(&Record::default()).expect("removed");
        assert!(!path.exists());
        assert!(load(&path).expect("no file is no record").is_empty());
        keep(&path)(&Record::default()).expect("nothing to remove");
    }

    #[test]
    fn record_that_is_none_is_refused_and_named() {
        let dir = TempDir::new();
        let path = dir.path().join("host.json");
        fs::write(&path, "[]").expect("room");
        let failure = load(&path).expect_err("not a record");
        assert!(failure.to_string().contains("host.json"), "{failure}");
    }

    #[test]
    fn check_looks_at_this_host_and_says_the_same_in_both_forms() {
        let mut text = Vec::new();
        let said = check(&[], false, &mut text);
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains("net.core.rmem_max") && text.contains("kernel"), "{text}");
        let mut page = Vec::new();
        let _ = check(&[], true, &mut page);
        let page: serde_json::Value = serde_json::from_slice(&page).expect("JSON");
        assert_eq!(page["ok"], said.is_ok());
        let items = page["items"].as_array().expect("a list").len();
        assert_eq!(text.lines().count(), 2 * items);
    }
}
