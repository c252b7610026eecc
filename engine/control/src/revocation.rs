//! What can be withdrawn before its time, and how a token names itself for that. It decides which
//! words and how long; keeping them is the store's matter, acting on them the relays'.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use crate::{Error, OrgId, SigningKeyId, TTL_MAX, Timestamp};

/// Revocations in force at once over all organisations: as many as fit into what relays of a mesh
/// exchange (`weir_relay::auth::REVOCATIONS_MAX`, compared by a test).
pub const REVOCATIONS_MAX: usize = 8_192;

/// Longest `jti` or `vid`, in bytes: what relays take from a token.
pub(crate) const CLAIM_BYTES_MAX: usize = 128;
/// Longest token looked at.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Clocks of those who mint may be a minute ahead, and relays forgive a minute at the end.
const CLOCKS_APART: Duration = Duration::from_mins(2);

/// What to withdraw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Withdraw {
    /// The one token with this `jti`.
    Token(String),
    /// All tokens of this viewer (`vid`) issued up to now; there may be new ones.
    Viewer(String),
    /// All tokens of this key, which signs no more.
    Key(SigningKeyId),
    /// All tokens whose `ver` is lower.
    Version(u64),
}

/// Something that was withdrawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Whose tokens.
    pub org: OrgId,
    /// Which of them.
    pub what: Withdraw,
    /// Since when.
    pub revoked_at: Timestamp,
    /// When the last of them has ended anyway.
    pub until: Timestamp,
}

impl Withdraw {
    /// What a token withdraws: itself, by its `jti`. The signature is not looked at: who asks may
    /// withdraw any `jti` of the organisation. The text of the token is in no error.
    pub fn token(token: &str, org: &OrgId) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Named {
            iss: Option<String>,
            jti: Option<String>,
        }
        let token = token.trim();
        let payload = token.split('.').nth(1).filter(|_| token.len() <= TOKEN_BYTES_MAX);
        let payload = payload.and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok());
        let named: Named = payload
            .and_then(|payload| serde_json::from_slice(&payload).ok())
            .ok_or(Error::TokenUnreadable)?;
        if named.iss.is_some_and(|iss| iss != org.as_str()) {
            return Err(Error::TokenUnreadable);
        }
        named.jti.map(Self::Token).ok_or(Error::TokenWithoutId)
    }

    /// The claim or header field it is about.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Token(_) => "jti",
            Self::Viewer(_) => "vid",
            Self::Key(_) => "kid",
            Self::Version(_) => "ver",
        }
    }

    /// What that field holds, as text.
    pub fn value(&self) -> String {
        match self {
            Self::Token(text) | Self::Viewer(text) => text.clone(),
            Self::Key(kid) => kid.to_string(),
            Self::Version(version) => version.to_string(),
        }
    }

    pub(crate) fn read(kind: &str, value: &str) -> Option<Self> {
        Some(match kind {
            "jti" => Self::Token(value.to_owned()),
            "vid" => Self::Viewer(value.to_owned()),
            "kid" => Self::Key(value.parse().ok()?),
            "ver" => Self::Version(value.parse().ok()?),
            _ => return None,
        })
    }

    /// Whether it could name any token.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Token(text) | Self::Viewer(text) => check_claim(text),
            Self::Key(_) | Self::Version(_) => Ok(()),
        }
    }

    /// When the last token it can be about has ended, if it is withdrawn at `now`.
    pub(crate) fn until(now: Timestamp) -> Timestamp {
        let life = (TTL_MAX + CLOCKS_APART).as_millis() as i64;
        Timestamp::from_millis(now.as_millis().saturating_add(life))
    }
}

/// A `jti` or `vid` as relays take it.
pub(crate) fn check_claim(text: &str) -> Result<(), Error> {
    let fits = (1..=CLAIM_BYTES_MAX).contains(&text.len());
    if fits && !text.chars().any(char::is_control) { Ok(()) } else { Err(Error::Claim) }
}

impl serde::Serialize for Revocation {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = to.serialize_map(Some(5))?;
        match &self.what {
            Withdraw::Version(version) => map.serialize_entry("ver", version)?,
            what => map.serialize_entry(what.kind(), &what.value())?,
        }
        map.serialize_entry("org_id", &self.org)?;
        map.serialize_entry("revoked_at", &self.revoked_at)?;
        map.serialize_entry("expires_at", &self.until)?;
        map.serialize_entry("expires_at_unix", &self.until.as_secs())?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_token_withdraws_itself_and_shows_in_no_error() {
        let org = OrgId::generate();
        let own = token(&format!(r#"{{"iss":"{org}","jti":"j1","exp":1}}"#));
        let read = Withdraw::token(&format!("{own}\n"), &org).expect("readable");
        assert_eq!(read, Withdraw::Token("j1".to_owned()));
        let (unreadable, without) = (Error::TokenUnreadable, Error::TokenWithoutId);
        let long = token(&format!(r#"{{"jti":"{}"}}"#, "j".repeat(TOKEN_BYTES_MAX)));
        for (text, expected) in [
            ("eyJ.not-a-token", &unreadable),
            ("", &unreadable),
            (&long, &unreadable),
            (&token(r#"{"iss":"org_other","jti":"j1"}"#), &unreadable),
            (&token(r#"{"sub":"topsecret"}"#), &without),
        ] {
            let error = Withdraw::token(text, &org).expect_err("refused");
            assert_eq!(error.to_string(), expected.to_string());
            assert!(text.is_empty() || !error.to_string().contains(text));
        }
    }
}
