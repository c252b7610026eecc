//! WHIP over real sockets, with an engine that answers from memory.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};

use super::*;
use crate::{
    InputId, Store,
    http::{Health, Limits, Listener, Options, Site, serve},
    testing::TempDir,
};

/// One input, one key; every refusal on request.
#[derive(Default)]
struct Engine {
    sessions: Mutex<Vec<String>>,
    /// What admission or an offer is refused with.
    refuse: Mutex<Option<Refusal>>,
    offers: Mutex<Vec<String>>,
}

struct Let {
    engine: Arc<Engine>,
}

#[derive(Clone)]
struct Way(Arc<Engine>);

impl Whip for Way {
    fn admit(
        &self,
        input: String,
        key: String,
        _: Reached,
    ) -> Answering<'_, Result<Box<dyn Admitted>, Refusal>> {
        Box::pin(async move {
            match (input.as_str(), key.as_str()) {
                ("lv_1", "right") => {
                    Ok(Box::new(Let { engine: Arc::clone(&self.0) }) as Box<dyn Admitted>)
                }
                ("lv_1", _) => Err(Refusal::Key),
                _ => Err(Refusal::NotFound),
            }
        })
    }

    fn change(&self, change: Change) -> Answering<'_, Result<Changed, Refusal>> {
        Box::pin(async move {
            match change.etag.as_deref() {
                None => Ok(Changed::Restarted { fragment: "a=ice-lite".into(), etag: "e2".into() }),
                Some("e1") => Ok(Changed::Noted),
                Some(_) => Err(Refusal::Outdated),
            }
        })
    }

    fn close(&self, _: String, session: String) -> Answering<'_, bool> {
        Box::pin(async move {
            let mut sessions = self.0.sessions.lock().expect("not poisoned");
            let before = sessions.len();
            sessions.retain(|held| *held != session);
            sessions.len() < before
        })
    }

    fn inspect(&self, _: String) -> Answering<'_, Vec<Value>> {
        Box::pin(async { vec![json!({ "packets": 3 })] })
    }
}

impl Admitted for Let {
    fn publish(self: Box<Self>, offer: String) -> Answering<'static, Result<Published, Refusal>> {
        Box::pin(async move {
            if let Some(refusal) = self.engine.refuse.lock().expect("not poisoned").clone() {
                return Err(refusal);
            }
            self.engine.offers.lock().expect("not poisoned").push(offer);
            let session = "0123".to_owned();
            self.engine.sessions.lock().expect("not poisoned").push(session.clone());
            Ok(Published { session, answer: "v=0\r\nanswer".into(), etag: "e1".into() })
        })
    }
}

struct Bare;

impl Site for Bare {
    fn certificate_sha256(&self) -> [u8; 32] {
        [0; 32]
    }

    fn certificate_is_pinned(&self) -> bool {
        false
    }

    fn webtransport_base(&self, _: Option<&str>) -> String {
        String::new()
    }

    fn publish_urls(&self, _: Option<&str>, _: &str, _: &str) -> Value {
        Value::Null
    }

    fn render_metrics(&self, _: &mut String) {}

    fn health(&self) -> Health {
        Health::Ok
    }
}

struct Running {
    addr: SocketAddr,
    engine: Arc<Engine>,
    store: Store,
    _stop: oneshot::Sender<()>,
    _dir: TempDir,
}

async fn running() -> Running {
    let dir = TempDir::new();
    let store = Store::open(dir.path()).await.expect("the store opens");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = tcp.local_addr().expect("bound");
    let engine = Arc::new(Engine::default());
    let options = Options {
        store: Some(store.clone()),
        site: Arc::new(Bare),
        demo: None::<InputId>,
        whip: Some(Arc::new(Way(Arc::clone(&engine)))),
        limits: Limits::default(),
    };
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(serve(vec![Listener { tcp, tls: None }], options, async {
        let _ = stopped.await;
    }));
    Running { addr, engine, store, _stop: stop, _dir: dir }
}

impl Running {
    /// Status, head in lower case, and body of one request.
    async fn ask(&self, line: &str, headers: &[&str], body: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.addr).await.expect("connects");
        let mut text = format!("{line} HTTP/1.1\r\nHost: live.example.com:8080\r\n");
        for header in headers.iter().chain(&["Connection: close"]) {
            text.push_str(header);
            text.push_str("\r\n");
        }
        let length = body.len();
        let _ = write!(text, "Content-Length: {length}\r\n\r\n{body}");
        // The server may answer and close before it has read all.
        let _ = stream.write_all(text.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
        (status, head.to_lowercase(), body.to_owned())
    }
}

const OFFER: &str = "v=0\r\n";
const SDP_TYPE: &str = "Content-Type: application/sdp";
const RIGHT: &str = "Authorization: Bearer right";

#[tokio::test]
async fn an_offer_with_the_key_gets_an_answer_and_an_absolute_address() {
    let server = running().await;
    for (line, headers) in [
        ("POST /whip/lv_1", &[SDP_TYPE, RIGHT][..]),
        ("POST /whip/lv_1?sk=right", &["content-type: Application/SDP; charset=utf-8"]),
    ] {
        let (status, head, body) = server.ask(line, headers, OFFER).await;
        assert_eq!((status, body.as_str()), (201, "v=0\r\nanswer"), "{head}");
        for header in [
            "location: http://live.example.com:8080/whip/lv_1/0123",
            "etag: \"e1\"",
            "accept-patch: application/trickle-ice-sdpfrag",
            "content-type: application/sdp",
            "access-control-allow-origin: *",
            "access-control-expose-headers: accept-patch, accept-post, etag, link, location",
        ] {
            assert!(head.contains(header), "{header} is missing: {head}");
        }
    }
    assert_eq!(*server.engine.offers.lock().expect("not poisoned"), [OFFER, OFFER]);
}

#[tokio::test]
async fn the_key_is_asked_for_before_anything_else_is_looked_at() {
    let server = running().await;
    for (line, headers, wanted) in [
        ("POST /whip/lv_1", &[][..], 401),
        ("POST /whip/lv_1", &["Authorization: Bearer wrong"], 401),
        ("POST /whip/lv_1?sk=wrong", &[], 401),
        ("POST /whip/lv_2", &[RIGHT], 404),
        // Right key, then the media type, then the size.
        ("POST /whip/lv_1", &[RIGHT], 415),
        ("POST /whip/lv_1", &[RIGHT, "Content-Type: text/plain"], 415),
    ] {
        let (status, head, body) = server.ask(line, headers, "nonsense").await;
        assert_eq!(status, wanted, "{line}: {body}");
        assert!(head.contains("application/problem+json"), "{head}");
        assert!(head.contains("access-control-allow-origin: *"), "pages must see why: {head}");
        assert_eq!(head.contains("www-authenticate: bearer"), status == 401);
    }
    let large = "v".repeat(OFFER_BYTES_MAX + 1);
    let (status, ..) = server.ask("POST /whip/lv_1", &[RIGHT, SDP_TYPE], &large).await;
    assert_eq!(status, 413);
    assert!(server.engine.offers.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn every_refusal_has_its_status_and_says_why() {
    let server = running().await;
    for (refusal, wanted, code, retry) in [
        (Refusal::Busy, 409, "input_busy", true),
        (Refusal::Codec("video must be H.264".into()), 406, "codec_unsupported", false),
        (Refusal::Unusable("no\u{1b}[31m fingerprint".into()), 422, "offer_unusable", false),
        (Refusal::Draining, 503, "draining", true),
        (Refusal::Capacity, 503, "capacity", true),
        (Refusal::Timeout, 503, "timeout", true),
        (Refusal::TooMany, 429, "too_many_attempts", true),
        (Refusal::Disabled("another protocol"), 403, "input_disabled", false),
    ] {
        *server.engine.refuse.lock().expect("not poisoned") = Some(refusal);
        let (status, head, body) = server.ask("POST /whip/lv_1", &[RIGHT, SDP_TYPE], OFFER).await;
        let problem: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((status, problem["code"].as_str()), (wanted, Some(code)));
        assert_eq!(head.contains("retry-after: "), retry, "{head}");
        assert!(problem["detail"].as_str().is_some_and(|why| !why.contains('\u{1b}')));
    }
}

#[tokio::test]
async fn a_session_is_changed_under_its_current_name_and_deleted_once() {
    let server = running().await;
    let fragment = "Content-Type: application/trickle-ice-sdpfrag";
    server.ask("POST /whip/lv_1", &[RIGHT, SDP_TYPE], OFFER).await;
    for (headers, wanted) in [
        (&[fragment][..], 428),
        (&[fragment, "If-Match: \"e0\""], 412),
        (&["If-Match: \"e1\"", SDP_TYPE], 415),
        (&[fragment, "If-Match: \"e1\""], 204),
        (&[fragment, "If-Match: *"], 200),
    ] {
        let (status, head, body) =
            server.ask("PATCH /whip/lv_1/0123", headers, "a=ice-ufrag:abcd").await;
        assert_eq!(status, wanted, "{head}");
        if status == 200 {
            assert!(head.contains("etag: \"e2\"") && body == "a=ice-lite", "{head}");
        }
    }
    let delete = || server.ask("DELETE /whip/lv_1/0123", &[], "");
    assert_eq!(delete().await.0, 200);
    assert_eq!(delete().await.0, 404);
}

#[tokio::test]
async fn a_page_may_ask_what_it_may_do() {
    let server = running().await;
    let asks = ["Origin: https://studio.example", "Access-Control-Request-Method: POST"];
    let (status, head, _) = server.ask("OPTIONS /whip/lv_1", &asks, "").await;
    assert_eq!(status, 204);
    assert!(head.contains("accept-post: application/sdp"), "{head}");
    assert!(head.contains("access-control-allow-headers: authorization, content-type, if-match"));
    let (status, head, _) = server.ask("OPTIONS /whip/lv_1/0123", &asks, "").await;
    assert!(status == 204 && head.contains("allow: delete, options, patch"), "{head}");
    for line in ["PUT /whip/lv_1", "GET /whip/lv_1", "GET /whip/lv_1/0123", "POST /whip/lv_1/0123"]
    {
        assert_eq!(server.ask(line, &[], "").await.0, 405, "{line}");
    }
}

#[tokio::test]
async fn diagnostics_are_for_api_keys_that_may_read() {
    let server = running().await;
    let issued = server.store.issue_api_key("reader", &[Scope::StreamsRead]).await;
    let (_, reader) = issued.expect("issued");
    let issued = server.store.issue_api_key("minter", &[Scope::StreamsMint]).await;
    let (_, minter) = issued.expect("issued");
    for (key, wanted) in [(reader.expose(), 200), (minter.expose(), 403), ("wrong", 401)] {
        let key = format!("Authorization: Bearer {key}");
        let (status, _, body) = server.ask("GET /whip/lv_1", &[&key], "").await;
        assert_eq!(status, wanted);
        assert_eq!(body.contains("\"packets\":3"), wanted == 200, "{body}");
    }
}

#[test]
fn a_log_names_the_input_and_not_the_session() {
    assert_eq!(loggable("/whip/lv_1/0123456789abcdef"), "/whip/lv_1/…");
    assert_eq!(loggable("/whip/lv_1"), "/whip/lv_1");
    assert_eq!(loggable("/watch/lv_1"), "/watch/lv_1");
}
