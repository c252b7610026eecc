//! The API under `/v1`: who asks and what they may do, then withdrawing tokens. Errors are
//! `application/problem+json` with stable codes and never repeat what was sent.

use axum::{
    Router,
    body::to_bytes,
    extract::{Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::json;

use super::inputs;
use super::routes::{Routes, json, problem};
use crate::{ApiKeyRecord, Error, Scope, Store, Withdraw, store::revocations::PAGE_MAX};

/// Largest body of a request: a token of 8 KiB in JSON, twice over.
pub(super) const BODY_BYTES_MAX: usize = 16 * 1024;

/// Who may withdraw tokens.
const WITHDRAW: &[Scope] = &[Scope::Keys, Scope::StreamsMint];

/// The routes under `/v1`.
pub(super) fn routes() -> Router<Routes> {
    Router::new().route("/v1/revocations", get(list).post(revoke)).merge(inputs::routes())
}

/// Whether a request may bring a body, which is read only once its sender is known.
pub(super) fn takes_body(path: &str) -> bool {
    path == "/v1/revocations" || inputs::takes_body(path)
}

/// What to withdraw: exactly one of the fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    jti: Option<String>,
    vid: Option<String>,
    kid: Option<String>,
    ver: Option<u64>,
    token: Option<String>,
}

/// Withdraws a token, or all of a viewer, a key or below a version. 201 for a new revocation, 200
/// for one that was in force: asking twice does no harm.
async fn revoke(State(routes): State<Routes>, headers: HeaderMap, request: Request) -> Response {
    let Some(store) = routes.store() else {
        return problem(StatusCode::NOT_FOUND, "not_found");
    };
    let asking = match authorise(store, &headers, WITHDRAW).await {
        Ok(asking) => asking,
        Err(refusal) => return refusal,
    };
    let Ok(body) = to_bytes(request.into_body(), BODY_BYTES_MAX).await else {
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large");
    };
    let wanted = serde_json::from_slice::<Wanted>(&body);
    let Ok(wanted) = wanted else {
        return problem(StatusCode::BAD_REQUEST, "body_malformed");
    };
    let what = match wanted {
        Wanted { jti: Some(jti), vid: None, kid: None, ver: None, token: None } => {
            Ok(Withdraw::Token(jti))
        }
        Wanted { jti: None, vid: Some(vid), kid: None, ver: None, token: None } => {
            Ok(Withdraw::Viewer(vid))
        }
        Wanted { jti: None, vid: None, kid: Some(kid), ver: None, token: None } => {
            // Withdrawing a key is more than withdrawing tokens.
            if !asking.scopes.contains(&Scope::Keys) {
                return problem(StatusCode::FORBIDDEN, "scope_missing");
            }
            match kid.parse() {
                Ok(kid) => Ok(Withdraw::Key(kid)),
                Err(_) => return problem(StatusCode::NOT_FOUND, "not_found"),
            }
        }
        Wanted { jti: None, vid: None, kid: None, ver: Some(version), token: None } => {
            Ok(Withdraw::Version(version))
        }
        Wanted { jti: None, vid: None, kid: None, ver: None, token: Some(token) } => {
            Withdraw::token(&token, &asking.org)
        }
        _ => return problem(StatusCode::UNPROCESSABLE_ENTITY, "one_subject_wanted"),
    };
    let done = match what {
        Ok(what) => store.revoke(&asking.org, what).await,
        Err(error) => Err(error),
    };
    match done {
        Ok((revocation, is_new)) => {
            let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
            tracing::info!(kind = revocation.what.kind(), by = %asking.id, "tokens withdrawn");
            (status, json(&json!(revocation))).into_response()
        }
        Err(error) => failed(&error),
    }
}

#[derive(Deserialize)]
struct Page {
    cursor: Option<String>,
    limit: Option<usize>,
}

/// Revocations in force.
async fn list(
    State(routes): State<Routes>,
    headers: HeaderMap,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Some(store) = routes.store() else {
        return problem(StatusCode::NOT_FOUND, "not_found");
    };
    let asking = match authorise(store, &headers, WITHDRAW).await {
        Ok(asking) => asking,
        Err(refusal) => return refusal,
    };
    let Ok(Query(page)) = page else {
        return problem(StatusCode::BAD_REQUEST, "query_malformed");
    };
    let limit = page.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let after = match page.cursor.map(|cursor| position(&cursor)) {
        None => None,
        Some(Some(after)) => Some(after),
        Some(None) => return problem(StatusCode::BAD_REQUEST, "cursor_invalid"),
    };
    let after = after.as_ref().map(|(kind, value)| (kind.as_str(), value.as_str()));
    match store.revocations(&asking.org, after, limit).await {
        Ok(listed) => {
            let last = listed.last().filter(|_| listed.len() == limit);
            let next = last.map(|last| {
                URL_SAFE_NO_PAD.encode(format!("{}:{}", last.what.kind(), last.what.value()))
            });
            json(&json!({ "data": listed, "next_cursor": next }))
        }
        Err(error) => failed(&error),
    }
}

/// Where a cursor points: behind this kind and value.
fn position(cursor: &str) -> Option<(String, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let (kind, value) = text.split_once(':')?;
    Some((kind.to_owned(), value.to_owned()))
}

/// Who asks, if its key has one of the scopes: an API key as bearer, or as the password of HTTP Basic.
pub(super) async fn authorise(
    store: &Store,
    headers: &HeaderMap,
    may: &[Scope],
) -> Result<ApiKeyRecord, Response> {
    let key = headers.get(header::AUTHORIZATION).and_then(|value| credential(value.to_str().ok()?));
    let unknown = || {
        let wanted = [(header::WWW_AUTHENTICATE, "Bearer")];
        (wanted, problem(StatusCode::UNAUTHORIZED, "auth_failed")).into_response()
    };
    let asking = match key {
        Some(key) => match store.verify_api_key(&key).await {
            Ok(asking) => asking,
            Err(Error::KeyRefused) => return Err(unknown()),
            Err(error) => return Err(failed(&error)),
        },
        None => return Err(unknown()),
    };
    if asking.scopes.iter().any(|scope| may.contains(scope)) {
        Ok(asking)
    } else {
        Err(problem(StatusCode::FORBIDDEN, "scope_missing"))
    }
}

fn credential(value: &str) -> Option<String> {
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    pair.split_once(':').map(|(_, key)| key.to_owned())
}

pub(super) fn failed(error: &Error) -> Response {
    let status = match error {
        Error::Claim
        | Error::Name
        | Error::ReconnectWindow
        | Error::TokenUnreadable
        | Error::TokenWithoutId => StatusCode::UNPROCESSABLE_ENTITY,
        Error::RevocationsFull => StatusCode::SERVICE_UNAVAILABLE,
        Error::UnknownInput(_) | Error::UnknownSigningKey(_) => StatusCode::NOT_FOUND,
        _ => {
            tracing::warn!(%error, "cannot answer a request of the API");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    problem(status, error.code())
}
