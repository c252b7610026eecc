//! What each path answers, and what every answer has in common.

use std::{net::Ipv6Addr, sync::Arc, time::Instant};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;

use super::{
    Health, Limits, Options, Site, api,
    assets::Assets,
    hex,
    limits::Counters,
    whip::{self, Whip},
};
use crate::{InputId, Store, TTL_DEFAULT};

/// Scripts, styles and workers from here only; WebTransport to any host over TLS; video from
/// `MediaSource` (blob:). Inline styles are allowed because elements carry their own style sheets,
/// and a style cannot run code.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; \
    style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; \
    connect-src 'self' https:; media-src 'self' blob:; worker-src 'self' blob:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// Headers of every answer.
const COMMON_HEADERS: [(header::HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
];

/// Everything the answers are made from.
#[derive(Clone)]
pub(super) struct Routes(Arc<Inner>);

struct Inner {
    assets: Assets,
    counters: Arc<Counters>,
    demo: Option<InputId>,
    limits: Limits,
    site: Arc<dyn Site>,
    store: Option<Store>,
    whip: Option<Arc<dyn Whip>>,
}

impl Routes {
    pub(super) fn new(options: Options, counters: Arc<Counters>) -> Self {
        let Options { store, site, demo, whip, limits } = options;
        let assets = Assets::embedded();
        Self(Arc::new(Inner { assets, counters, demo, limits, site, store, whip }))
    }

    pub(super) fn store(&self) -> Option<&Store> {
        self.0.store.as_ref()
    }

    pub(super) fn site(&self) -> &dyn Site {
        self.0.site.as_ref()
    }

    pub(super) fn whip(&self) -> Option<&dyn Whip> {
        self.0.whip.as_deref()
    }

    /// The routes of one listener. Metrics are for operators, who have the listener in the clear,
    /// by default reachable from this machine only.
    pub(super) fn router(&self, with_metrics: bool) -> Router {
        let mut router = Router::new()
            .route("/", get(start_page))
            .route("/assets/{*path}", get(asset))
            .route("/console", get(console))
            .route("/certificate.sha256", get(certificate))
            .route("/demo.json", get(demo))
            .route("/favicon.ico", get(favicon))
            .route("/healthz", get(healthz))
            // The TCP twin of the WebTransport URL: opened in a browser, it shows the player.
            .route("/playback/{id}", get(player_page))
            .route("/golive", get(golive_page))
            .route("/player.json", get(player))
            // The TCP twin of the publish URL: opened in a browser, it publishes from there.
            .route("/publish/{id}", get(publish_page))
            .route("/watch/{id}", get(player_page));
        if self.0.store.is_some() {
            router = router.merge(api::routes());
        }
        if self.0.whip.is_some() {
            router = router.merge(whip::routes());
        }
        if with_metrics {
            router = router.route("/metrics", get(metrics));
        }
        router
            .fallback(|| async { problem(StatusCode::NOT_FOUND, "not_found") })
            .method_not_allowed_fallback(|| async {
                problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
            })
            .layer(middleware::from_fn_with_state(self.clone(), around))
            .with_state(self.clone())
    }
}

/// Around every answer: no bodies in where none belong, a time limit, the common headers, one log line.
async fn around(State(routes): State<Routes>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let takes_body = api::takes_body(&path) || whip::takes_body(&path);
    let mut response = if has_body(request.headers()) && !takes_body {
        // What takes no body reads none.
        problem(StatusCode::PAYLOAD_TOO_LARGE, "body_not_accepted")
    } else {
        let answer = tokio::time::timeout(routes.0.limits.request, next.run(request)).await;
        answer.unwrap_or_else(|_| {
            Counters::add(&routes.0.counters.timed_out);
            problem(StatusCode::SERVICE_UNAVAILABLE, "timeout")
        })
    };
    for (name, value) in COMMON_HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Counters::add(&routes.0.counters.requests);
    let status = response.status().as_u16();
    let took_us = started.elapsed().as_micros() as u64;
    let path = whip::loggable(&path);
    tracing::debug!(%method, path, status, took_us, "answered");
    response
}

async fn start_page(State(routes): State<Routes>, headers: HeaderMap) -> Response {
    routes.0.assets.page("index.html", &headers)
}

async fn console(State(routes): State<Routes>, headers: HeaderMap) -> Response {
    routes.0.assets.page("console.html", &headers)
}

async fn player_page(
    State(routes): State<Routes>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    // The page takes id and token from its own address; here only nonsense is turned away.
    match id.parse::<InputId>() {
        Ok(_) => routes.0.assets.page("watch.html", &headers),
        Err(_) => problem(StatusCode::NOT_FOUND, "not_found"),
    }
}

async fn golive_page(State(routes): State<Routes>, headers: HeaderMap) -> Response {
    routes.0.assets.page("golive.html", &headers)
}

async fn publish_page(
    State(routes): State<Routes>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    match id.parse::<InputId>() {
        Ok(_) => routes.0.assets.page("golive.html", &headers),
        Err(_) => problem(StatusCode::NOT_FOUND, "not_found"),
    }
}

async fn asset(
    State(routes): State<Routes>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Response {
    let found = routes.0.assets.file(&path, &headers);
    found.unwrap_or_else(|| problem(StatusCode::NOT_FOUND, "not_found"))
}

/// Public, so that pages of other origins can pin it too.
async fn certificate(State(routes): State<Routes>) -> Response {
    let anyone = [(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"), (header::CACHE_CONTROL, "no-store")];
    (anyone, hex(&routes.0.site.certificate_sha256())).into_response()
}

async fn favicon(State(routes): State<Routes>, headers: HeaderMap) -> Response {
    let found = routes.0.assets.file("favicon.ico", &headers);
    found.unwrap_or_else(|| StatusCode::NO_CONTENT.into_response())
}

async fn healthz(State(routes): State<Routes>) -> Response {
    match routes.0.site.health() {
        Health::Ok => "ok\n".into_response(),
        Health::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
        Health::Failing(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("failing: {reason}\n")).into_response()
        }
    }
}

async fn metrics(State(routes): State<Routes>, headers: HeaderMap) -> Response {
    let mut text = String::with_capacity(8 * 1024);
    routes.0.counters.render(&mut text);
    // Last, because an encoder may end its part with the end mark of OpenMetrics.
    routes.0.site.render_metrics(&mut text);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    if !text.ends_with("# EOF\n") {
        text.push_str("# EOF\n");
    }
    let open_metrics = headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.as_bytes().starts_with(b"application/openmetrics-text"));
    let media_type = if open_metrics {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    ([(header::CONTENT_TYPE, media_type)], text).into_response()
}

/// Where the player connects to, and which certificate it should expect there.
async fn player(State(routes): State<Routes>, uri: Uri, headers: HeaderMap) -> Response {
    let site = &routes.0.site;
    json(&json!({
        "webtransport_url": site.webtransport_base(visited_host(&uri, &headers)),
        "addresses": site.playback_addresses(),
        "cert_sha256": pinned(site.as_ref()),
    }))
}

/// What the start page plays: only there with `--demo`, with a fresh token each time.
async fn demo(State(routes): State<Routes>, uri: Uri, headers: HeaderMap) -> Response {
    let inner = &routes.0;
    let (Some(input), Some(store)) = (&inner.demo, &inner.store) else {
        return problem(StatusCode::NOT_FOUND, "not_found");
    };
    let minted = match store.mint_playback_token(input, TTL_DEFAULT).await {
        Ok(minted) => minted,
        Err(error) => {
            tracing::warn!(%error, "cannot mint the demo's token");
            return problem(StatusCode::INTERNAL_SERVER_ERROR, error.code());
        }
    };
    let base = inner.site.webtransport_base(visited_host(&uri, &headers));
    let token = minted.token.expose();
    json(&json!({
        "input_id": input,
        "playback_url": format!("{base}/playback/{input}?tok={token}"),
        "page_path": format!("/watch/{input}?tok={token}"),
        "webtransport_url": base,
        "addresses": inner.site.playback_addresses(),
        "cert_sha256": pinned(inner.site.as_ref()),
        "expires_at": minted.expires_at,
    }))
}

/// The host the visitor used, without port: from the HTTP/2 authority or the `Host` header. Only
/// what can stand in a URL unquoted.
pub(super) fn visited_host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let authority = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => headers.get(header::HOST)?.to_str().ok()?,
    };
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, _) = rest.split_once(']')?;
        return host.parse::<Ipv6Addr>().is_ok().then_some(host);
    }
    let host = authority.split(':').next()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    ((1..=253).contains(&host.len()) && host.bytes().all(plain)).then_some(host)
}

fn pinned(site: &dyn Site) -> Option<String> {
    site.certificate_is_pinned().then(|| hex(&site.certificate_sha256()))
}

/// Answers with a secret or a moment in them are nobody's to keep.
pub(super) fn json(value: &serde_json::Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (headers, value.to_string()).into_response()
}

pub(super) fn problem(status: StatusCode, code: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let body = json!({ "title": title, "status": status.as_u16(), "code": code });
    let headers = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, headers, Body::from(body.to_string())).into_response()
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_visited_host_is_taken_only_when_it_is_one() {
        let host = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(value).expect("a header value"));
            visited_host(&Uri::from_static("/"), &headers).map(str::to_owned)
        };
        assert_eq!(host("localhost:8080").as_deref(), Some("localhost"));
        assert_eq!(host("[::1]:8080").as_deref(), Some("::1"));
        assert_eq!(host("live.example.com").as_deref(), Some("live.example.com"));
        for bad in ["a/b", "a\"b", "a b", "", ":80", "[nonsense]:1", "x@y"] {
            assert_eq!(host(bad), None, "{bad}");
        }
    }
}
