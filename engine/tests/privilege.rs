//! What `weir up` may do to its host while it serves, as an operator runs it: asked of the kernel, thread by thread. The same
//! for a node with frames is in `frames.rs`.

mod process;

use std::io::Read as _;
use std::process::{Command, Stdio};

use process::{Node, WEIR, confined};

#[test]
fn node_on_udp_keeps_no_privilege_and_no_keeper_while_a_viewer_watches() {
    let node = Node::start_sharded("privilege", &["up", "--demo"], 2);
    let url = node.demo("playback_url");
    let mut player = Command::new(WEIR)
        .args(["play", &url, "--insecure", "-o", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The header in the pipe means that media flows.
    let mut head = [0; 8];
    let mut out = player.stdout.take().unwrap();
    out.read_exact(&mut head).unwrap();
    assert_eq!(&head[4..], b"ftyp");
    let names = confined::expect(node.pid());
    assert!(names.len() > 3, "{names:?}");
    assert_eq!(confined::children(node.pid()), Vec::<u32>::new(), "nothing is left to ask for");
    let log = node.stop();
    // The player saw the end of the broadcast.
    assert!(player.wait().unwrap().success());
    assert!(!log.contains("is not on the list"), "{log}");
    assert!(!log.contains("could not all be given up"), "{log}");
    assert!(!log.contains("not filtered on this host"), "{log}");
}

#[test]
fn keeper_started_by_hand_is_refused() {
    let run = Command::new(WEIR).arg("keeper").stdin(Stdio::null()).output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(
        said.contains("error: the keeper of privileges ends") && said.contains("help: "),
        "{said}"
    );
}
