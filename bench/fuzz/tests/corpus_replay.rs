//! Replays every stored input through its target: what the fuzzer once found stays found. Needs no fuzzer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where this run's sources are. Asked at run time: with a shared target folder the binary may have been built elsewhere.
fn corpus() -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("set by cargo test")).join("corpus")
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder);
    assert!(entries.is_ok(), "{} is not readable", folder.display());
    let entries = entries.into_iter().flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("a directory entry").path()).collect();
    paths.sort();
    paths
}

#[test]
fn stored_inputs_of_every_target_return() {
    for target in weir_fuzz::TARGETS {
        let inputs = names(&corpus().join(target.name));
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        for path in inputs {
            let bytes = std::fs::read(&path).expect("a readable input");
            // A panic names its place; this names the input.
            println!("{} {}", target.name, path.display());
            (target.run)(&bytes);
        }
    }
}

#[test]
fn every_corpus_folder_belongs_to_a_target() {
    let known: BTreeSet<&str> = weir_fuzz::TARGETS.iter().map(|target| target.name).collect();
    for folder in names(&corpus()) {
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        assert!(known.contains(name), "{name} is no target");
    }
}

#[test]
fn truncations_and_single_bit_flips_of_stored_inputs_return() {
    /// Per target, so that the whole replay stays under a few seconds in a debug build.
    const INPUTS_MAX: usize = 12;
    const BYTES_MAX: usize = 400;
    for target in weir_fuzz::TARGETS {
        for path in names(&corpus().join(target.name)).into_iter().take(INPUTS_MAX) {
            let bytes = std::fs::read(&path).expect("a readable input");
            let short = &bytes[..bytes.len().min(BYTES_MAX)];
            println!("{} {}", target.name, path.display());
            for end in 0..short.len() {
                (target.run)(&short[..end]);
                let mut flipped = short.to_vec();
                flipped[end] ^= 1 << (end % 8);
                (target.run)(&flipped);
            }
        }
    }
}
