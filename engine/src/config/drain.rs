//! How a node is emptied: where its sessions are sent and how long they may take. Owns what such an
//! address and such a span may be; knows no session.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use url::Url;

/// Longest address sent in GOAWAY: a host name of 253 bytes, a port and a fingerprint, several times
/// over, and a quarter of what the drafts allow.
const NEW_URI_BYTES_MAX: usize = 2_048;
/// A drain that takes longer than this is another plan.
const DEADLINE_MAX: Duration = Duration::from_hours(24);

/// Section `[drain]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// Where sessions are sent; empty: the same address.
    pub new_uri: NewUri,
    /// How long they may take.
    pub deadline: Deadline,
}

/// The address in GOAWAY: `https://HOST:PORT` or `moqt://HOST:PORT`, or nothing. A fragment
/// `#cert-sha256=HEX` tells players the certificate of a node that signed its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct NewUri(String);

/// A span between a second and a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Deadline(pub Duration);

impl Default for Drain {
    fn default() -> Self {
        Self { new_uri: NewUri::default(), deadline: Deadline(Duration::from_secs(30)) }
    }
}

impl NewUri {
    /// The text that goes into GOAWAY.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NewUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "the same address" } else { &self.0 })
    }
}

impl FromStr for NewUri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let malformed = || {
            format!(
                "{text:?} is not an address such as https://b.example.com:4443 or moqt://b:4443"
            )
        };
        let url = Url::parse(text).map_err(|_| malformed())?;
        let scheme = matches!(url.scheme(), "https" | "moqt");
        let host = url.host_str().is_some_and(|host| !host.is_empty());
        let bare = matches!(url.path(), "" | "/") && url.query().is_none();
        let nobody = url.username().is_empty() && url.password().is_none();
        // Everybody is sent the same, so it holds neither a broadcast nor a token.
        if scheme && host && bare && nobody && text.len() <= NEW_URI_BYTES_MAX {
            Ok(Self(text.to_owned()))
        } else {
            Err(malformed())
        }
    }
}

impl TryFrom<String> for NewUri {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Deadline {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span = parse_duration(text)?;
        if span.is_zero() || span > DEADLINE_MAX {
            return Err(format!("{text:?} is not between 1s and 24h"));
        }
        Ok(Self(span))
    }
}

impl TryFrom<String> for Deadline {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// `90`, `90s`, `15m`, `1h30m`: plain numbers are seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let malformed = || format!("{text:?} is not a duration such as 90s, 15m or 1h30m");
    let mut total = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits).and_then(|n| n.parse().ok()).ok_or_else(malformed)?;
        let unit = rest.get(digits..digits + 1);
        let seconds = match unit {
            Some("s") => 1,
            Some("m") => 60,
            Some("h") => 3_600,
            Some("d") => 86_400,
            None if digits == text.len() => 1,
            _ => return Err(malformed()),
        };
        let more = number.checked_mul(seconds).ok_or_else(malformed)?;
        total = total.checked_add(more).ok_or_else(malformed)?;
        rest = rest.get(digits + 1..).unwrap_or_default();
    }
    if text.is_empty() { Err(malformed()) } else { Ok(Duration::from_secs(total)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_to_move_to_names_a_host_and_nothing_of_a_viewer() {
        for good in [
            "",
            "https://b.example.com",
            "https://b.example.com:4443/",
            "moqt://[2001:db8::1]:4443",
            "https://10.0.0.2:4443/#cert-sha256=00ff",
        ] {
            assert_eq!(good.parse::<NewUri>().expect(good).as_str(), good);
        }
        let long = format!("https://{}", "a".repeat(NEW_URI_BYTES_MAX));
        for bad in [
            "b.example.com",
            "http://b",
            "wss://b",
            "https://b/playback/lv_1",
            "https://b/?tok=x",
            "https://user@b/",
            "https://:4443",
            &long,
        ] {
            assert!(bad.parse::<NewUri>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_deadline_is_neither_nothing_nor_for_ever() {
        assert_eq!("30s".parse(), Ok(Deadline(Duration::from_secs(30))));
        assert_eq!("1d".parse(), Ok(Deadline(DEADLINE_MAX)));
        for bad in ["0", "", "2d", "soon"] {
            assert!(bad.parse::<Deadline>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_read() {
        for (text, secs) in
            [("90", 90), ("90s", 90), ("15m", 900), ("1h30m", 5_400), ("1d", 86_400)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(secs)), "{text}");
        }
        for bad in ["", "h", "1x", "1h5", "-1", "1.5h", "99999999999999999999", "9999999999999999h"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
