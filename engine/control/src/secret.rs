//! Secrets in the clear: types that cannot be printed by accident, and the randomness behind them.
//!
//! A secret is shown once, to the one who asked for it. `Debug` and tracing fields print a
//! placeholder; the only way to the text is `expose`, which is easy to find in a review.

use std::fmt;

use crate::id::ALPHABET;

/// Random characters in a key: 32 at 5 bits are 160 bits.
const KEY_CHARS: usize = 32;

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name(String);

        impl $name {
            /// The secret as text: for the one answer that shows it, never for a log.
            pub fn expose(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }
    };
}

secret!(
    /// An API key, `ak_live_…`, as shown once when it is created.
    ApiKey
);
secret!(
    /// The secret half of a node key, `nk_live_…`, as shown once when it is created.
    NodeSecret
);
secret!(
    /// What an SRT publisher encrypts with, as shown once when it is set.
    Passphrase
);
secret!(
    /// A signed playback token: grants viewing until it expires.
    PlaybackToken
);
secret!(
    /// A stream key, `sk_live_…`, as shown once at creation and at rotation.
    StreamKey
);

impl ApiKey {
    /// What every API key starts with, so that scanners find leaked ones.
    pub const PREFIX: &'static str = "ak_live_";

    pub(crate) fn generate() -> Self {
        Self(key(Self::PREFIX))
    }
}

impl NodeSecret {
    /// What every node key starts with, so that scanners find leaked ones.
    pub const PREFIX: &'static str = "nk_live_";

    /// A fresh one.
    pub fn generate() -> Self {
        Self(key(Self::PREFIX))
    }
}

impl Passphrase {
    /// The lengths SRT takes.
    pub const BYTES: std::ops::RangeInclusive<usize> = 10..=79;

    /// A chosen one: letters, digits and `-._~`, so that it goes into an address as it is.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let fits = Self::BYTES.contains(&text.len()) && text.bytes().all(plain);
        fits.then(|| Self(text.to_owned()))
    }

    /// A fresh one.
    pub fn generate() -> Self {
        Self(key(""))
    }
}

impl PlaybackToken {
    pub(crate) fn new(token: String) -> Self {
        Self(token)
    }
}

impl StreamKey {
    /// What every stream key starts with, so that scanners find leaked ones.
    pub const PREFIX: &'static str = "sk_live_";

    pub(crate) fn generate() -> Self {
        Self(key(Self::PREFIX))
    }
}

/// `N` bytes from the operating system's generator, by way of the one crypto library.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator works once seeded");
    bytes
}

fn key(prefix: &str) -> String {
    let mut text = String::with_capacity(prefix.len() + KEY_CHARS);
    text.push_str(prefix);
    // 256 is a multiple of 32, so masking keeps the characters uniform.
    for byte in random::<KEY_CHARS>() {
        text.push(char::from(ALPHABET[usize::from(byte & 31)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_a_secret() {
        let key = StreamKey::generate();
        let shown = format!(
            "{key:?} {:?} {:?}",
            (
                ApiKey::generate(),
                Passphrase::parse("a_live_one_".trim_matches('_')),
                Passphrase::parse("eyJ-0123456789")
            ),
            Some(PlaybackToken::new("eyJ".into()))
        );
        assert!(!shown.contains("_live_") && !shown.contains("eyJ"), "{shown}");
        assert!(key.expose().starts_with("sk_live_"));
        assert_eq!(key.expose().len(), 40);
    }

    #[test]
    fn two_keys_differ() {
        assert_ne!(StreamKey::generate(), StreamKey::generate());
    }
}
