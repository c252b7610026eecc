//! The tables beside this crate name a test for each promise; each of them must exist, somewhere in the tree.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Adds the names of functions in the sources under `folder`.
fn collect(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        if path.is_dir() {
            collect(&path, names);
        } else if is_source {
            let text = fs::read_to_string(&path).unwrap();
            let after_fn = text.lines().filter_map(|line| line.trim_start().strip_prefix("fn "));
            names.extend(after_fn.filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())));
        }
    }
}

#[test]
fn every_promise_names_tests_that_are_there() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let relay = Path::new(&here);
    let mut there = BTreeSet::new();
    for folder in ["relay/src", "relay/tests", "relay/moqt", "engine", "packager"] {
        collect(&relay.join("..").join(folder), &mut there);
    }
    let readme = fs::read_to_string(relay.join("README.md")).unwrap();
    let rows = readme.lines().filter(|line| line.starts_with("| "));
    let rows = rows.filter(|line| !line.starts_with("| promise") && !line.starts_with("| ---"));
    let (mut promises, mut missing) = (0, Vec::new());
    for row in rows {
        let (promise, held_by) = row[2..].split_once(" | ").unwrap();
        let names: Vec<&str> = held_by.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "nothing holds: {promise}");
        missing.extend(names.into_iter().filter(|name| !there.contains(*name)));
        promises += 1;
    }
    assert!(promises > 30, "{promises} promises");
    assert!(missing.is_empty(), "not in the tree: {missing:?}");
}
