//! WHIP signalling (RFC 9725) over HTTP: offers in, answers out, sessions changed and deleted. It owns
//! what HTTP says about it: methods, media types, preconditions, CORS and the words of a refusal. Keys,
//! sessions and media are the engine's, by way of [`Whip`].

use std::{fmt::Write, future::Future, net::SocketAddr, pin::Pin};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::any,
};
use serde_json::json;

use super::routes::Routes;
use crate::{Error, Scope};

#[cfg(test)]
mod tests;

/// Largest offer: Chromium's with all codecs and extensions is 9 KiB; 64 KiB hold seven of those.
const OFFER_BYTES_MAX: usize = 64 * 1024;

/// Largest fragment: some 100 candidates.
const FRAGMENT_BYTES_MAX: usize = 16 * 1024;

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// Where and how a request reached us.
#[derive(Clone, Copy, Debug)]
pub struct Reached {
    /// Who asks.
    pub peer: SocketAddr,
    /// Our end of its connection.
    pub local: SocketAddr,
    /// Over TLS.
    pub tls: bool,
}

/// An answer that takes its time.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the engine does for WHIP publishers.
pub trait Whip: Send + Sync + 'static {
    /// Whether this key opens this input: asked before anything else is read.
    fn admit(
        &self,
        input: String,
        key: String,
        reached: Reached,
    ) -> Answering<'_, Result<Box<dyn Admitted>, Refusal>>;

    /// Changes a session: a fragment for trickle ICE, or an ICE restart.
    fn change(&self, change: Change) -> Answering<'_, Result<Changed, Refusal>>;

    /// Ends a session. False when there is none.
    fn close(&self, input: String, session: String) -> Answering<'_, bool>;

    /// What can be said of the sessions of an input, as JSON.
    fn inspect(&self, input: String) -> Answering<'_, Vec<serde_json::Value>>;
}

/// A publisher whose key is good.
pub trait Admitted: Send {
    /// Its offer.
    fn publish(self: Box<Self>, offer: String) -> Answering<'static, Result<Published, Refusal>>;
}

/// A new session.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its name, for the URL of its resource.
    pub session: String,
    /// The SDP answer.
    pub answer: String,
    /// Names the ICE session.
    pub etag: String,
}

/// A change of a session.
#[derive(Clone, Debug)]
pub struct Change {
    /// Of which input.
    pub input: String,
    /// Which session.
    pub session: String,
    /// The ICE session it is about; none for any (`If-Match: *`), which restarts ICE.
    pub etag: Option<String>,
    /// The fragment.
    pub fragment: String,
}

/// What came of a change.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Changed {
    /// Noted.
    Noted,
    /// ICE was restarted: our fragment and the new name of the ICE session.
    Restarted {
        /// Our fragment.
        fragment: String,
        /// The new name.
        etag: String,
    },
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The key does not open the input (401).
    Key,
    /// No such input or session (404).
    NotFound,
    /// Too many bad keys from this address (429).
    TooMany,
    /// The input is switched off, or is fed by another protocol (403).
    Disabled(&'static str),
    /// Somebody else publishes (409).
    Busy,
    /// None of the offered codecs is taken (406).
    Codec(String),
    /// The offer or fragment cannot be used (422).
    Unusable(String),
    /// The session has moved on (412).
    Outdated,
    /// The node is being drained (503).
    Draining,
    /// The node takes no more (503).
    Capacity,
    /// The engine did not answer in time (503).
    Timeout,
}

impl Refusal {
    fn status(&self) -> (StatusCode, &'static str, Option<u32>) {
        match self {
            Self::Key => (StatusCode::UNAUTHORIZED, "auth_failed", None),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", None),
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", Some(10)),
            Self::Disabled(_) => (StatusCode::FORBIDDEN, "input_disabled", None),
            // A publisher that has gone is replaced after two seconds of silence.
            Self::Busy => (StatusCode::CONFLICT, "input_busy", Some(3)),
            Self::Codec(_) => (StatusCode::NOT_ACCEPTABLE, "codec_unsupported", None),
            Self::Unusable(_) => (StatusCode::UNPROCESSABLE_ENTITY, "offer_unusable", None),
            Self::Outdated => (StatusCode::PRECONDITION_FAILED, "session_changed", None),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining", Some(5)),
            Self::Capacity => (StatusCode::SERVICE_UNAVAILABLE, "capacity", Some(10)),
            Self::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout", Some(5)),
        }
    }

    fn detail(&self) -> &str {
        match self {
            Self::Key => "the stream key does not open this input",
            Self::NotFound => "there is no such input or session here",
            Self::TooMany => "too many bad keys from this address",
            Self::Disabled(why) => why,
            Self::Busy => "somebody else is live on this input",
            Self::Codec(why) | Self::Unusable(why) => why,
            Self::Outdated => "the ICE session in If-Match is not the current one",
            Self::Draining => "this node is being emptied",
            Self::Capacity => "this node takes no more publishers",
            Self::Timeout => "the engine did not answer in time",
        }
    }
}

/// The routes under `/whip`.
pub(super) fn routes() -> Router<Routes> {
    Router::new()
        .route("/whip/{input}", any(endpoint))
        .route("/whip/{input}/{session}", any(resource))
}

/// Whether a request may bring a body, which is read only once its sender is known.
pub(super) fn takes_body(path: &str) -> bool {
    path.starts_with("/whip/")
}

/// A path as it may be logged: who knows a session's name may end it.
pub(super) fn loggable(path: &str) -> String {
    match path.strip_prefix("/whip/").and_then(|rest| rest.split_once('/')) {
        Some((input, _)) => format!("/whip/{input}/…"),
        None => path.to_owned(),
    }
}

async fn endpoint(
    State(routes): State<Routes>,
    Path(input): Path<String>,
    request: Request,
) -> Response {
    let answer = match *request.method() {
        Method::OPTIONS => options("GET, OPTIONS, POST", &[("accept-post", SDP)]),
        Method::POST => publish(&routes, input, request).await.unwrap_or_else(|refused| refused),
        Method::GET => inspect(&routes, input, request.headers()).await,
        _ => not_allowed("GET, OPTIONS, POST"),
    };
    open_to_pages(answer)
}

async fn resource(
    State(routes): State<Routes>,
    Path((input, session)): Path<(String, String)>,
    request: Request,
) -> Response {
    let answer = match *request.method() {
        Method::OPTIONS => options("DELETE, OPTIONS, PATCH", &[("accept-patch", FRAGMENT)]),
        Method::PATCH => {
            change(&routes, input, session, request).await.unwrap_or_else(|refused| refused)
        }
        Method::DELETE => match routes.whip() {
            Some(whip) if whip.close(input, session).await => StatusCode::OK.into_response(),
            _ => refuse(&Refusal::NotFound),
        },
        _ => not_allowed("DELETE, OPTIONS, PATCH"),
    };
    open_to_pages(answer)
}

/// RFC 9725 §4.2.
async fn publish(routes: &Routes, input: String, request: Request) -> Result<Response, Response> {
    let not_found = || refuse(&Refusal::NotFound);
    let whip = routes.whip().ok_or_else(not_found)?;
    let reached = *request.extensions().get::<Reached>().ok_or_else(not_found)?;
    let (parts, body) = request.into_parts();
    let key = stream_key(&parts.headers, &parts.uri).ok_or_else(|| refuse(&Refusal::Key))?;
    let admitted = whip.admit(input.clone(), key, reached).await.map_err(|why| refuse(&why))?;
    let offer = text(body, &parts.headers, SDP, OFFER_BYTES_MAX).await?;
    let published = admitted.publish(offer).await.map_err(|why| refuse(&why))?;
    let location = location(&parts.uri, &parts.headers, reached, &input, &published.session);
    let headers = [
        (header::CONTENT_TYPE, SDP.to_owned()),
        (header::LOCATION, location),
        (header::ETAG, format!("\"{}\"", published.etag)),
        (HeaderName::from_static("accept-patch"), FRAGMENT.to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((StatusCode::CREATED, headers, published.answer).into_response())
}

/// RFC 9725 §4.3.
async fn change(
    routes: &Routes,
    input: String,
    session: String,
    request: Request,
) -> Result<Response, Response> {
    let whip = routes.whip().ok_or_else(|| refuse(&Refusal::NotFound))?;
    let (parts, body) = request.into_parts();
    let Some(matched) = parts.headers.get(header::IF_MATCH) else {
        return Err(problem(
            StatusCode::PRECONDITION_REQUIRED,
            "precondition_required",
            "name the ICE session in If-Match, or * to restart it",
        ));
    };
    let matched = matched.to_str().unwrap_or_default().trim();
    let etag = (matched != "*").then(|| matched.trim_matches('"').to_owned());
    let fragment = text(body, &parts.headers, FRAGMENT, FRAGMENT_BYTES_MAX).await?;
    let change = Change { input, session, etag, fragment };
    match whip.change(change).await.map_err(|why| refuse(&why))? {
        Changed::Noted => Ok(StatusCode::NO_CONTENT.into_response()),
        Changed::Restarted { fragment, etag } => {
            let headers = [
                (header::CONTENT_TYPE, FRAGMENT.to_owned()),
                (header::ETAG, format!("\"{etag}\"")),
            ];
            Ok((headers, fragment).into_response())
        }
    }
}

/// Diagnostics, for whoever may read inputs.
async fn inspect(routes: &Routes, input: String, headers: &HeaderMap) -> Response {
    let (Some(whip), Some(store)) = (routes.whip(), routes.store()) else {
        return refuse(&Refusal::NotFound);
    };
    // RFC 9725 §4.2 leaves GET undefined: without an API key it is not there.
    let Some(key) = bearer(headers) else { return not_allowed("OPTIONS, POST") };
    match store.verify_api_key(&key).await {
        Ok(asking) if asking.scopes.contains(&Scope::StreamsRead) => {
            let sessions = whip.inspect(input).await;
            super::routes::json(&json!({ "sessions": sessions }))
        }
        Ok(_) => problem(StatusCode::FORBIDDEN, "scope_missing", "the key may not read inputs"),
        Err(Error::KeyRefused) => refuse(&Refusal::Key),
        Err(error) => {
            tracing::warn!(%error, "cannot check an API key");
            refuse(&Refusal::Timeout)
        }
    }
}

/// The stream key: as bearer token, else as `sk` in the query.
fn stream_key(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    bearer(headers).or_else(|| {
        let pairs = uri.query()?.split('&');
        pairs
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(name, value)| (name == "sk" && !value.is_empty()).then(|| value.to_owned()))
    })
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

/// A body of the wanted type and size, as text.
async fn text(
    body: Body,
    headers: &HeaderMap,
    wanted: &'static str,
    bytes_max: usize,
) -> Result<String, Response> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|given| given.to_str().ok());
    let essence = given.and_then(|given| given.split(';').next()).unwrap_or_default();
    if !essence.trim().eq_ignore_ascii_case(wanted) {
        let detail = format!("the body must be {wanted}");
        return Err(problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type_unsupported", &detail));
    }
    let bytes = to_bytes(body, bytes_max).await.map_err(|_| {
        let detail = format!("the body may have {bytes_max} bytes");
        problem(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", &detail)
    })?;
    String::from_utf8(bytes.to_vec())
        .map_err(|_| refuse(&Refusal::Unusable("the body is not UTF-8".to_owned())))
}

/// Absolute, because some clients cannot resolve a relative one.
fn location(
    uri: &Uri,
    headers: &HeaderMap,
    reached: Reached,
    input: &str,
    session: &str,
) -> String {
    let asked = uri
        .authority()
        .map(axum::http::uri::Authority::as_str)
        .or_else(|| headers.get(header::HOST).and_then(|host| host.to_str().ok()));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:[]".contains(&byte);
    let asked = asked.filter(|host| (1..=260).contains(&host.len()) && host.bytes().all(plain));
    let authority = asked.map_or_else(|| reached.local.to_string(), str::to_owned);
    let scheme = if reached.tls { "https" } else { "http" };
    format!("{scheme}://{authority}/whip/{input}/{session}")
}

fn options(allow: &'static str, more: &[(&'static str, &'static str)]) -> Response {
    let mut answer = StatusCode::NO_CONTENT.into_response();
    let headers = answer.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    for (name, value) in more {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    answer
}

fn not_allowed(allow: &'static str) -> Response {
    let mut answer = problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this resource does not have that method",
    );
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    answer
}

/// Pages of any origin may publish: the key is in the request, and no cookie is ever looked at.
fn open_to_pages(mut answer: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 5] = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "DELETE, GET, OPTIONS, PATCH, POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, if-match"),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "accept-patch, accept-post, etag, link, location, retry-after",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn refuse(refusal: &Refusal) -> Response {
    let (status, code, retry_after) = refusal.status();
    let mut answer = problem(status, code, refusal.detail());
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::UNAUTHORIZED {
        let wanted = HeaderValue::from_static("Bearer");
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, wanted);
    }
    answer
}

fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    let mut short = String::new();
    // A refusal may quote the offer: a line is enough, and nothing that steers a terminal.
    for letter in detail.chars().filter(|letter| !letter.is_control()).take(200) {
        // Writing to a String cannot fail.
        let _ = short.write_char(letter);
    }
    let title = status.canonical_reason().unwrap_or_default();
    let body = json!({ "title": title, "status": status.as_u16(), "code": code, "detail": short });
    let headers = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, headers, Body::from(body.to_string())).into_response()
}
