//! The node key: what `weir node-key create` shows once and an edge is given. It is a secret that
//! lets the edge in, and the engine's public key, by which the edge knows the engine's word.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use weir_relay::Secret;

/// What every node key starts with, so that scanners find leaked ones.
pub const PREFIX: &str = "nk_live_";

/// Longest text looked at: ours have 84 characters.
const KEY_BYTES_MAX: usize = 256;

/// A node key in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeKey {
    secret: Secret,
    engine: [u8; 32],
}

/// A text that is no node key; it is never quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a node key: `weir node-key create` on the engine prints one, nk_live_…")]
pub struct InvalidNodeKey;

impl NodeKey {
    /// From a secret and the engine's public key.
    pub fn new(secret: &str, engine: [u8; 32]) -> Self {
        Self { secret: Secret::new(secret), engine }
    }

    /// Reads the text as shown.
    pub fn parse(text: &str) -> Result<Self, InvalidNodeKey> {
        let text = text.trim();
        if text.len() > KEY_BYTES_MAX || !text.starts_with(PREFIX) {
            return Err(InvalidNodeKey);
        }
        let (secret, engine) = text.split_once('.').ok_or(InvalidNodeKey)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !secret.bytes().all(plain) || secret.len() <= PREFIX.len() {
            return Err(InvalidNodeKey);
        }
        let engine = URL_SAFE_NO_PAD.decode(engine).map_err(|_| InvalidNodeKey)?;
        let engine = engine.try_into().map_err(|_| InvalidNodeKey)?;
        Ok(Self { secret: Secret::new(secret), engine })
    }

    /// The text to show once, and to give to an edge.
    pub fn expose(&self) -> String {
        format!("{}.{}", self.secret.expose(), URL_SAFE_NO_PAD.encode(self.engine))
    }

    /// What is shown to a relay above.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The public key of the engine at the root.
    pub fn engine(&self) -> &[u8; 32] {
        &self.engine
    }

    /// Path and query for SETUP of the node `id`.
    pub fn path(&self, id: &str) -> Secret {
        Secret::new(format!("/mesh?nk={}&id={id}", self.secret.expose()))
    }
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nk_live_[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_and_hides_in_every_print() {
        let key = NodeKey::new("nk_live_0123abc", [9; 32]);
        let text = key.expose();
        assert_eq!(NodeKey::parse(&format!(" {text}\n")), Ok(key.clone()));
        assert_eq!(key.path("edge-1").expose(), "/mesh?nk=nk_live_0123abc&id=edge-1");
        assert!(!format!("{key:?} {key} {:?}", key.path("x")).contains("0123abc"));
    }

    #[test]
    fn what_is_no_key_is_refused_without_quoting_it() {
        let pin = URL_SAFE_NO_PAD.encode([9; 32]);
        for bad in [
            String::new(),
            "nk_live_abc".to_owned(),
            format!("sk_live_abc.{pin}"),
            format!("nk_live_.{pin}"),
            format!("nk_live_a&id=x.{pin}"),
            "nk_live_abc.short".to_owned(),
            format!("nk_live_{}.{pin}", "a".repeat(300)),
        ] {
            let error = NodeKey::parse(&bad).expect_err("no key").to_string();
            assert!(!error.contains("abc") && !error.contains("sk_"), "{error}");
        }
    }
}
