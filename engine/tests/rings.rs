//! `weir up` with `shards.port = "uring"` as an operator runs it: viewers on two shards are served by `io_uring`, and what
//! they record is whole.

mod process;

use std::fs;
use std::process::{Command, Stdio};

use process::{Node, WEIR};

#[test]
fn viewers_on_two_shards_are_served_by_io_uring() {
    let node = Node::start_on_port("rings", &["up", "--demo"], 2, "uring");
    for shard in [0, 1] {
        node.wait_for_metric(&format!("weir_port_rung{{shard=\"{shard}\",rung=\"uring\"}} 1"));
    }
    let url = node.demo("playback_url");
    // Eight viewers, so that both shards have some, whatever the hashes.
    let viewers: Vec<_> = (0..8)
        .map(|number| {
            let file = node.data_dir().join(format!("{number}.mp4"));
            let mut play = Command::new(WEIR);
            play.args(["play", "--insecure", "--duration", "2", "-o"]).arg(&file).arg(&url);
            play.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            (file, play.spawn().unwrap())
        })
        .collect();
    for (file, mut viewer) in viewers {
        assert!(viewer.wait().unwrap().success(), "{}", node.log());
        let bytes = fs::metadata(&file).unwrap().len();
        assert!(bytes > 20_000, "recorded {bytes} bytes: {}", node.log());
    }
    let sum = |sample: &str, rest: &str| -> u64 {
        (0..2).map(|shard| node.metric(&format!("{sample}{{shard=\"{shard}\"{rest}}}"))).sum()
    };
    assert!(sum("weir_uring_events_total", ",event=\"enter\"") > 50, "{}", node.log());
    assert_eq!(sum("weir_port_lost_total", ""), 0);
    for reason in ["other", "too_large", "unreachable"] {
        assert_eq!(sum("weir_port_dropped_total", &format!(",reason=\"{reason}\"")), 0, "{reason}");
    }
    let log = node.stop();
    assert!(!log.contains("packet port refused"), "{log}");
}
