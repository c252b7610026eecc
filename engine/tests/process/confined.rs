//! What a running process may do, as the kernel tells it of each of its threads.

use std::collections::BTreeSet;
use std::fs;

/// Sets of capabilities, all of which must be empty.
const SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// Expects that no thread of a process has a capability or can gain one, and that each is filtered;
/// returns the names of the threads.
pub fn expect(pid: u32) -> BTreeSet<String> {
    let may_unbound = field(&status("self"), "CapEff") != "0000000000000000";
    let mut names = BTreeSet::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        // A thread that has just ended has nothing left either.
        let Ok(said) = fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        let name = field(&said, "Name");
        for set in SETS {
            // Without CAP_SETPCAP, which only root has, the bounding set cannot be emptied; it means
            // nothing where no new privileges can be had.
            if set != "CapBnd" || may_unbound {
                assert_eq!(field(&said, set), "0000000000000000", "{set} of thread {name}");
            }
        }
        assert_eq!(field(&said, "NoNewPrivs"), "1", "thread {name}");
        assert_eq!(field(&said, "Seccomp"), "2", "thread {name}");
        names.insert(name);
    }
    assert!(names.iter().any(|name| name.starts_with("shard-")), "{names:?}");
    names
}

/// The processes that `pid` has started.
pub fn children(pid: u32) -> Vec<u32> {
    let numbers = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    // One that has just ended is nobody's child.
    let is_child = |child: &u32| {
        fs::read_to_string(format!("/proc/{child}/status"))
            .is_ok_and(|said| field(&said, "PPid") == pid.to_string())
    };
    numbers.filter(is_child).collect()
}

/// Whether a process still runs: neither gone nor waiting to be buried.
pub fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .is_ok_and(|said| !field(&said, "State").starts_with('Z'))
}

/// A field of the status of a process.
pub fn of(pid: u32, name: &str) -> String {
    field(&status(&pid.to_string()), name)
}

fn status(pid: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
}

fn field(said: &str, name: &str) -> String {
    let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    line.unwrap().to_owned()
}
