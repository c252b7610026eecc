//! In-process stories over real sockets on 127.0.0.1.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

use super::*;
use crate::{Ingest, NewInput, Scope, TTL_MIN, testing::TempDir};

struct TestSite {
    health: Health,
    addresses: [String; 2],
}

impl Site for TestSite {
    fn certificate_sha256(&self) -> [u8; 32] {
        [0xab; 32]
    }

    fn certificate_is_pinned(&self) -> bool {
        true
    }

    fn playback_addresses(&self) -> &[String] {
        &self.addresses
    }

    fn webtransport_base(&self, host: Option<&str>) -> String {
        format!("https://{}:4443", host.unwrap_or("nobody"))
    }

    fn publish_urls(&self, host: Option<&str>, input: &str, key: &str) -> Value {
        let host = host.unwrap_or("nobody");
        serde_json::json!({ "rtmp": format!("rtmp://{host}/live/{input}?sk={key}") })
    }

    fn render_metrics(&self, out: &mut String) {
        out.push_str("weir_shards 2\n# EOF\n");
    }

    fn health(&self) -> Health {
        self.health.clone()
    }
}

struct Running {
    addr: SocketAddr,
    input: InputId,
    store: Store,
    stop: oneshot::Sender<()>,
    done: JoinHandle<io::Result<()>>,
    _dir: TempDir,
}

async fn running(demo: bool, health: Health, change: impl FnOnce(&mut Limits)) -> Running {
    let dir = TempDir::new();
    let store = Store::open(dir.path()).await.expect("the store opens");
    let new = NewInput::new("Demo", Ingest::Rtmp);
    let (input, _) = store.create_input(new).await.expect("created");
    let mut limits = Limits::default();
    change(&mut limits);
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = tcp.local_addr().expect("bound");
    let options = Options {
        store: Some(store.clone()),
        site: Arc::new(TestSite {
            health,
            addresses: ["https://localhost:4443", "https://other:4443"].map(str::to_owned),
        }),
        demo: demo.then(|| input.id.clone()),
        whip: None,
        limits,
    };
    let (stop, stopped) = oneshot::channel();
    let done = tokio::spawn(serve(vec![Listener { tcp, tls: None }], options, async {
        let _ = stopped.await;
    }));
    Running { addr, input: input.id, store, stop, done, _dir: dir }
}

async fn plain() -> Running {
    running(true, Health::Ok, |_| {}).await
}

impl Running {
    /// Sends text and reads until the server closes.
    async fn say(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(self.addr).await.expect("connects");
        // The server may close before it has read all.
        let _ = stream.write_all(text.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(&self, path: &str) -> String {
        self.say(&format!("GET {path} HTTP/1.1\r\nHost: localhost:1\r\nConnection: close\r\n\r\n"))
            .await
    }

    async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        serde_json::from_str(body).expect("JSON")
    }
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("none")
}

#[tokio::test]
async fn health_hash_and_metrics_are_answered() {
    let server = plain().await;
    assert!(server.get("/healthz").await.ends_with("ok\n"));
    assert!(server.get("/certificate.sha256").await.ends_with(&"ab".repeat(32)));
    let metrics = server.get("/metrics").await;
    assert!(metrics.contains("\nhttp_requests_total 2\n"), "{metrics}");
    assert!(metrics.contains("weir_shards 2") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert_eq!(status(&server.get("/nothing").await), "404");
    assert_eq!(status(&server.get("/watch/nonsense").await), "404");
}

#[tokio::test]
async fn a_draining_node_says_so_to_its_load_balancer() {
    let server = running(false, Health::Draining, |_| {}).await;
    let answer = server.get("/healthz").await;
    assert_eq!(status(&answer), "503");
    assert!(answer.ends_with("draining\n"));
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let server = plain().await;
    for path in ["/", "/healthz", "/nothing", "/demo.json"] {
        let answer = server.get(path).await.to_lowercase();
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; ",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(answer.contains(header), "{path} lacks {header}: {answer}");
        }
    }
}

#[tokio::test]
async fn the_demo_is_playable_by_what_the_page_gets() {
    let server = plain().await;
    let demo = server.json("/demo.json").await;
    let input = server.input.as_str();
    assert_eq!(demo["input_id"], input);
    let url = demo["playback_url"].as_str().expect("a URL");
    assert!(url.starts_with(&format!("https://localhost:4443/playback/{input}?tok=ey")), "{url}");
    assert_eq!(demo["cert_sha256"], "ab".repeat(32));
    assert!(server.get("/demo.json").await.contains("cache-control: no-store"));
    let player = server.json("/player.json").await;
    assert_eq!(player["webtransport_url"], "https://localhost:4443");
    let known = serde_json::json!(["https://localhost:4443", "https://other:4443"]);
    assert_eq!((&player["addresses"], &demo["addresses"]), (&known, &known));
    let without = running(false, Health::Ok, |_| {}).await;
    assert_eq!(status(&without.get("/demo.json").await), "404");
}

#[tokio::test]
async fn a_request_with_a_body_or_a_giant_head_is_refused() {
    let server = plain().await;
    let body = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    assert!(["405", "413"].contains(&status(&server.say(body).await)));
    let put = "PUT /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&server.say(put).await), "405");
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Big: {}\r\n\r\n", "x".repeat(64 * 1024));
    assert_eq!(status(&server.say(&head).await), "431");
    let many = "X-A: b\r\n".repeat(100);
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    assert_eq!(status(&server.say(&head).await), "431");
    assert_eq!(status(&server.get("/healthz").await), "200");
}

#[tokio::test]
async fn a_silent_visitor_loses_its_connection_and_its_place() {
    let server = running(false, Health::Ok, |limits| {
        limits.connections = 1;
        limits.opening = Duration::from_millis(50);
    })
    .await;
    // One letter that both HTTP/1 and HTTP/2 may begin with, then nothing.
    assert_eq!(server.say("P").await, "");
    // The place is given back shortly after the socket is closed.
    let metrics = loop {
        let answer = server.get("/metrics").await;
        if !answer.is_empty() {
            break answer;
        }
    };
    assert!(metrics.contains("refused_total{reason=\"opening\"} 1"), "{metrics}");
}

#[tokio::test]
async fn visitors_beyond_the_cap_are_closed_at_once_and_counted() {
    let server = running(false, Health::Ok, |limits| limits.connections = 1).await;
    let mut first = TcpStream::connect(server.addr).await.expect("connects");
    first.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("writes");
    let mut some = [0; 12];
    first.read_exact(&mut some).await.expect("answers");
    assert_eq!(server.get("/healthz").await, "");
    first
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .expect("writes");
    let mut rest = String::new();
    first.read_to_string(&mut rest).await.expect("answers");
    assert!(rest.contains("refused_total{reason=\"full\"} 1"), "{rest}");
}

#[tokio::test]
async fn shutdown_ends_idle_connections_and_returns() {
    let server = plain().await;
    let mut idle = TcpStream::connect(server.addr).await.expect("connects");
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("writes");
    let mut some = [0; 12];
    idle.read_exact(&mut some).await.expect("answers");
    server.stop.send(()).expect("running");
    server.done.await.expect("no panic").expect("no error");
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.expect("closed in order");
    assert!(TcpStream::connect(server.addr).await.is_err());
}

impl Running {
    /// POST of a JSON body to the API with an API key; status and body of the answer.
    async fn post(&self, path: &str, key: &str, body: &str) -> (String, Value) {
        let answer = self
            .say(&format!(
                "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            ))
            .await;
        let (_, json) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (status(&answer).to_owned(), serde_json::from_str(json).expect("JSON"))
    }

    /// Any request with a key; status and body.
    async fn ask(&self, method: &str, path: &str, key: &str, body: &str) -> (String, Value) {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: live.example:1\r\nAuthorization: Bearer {key}\r\n\
             Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = self.say(&head).await;
        let (_, json) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (status(&answer).to_owned(), serde_json::from_str(json).expect("JSON"))
    }

    async fn listed(&self, key: &str, query: &str) -> Value {
        let head = format!(
            "GET /v1/revocations{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\
             Connection: close\r\n\r\n"
        );
        let answer = self.say(&head).await;
        let (_, json) = answer.split_once("\r\n\r\n").expect("a head and a body");
        serde_json::from_str(json).expect("JSON")
    }
}

#[tokio::test]
async fn tokens_are_withdrawn_over_the_api_and_asking_twice_does_no_harm() {
    let server = plain().await;
    let scopes = [Scope::StreamsMint, Scope::Keys];
    let (_, key) = server.store.issue_api_key("test", &scopes).await.expect("issued");
    let key = key.expose();
    let path = "/v1/revocations";
    let (code, one) = server.post(path, key, r#"{"vid":"anna"}"#).await;
    assert_eq!((code.as_str(), &one["vid"]), ("201", &Value::from("anna")));
    assert!(one["expires_at_unix"].as_u64() > Some(0) && one["revoked_at"].is_string(), "{one}");
    assert_eq!(server.post(path, key, r#"{"vid":"anna"}"#).await.0, "200");
    let minted = server.store.mint_playback_token(&server.input, TTL_MIN).await.expect("minted");
    let body = format!(r#"{{"token":"{}"}}"#, minted.token.expose());
    let (code, one) = server.post(path, key, &body).await;
    assert_eq!((code.as_str(), one["jti"].as_str()), ("201", Some(minted.jti.as_str())));
    assert_eq!(server.post(path, key, r#"{"ver":2}"#).await.0, "201");
    let kid = server.store.signing_keys().await.expect("listed")[0].kid.clone();
    assert_eq!(server.post(path, key, &format!(r#"{{"kid":"{kid}"}}"#)).await.0, "201");
    assert!(server.store.playback_keys().await.expect("listed").is_empty(), "signs no more");

    let all = server.listed(key, "").await;
    assert_eq!(all["data"].as_array().map(Vec::len), Some(4));
    assert_eq!(all["next_cursor"], Value::Null);
    let mut seen = Vec::new();
    let mut query = "?limit=1".to_owned();
    loop {
        let page = server.listed(key, &query).await;
        seen.extend(page["data"].as_array().expect("a list").clone());
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("?limit=1&cursor={cursor}");
    }
    assert_eq!(Value::from(seen), all["data"]);
    assert_eq!(server.listed(key, "?cursor=!").await["code"], "cursor_invalid");
}

#[tokio::test]
async fn the_api_refuses_without_key_scope_or_sense_and_repeats_nothing() {
    let server = plain().await;
    let path = "/v1/revocations";
    let mint = [Scope::StreamsMint];
    let (_, key) = server.store.issue_api_key("mint", &mint).await.expect("issued");
    let read = [Scope::StreamsRead];
    let (_, reader) = server.store.issue_api_key("read", &read).await.expect("issued");
    let (key, reader) = (key.expose(), reader.expose());
    let big = format!(r#"{{"vid":"{}"}}"#, "v".repeat(20_000));
    let long = format!(r#"{{"vid":"{}"}}"#, "v".repeat(200));
    for (key, body, code, name) in [
        ("ak_live_topsecret", r#"{"vid":"anna"}"#, "401", "auth_failed"),
        ("", r#"{"vid":"anna"}"#, "401", "auth_failed"),
        (reader, r#"{"vid":"anna"}"#, "403", "scope_missing"),
        (key, r#"{"kid":"sgk_00000000000000000000000000"}"#, "403", "scope_missing"),
        (key, r#"{"vid":"anna","jti":"topsecret"}"#, "422", "one_subject_wanted"),
        (key, "{}", "422", "one_subject_wanted"),
        (key, r#"{"topsecret":"x"}"#, "400", "body_malformed"),
        (key, "topsecret", "400", "body_malformed"),
        (key, r#"{"token":"topsecret.topsecret.topsecret"}"#, "422", "token_invalid"),
        (key, r#"{"vid":""}"#, "422", "claim_invalid"),
        (key, &long, "422", "claim_invalid"),
        (key, &big, "413", "body_too_large"),
    ] {
        let (status, problem) = server.post(path, key, body).await;
        assert_eq!((status.as_str(), problem["code"].as_str()), (code, Some(name)), "{body}");
        assert!(!problem.to_string().contains("topsecret"), "{problem}");
    }
    assert_eq!(status(&server.get(path).await), "401");
    let delete = "DELETE /v1/revocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&server.say(delete).await), "405");
    let (id, basic) = server.store.issue_api_key("basic", &mint).await.expect("issued");
    let pair = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        format!("{}:{}", id.id, basic.expose()),
    );
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {pair}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(status(&server.say(&head).await), "200");
}

#[tokio::test]
async fn tokens_in_queries_do_not_reach_the_log() {
    use std::sync::Mutex;
    use tracing::field::{Field, Visit};

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<String>>);
    impl Visit for Seen {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            let mut text = self.0.lock().expect("no panic while held");
            // Writing to a String cannot fail.
            let _ = write!(text, "{field}={value:?} ");
        }
    }
    impl tracing::Subscriber for Seen {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, attributes: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            attributes.record(&mut self.clone());
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
            values.record(&mut self.clone());
        }
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            event.record(&mut self.clone());
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    let seen = Seen::default();
    // The test's runtime has one thread, so this covers the server's tasks as well.
    let _logging = tracing::subscriber::set_default(seen.clone());
    let server = plain().await;
    let input = server.input.clone();
    // A test beside this one may have met the log line first and found nobody interested, which
    // is remembered until asked again.
    server.get("/healthz").await;
    tracing::callsite::rebuild_interest_cache();
    server.get(&format!("/watch/{input}?tok=topsecret")).await;
    let (_, key) = server.store.issue_api_key("x", &[Scope::StreamsMint]).await.expect("issued");
    let bad = r#"{"token":"topsecret.topsecret.topsecret"}"#;
    server.post("/v1/revocations", key.expose(), bad).await;
    server.post("/v1/revocations", "ak_live_topsecret", bad).await;
    let text = seen.0.lock().expect("done").clone();
    assert!(text.contains(&format!("/watch/{input}")), "{text}");
    assert!(!text.contains("topsecret") && !text.contains(key.expose()), "{text}");
}

#[tokio::test]
async fn inputs_are_made_shown_and_changed_and_a_key_is_shown_once() {
    let server = plain().await;
    let scopes = [Scope::StreamsWrite];
    let (_, key) = server.store.issue_api_key("test", &scopes).await.expect("issued");
    let key = key.expose();
    let all = "/v1/live-inputs";
    let wanted = r#"{"name":"Stage","ingest":"srt","policy":"takeover","reconnect_window_s":5}"#;
    let (code, made) = server.ask("POST", all, key, wanted).await;
    assert_eq!((code.as_str(), &made["policy"]), ("201", &Value::from("takeover")), "{made}");
    let (id, secret) = (made["id"].as_str().expect("an id"), made["stream_key"].as_str());
    let secret = secret.expect("a key");
    let url = made["urls"]["rtmp"].as_str().expect("a URL");
    assert_eq!(url, format!("rtmp://live.example/live/{id}?sk={secret}"));
    assert!(server.store.verify_stream_key(id, secret).await.is_ok());

    let one = format!("{all}/{id}");
    let (code, shown) = server.ask("GET", &one, key, "").await;
    assert_eq!((code.as_str(), &shown["state"]), ("200", &Value::from("idle")));
    assert!(!shown.to_string().contains("sk_live_"), "{shown}");
    assert!(shown["urls"]["rtmp"].as_str().is_some_and(|url| url.ends_with("?sk=<stream key>")));
    let (code, changed) = server.ask("PATCH", &one, key, r#"{"ingest":"rtmp"}"#).await;
    assert_eq!((code.as_str(), &changed["ingest"]), ("200", &Value::from("rtmp")));
    assert_eq!(changed["reconnect_window_s"], 5, "the rest stays");
    let (code, fresh) = server.ask("POST", &format!("{one}/rotate-stream-key"), key, "").await;
    assert_eq!(code, "200");
    assert!(server.store.verify_stream_key(id, secret).await.is_err());
    let fresh = fresh["stream_key"].as_str().expect("a key");
    assert!(server.store.verify_stream_key(id, fresh).await.is_ok());
    let (code, health) = server.ask("GET", &format!("{one}/health"), key, "").await;
    assert_eq!((code.as_str(), &health["health"]), ("200", &Value::Null));

    let (_, first) = server.ask("GET", &format!("{all}?limit=1"), key, "").await;
    assert_eq!(first["data"][0]["name"], "Demo");
    let cursor = first["next_cursor"].as_str().expect("there is more");
    let (_, rest) = server.ask("GET", &format!("{all}?cursor={cursor}"), key, "").await;
    assert_eq!(rest["data"][0]["id"], id);
    assert_eq!(
        (rest["data"].as_array().map(Vec::len), &rest["next_cursor"]),
        (Some(1), &Value::Null)
    );
}

#[tokio::test]
async fn inputs_are_refused_without_scope_or_sense() {
    let server = plain().await;
    let read = [Scope::StreamsRead];
    let (_, reader) = server.store.issue_api_key("read", &read).await.expect("issued");
    let write = [Scope::StreamsWrite];
    let (_, writer) = server.store.issue_api_key("write", &write).await.expect("issued");
    let (reader, writer) = (reader.expose(), writer.expose());
    let one = format!("/v1/live-inputs/{}", server.input);
    let nobody = format!("/v1/live-inputs/{}", InputId::generate());
    let all = "/v1/live-inputs";
    for (method, path, key, body, code, name) in [
        ("GET", all, "ak_live_wrong", "", "401", "auth_failed"),
        ("POST", all, reader, r#"{"name":"x"}"#, "403", "scope_missing"),
        ("PATCH", &one, reader, r#"{"name":"x"}"#, "403", "scope_missing"),
        ("POST", all, writer, "{}", "422", "name_invalid"),
        ("POST", all, writer, r#"{"name":"x","ingest":"rtsp"}"#, "422", "ingest_unknown"),
        ("PATCH", &one, writer, r#"{"policy":"both"}"#, "422", "policy_unknown"),
        (
            "PATCH",
            &one,
            writer,
            r#"{"reconnect_window_s":9000}"#,
            "422",
            "reconnect_window_out_of_range",
        ),
        ("PATCH", &one, writer, "[", "400", "body_malformed"),
        ("GET", &nobody, reader, "", "404", "not_found"),
        ("PATCH", &nobody, writer, "{}", "404", "not_found"),
        ("GET", "/v1/live-inputs/nonsense", reader, "", "404", "not_found"),
    ] {
        let (status, problem) = server.ask(method, path, key, body).await;
        assert_eq!(
            (status.as_str(), problem["code"].as_str()),
            (code, Some(name)),
            "{path} {body}"
        );
    }
    assert_eq!(server.ask("GET", &one, reader, "").await.0, "200");
}
