//! Tools from PATH and files for them. A missing tool fails.
#![allow(clippy::panic, clippy::indexing_slicing, reason = "tests may fail loudly")]

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use weir_packager::catalog::Kind;
use weir_packager::{Options, Output, Packager, Sample, TrackConfig, merge};

use super::WALL;

/// A directory that goes with the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("weir-packager-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().into()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a tool that has to succeed without a complaint; gives what it prints.
pub fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{tool}: {error}"));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{tool} {arguments:?}: {complaints}");
    String::from_utf8(output.stdout).unwrap()
}

/// Packages samples; gives one single-track file per track and the merged file of all.
pub fn package(
    tracks: &[TrackConfig],
    samples: impl Iterator<Item = (Duration, Sample)>,
) -> (Vec<(Kind, Vec<u8>)>, Vec<u8>) {
    let mut packager = Packager::new(Options { first_group: 1, ..Options::default() });
    let start = Instant::now();
    for track in tracks {
        packager.handle_track(track.clone(), start).unwrap();
    }
    packager.handle_timeout(start + Duration::from_secs(1));
    for (due, sample) in samples {
        packager.handle_sample(sample, WALL + due, start + due).unwrap();
    }
    packager.handle_timeout(start + Duration::from_hours(1));
    packager.handle_end();
    let (mut objects, mut catalog) = (Vec::new(), None);
    while let Some(output) = packager.poll_output() {
        let Output::Object(object) = output else { continue };
        match &*object.track {
            ".catalog" => {
                catalog = Some(weir_packager::catalog::Catalog::parse(&object.payload).unwrap());
            }
            "catalog" => {}
            _ => objects.push(object),
        }
    }
    let catalog = catalog.unwrap();
    let mut singles: Vec<_> =
        catalog.tracks.iter().map(|track| (track.kind, track.init.clone())).collect();
    let mut merged = merge::merge_inits(catalog.tracks.iter().map(|track| track.init.as_slice()))
        .unwrap()
        .to_vec();
    for (sequence, object) in (1u32..).zip(&objects) {
        let index = catalog.tracks.iter().position(|track| track.name == *object.track).unwrap();
        singles[index].1.extend(&object.payload);
        let mut chunk = object.payload.to_vec();
        merge::rewrite_chunk(&mut chunk, index as u32 + 1, sequence).unwrap();
        merged.extend(chunk);
    }
    (singles, merged)
}
