//! The web files inside the binary, and how they are answered.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::hex;

// `EMBEDDED`: path below `relay/web/dist` and content of each file, sorted by path.
include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// All embedded files by path.
pub(super) struct Assets(BTreeMap<&'static str, Asset>);

struct Asset {
    bytes: &'static [u8],
    media_type: HeaderValue,
    etag: HeaderValue,
}

impl Assets {
    pub(super) fn embedded() -> Self {
        Self::new(EMBEDDED)
    }

    fn new(files: &[(&'static str, &'static [u8])]) -> Self {
        Self(files.iter().map(|(path, bytes)| (*path, Asset::new(path, bytes))).collect())
    }

    /// A page by its name, or a sentence when the build has no pages.
    pub(super) fn page(&self, name: &str, request: &HeaderMap) -> Response {
        let Some(asset) = self.0.get(name) else {
            let text = "This build has no pages: build relay/web, then build Weir again.\n";
            return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
        };
        asset.answer(request)
    }

    /// What `/assets/<path>` answers: a file of that path, or of `assets/<path>`.
    pub(super) fn file(&self, path: &str, request: &HeaderMap) -> Option<Response> {
        let nested = format!("assets/{path}");
        let asset = self.0.get(path).or_else(|| self.0.get(nested.as_str()))?;
        Some(asset.answer(request))
    }
}

impl Asset {
    fn new(path: &str, bytes: &'static [u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        let etag = format!("\"{}\"", hex(&digest.as_ref()[..8]));
        Self {
            bytes,
            media_type: HeaderValue::from_static(media_type(path)),
            etag: HeaderValue::from_str(&etag).expect("hex digits in quotes are a header value"),
        }
    }

    /// Browsers ask each time and mostly get 304, so an upgraded server is seen at once.
    fn answer(&self, request: &HeaderMap) -> Response {
        let known = request.get(header::IF_NONE_MATCH).is_some_and(|held| {
            held.as_bytes().split(|byte| *byte == b',').any(|one| self.etag == one.trim_ascii())
        });
        let headers = [
            (header::CONTENT_TYPE, self.media_type.clone()),
            (header::ETAG, self.etag.clone()),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        ];
        if known {
            (StatusCode::NOT_MODIFIED, headers).into_response()
        } else {
            (headers, Body::from(self.bytes)).into_response()
        }
    }
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("css") => "text/css; charset=utf-8",
        Some("html") => "text/html; charset=utf-8",
        Some("ico") => "image/x-icon",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("json" | "map") => "application/json",
        Some("png") => "image/png",
        Some("svg") => "image/svg+xml",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_answered_once_and_then_known() {
        let assets = Assets::new(&[("player.js", b"1"), ("assets/a.css", b"2")]);
        let first = assets.file("player.js", &HeaderMap::new()).expect("there");
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
        let mut again = HeaderMap::new();
        again.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        let second = assets.file("player.js", &again).expect("there");
        assert_eq!(second.status(), StatusCode::NOT_MODIFIED);
        assert!(assets.file("a.css", &HeaderMap::new()).is_some());
        assert!(assets.file("../player.js", &HeaderMap::new()).is_none());
        let page = assets.page("index.html", &HeaderMap::new());
        assert_eq!(page.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
