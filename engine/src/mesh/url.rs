//! Where a relay above listens: `moqt://HOST:PORT`. An `https` URL of the same node is understood
//! too, since cards and GOAWAY show those; its path means nothing here.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// HTTP/3 and MoQT over QUIC alike.
const PORT_DEFAULT: u16 = 443;

/// One upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    host: String,
    port: u16,
}

/// A text that is no upstream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an upstream such as moqt://engine.example.com:4443")]
pub struct InvalidUrl(String);

impl UpstreamUrl {
    /// Reads a URL.
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let shown = || InvalidUrl(text.split(['?', '#']).next().unwrap_or_default().to_owned());
        let url = ::url::Url::parse(text.trim()).map_err(|_| shown())?;
        if !matches!(url.scheme(), "moqt" | "https") {
            return Err(shown());
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(shown)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: url.port().unwrap_or(PORT_DEFAULT) })
    }

    /// Name or address, IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, when the host is one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }

    /// `HOST:PORT` as AUTHORITY wants it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "moqt://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_cards_and_of_goaway_are_read() {
        for (text, authority) in [
            ("moqt://127.0.0.1:4443", "127.0.0.1:4443"),
            ("https://engine.example.com", "engine.example.com:443"),
            ("moqt://[::1]:7/", "[::1]:7"),
        ] {
            let url = UpstreamUrl::parse(text).expect("valid");
            assert_eq!(url.authority(), authority);
            assert_eq!(url.address().is_some(), !text.contains("example"));
        }
        for bad in ["", "engine:4443", "http://x", "moqt://"] {
            assert!(UpstreamUrl::parse(bad).is_err(), "{bad}");
        }
        let error = UpstreamUrl::parse("ftp://h/?nk=secret").expect_err("scheme").to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
