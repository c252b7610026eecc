//! Playback URLs, as `weir up` and `weir token mint` print them. Which broadcast is meant is read from the token without
//! verifying it, because only the relay can; a URL never shows its token.

use std::fmt;

use ::url::Url;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use weir_moqt::{Draft, Namespace, Transport};

use super::Options;

/// First field of the namespace of every broadcast.
const NAMESPACE_ROOT: &str = "stream";
/// Stands for the organisation when the token does not name one; the relay refuses such a token anyway.
const NO_ORGANISATION: &str = "unknown";
/// Longest token whose claims are read.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// HTTP/3 and MoQT over QUIC alike.
const PORT_DEFAULT: u16 = 443;

/// Where a broadcast plays.
#[derive(Clone)]
pub struct PlaybackUrl {
    /// WebTransport for `https`, raw QUIC for `moqt`.
    pub transport: Transport,
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// UDP port.
    pub port: u16,
    /// The broadcast's namespace.
    pub namespace: Namespace,
    url: Url,
}

/// Where an input takes a broadcast over MoQT.
#[derive(Clone, Debug)]
pub struct PublishUrl(PlaybackUrl);

impl PublishUrl {
    /// Reads a URL.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (transport, url) = read(text)?;
        let host = host_of(&url)?;
        let id = url.path().strip_prefix("/publish/").ok_or(UrlError::PublishPath)?;
        let id = id.strip_suffix('/').unwrap_or(id);
        if id.contains('/') {
            return Err(UrlError::PublishPath);
        }
        let namespace = Namespace::new(["publish", id]).map_err(|_| UrlError::PublishPath)?;
        let port = url.port().unwrap_or(PORT_DEFAULT);
        Ok(Self(PlaybackUrl { transport, host, port, namespace, url }))
    }

    /// Where to connect to.
    pub fn address(&self) -> &PlaybackUrl {
        &self.0
    }
}

/// Why a URL is not one of a broadcast.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// No URL at all.
    #[error("not a URL: {0}")]
    Malformed(String),
    /// Neither `https` nor `moqt`.
    #[error("scheme {0:?} is not served; https:// is WebTransport, moqt:// is raw QUIC")]
    Scheme(String),
    /// No host.
    #[error("the URL names no host")]
    Host,
    /// Not `/playback/<id>`.
    #[error("the path of the URL is not /playback/<id>")]
    Path,
    /// Not `/publish/<id>`.
    #[error("the path of the URL is not /publish/<id>")]
    PublishPath,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
}

impl PlaybackUrl {
    /// Reads a URL.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (transport, url) = read(text)?;
        let host = host_of(&url)?;
        let id = url.path().strip_prefix("/playback/").ok_or(UrlError::Path)?;
        let id = id.strip_suffix('/').unwrap_or(id);
        let token = url.query_pairs().find(|(name, _)| name == "tok").map(|(_, value)| value);
        let org = token.as_deref().and_then(organisation);
        let org = org.as_deref().unwrap_or(NO_ORGANISATION);
        if id.contains('/') {
            return Err(UrlError::Path);
        }
        let namespace = Namespace::new([NAMESPACE_ROOT, org, id]).map_err(|_| UrlError::Path)?;
        let port = url.port().unwrap_or(PORT_DEFAULT);
        Ok(Self { transport, host, port, namespace, url })
    }

    /// Path and query, token included.
    pub fn path_and_query(&self) -> String {
        match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        }
    }

    /// The URL, token included.
    pub fn expose(&self) -> &Url {
        &self.url
    }

    /// `HOST:PORT` as AUTHORITY wants it.
    pub fn authority(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        format!("{host}:{}", self.port)
    }

    /// The same broadcast at the address of a GOAWAY; empty = the same one. Only host and port are taken from it: the
    /// broadcast, the token and what carries the session stay the viewer's own. Both schemes name a relay that serves
    /// WebTransport and raw QUIC on one port. The address is the relay's word, as trustworthy as the relay itself; its
    /// certificate is checked as that of the first address was.
    pub fn moved(&self, uri: &str) -> Result<Self, UrlError> {
        if uri.is_empty() {
            return Ok(self.clone());
        }
        let to = Url::parse(uri).map_err(|error| UrlError::Malformed(error.to_string()))?;
        if !matches!(to.scheme(), "https" | "moqt") {
            return Err(UrlError::Scheme(to.scheme().to_owned()));
        }
        let host = to.host_str().filter(|host| !host.is_empty()).ok_or(UrlError::Host)?;
        let mut url = self.url.clone();
        url.set_host(Some(host)).map_err(|_| UrlError::Host)?;
        let port = to.port().unwrap_or(PORT_DEFAULT);
        url.set_port(Some(port)).map_err(|()| UrlError::Host)?;
        Self::parse(url.as_str())
    }

    /// What a viewer of this URL needs to know.
    pub fn options(&self, draft: Draft) -> Options {
        let mut options = Options::new(draft, self.transport, self.namespace.clone());
        if self.transport == Transport::Quic {
            options.path = Some(self.path_and_query());
            options.authority = Some(self.authority());
        }
        options
    }
}

impl fmt::Debug for PlaybackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PlaybackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.url.scheme(), self.authority(), self.url.path())?;
        if self.url.query().is_some() { f.write_str("?[redacted]") } else { Ok(()) }
    }
}

fn read(text: &str) -> Result<(Transport, Url), UrlError> {
    let url = Url::parse(text).map_err(|error| UrlError::Malformed(error.to_string()))?;
    let transport = match url.scheme() {
        "https" => Transport::WebTransport,
        "moqt" => Transport::Quic,
        other => return Err(UrlError::Scheme(other.to_owned())),
    };
    Ok((transport, url))
}

fn host_of(url: &Url) -> Result<String, UrlError> {
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(UrlError::Host)?;
    Ok(host.trim_start_matches('[').trim_end_matches(']').to_owned())
}

/// `iss` of a token, not verified.
fn organisation(token: &str) -> Option<String> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let claims = token.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    (!claims.iss.is_empty()).then_some(claims.iss)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(r#"{"iss":"org_a","sub":"lv_1"}"#))
    }

    #[test]
    fn a_url_names_its_broadcast_and_hides_its_token() {
        for (scheme, transport) in [("https", Transport::WebTransport), ("moqt", Transport::Quic)] {
            let text = format!("{scheme}://127.0.0.1:4443/playback/lv_1?tok={}", token());
            let url = PlaybackUrl::parse(&text).unwrap();
            assert_eq!(
                (url.transport, url.host.as_str(), url.port),
                (transport, "127.0.0.1", 4443)
            );
            assert_eq!(url.namespace, Namespace::new(["stream", "org_a", "lv_1"]).unwrap());
            assert_eq!(url.path_and_query(), format!("/playback/lv_1?tok={}", token()));
            let options = url.options(Draft::D18);
            assert_eq!(options.path.is_some(), transport == Transport::Quic);
            for shown in [format!("{url:?}"), format!("{url}"), format!("{options:?}")] {
                assert!(!shown.contains("c2ln"), "{shown}");
            }
        }
    }

    #[test]
    fn ipv6_and_default_ports_are_understood() {
        let url = PlaybackUrl::parse("moqt://[::1]/playback/lv_1").unwrap();
        assert_eq!((url.host.as_str(), url.port), ("::1", 443));
        assert_eq!(url.authority(), "[::1]:443");
    }

    #[test]
    fn a_goaway_gives_host_and_port_and_nothing_else() {
        for scheme in ["https", "moqt"] {
            let here = format!("{scheme}://a.example:4443/playback/lv_1?tok={}", token());
            let here = PlaybackUrl::parse(&here).unwrap();
            for (uri, host, port) in [
                ("", "a.example", 4443),
                ("https://b.example:9", "b.example", 9),
                ("moqt://b.example/", "b.example", 443),
                ("https://[2001:db8::1]:7/x?tok=y#cert-sha256=00", "2001:db8::1", 7),
                ("moqt://10.0.0.2:7", "10.0.0.2", 7),
            ] {
                let there = here.moved(uri).unwrap();
                assert_eq!((there.host.as_str(), there.port), (host, port), "{uri}");
                assert_eq!(there.path_and_query(), here.path_and_query());
                assert_eq!((&there.namespace, there.transport), (&here.namespace, here.transport));
            }
            for bad in ["b.example", "http://b", "file:///etc/passwd", "moqt:///x"] {
                assert!(here.moved(bad).is_err(), "{bad}");
            }
        }
    }

    #[test]
    fn a_token_that_cannot_be_read_is_left_to_the_relay() {
        for token in ["", "x", "a.b.c", "e30.e30.x", "e30.eyJpc3MiOiIifQ.x"] {
            let url = PlaybackUrl::parse(&format!("https://h/playback/lv_1?tok={token}")).unwrap();
            assert_eq!(url.namespace, Namespace::new(["stream", "unknown", "lv_1"]).unwrap());
        }
    }

    #[test]
    fn what_is_no_playback_url_is_refused_without_quoting_it() {
        for bad in [
            "lv_1",
            "http://h/playback/lv_1?tok=secret",
            "https://h/watch/lv_1?tok=secret",
            "https://h/playback/?tok=secret",
            "moqt:///playback/lv_1?tok=secret",
            "https://h/playback/a/b?tok=secret",
        ] {
            let error = PlaybackUrl::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
