//! Live inputs under `/v1/live-inputs`: list, create, show, change, rotate the key, health. Keys are
//! in the answer that makes them and nowhere else; every other answer has addresses with a
//! placeholder where the key belongs.

use axum::{
    Router,
    body::to_bytes,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::api::{BODY_BYTES_MAX, authorise, failed};
use super::routes::{Routes, json, problem, visited_host};
use crate::{
    Ingest, Input, InputChange, InputId, InputStatus, NewInput, PublisherPolicy,
    RECONNECT_WINDOW_DEFAULT_S, Scope, Store, StreamKey,
};

/// Inputs of one page of the list.
const PAGE_MAX: usize = 100;
/// Stands where a key belongs.
const KEY_PLACEHOLDER: &str = "<stream key>";

const READ: &[Scope] = &[Scope::StreamsRead, Scope::StreamsWrite];
const WRITE: &[Scope] = &[Scope::StreamsWrite];

pub(super) fn routes() -> Router<Routes> {
    Router::new()
        .route("/v1/live-inputs", get(list).post(create))
        .route("/v1/live-inputs/{id}", get(show).patch(change))
        .route("/v1/live-inputs/{id}/health", get(health))
        .route("/v1/live-inputs/{id}/rotate-stream-key", post(rotate))
}

/// Whether a request to this path may bring a body.
pub(super) fn takes_body(path: &str) -> bool {
    path == "/v1/live-inputs" || path.starts_with("/v1/live-inputs/")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: Option<String>,
    ingest: Option<String>,
    policy: Option<String>,
    reconnect_window_s: Option<u32>,
}

#[derive(Deserialize)]
struct Page {
    cursor: Option<String>,
    limit: Option<usize>,
}

async fn list(
    State(routes): State<Routes>,
    uri: Uri,
    headers: HeaderMap,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let store = match permitted(&routes, &headers, READ).await {
        Ok(store) => store,
        Err(refusal) => return refusal,
    };
    let Ok(Query(page)) = page else {
        return problem(StatusCode::BAD_REQUEST, "query_malformed");
    };
    let limit = page.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    match store.inputs_with_status().await {
        Ok(all) => {
            // Ids grow with time, so the last one of a page is its cursor.
            let behind = |input: &Input| {
                page.cursor.as_deref().is_none_or(|cursor| input.id.as_str() > cursor)
            };
            let rest: Vec<_> = all.iter().filter(|(input, _)| behind(input)).collect();
            let host = visited_host(&uri, &headers);
            let shown = rest.iter().take(limit);
            let data: Vec<_> =
                shown.map(|(input, status)| described(&routes, host, input, status)).collect();
            let more = (rest.len() > limit).then(|| rest.get(limit - 1)).flatten();
            let next = more.map(|(input, _)| input.id.as_str());
            json(&json!({ "data": data, "next_cursor": next }))
        }
        Err(error) => failed(&error),
    }
}

async fn create(State(routes): State<Routes>, request: Request) -> Response {
    let (uri, headers) = (request.uri().clone(), request.headers().clone());
    let store = match permitted(&routes, &headers, WRITE).await {
        Ok(store) => store,
        Err(refusal) => return refusal,
    };
    let change = match wanted(request).await {
        Ok(change) => change,
        Err(refusal) => return refusal,
    };
    let Some(name) = change.name else {
        return problem(StatusCode::UNPROCESSABLE_ENTITY, "name_invalid");
    };
    let new = NewInput {
        name,
        ingest: change.ingest.unwrap_or(Ingest::Rtmp),
        policy: change.policy.unwrap_or_default(),
        reconnect_window_s: change.reconnect_window_s.unwrap_or(RECONNECT_WINDOW_DEFAULT_S),
    };
    match store.create_input(new).await {
        Ok((input, key)) => {
            tracing::info!(input = %input.id, "input created");
            let host = visited_host(&uri, &headers);
            let answer = keyed(&routes, host, &input, &InputStatus::default(), &key);
            (StatusCode::CREATED, json(&answer)).into_response()
        }
        Err(error) => failed(&error),
    }
}

async fn show(
    State(routes): State<Routes>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let (store, id) = match subject(&routes, &headers, READ, &id).await {
        Ok(subject) => subject,
        Err(refusal) => return refusal,
    };
    match both(store, &id).await {
        Ok((input, status)) => {
            json(&described(&routes, visited_host(&uri, &headers), &input, &status))
        }
        Err(error) => failed(&error),
    }
}

async fn change(
    State(routes): State<Routes>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let (uri, headers) = (request.uri().clone(), request.headers().clone());
    let (store, id) = match subject(&routes, &headers, WRITE, &id).await {
        Ok(subject) => subject,
        Err(refusal) => return refusal,
    };
    let change = match wanted(request).await {
        Ok(change) => change,
        Err(refusal) => return refusal,
    };
    let done = match store.change_input(&id, change).await {
        Ok(_) => both(store, &id).await,
        Err(error) => Err(error),
    };
    match done {
        Ok((input, status)) => {
            json(&described(&routes, visited_host(&uri, &headers), &input, &status))
        }
        Err(error) => failed(&error),
    }
}

async fn rotate(
    State(routes): State<Routes>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let (store, id) = match subject(&routes, &headers, WRITE, &id).await {
        Ok(subject) => subject,
        Err(refusal) => return refusal,
    };
    let done = async {
        let key = store.rotate_stream_key(&id).await?;
        let (input, status) = both(store, &id).await?;
        Ok((input, status, key))
    };
    match done.await {
        Ok((input, status, key)) => {
            tracing::info!(input = %input.id, "stream key rotated");
            json(&keyed(&routes, visited_host(&uri, &headers), &input, &status, &key))
        }
        Err(error) => failed(&error),
    }
}

async fn health(
    State(routes): State<Routes>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let (store, id) = match subject(&routes, &headers, READ, &id).await {
        Ok(subject) => subject,
        Err(refusal) => return refusal,
    };
    match store.input_health(&id).await {
        Ok(health) => {
            let mut answer = json!(health);
            answer["id"] = id.as_str().into();
            json(&answer)
        }
        Err(error) => failed(&error),
    }
}

async fn permitted<'a>(
    routes: &'a Routes,
    headers: &HeaderMap,
    scopes: &[Scope],
) -> Result<&'a Store, Response> {
    let Some(store) = routes.store() else {
        return Err(problem(StatusCode::NOT_FOUND, "not_found"));
    };
    authorise(store, headers, scopes).await.map(|_| store)
}

async fn subject<'a>(
    routes: &'a Routes,
    headers: &HeaderMap,
    scopes: &[Scope],
    id: &str,
) -> Result<(&'a Store, InputId), Response> {
    let store = permitted(routes, headers, scopes).await?;
    match id.parse() {
        Ok(id) => Ok((store, id)),
        Err(_) => Err(problem(StatusCode::NOT_FOUND, "not_found")),
    }
}

async fn both(store: &Store, id: &InputId) -> Result<(Input, InputStatus), crate::Error> {
    Ok((store.input(id).await?, store.input_status(id).await?))
}

/// What a body asks to change.
async fn wanted(request: Request) -> Result<InputChange, Response> {
    let wanted: Wanted = body(request).await?;
    let unknown = |code| problem(StatusCode::UNPROCESSABLE_ENTITY, code);
    let ingest = wanted.ingest.map(|word| word.parse::<Ingest>()).transpose();
    let policy = wanted.policy.map(|word| word.parse::<PublisherPolicy>()).transpose();
    Ok(InputChange {
        name: wanted.name,
        ingest: ingest.map_err(|_| unknown("ingest_unknown"))?,
        policy: policy.map_err(|_| unknown("policy_unknown"))?,
        reconnect_window_s: wanted.reconnect_window_s,
    })
}

async fn body<T: DeserializeOwned>(request: Request) -> Result<T, Response> {
    let Ok(body) = to_bytes(request.into_body(), BODY_BYTES_MAX).await else {
        return Err(problem(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"));
    };
    serde_json::from_slice(&body).map_err(|_| problem(StatusCode::BAD_REQUEST, "body_malformed"))
}

/// An input, its state, and addresses without a key.
fn described(routes: &Routes, host: Option<&str>, input: &Input, status: &InputStatus) -> Value {
    let mut whole = json!(input);
    if let (Some(whole), Value::Object(status)) = (whole.as_object_mut(), json!(status)) {
        whole.extend(status);
    }
    whole["urls"] = routes.site().publish_urls(host, input.id.as_str(), KEY_PLACEHOLDER);
    whole
}

/// The same with a fresh key.
fn keyed(
    routes: &Routes,
    host: Option<&str>,
    input: &Input,
    status: &InputStatus,
    key: &StreamKey,
) -> Value {
    let mut whole = described(routes, host, input, status);
    whole["urls"] = routes.site().publish_urls(host, input.id.as_str(), key.expose());
    whole["stream_key"] = key.expose().into();
    whole
}
