use std::cell::RefCell;

use serde_json::Value;

use super::{testing::TempDir, *};

/// Notes what was asked for.
#[derive(Default)]
struct Noted {
    up: RefCell<Option<Up>>,
    relay: RefCell<Option<Edge>>,
    play: RefCell<Option<PlayOptions>>,
}

impl Roles for Noted {
    fn up(&self, up: Up) -> Result<(), Failure> {
        *self.up.borrow_mut() = Some(up);
        Ok(())
    }

    fn relay(&self, edge: Edge) -> Result<(), Failure> {
        *self.relay.borrow_mut() = Some(edge);
        Ok(())
    }

    fn keeper(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn publish(&self, _: PublishOptions) -> Result<(), Failure> {
        Ok(())
    }

    fn play(&self, options: PlayOptions) -> Result<(), Failure> {
        *self.play.borrow_mut() = Some(options);
        Ok(())
    }
}

fn weir_in(environment: &[(&str, &str)], line: &[&str], roles: &Noted) -> Result<String, Failure> {
    let mut out = Vec::new();
    let line = std::iter::once("weir").chain(line.iter().copied()).map(OsString::from);
    let variable = |name: &str| {
        environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    run(line, variable, roles, &mut out)?;
    Ok(String::from_utf8(out).expect("output is text"))
}

fn weir(line: &[&str]) -> Result<String, Failure> {
    weir_in(&[], line, &Noted::default())
}

fn json(line: &[&str]) -> Value {
    serde_json::from_str(&weir(line).expect("works")).expect("one JSON object")
}

#[test]
fn an_input_is_created_its_key_rotated_and_a_token_minted() {
    let dir = TempDir::new();
    let data = dir.path().join("data");
    let data = data.to_str().expect("text");
    let created = json(&["input", "create", "--name", "Stage", "--data-dir", data, "--json"]);
    let id = created["id"].as_str().expect("an id");
    let key = created["stream_key"].as_str().expect("a key");
    let url = created["urls"]["rtmp"].as_str().expect("a URL");
    assert_eq!(url, format!("rtmp://127.0.0.1:1935/live/{id}?sk={key}"));
    assert_eq!(created["ingest"], "rtmp");
    for name in ["rtmps", "srt", "whip", "publish"] {
        assert!(created["urls"][name].as_str().is_some_and(|url| url.contains(key)), "{name}");
    }
    let said = weir(&["input", "create", "--name", "x", "--ingest", "srt", "--data-dir", data]);
    let said = said.expect("works");
    assert!(said.contains("\nsrt         srt://127.0.0.1:8890?streamid=lv_"), "{said}");
    assert!(!said.contains("rtmp://"), "only what is taken: {said}");

    assert_eq!(
        (&created["policy"], &created["reconnect_window_s"]),
        (&"refuse".into(), &30.into())
    );
    let change = ["--policy", "takeover", "--reconnect-window", "5s", "--ingest", "whip"];
    let set = [&["input", "set", id, "--data-dir", data, "--json"][..], &change].concat();
    assert_eq!(json(&set)["policy"], "takeover");
    let shown = json(&["input", "show", id, "--data-dir", data, "--json"]);
    assert_eq!((&shown["reconnect_window_s"], &shown["ingest"]), (&5.into(), &"whip".into()));
    assert_eq!((&shown["state"], &shown["name"]), (&"idle".into(), &"Stage".into()));
    let said = weir(&["input", "show", id, "--data-dir", data]).expect("works");
    assert!(said.contains("takeover, reconnect window 5 s") && said.contains("idle"), "{said}");
    let api = json(&["api-key", "create", "--name", "console", "--data-dir", data, "--json"]);
    assert!(api["api_key"].as_str().is_some_and(|key| key.starts_with("ak_live_")));
    assert_eq!(api["console"], "http://localhost:8080/console");
    let said = weir(&["input", "health", id, "--data-dir", data]).expect("works");
    assert!(said.contains("measured  never"), "{said}");
    let long = ["input", "set", id, "--reconnect-window", "2h", "--data-dir", data];
    let refused = weir(&long).expect_err("too long");
    assert!(refused.to_string().contains("at most 3600 seconds"), "{refused}");

    let rotated = json(&["input", "rotate-key", id, "--data-dir", data, "--json"]);
    assert_ne!(rotated["stream_key"].as_str(), Some(key));

    let minted = json(&["token", "mint", id, "--ttl", "1h", "--data-dir", data, "--json"]);
    let token = minted["token"].as_str().expect("a token");
    assert_eq!(token.split('.').count(), 3);
    let playback = format!("https://127.0.0.1:4443/playback/{id}?tok={token}");
    assert_eq!(minted["playback_url"], playback.as_str());
    let page = format!("http://localhost:8080/watch/{id}?tok={token}");
    assert_eq!(minted["page_url"], page.as_str());
    assert!(minted["expires_at"].as_str().is_some_and(|time| time.ends_with('Z')));

    let list = weir(&["input", "list", "--data-dir", data]).expect("works");
    assert!(list.contains(id) && list.contains("Stage") && !list.contains("sk_live_"), "{list}");
}

#[test]
fn urls_are_those_of_the_running_server() {
    let dir = TempDir::new();
    let data = dir.path().to_str().expect("text");
    let claim = Claim::take(dir.path()).expect("free");
    let on = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    claim
        .publish(&Addresses {
            http: on(11),
            https: on(12),
            quic: on(13),
            rtmp: on(14),
            rtmps: on(15),
            srt: on(16),
            whip: on(17),
            public_host: None,
        })
        .expect("writable");
    let created = json(&["input", "create", "--name", "x", "--data-dir", data, "--json"]);
    assert!(created["urls"]["rtmp"].as_str().is_some_and(|url| url.contains("127.0.0.1:14/")));
    for (name, at) in [("rtmps", "15/"), ("srt", "16?"), ("whip", "12/"), ("publish", "13/")] {
        let url = created["urls"][name].as_str();
        assert!(url.is_some_and(|url| url.contains(&format!("127.0.0.1:{at}"))), "{name}");
    }
    let id = created["id"].as_str().expect("an id");
    let minted = json(&["token", "mint", id, "--data-dir", data, "--json"]);
    assert!(minted["playback_url"].as_str().is_some_and(|url| url.contains("127.0.0.1:13/")));
    assert!(minted["page_url"].as_str().is_some_and(|url| url.contains("localhost:11/")));
}

#[test]
fn a_deactivated_signing_key_is_gone_and_the_next_one_signs() {
    let dir = TempDir::new();
    let data = dir.path().to_str().expect("text");
    let id = json(&["input", "create", "--name", "x", "--data-dir", data, "--json"])["id"].clone();
    let id = id.as_str().expect("an id");
    let list = weir(&["signing-key", "list", "--data-dir", data]).expect("works");
    let first = list.split(' ').next().expect("a key");
    weir(&["signing-key", "deactivate", first, "--data-dir", data]).expect("works");
    let refused = weir(&["token", "mint", id, "--data-dir", data]).expect_err("no key is left");
    assert!(refused.render(false).contains("help: `weir signing-key create` makes one"));
    let second = weir(&["signing-key", "create", "--data-dir", data]).expect("works");
    let minted = json(&["token", "mint", id, "--data-dir", data, "--json"]);
    assert_eq!(minted["kid"].as_str(), Some(second.trim()));
}

#[test]
fn up_merges_file_environment_and_flags() {
    let dir = TempDir::new();
    let file = dir.path().join("weir.toml");
    std::fs::write(&file, "[listen]\nhttp = \":1\"\nrtmp = \":1\"\n[shards]\ncount = 3\n")
        .expect("writable");
    let noted = Noted::default();
    let environment = [("WEIR_CONFIG", file.to_str().expect("text")), ("WEIR_RTMP", "localhost:2")];
    weir_in(&environment, &["up", "--shards", "1", "--demo"], &noted).expect("works");
    let up = noted.up.take().expect("was called");
    assert_eq!(up.topology.listeners.http.port(), 1);
    assert_eq!(up.topology.listeners.rtmp.port(), 2);
    assert_eq!(up.topology.shards.len(), 1);
    assert!(up.demo && up.ready_file.is_none());
}

#[test]
fn every_mistake_is_one_line_and_a_help_line() {
    let dir = TempDir::new();
    let data = dir.path().to_str().expect("text");
    let bad_file = dir.path().join("bad.toml");
    std::fs::write(&bad_file, "[listen]\nhtpp = \":1\"\n").expect("writable");
    let bad_file = bad_file.to_str().expect("text");
    let unknown = "lv_00000000000000000000000000";
    for (line, says, code) in [
        (&["up", "--bogus"][..], "unexpected argument '--bogus' found", 2),
        (&["up", "--http", "nowhere"], "is not ADDRESS:PORT", 2),
        (&["up", "--shards", "300"], "at most 128", 2),
        (&["up", "--moqt-drafts", "22,17"], "\"17\" is not one of 22, 21, 20, 19, 18, 16, 14", 2),
        (&["up", "--open-interop", "--quic", ":4443"], "listen.quic = 0.0.0.0:4443 is not", 2),
        (&["up", "--open-interop", "stream/org_a"], "is not a namespace such as", 2),
        (&["up", "--config", "/nonexistent/weir.toml"], "cannot read /nonexistent", 2),
        (&["up", "--config", bad_file], "line 2: unknown field `htpp`", 2),
        (&["up", "--log", "weir=loud"], "log filter", 2),
        (&["input", "create"], "--name", 2),
        (&["input", "create", "--name", "", "--data-dir", data], "a name has", 2),
        (&["input", "create", "--name", "x", "--ingest", "rtsp"], "is one of rtmp", 2),
        (&["token", "mint", "lv_short"], "not a valid id", 2),
        (&["token", "mint", unknown, "--ttl", "soon"], "is not a duration", 2),
        (&["input", "list", "--data-dir", "/nonexistent/x"], "no Weir data in", 1),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'", 2),
        (&[], "a command is missing", 2),
    ] {
        let failure = weir(line).expect_err("a mistake");
        let text = failure.render(false);
        assert!(text.starts_with("error: ") && text.contains(says), "{line:?}: {text}");
        assert_eq!(text.lines().count(), 2, "{line:?}: {text}");
        assert!(text.lines().nth(1).is_some_and(|help| help.starts_with("help: ")), "{text}");
        assert_eq!(failure.exit_code(), code, "{line:?}");
    }
}

#[test]
fn a_port_in_use_is_named_with_its_flag() {
    let error = std::io::Error::from(std::io::ErrorKind::AddrInUse);
    let on = "127.0.0.1:8080".parse().expect("address");
    let text = Failure::listen("http", on, &error).render(false);
    assert_eq!(
        text,
        "error: HTTP port 127.0.0.1:8080 is in use\n\
         help: stop what listens there, or choose another with --http ADDR\n"
    );
}

#[test]
fn config_print_is_accepted_by_config_check() {
    let dir = TempDir::new();
    let file = dir.path().join("weir.toml");
    std::fs::write(&file, weir(&["config", "print"]).expect("works")).expect("writable");
    let checked = weir(&["config", "check", file.to_str().expect("text")]).expect("accepted");
    assert!(checked.starts_with("ok (") && checked.contains("4443"), "{checked}");
}

#[test]
fn play_passes_its_options_on() {
    let noted = Noted::default();
    weir_in(&[], &["play", "moqt://h:1/playback/lv_1?tok=t", "--duration", "3"], &noted)
        .expect("works");
    let options = noted.play.take().expect("was called");
    assert_eq!(options.duration, Some(std::time::Duration::from_secs(3)));
}

#[test]
fn tokens_are_revoked_by_id_and_by_viewer_and_shown_nowhere() {
    let dir = TempDir::new();
    let data = dir.path().join("data");
    let data = data.to_str().expect("text");
    let created = json(&["input", "create", "--name", "Stage", "--data-dir", data, "--json"]);
    let id = created["id"].as_str().expect("an id");
    let minted = json(&["token", "mint", id, "--vid", "anna", "--data-dir", data, "--json"]);
    let jti = minted["jti"].as_str().expect("an id");
    assert_eq!(minted["vid"], "anna");
    let said = weir(&["token", "mint", id, "--data-dir", data]).expect("works");
    assert!(said.contains("\ntoken id  "), "{said}");
    let said = weir(&["token", "revoke", "--jti", jti, "--data-dir", data]).expect("works");
    assert!(said.starts_with(&format!("revoked jti {jti}: ")), "{said}");
    let revoked = json(&["token", "revoke", "--vid", "anna", "--data-dir", data, "--json"]);
    assert_eq!(revoked["vid"], "anna");
    assert!(revoked["expires_at_unix"].as_u64() >= minted["expires_at_unix"].as_u64());
    let none = weir(&["token", "revoke", "--vid", "", "--data-dir", data]).expect_err("refused");
    assert!(none.to_string().contains("1 to 128 bytes"), "{none}");
}

#[test]
fn an_edge_gets_its_node_key_from_a_file_or_the_environment_and_never_shows_it() {
    let dir = TempDir::new();
    let data = dir.path().to_str().expect("UTF-8").to_owned();
    let line = ["node-key", "create", "--name", "edge", "--json", "--data-dir", &data];
    let made = json(&line);
    let key = made["node_key"].as_str().expect("a key").to_owned();
    let file = dir.path().join("key");
    std::fs::write(&file, &key).expect("writable");
    let file = file.to_str().expect("UTF-8");
    let upstream = "moqt://192.0.2.1:1,https://region.example.com:2";
    let roles = Noted::default();
    let line = ["relay", "--upstream", upstream, "--node-key-file", file, "--node-id", "edge-1"];
    weir_in(&[], &line, &roles).expect("works");
    let edge = roles.relay.take().expect("asked for");
    assert_eq!(edge.upstreams.len(), 2);
    assert_eq!((edge.node_id.as_str(), edge.insecure), ("edge-1", false));
    assert_eq!(edge.node_key.expose(), key);
    assert!(!format!("{edge:?}").contains(key.split('.').next().expect("a secret")));

    let listed = weir(&["node-key", "list", "--data-dir", &data]).expect("works");
    assert!(listed.contains("active") && !listed.contains("nk_live"), "{listed}");
    let id = made["id"].as_str().expect("an id");
    weir(&["node-key", "revoke", id, "--data-dir", &data]).expect("works");
    assert!(weir(&["node-key", "revoke", id, "--data-dir", &data]).is_err(), "only once");
}

#[test]
fn an_edge_without_upstream_or_key_is_told_what_to_write() {
    for (line, said) in [
        (&["relay"][..], "--upstream"),
        (&["relay", "--upstream", "moqt://h:1"], "node-key create"),
        (&["relay", "--upstream", "h:1"], "--upstream"),
        (&["relay", "--upstream", "moqt://h:1", "--node-key", "sk_live_x"], "node-key create"),
        (
            &["relay", "--upstream", "moqt://a:1,moqt://b:1,moqt://c:1,moqt://d:1,moqt://e:1"],
            "moqt",
        ),
    ] {
        let failure = weir(line).expect_err("refused").render(false);
        assert!(failure.contains(said) && !failure.contains("sk_live_x"), "{failure}");
    }
}
