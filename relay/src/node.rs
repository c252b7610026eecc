//! The keys by which other relays of ours are let in, as keyed hashes. It owns the check of a node
//! key and nothing else: who made the keys and how they travel is the engine's affair.

use std::fmt;

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq as _;

/// Longest node key looked at: ours have 40 bytes.
pub const NODE_KEY_BYTES_MAX: usize = 128;

/// Longest id of a node in a hop list.
pub const NODE_ID_BYTES_MAX: usize = 64;

/// Whether a text may be a node's id: what can stand in a URL, a log line and a metric unquoted.
pub fn is_node_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=NODE_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

/// A keyed hash of a node key.
pub type NodeKeyHash = [u8; 32];

/// The node keys a shard accepts. Held as HMAC-SHA-256 under a secret of the mesh, so that a copy
/// of the set opens nothing.
#[derive(Clone, Default)]
pub struct NodeKeys {
    hashing: Option<hmac::Key>,
    hashes: Vec<NodeKeyHash>,
}

impl NodeKeys {
    /// A set under the mesh's hashing secret.
    pub fn new(hashing: &[u8; 32], hashes: Vec<NodeKeyHash>) -> Self {
        Self { hashing: Some(hmac::Key::new(hmac::HMAC_SHA256, hashing)), hashes }
    }

    /// The hash under which a node key is kept.
    pub fn hash(hashing: &[u8; 32], key: &str) -> NodeKeyHash {
        sign(&hmac::Key::new(hmac::HMAC_SHA256, hashing), key)
    }

    /// The hash of the key, if it is one of these. Takes as long for a wrong key as for a right one.
    pub(crate) fn verify(&self, key: &str) -> Option<NodeKeyHash> {
        let hashing = self.hashing.as_ref()?;
        if key.len() > NODE_KEY_BYTES_MAX {
            return None;
        }
        let given = sign(hashing, key);
        let known = self.hashes.iter().fold(subtle::Choice::from(0), |known, hash| {
            known | hash.as_slice().ct_eq(given.as_slice())
        });
        bool::from(known).then_some(given)
    }

    /// Whether a key that was good before still is.
    pub(crate) fn upholds(&self, hash: &NodeKeyHash) -> bool {
        self.hashes.contains(hash)
    }
}

impl fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKeys").field("keys", &self.hashes.len()).finish_non_exhaustive()
    }
}

fn sign(hashing: &hmac::Key, key: &str) -> NodeKeyHash {
    // The word in front keeps these hashes apart from any other use of the secret.
    let mut context = hmac::Context::with_key(hashing);
    context.update(b"weir node key\0");
    context.update(key.as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(context.sign().as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_key_opens_only_under_its_own_secret_and_while_it_is_in_the_set() {
        let hash = NodeKeys::hash(&[1; 32], "nk_live_a");
        let keys = NodeKeys::new(&[1; 32], vec![[0; 32], hash]);
        assert_eq!(keys.verify("nk_live_a"), Some(hash));
        assert!(keys.upholds(&hash));
        for wrong in ["nk_live_b", "", &"x".repeat(NODE_KEY_BYTES_MAX + 1)] {
            assert_eq!(keys.verify(wrong), None, "{wrong}");
        }
        assert_eq!(NodeKeys::new(&[2; 32], vec![hash]).verify("nk_live_a"), None);
        assert_eq!(NodeKeys::default().verify("nk_live_a"), None);
        assert!(!NodeKeys::new(&[1; 32], Vec::new()).upholds(&hash));
        assert!(!format!("{keys:?}").contains("hashing"));
    }
}
