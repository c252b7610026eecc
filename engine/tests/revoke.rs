//! Revocation as an operator and viewers see it: the real binary with two shards, real QUIC on loopback. How soon it
//! acts is the poll of the store (200 ms) plus a turn, shown on virtual time in `sim_tokens`; here it only has to happen.

#![expect(clippy::unwrap_used, reason = "a test ends where it finds something wrong")]

mod process;

use std::process::{Child, Command, Stdio};

use process::{Node, WEIR, play, text};
use serde_json::Value;

/// Enough that two shards both get some: sockets share viewers by a hash of address and port.
const VIEWERS_MAX: usize = 64;

fn weir(node: &Node, line: &[&str]) -> String {
    let output = Command::new(WEIR)
        .args(line)
        .arg("--data-dir")
        .arg(node.data_dir())
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn mint(node: &Node, more: &[&str]) -> Value {
    let id = node.demo("input_id");
    let said = weir(node, &[&["token", "mint", &id, "--json"], more].concat());
    serde_json::from_str(&said).unwrap()
}

/// Players with this token until each of the two shards has one.
fn watch_on_both(node: &Node, url: &str) -> Vec<Child> {
    let mut players = Vec::new();
    let busy = |shard: u32| node.metric(&format!("weir_subscriptions{{shard=\"{shard}\"}}")) > 0;
    while !(busy(0) && busy(1)) {
        assert!(players.len() < VIEWERS_MAX, "all on one shard");
        let player = Command::new(WEIR)
            .args(["play", url, "--insecure", "--log", "info"])
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        players.push(player);
        let all = players.len() as u64;
        node.wait_until("a further session", |node| {
            node.metric("weir_sessions{shard=\"0\"}") + node.metric("weir_sessions{shard=\"1\"}")
                == all
        });
        // A session is there before its subscriptions are.
        node.wait_until("subscriptions", |node| {
            node.metric("weir_subscriptions{shard=\"0\"}")
                + node.metric("weir_subscriptions{shard=\"1\"}")
                >= 3 * all
        });
    }
    players
}

#[test]
fn revoking_a_token_a_viewer_or_a_key_ends_its_sessions_on_every_shard() {
    let node = Node::start_sharded("revoke", &["up", "--demo"], 2);
    for way in ["jti", "vid", "token", "kid"] {
        let minted = mint(&node, &["--vid", "anna"]);
        let url = minted["playback_url"].as_str().unwrap();
        let players = watch_on_both(&node, url);
        let (jti, kid) = (minted["jti"].as_str().unwrap(), minted["kid"].as_str().unwrap());
        match way {
            "jti" => drop(weir(&node, &["token", "revoke", "--jti", jti])),
            "vid" => drop(weir(&node, &["token", "revoke", "--vid", "anna"])),
            "kid" => drop(weir(&node, &["signing-key", "deactivate", kid])),
            _ => {
                let body = format!("{{\"token\":{}}}", minted["token"]);
                let answer = node.post("/v1/revocations", &body);
                assert!(answer.starts_with("HTTP/1.1 201"), "{way}: {answer}");
            }
        }
        for player in players {
            let output = player.wait_with_output().unwrap();
            let said = text(&output.stderr);
            assert!(!output.status.success(), "{way}");
            assert!(said.contains("auth_failed: token_revoked"), "{way}: {said}");
        }
        let again = play(url, &["--duration", "5"]);
        assert!(text(&again.stderr).contains("token_revoked"), "{way}: {}", text(&again.stderr));
        if way == "vid" {
            // The second is the resolution of `iat`: what is minted in the next one is not meant.
            node.wait_until("the next second", |node| {
                let fresh = mint(node, &["--vid", "anna"]);
                play(fresh["playback_url"].as_str().unwrap(), &["--duration", "1"]).status.success()
            });
        }
        let secret = minted["token"].as_str().unwrap();
        assert!(!node.log().contains(secret), "{way}: a token in the log");
    }
    assert!(node.metric("weir_auth_failures_total{shard=\"0\",reason=\"revoked\"}") > 0);
    assert!(node.metric("weir_auth_failures_total{shard=\"1\",reason=\"revoked\"}") > 0);
    node.stop();
}
