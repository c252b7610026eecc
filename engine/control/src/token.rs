//! Playback tokens: short-lived JWTs that admit one viewer to one live input.
//!
//! This file mints; the relay verifies, with the public halves in [`PlaybackKey`]. The algorithm
//! belongs to the key (RFC 8725 3.1), so a verifier never takes it from the token.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use serde::{Deserialize, Serialize};

use crate::{
    Error, InputId, OrgId, PlaybackToken, SigningKeyId, Timestamp, id::ALPHABET, secret::random,
};

/// Life of a token when none is asked for.
pub const TTL_DEFAULT: Duration = Duration::from_hours(1);
/// The shortest life of a token; shorter wishes are raised to it.
pub const TTL_MIN: Duration = Duration::from_secs(30);
/// The longest life of a token; longer wishes are cut to it.
pub const TTL_MAX: Duration = Duration::from_hours(24);

/// How a signing key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// Ed25519, `EdDSA` in a JWT header; the public key is 32 bytes.
    EdDsa,
}

impl Algorithm {
    /// The name in a JWT header and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        (text == "EdDSA").then_some(Self::EdDsa)
    }
}

/// The claims of a playback token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The organisation whose key signed.
    pub iss: String,
    /// The live input (later: asset, playback id) that may be watched.
    pub sub: String,
    /// Always `playback`.
    pub aud: String,
    /// Issued at, Unix seconds.
    pub iat: u64,
    /// Not before, Unix seconds.
    pub nbf: u64,
    /// Expires at, Unix seconds.
    pub exp: u64,
    /// Unique id of this token, for revocation.
    pub jti: String,
    /// The viewer it was minted for, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vid: Option<String>,
}

impl Claims {
    /// The only audience a playback token has.
    pub const AUDIENCE: &'static str = "playback";
}

/// A fresh token and what its holder needs to know of it.
#[derive(Debug, Clone)]
pub struct MintedToken {
    /// The token itself.
    pub token: PlaybackToken,
    /// The key that signed it.
    pub kid: SigningKeyId,
    /// How it was signed.
    pub algorithm: Algorithm,
    /// Its id, by which it can be withdrawn.
    pub jti: String,
    /// When it ends, to the second.
    pub expires_at: Timestamp,
}

/// The public half of an active signing key: all that a relay needs to verify tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaybackKey {
    /// The `kid` of tokens signed by this key. A map key, never a path or a URL.
    pub kid: SigningKeyId,
    /// The one algorithm this key is good for.
    pub algorithm: Algorithm,
    /// The raw public key.
    pub public_key: [u8; 32],
    /// The organisation whose broadcasts it admits to.
    pub org: OrgId,
}

/// Whom a token is for.
pub(crate) struct Recipient<'a> {
    pub(crate) org: &'a OrgId,
    pub(crate) input: &'a InputId,
    pub(crate) viewer: Option<&'a str>,
}

/// Signs a token with an Ed25519 key in PKCS #8 form.
pub(crate) fn mint(
    kid: SigningKeyId,
    private_pkcs8: &[u8],
    to: &Recipient<'_>,
    ttl: Duration,
    now: Timestamp,
) -> Result<MintedToken, Error> {
    let iat = now.as_secs();
    let exp = iat + ttl.clamp(TTL_MIN, TTL_MAX).as_secs();
    let claims = Claims {
        iss: to.org.to_string(),
        sub: to.input.to_string(),
        aud: Claims::AUDIENCE.to_owned(),
        iat,
        nbf: iat,
        exp,
        jti: unique(),
        vid: to.viewer.map(str::to_owned),
    };
    let mut header = Header::new(jsonwebtoken::Algorithm::EdDSA);
    header.kid = Some(kid.to_string());
    let signed = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(private_pkcs8))
        .map_err(|error| Error::Sign(error.to_string()))?;
    Ok(MintedToken {
        token: PlaybackToken::new(signed),
        kid,
        algorithm: Algorithm::EdDsa,
        jti: claims.jti,
        expires_at: Timestamp::from_secs(exp),
    })
}

/// 80 random bits: enough that no two of the tokens alive at once (24 h) share an id.
fn unique() -> String {
    random::<16>().iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect()
}
