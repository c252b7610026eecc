//! Playback tokens: who may watch which broadcast until when. It owns the rules of RFC 8725 as they
//! bind us: the algorithm belongs to the key and is never read from the token,
//! `kid` is only a map key, and nothing in a token makes us fetch or open anything. It does not
//! know sessions, and it reads no clock.

mod keys;
mod trust;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

pub use keys::{Algorithm, DecodingKey, KeySet, VerifyingKey};
pub use trust::{
    KEYS_MAX, REVOCATIONS_MAX, Revocation, Subject, TRUST_BYTES_MAX, Trust, TrustError, TrustedKey,
};

/// Longest token looked at; an Ed25519 token of ours has about 400 bytes, RS256 about 700.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Shortest life a token may be minted with.
pub const LIFETIME_MIN: Duration = Duration::from_secs(30);
/// Longest life a token may be minted with.
pub const LIFETIME_MAX: Duration = Duration::from_hours(24);
/// More clock difference than this is never forgiven (RFC 8725 practice).
pub const LEEWAY_MAX: Duration = Duration::from_mins(1);
/// Longest `kid`, `sub`, `org`, `jti`, `vid`: ids of ours have about 30 bytes.
const CLAIM_BYTES_MAX: usize = 128;
/// The audience every playback token names.
const AUDIENCE: &str = "playback";

/// What a verified token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// Organisation, from the key (never from the token alone).
    pub org: Arc<str>,
    /// The input, asset or playback id that may be watched.
    pub sub: Arc<str>,
    /// Key that signed it.
    pub kid: Arc<str>,
    /// Token id, for revocation.
    pub jti: Option<Arc<str>>,
    /// Viewer id, for analytics, revocation and the count of a viewer's sessions.
    pub vid: Option<Arc<str>>,
    /// `ver`, for revocation; 0 when the token has none.
    pub version: u64,
    /// When it was issued, since the Unix epoch.
    pub issued_at: Duration,
    /// End of the grant, since the Unix epoch, leeway not added.
    pub expires_at: Duration,
}

/// Why a token opens nothing. The text goes to the peer after `auth_failed: `.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// Neither path, SETUP nor request carried a token.
    #[error("token missing")]
    Missing,
    /// Longer than [`TOKEN_BYTES_MAX`]; not looked at.
    #[error("token too large")]
    TooLarge,
    /// Not three parts of base64url JSON with the claims we need.
    #[error("token malformed")]
    Malformed,
    /// `kid` names no key of ours, or there is none.
    #[error("unknown kid")]
    UnknownKey,
    /// The header's algorithm is not the one pinned to the key (`none` included).
    #[error("algorithm not allowed")]
    Algorithm,
    /// The header carries or points to a key, or asks for an extension we must understand.
    #[error("header not allowed")]
    Header,
    /// The signature does not fit.
    #[error("signature")]
    Signature,
    /// `aud` is not "playback".
    #[error("audience")]
    Audience,
    /// `iss` or `org` is not the organisation of the key.
    #[error("issuer")]
    Issuer,
    /// Past `exp`.
    #[error("token_expired")]
    Expired,
    /// Before `nbf` or `iat`.
    #[error("not yet valid")]
    NotYetValid,
    /// `exp - iat` is outside 30 s … 24 h.
    #[error("lifetime out of range")]
    Lifetime,
    /// The token, its viewer, its key or its version was withdrawn.
    #[error("token_revoked")]
    Revoked,
    /// A good token, for another broadcast.
    #[error("other stream")]
    OtherStream,
}

impl AuthError {
    /// Number of variants, for the counters.
    pub const COUNT: usize = 14;

    /// Every variant, in the order of [`AuthError::index`].
    pub const ALL: [Self; Self::COUNT] = [
        Self::Missing,
        Self::TooLarge,
        Self::Malformed,
        Self::UnknownKey,
        Self::Algorithm,
        Self::Header,
        Self::Signature,
        Self::Audience,
        Self::Issuer,
        Self::Expired,
        Self::NotYetValid,
        Self::Lifetime,
        Self::Revoked,
        Self::OtherStream,
    ];

    /// Position in [`crate::Metrics::auth_failures`].
    pub fn index(self) -> usize {
        Self::ALL.iter().position(|e| *e == self).unwrap_or_default()
    }

    /// Whether it is what somebody who guesses or forges would meet. A token that was good once, or
    /// will be, or is good for something else, is a mistake at most.
    pub fn is_forgery(self) -> bool {
        match self {
            Self::TooLarge
            | Self::Malformed
            | Self::UnknownKey
            | Self::Algorithm
            | Self::Header
            | Self::Signature
            | Self::Issuer
            | Self::Lifetime => true,
            Self::Missing
            | Self::Audience
            | Self::Expired
            | Self::NotYetValid
            | Self::Revoked
            | Self::OtherStream => false,
        }
    }

    /// Stable snake-case label for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown_kid",
            Self::Algorithm => "algorithm",
            Self::Header => "header",
            Self::Signature => "signature",
            Self::Audience => "audience",
            Self::Issuer => "issuer",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Lifetime => "lifetime",
            Self::Revoked => "revoked",
            Self::OtherStream => "other_stream",
        }
    }
}

/// Header fields that decide anything. Those that carry or name a key are refused by being present.
#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow, default)]
    kid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    typ: Option<Cow<'a, str>>,
    #[serde(default)]
    jku: Present,
    #[serde(default)]
    jwk: Present,
    #[serde(default)]
    x5u: Present,
    #[serde(default)]
    x5c: Present,
    #[serde(default)]
    crit: Present,
}

/// Remembers that a field was there and skips whatever it held.
#[derive(Default)]
struct Present(bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

/// The claims of a playback token. Times are whole seconds; fractions and negatives are malformed.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Audience,
    exp: u64,
    iat: u64,
    #[serde(default)]
    nbf: Option<u64>,
    #[serde(default)]
    iss: Option<String>,
    #[serde(default)]
    jti: Option<String>,
    #[serde(default)]
    vid: Option<String>,
    #[serde(default)]
    ver: u64,
}

/// RFC 7519 section 4.1.3: one string or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Checks a token against the keys at the wall time `wall` (since the Unix epoch).
///
/// The cheap refusals come first: length, shape, key id, algorithm; then the signature; claims are
/// read only from a token whose signature fits.
pub fn verify(
    token: &str,
    keys: &KeySet,
    wall: Duration,
    leeway: Duration,
) -> Result<Grant, AuthError> {
    if token.is_empty() {
        return Err(AuthError::Missing);
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(AuthError::TooLarge);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(AuthError::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(AuthError::Malformed)?;
    if payload.contains('.') || header.is_empty() || payload.is_empty() {
        return Err(AuthError::Malformed);
    }
    let (kid, key) = pinned_key(header, keys)?;
    let fits = jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.key, key.algorithm);
    // An unreadable signature and a wrong one are the same to the outside.
    if !fits.unwrap_or(false) {
        return Err(AuthError::Signature);
    }
    let claims = URL_SAFE_NO_PAD.decode(payload).map_err(|_| AuthError::Malformed)?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| AuthError::Malformed)?;
    let grant = claims.check(kid, &key.org, wall, leeway.min(LEEWAY_MAX))?;
    if !keys.upholds(&grant) {
        return Err(AuthError::Revoked);
    }
    Ok(grant)
}

/// Reads the header only far enough to find the key, then holds the header to that key.
fn pinned_key<'k>(
    header: &str,
    keys: &'k KeySet,
) -> Result<(&'k str, &'k VerifyingKey), AuthError> {
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| AuthError::Malformed)?;
    let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| AuthError::Malformed)?;
    let (Present(jku), Present(jwk), Present(x5u), Present(x5c), Present(crit)) =
        (header.jku, header.jwk, header.x5u, header.x5c, header.crit);
    if jku || jwk || x5u || x5c || crit {
        return Err(AuthError::Header);
    }
    if header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("jwt")) {
        return Err(AuthError::Header);
    }
    let kid = header.kid.ok_or(AuthError::UnknownKey)?;
    let (kid, key) = keys.key(&kid)?;
    if header.alg != name(key.algorithm) {
        return Err(AuthError::Algorithm);
    }
    Ok((kid, key))
}

/// The JOSE name of an algorithm we may pin; anything else matches no token.
fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::EdDSA => "EdDSA",
        Algorithm::RS256 => "RS256",
        Algorithm::ES256 => "ES256",
        Algorithm::HS256 => "HS256",
        _ => "",
    }
}

impl Claims {
    fn check(
        self,
        kid: &str,
        org: &str,
        wall: Duration,
        leeway: Duration,
    ) -> Result<Grant, AuthError> {
        let for_playback = match &self.aud {
            Audience::One(one) => one == AUDIENCE,
            Audience::Many(many) => many.iter().any(|one| one == AUDIENCE),
        };
        if !for_playback {
            return Err(AuthError::Audience);
        }
        if self.iss.as_ref().is_some_and(|iss| iss != org) {
            return Err(AuthError::Issuer);
        }
        let texts = [Some(&self.sub), self.jti.as_ref(), self.vid.as_ref()];
        if self.sub.is_empty() || texts.iter().flatten().any(|t| t.len() > CLAIM_BYTES_MAX) {
            return Err(AuthError::Malformed);
        }
        let at = Duration::from_secs;
        let lifetime = at(self.exp.checked_sub(self.iat).ok_or(AuthError::Lifetime)?);
        if lifetime < LIFETIME_MIN || lifetime > LIFETIME_MAX {
            return Err(AuthError::Lifetime);
        }
        // `exp` first: a token of last year says "expired", whatever else is wrong with its times.
        if wall >= at(self.exp).saturating_add(leeway) {
            return Err(AuthError::Expired);
        }
        if wall.saturating_add(leeway) < at(self.iat.max(self.nbf.unwrap_or(0))) {
            return Err(AuthError::NotYetValid);
        }
        Ok(Grant {
            org: org.into(),
            sub: self.sub.into(),
            kid: kid.into(),
            jti: self.jti.map(Into::into),
            vid: self.vid.map(Into::into),
            version: self.ver,
            issued_at: at(self.iat),
            expires_at: at(self.exp),
        })
    }
}

#[cfg(test)]
mod tests;
