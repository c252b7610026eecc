//! What nodes tell the nodes below them: the hop list, and the engine's signed word on whom to
//! believe, which passes unchanged through every tier. Bytes in, values out; no clock, no keys kept.

use std::time::Duration;

use crate::node::{NODE_ID_BYTES_MAX, NodeKeyHash, is_node_id};
use crate::{KeySet, NodeKeys, auth};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use bytes::{BufMut as _, Bytes, BytesMut};

/// Most nodes between a viewer and the engine; more is a ring or a mistake.
pub const HOPS_MAX: usize = 8;

/// Node keys in one word.
const NODES_MAX: usize = 4_096;
/// What is signed begins with this, so that the signature is good for nothing else.
const CONTEXT: &[u8] = b"weir mesh trust 1\0";
/// Length of an Ed25519 signature.
const SIGNATURE_BYTES: usize = 64;

/// First byte of a hop list: its version. So an empty list is not an empty object.
const PATH_VERSION: u8 = 1;

/// Writes a hop list: this node first, the engine last; empty when cut off from the engine.
pub fn encode_path(path: &[String]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(PATH_VERSION);
    for id in path.iter().take(HOPS_MAX) {
        let id = id.as_bytes();
        let length = id.len().min(NODE_ID_BYTES_MAX);
        out.put_u8(length as u8);
        out.put_slice(id.get(..length).unwrap_or_default());
    }
    out.freeze()
}

/// Reads a hop list; `None` when it is none, or too long to be one.
pub fn decode_path(bytes: &[u8]) -> Option<Vec<String>> {
    let mut input = Input(bytes);
    if input.array() != Some([PATH_VERSION]) {
        return None;
    }
    let mut path = Vec::new();
    while !input.0.is_empty() {
        let id = input.name(NODE_ID_BYTES_MAX)?;
        if path.len() == HOPS_MAX || !is_node_id(&id) {
            return None;
        }
        path.push(id);
    }
    Some(path)
}

/// Whom an edge believes, as the engine says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// When it was said, since the Unix epoch: a later word replaces an earlier one.
    pub issued: Duration,
    /// Secret under which node keys are hashed in this mesh.
    pub hashing: [u8; 32],
    /// Hashes of the node keys that are good.
    pub nodes: Vec<NodeKeyHash>,
    /// Keys that sign viewers' tokens, and what is revoked.
    pub viewers: auth::Trust,
}

/// Why a word is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// Too short to be signed at all.
    #[error("trust is cut short")]
    Short,
    /// Not signed by the engine that the node key names.
    #[error("trust is not signed by the engine that the node key names")]
    Signature,
    /// Signed, and yet not readable: a later version, perhaps.
    #[error("trust is malformed at byte {0}")]
    Malformed(usize),
    /// The same of its part about viewers.
    #[error(transparent)]
    Viewers(#[from] auth::TrustError),
}

impl Trust {
    /// Signs it with the engine's key.
    pub fn seal(&self, seed: &[u8; 32]) -> Result<Bytes, TrustError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("32 bytes are an Ed25519 seed");
        let body = self.encode()?;
        let mut signed = Vec::with_capacity(CONTEXT.len() + body.len());
        signed.extend_from_slice(CONTEXT);
        signed.extend_from_slice(&body);
        let mut out = BytesMut::with_capacity(SIGNATURE_BYTES + body.len());
        out.put_slice(pair.sign(&signed).as_ref());
        out.put_slice(&body);
        Ok(out.freeze())
    }

    /// The public half of a signing seed: what node keys pin.
    pub fn public_key(seed: &[u8; 32]) -> [u8; 32] {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("32 bytes are an Ed25519 seed");
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        public
    }

    /// Checks the signature, then reads.
    pub fn open(engine: &[u8; 32], sealed: &[u8]) -> Result<Self, TrustError> {
        let (signature, body) =
            sealed.split_at_checked(SIGNATURE_BYTES).ok_or(TrustError::Short)?;
        let mut signed = Vec::with_capacity(CONTEXT.len() + body.len());
        signed.extend_from_slice(CONTEXT);
        signed.extend_from_slice(body);
        UnparsedPublicKey::new(&ED25519, engine)
            .verify(&signed, signature)
            .map_err(|_| TrustError::Signature)?;
        Self::decode(body)
    }

    fn encode(&self) -> Result<BytesMut, TrustError> {
        let mut out = BytesMut::new();
        out.put_u64(self.issued.as_millis() as u64);
        out.put_slice(&self.hashing);
        out.put_u32(self.nodes.len().min(NODES_MAX) as u32);
        for hash in self.nodes.iter().take(NODES_MAX) {
            out.put_slice(hash);
        }
        out.put_slice(&self.viewers.encode()?);
        Ok(out)
    }

    /// Reads the body.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, TrustError> {
        let mut input = Input(body);
        let head = Self::head(&mut input);
        let at = body.len() - input.0.len();
        let (issued, hashing, nodes) = head.ok_or(TrustError::Malformed(at))?;
        let viewers = auth::Trust::decode(input.0)?;
        Ok(Self { issued, hashing, nodes, viewers })
    }

    fn head(input: &mut Input<'_>) -> Option<(Duration, [u8; 32], Vec<NodeKeyHash>)> {
        let issued = Duration::from_millis(input.number()?);
        let hashing = input.array()?;
        let nodes = (0..input.count(NODES_MAX)?).map(|_| input.array()).collect::<Option<_>>()?;
        Some((issued, hashing, nodes))
    }

    /// The keys as the relay checks tokens by.
    pub fn key_set(&self) -> KeySet {
        self.viewers.key_set()
    }

    /// The node keys as the relay checks nodes by.
    pub fn node_keys(&self) -> NodeKeys {
        NodeKeys::new(&self.hashing, self.nodes.clone())
    }
}

/// Bytes not read yet.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn count(&mut self, most: usize) -> Option<usize> {
        let count = u32::from_be_bytes(self.array()?) as usize;
        (count <= most).then_some(count)
    }

    fn name(&mut self, most: usize) -> Option<String> {
        let [length] = self.array()?;
        if usize::from(length) > most {
            return None;
        }
        String::from_utf8(self.take(length.into())?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust() -> Trust {
        let (kid, org) = ("sgk_1".to_owned(), "org_a".to_owned());
        let key = auth::TrustedKey { kid, org, public: [3; 32] };
        Trust {
            issued: Duration::from_millis(1_800_000_000_123),
            hashing: [4; 32],
            nodes: vec![[5; 32], [6; 32]],
            viewers: auth::Trust { serial: 7, keys: vec![key], revocations: Vec::new() },
        }
    }

    #[test]
    fn a_hop_list_survives_its_bytes() {
        let path: Vec<String> = ["edge-1", "region", "engine"].map(str::to_owned).into();
        assert_eq!(decode_path(&encode_path(&path)), Some(path));
        assert_eq!(decode_path(&encode_path(&[])), Some(Vec::new()), "cut off");
    }

    #[test]
    fn a_hop_list_of_strange_names_or_endless_length_is_refused() {
        assert_eq!(decode_path(&[1, 3, b'a']), None, "cut short");
        assert_eq!(decode_path(&[1, 3, b'a', b'\n', b'b']), None, "a line break");
        assert_eq!(decode_path(&[1, 0]), None, "empty id");
        assert_eq!(decode_path(&[]), None, "no version");
        let long: Vec<u8> =
            std::iter::once(1).chain((0..=HOPS_MAX).flat_map(|_| [1, b'a'])).collect();
        assert_eq!(decode_path(&long), None);
    }

    #[test]
    fn trust_is_believed_from_the_engine_alone_and_unchanged() {
        let seed = [7; 32];
        let engine = Trust::public_key(&seed);
        let sealed = trust().seal(&seed).expect("few keys");
        assert_eq!(Trust::open(&engine, &sealed), Ok(trust()));
        let other = Trust::public_key(&[8; 32]);
        assert_eq!(Trust::open(&other, &sealed), Err(TrustError::Signature));
        for at in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            assert_eq!(Trust::open(&engine, &changed), Err(TrustError::Signature), "byte {at}");
        }
        assert_eq!(Trust::open(&engine, &sealed[..10]), Err(TrustError::Short));
    }

    #[test]
    fn a_word_cut_anywhere_is_malformed_and_costs_no_more_than_its_length() {
        let body = trust().encode().expect("few keys");
        for length in 0..body.len() {
            assert!(Trust::decode(&body[..length]).is_err(), "{length} bytes");
        }
        let mut greedy = body.to_vec();
        greedy[40..44].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(Trust::decode(&greedy), Err(TrustError::Malformed(_))));
    }
}
