//! The keys a shard accepts and what has been withdrawn from them: one value that is replaced whole
//! whenever either changes. It answers whether a grant stands; it verifies no signature and reads
//! no clock.

use std::collections::{HashMap, HashSet};
use std::fmt;

pub use jsonwebtoken::{Algorithm, DecodingKey};

use super::{AuthError, Grant, Revocation, Subject};

/// One key that may sign playback tokens of one organisation.
#[derive(Clone)]
pub struct VerifyingKey {
    /// The only algorithm this key verifies.
    pub algorithm: Algorithm,
    /// The public key (or, for HMAC keys, the secret).
    pub key: DecodingKey,
    /// The organisation whose broadcasts it opens.
    pub org: String,
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey")
            .field("algorithm", &self.algorithm)
            .field("org", &self.org)
            .finish_non_exhaustive()
    }
}

/// The keys a shard accepts, by `kid`, and what it no longer accepts, by organisation: one tenant's
/// revocations never touch another's tokens.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: HashMap<String, VerifyingKey>,
    withdrawn: HashMap<String, Withdrawn>,
    /// Keys that are gone, so that their tokens are told `token_revoked` and not `unknown kid`.
    gone: HashSet<String>,
}

/// What one organisation took back.
#[derive(Clone, Debug, Default)]
struct Withdrawn {
    tokens: HashSet<String>,
    /// Tokens of a viewer issued up to this second.
    viewers: HashMap<String, u64>,
    /// Tokens with a lower `ver`.
    version: u64,
}

impl KeySet {
    /// An empty set, which refuses every token.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a key.
    pub fn insert(&mut self, kid: impl Into<String>, key: VerifyingKey) {
        self.keys.insert(kid.into(), key);
    }

    /// Adds an Ed25519 key from its 32 public bytes.
    pub fn insert_ed25519(&mut self, kid: impl Into<String>, public: &[u8; 32], org: &str) {
        let key = DecodingKey::from_ed_der(public);
        self.insert(kid, VerifyingKey { algorithm: Algorithm::EdDSA, key, org: org.to_owned() });
    }

    /// Refuses what `revocation` names from now on. It stays as long as the set does: whoever makes
    /// the next set leaves out those whose `until` has passed.
    pub fn revoke(&mut self, revocation: &Revocation) {
        let withdrawn = self.withdrawn.entry(revocation.org.clone()).or_default();
        match &revocation.subject {
            Subject::Token(jti) => {
                withdrawn.tokens.insert(jti.clone());
            }
            Subject::Viewer(vid) => {
                let at = withdrawn.viewers.entry(vid.clone()).or_default();
                *at = (*at).max(revocation.at);
            }
            Subject::Key(kid) => {
                self.keys.remove(kid);
                self.gone.insert(kid.clone());
            }
            Subject::Version(version) => withdrawn.version = withdrawn.version.max(*version),
        }
    }

    /// Whether a grant given earlier still stands under this set.
    pub fn upholds(&self, grant: &Grant) -> bool {
        if self.keys.get(&*grant.kid).is_none_or(|key| key.org != *grant.org) {
            return false;
        }
        let Some(withdrawn) = self.withdrawn.get(&*grant.org) else { return true };
        let by_token = grant.jti.as_ref().is_some_and(|jti| withdrawn.tokens.contains(&**jti));
        let by_viewer = grant.vid.as_ref().is_some_and(|vid| {
            withdrawn.viewers.get(&**vid).is_some_and(|at| grant.issued_at.as_secs() <= *at)
        });
        !by_token && !by_viewer && grant.version >= withdrawn.version
    }

    /// The key of a `kid`, which is a map key and nothing else.
    pub(super) fn key(&self, kid: &str) -> Result<(&str, &VerifyingKey), AuthError> {
        match self.keys.get_key_value(kid) {
            Some((kid, key)) => Ok((kid, key)),
            None if self.gone.contains(kid) => Err(AuthError::Revoked),
            None => Err(AuthError::UnknownKey),
        }
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}
