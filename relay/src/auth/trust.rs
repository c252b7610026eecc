//! What a relay has to know to judge tokens, as one value that can travel: the public keys and what
//! was withdrawn. It owns the encoding (version 1) and its bounds; who signs it, how it travels and
//! which of two is newer on a network are the mesh's matter.
//!
//! # The shape, version 1
//!
//! One JSON object, in this order and without white space (a signer signs these very bytes):
//!
//! ```json
//! {"v":1,"serial":7,
//!  "keys":[{"kid":"sgk_…","org":"org_…","alg":"EdDSA","x":"<32 bytes, base64url>"}],
//!  "revocations":[{"org":"org_…","jti":"…","at":1800000000,"until":1800003600},
//!                 {"org":"org_…","vid":"…","at":…,"until":…},
//!                 {"org":"org_…","kid":"sgk_…","at":…,"until":…},
//!                 {"org":"org_…","ver":3,"at":…,"until":…}]}
//! ```
//!
//! `serial` only grows at one origin; `at` and `until` are Unix seconds. Unknown fields and other
//! versions are refused: a relay that cannot read a revocation must not go on as if there were none.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{CLAIM_BYTES_MAX, KeySet};

/// Keys of one [`Trust`]: one active and one retiring for each of 500 organisations.
pub const KEYS_MAX: usize = 1_024;
/// Revocations in force at once: 24 h of one every ten seconds. Past it a key is the thing to withdraw.
pub const REVOCATIONS_MAX: usize = 8_192;
/// An encoded [`Trust`]: 8 192 revocations of at most 128 escaped (256) + 30 (organisation) + 80
/// bytes and 1 024 keys of 150 are 3.2 MB; below what one object may hold (8 MiB).
pub const TRUST_BYTES_MAX: usize = 4 << 20;
/// The only version read and written.
const VERSION: u32 = 1;

/// Keys and revocations, complete: a newer one replaces an older one whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Grows with every change at its origin; never goes back.
    pub serial: u64,
    /// Keys whose tokens are accepted.
    pub keys: Vec<TrustedKey>,
    /// What is withdrawn, those past their `until` left out.
    pub revocations: Vec<Revocation>,
}

/// The public half of an Ed25519 signing key. A relay elsewhere never gets a secret, so keys of
/// other kinds do not travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    /// `kid` of its tokens.
    pub kid: String,
    /// The organisation whose broadcasts they open.
    pub org: String,
    /// The raw public key.
    pub public: [u8; 32],
}

/// Something withdrawn before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Whose tokens it is about.
    pub org: String,
    /// Which of them.
    pub subject: Subject,
    /// When it was withdrawn, in Unix seconds.
    pub at: u64,
    /// When the last token it is about has ended anyway, in Unix seconds.
    pub until: u64,
}

/// What is withdrawn.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The one token with this `jti`.
    Token(String),
    /// All tokens of the viewer with this `vid` that were issued up to the moment of revocation;
    /// whether there is another is for whoever mints.
    Viewer(String),
    /// All tokens of the key with this `kid`.
    Key(String),
    /// All tokens whose `ver` is lower; a token without one has 0.
    Version(u64),
}

/// Why bytes are no [`Trust`]. Nothing of them is used then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// More than [`TRUST_BYTES_MAX`], [`KEYS_MAX`] or [`REVOCATIONS_MAX`].
    #[error("trust: too many {0}")]
    TooMany(&'static str),
    /// Not the JSON of version 1.
    #[error("trust: malformed at byte {0}")]
    Malformed(usize),
    /// A version this build does not know.
    #[error("trust: version {0} is not known here")]
    Version(u32),
    /// A field is empty, too long, or not what it should be.
    #[error("trust: bad {field} in entry {at}")]
    Field {
        /// Which field.
        field: &'static str,
        /// In which key or revocation, counted from 0.
        at: usize,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u32,
    serial: u64,
    keys: Vec<WireKey>,
    revocations: Vec<WireRevocation>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireKey {
    kid: String,
    org: String,
    alg: String,
    x: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRevocation {
    org: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ver: Option<u64>,
    at: u64,
    until: u64,
}

/// Read before the rest, so that another version is told apart from nonsense.
#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

impl Trust {
    /// The bytes of version 1; the same value always gives the same bytes.
    pub fn encode(&self) -> Result<Vec<u8>, TrustError> {
        self.check()?;
        let wire = Wire {
            v: VERSION,
            serial: self.serial,
            keys: self.keys.iter().map(TrustedKey::to_wire).collect(),
            revocations: self.revocations.iter().map(Revocation::to_wire).collect(),
        };
        let bytes = serde_json::to_vec(&wire).map_err(|_| TrustError::Malformed(0))?;
        if bytes.len() > TRUST_BYTES_MAX {
            return Err(TrustError::TooMany("bytes"));
        }
        Ok(bytes)
    }

    /// Reads what [`Trust::encode`] wrote. The bytes should be authentic already: this only keeps a
    /// broken or hostile origin from costing more than [`TRUST_BYTES_MAX`].
    pub fn decode(bytes: &[u8]) -> Result<Self, TrustError> {
        if bytes.len() > TRUST_BYTES_MAX {
            return Err(TrustError::TooMany("bytes"));
        }
        // The text has no line breaks, so the column is the byte.
        let malformed = |error: &serde_json::Error| TrustError::Malformed(error.column());
        let Versioned { v } = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
        if v != VERSION {
            return Err(TrustError::Version(v));
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
        let keys = wire.keys.into_iter().enumerate().map(|(at, key)| key.read(at));
        let revocations = wire.revocations.into_iter().enumerate().map(|(at, one)| one.read(at));
        let trust = Self {
            serial: wire.serial,
            keys: keys.collect::<Result<_, _>>()?,
            revocations: revocations.collect::<Result<_, _>>()?,
        };
        trust.check()?;
        Ok(trust)
    }

    /// The same as a set that tokens are verified with.
    pub fn key_set(&self) -> KeySet {
        let mut set = KeySet::new();
        for key in &self.keys {
            set.insert_ed25519(&*key.kid, &key.public, &key.org);
        }
        for revocation in &self.revocations {
            set.revoke(revocation);
        }
        set
    }

    fn check(&self) -> Result<(), TrustError> {
        if self.keys.len() > KEYS_MAX {
            return Err(TrustError::TooMany("keys"));
        }
        if self.revocations.len() > REVOCATIONS_MAX {
            return Err(TrustError::TooMany("revocations"));
        }
        let mut kids = HashSet::new();
        for (at, key) in self.keys.iter().enumerate() {
            if !is_id(&key.kid) || !kids.insert(&key.kid) {
                return Err(TrustError::Field { field: "kid", at });
            }
            if !is_id(&key.org) {
                return Err(TrustError::Field { field: "org", at });
            }
        }
        for (at, revocation) in self.revocations.iter().enumerate() {
            let (field, fits) = match &revocation.subject {
                Subject::Token(jti) => ("jti", is_id(jti)),
                Subject::Viewer(vid) => ("vid", is_id(vid)),
                Subject::Key(kid) => ("kid", is_id(kid)),
                Subject::Version(_) => ("ver", true),
            };
            if !fits {
                return Err(TrustError::Field { field, at });
            }
            if !is_id(&revocation.org) {
                return Err(TrustError::Field { field: "org", at });
            }
        }
        Ok(())
    }
}

impl Subject {
    /// Whether it could ever name a token: the same rule as for the claims of tokens, without
    /// control characters.
    pub fn is_valid(&self) -> bool {
        match self {
            Self::Token(text) | Self::Viewer(text) | Self::Key(text) => is_id(text),
            Self::Version(_) => true,
        }
    }
}

fn is_id(text: &str) -> bool {
    (1..=CLAIM_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

impl TrustedKey {
    fn to_wire(&self) -> WireKey {
        let (kid, org) = (self.kid.clone(), self.org.clone());
        WireKey { kid, org, alg: "EdDSA".to_owned(), x: URL_SAFE_NO_PAD.encode(self.public) }
    }
}

impl WireKey {
    fn read(self, at: usize) -> Result<TrustedKey, TrustError> {
        let bad = |field| TrustError::Field { field, at };
        if self.alg != "EdDSA" {
            return Err(bad("alg"));
        }
        let public = URL_SAFE_NO_PAD.decode(&self.x).map_err(|_| bad("x"))?;
        let public = <[u8; 32]>::try_from(public).map_err(|_| bad("x"))?;
        Ok(TrustedKey { kid: self.kid, org: self.org, public })
    }
}

impl Revocation {
    fn to_wire(&self) -> WireRevocation {
        let Self { org, subject, at, until } = self.clone();
        let mut wire =
            WireRevocation { org, jti: None, vid: None, kid: None, ver: None, at, until };
        match subject {
            Subject::Token(jti) => wire.jti = Some(jti),
            Subject::Viewer(vid) => wire.vid = Some(vid),
            Subject::Key(kid) => wire.kid = Some(kid),
            Subject::Version(version) => wire.ver = Some(version),
        }
        wire
    }
}

impl WireRevocation {
    fn read(self, at: usize) -> Result<Revocation, TrustError> {
        let subject = match (self.jti, self.vid, self.kid, self.ver) {
            (Some(jti), None, None, None) => Subject::Token(jti),
            (None, Some(vid), None, None) => Subject::Viewer(vid),
            (None, None, Some(kid), None) => Subject::Key(kid),
            (None, None, None, Some(version)) => Subject::Version(version),
            _ => return Err(TrustError::Field { field: "subject", at }),
        };
        Ok(Revocation { org: self.org, subject, at: self.at, until: self.until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust() -> Trust {
        let revoke = |subject| Revocation {
            org: "org_a".into(),
            subject,
            at: 1_800_000_000,
            until: 1_800_003_600,
        };
        Trust {
            serial: 7,
            keys: vec![TrustedKey { kid: "sgk_1".into(), org: "org_a".into(), public: [7; 32] }],
            revocations: vec![
                revoke(Subject::Token("j\"1".into())),
                revoke(Subject::Viewer("anna".into())),
                revoke(Subject::Key("sgk_0".into())),
                revoke(Subject::Version(3)),
            ],
        }
    }

    #[test]
    fn what_was_written_is_read_and_the_shape_is_fixed() {
        let bytes = trust().encode().unwrap();
        assert_eq!(Trust::decode(&bytes).unwrap(), trust());
        let text = String::from_utf8(bytes).unwrap();
        let start = r#"{"v":1,"serial":7,"keys":[{"kid":"sgk_1","org":"org_a","alg":"EdDSA","x":"#;
        assert!(text.starts_with(start), "{text}");
        let end = r#"{"org":"org_a","ver":3,"at":1800000000,"until":1800003600}]}"#;
        assert!(text.ends_with(end), "{text}");
        let empty = Trust::default().encode().unwrap();
        assert_eq!(Trust::decode(&empty), Ok(Trust::default()));
    }

    #[test]
    fn another_version_or_field_is_refused_and_never_read_in_part() {
        let text = String::from_utf8(trust().encode().unwrap()).unwrap();
        let decode = |text: &str| Trust::decode(text.as_bytes()).unwrap_err();
        assert_eq!(decode(&text.replace("\"v\":1", "\"v\":2")), TrustError::Version(2));
        let later = text.replace("\"vid\":\"anna\"", "\"city\":\"Rome\"");
        assert!(matches!(decode(&later), TrustError::Malformed(_)), "a subject of a later version");
        let two = text.replace("\"vid\":\"anna\"", "\"vid\":\"anna\",\"jti\":\"x\"");
        assert_eq!(decode(&two), TrustError::Field { field: "subject", at: 1 });
        let alg = text.replace("EdDSA", "HS256");
        assert_eq!(decode(&alg), TrustError::Field { field: "alg", at: 0 });
        let long = text.replace("anna", &"a".repeat(129));
        assert_eq!(decode(&long), TrustError::Field { field: "vid", at: 1 });
        for end in 0..text.len() {
            assert!(Trust::decode(&text.as_bytes()[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn the_bounds_hold_in_both_directions() {
        let mut many = trust();
        let longest = "\"".repeat(CLAIM_BYTES_MAX);
        let one = Revocation {
            org: format!("org_{}", "0".repeat(26)),
            subject: Subject::Viewer(longest),
            at: u64::MAX,
            until: u64::MAX,
        };
        many.revocations = vec![one.clone(); REVOCATIONS_MAX];
        many.keys = (0..KEYS_MAX)
            .map(|at| TrustedKey {
                kid: format!("sgk_{at:026}"),
                org: format!("org_{at:026}"),
                public: [0xff; 32],
            })
            .collect();
        let bytes = many.encode().expect("the sum beside the limit is right");
        assert_eq!(Trust::decode(&bytes).unwrap(), many);
        many.revocations.push(one);
        assert_eq!(many.encode(), Err(TrustError::TooMany("revocations")));
        many.revocations.clear();
        many.keys.push(TrustedKey { kid: "one".into(), org: "more".into(), public: [0; 32] });
        assert_eq!(many.encode(), Err(TrustError::TooMany("keys")));
        let big = vec![b' '; TRUST_BYTES_MAX + 1];
        assert_eq!(Trust::decode(&big), Err(TrustError::TooMany("bytes")));
    }

    #[test]
    fn a_key_listed_and_withdrawn_is_withdrawn() {
        let mut trust = trust();
        trust.revocations[2].subject = Subject::Key("sgk_1".into());
        assert!(trust.key_set().is_empty());
        assert!(matches!(trust.key_set().key("sgk_1"), Err(crate::auth::AuthError::Revoked)));
    }
}
