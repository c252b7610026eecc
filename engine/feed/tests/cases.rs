//! The table of hard cases beside this crate names tests; each of them must exist, somewhere in the tree.

#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Every function under this folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.lines().filter_map(|line| {
                let (name, _) = line.trim_start().split_once("fn ")?.1.split_once('(')?;
                Some(name.to_owned())
            });
            found.extend(names);
        }
    }
}

#[test]
fn every_test_that_the_table_of_cases_names_is_there() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let root = Path::new(&here).join("../..");
    let mut found = BTreeSet::new();
    for folder in ["engine", "packager", "relay/src"] {
        functions(&root.join(folder), &mut found);
    }
    let table = fs::read_to_string(Path::new(&here).join("README.md")).unwrap();
    let quoted = table.split('`').skip(1).step_by(2);
    // A test's name is a sentence; paths, targets and types are not.
    let is_name = |name: &&str| {
        name.matches('_').count() >= 3
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit())
    };
    let names: Vec<&str> = quoted.filter(is_name).collect();
    assert!(names.len() > 60, "{} names", names.len());
    let missing: Vec<_> = names.into_iter().filter(|name| !found.contains(*name)).collect();
    assert!(missing.is_empty(), "not in the tree: {missing:?}");
}
