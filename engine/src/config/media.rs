//! Key `public.media`: addresses at which the media of WHIP publishers reaches this node when those it
//! listens on are not the ones seen from outside. Owns how such an address is written.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::Deserialize;

/// An address, with a port where it is not the one listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct MediaAddress {
    ip: IpAddr,
    port: Option<u16>,
}

impl MediaAddress {
    /// The whole address, when the listener has this port.
    pub fn with_default_port(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, self.port.unwrap_or(port))
    }
}

impl FromStr for MediaAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = text.parse::<SocketAddr>().map(|it| (it.ip(), Some(it.port())));
        let bare = || text.trim_matches(['[', ']']).parse().map(|ip| (ip, None));
        let (ip, port): (IpAddr, _) = whole.or_else(|_| bare()).map_err(|_| {
            format!("{text:?} is not an address such as 203.0.113.7, or 203.0.113.7:30000")
        })?;
        if ip.is_unspecified() || ip.is_multicast() || port == Some(0) {
            return Err(format!("{text:?} is nowhere a publisher could send to"));
        }
        Ok(Self { ip, port })
    }
}

impl TryFrom<String> for MediaAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Several in one variable.
pub(super) struct MediaAddresses(pub(super) Vec<MediaAddress>);

impl FromStr for MediaAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_bring_its_own_port() {
        let at = |text: &str| {
            text.parse::<MediaAddress>().map(|it| it.with_default_port(8891).to_string())
        };
        assert_eq!(at("203.0.113.7").as_deref(), Ok("203.0.113.7:8891"));
        assert_eq!(at("203.0.113.7:3").as_deref(), Ok("203.0.113.7:3"));
        assert_eq!(at("2001:db8::1").as_deref(), Ok("[2001:db8::1]:8891"));
        assert_eq!(at("[2001:db8::1]:3").as_deref(), Ok("[2001:db8::1]:3"));
        for bad in ["", "live.example.com", "0.0.0.0", "203.0.113.7:0", "224.0.0.1", "1.2.3"] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }
}
