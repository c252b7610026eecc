//! Ids: a prefix that says what is named, then 26 characters that sort by creation time.
//!
//! The 128 bits behind the characters are 48 bits of Unix milliseconds and 80 random bits, written
//! in lower-case Crockford base32. An id is public; it never grants anything by itself.

use std::{fmt, str::FromStr};

use crate::{secret::random, time::Timestamp};

/// Crockford's alphabet in lower case: no i, l, o, u, so ids can be read aloud.
pub(crate) const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// 128 bits at 5 bits a character, rounded up.
const BODY_CHARS: usize = 26;

/// A string that is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid id: expected {prefix} and 26 characters of 0-9 a-z")]
pub struct InvalidId {
    prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// What every id of this kind starts with.
            pub const PREFIX: &'static str = $prefix;

            /// A new id, later than all ids made in earlier milliseconds.
            pub fn generate() -> Self {
                Self(generate($prefix, Timestamp::now()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if is_id(text, $prefix) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId { prefix: $prefix })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }
    };
}

id!(
    /// Names an API key (not the key itself).
    ApiKeyId,
    "ak_"
);
id!(
    /// Names a live input.
    InputId,
    "lv_"
);
id!(
    /// Names a node key (not the key itself).
    NodeKeyId,
    "ndk_"
);
id!(
    /// Names an organisation, the tenant in every namespace.
    OrgId,
    "org_"
);
id!(
    /// Names a signing key; the `kid` of the tokens it signs.
    SigningKeyId,
    "sgk_"
);

fn generate(prefix: &str, at: Timestamp) -> String {
    let tail: [u8; 10] = random();
    let mut bits = u128::from(at.as_millis().cast_unsigned() & 0xffff_ffff_ffff) << 80;
    for (position, byte) in tail.iter().rev().enumerate() {
        bits |= u128::from(*byte) << (8 * position);
    }
    let mut text = String::with_capacity(prefix.len() + BODY_CHARS);
    text.push_str(prefix);
    for position in (0..BODY_CHARS).rev() {
        let digit = (bits >> (5 * position)) & 31;
        text.push(char::from(ALPHABET[digit as usize]));
    }
    text
}

fn is_id(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|body| {
        body.len() == BODY_CHARS && body.bytes().all(|byte| ALPHABET.contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_made_later_sort_later() {
        let early = generate("lv_", Timestamp::from_millis(1_700_000_000_000));
        let late = generate("lv_", Timestamp::from_millis(1_700_000_000_001));
        assert!(early < late, "{early} {late}");
        assert_eq!(early.len(), 3 + BODY_CHARS);
    }

    #[test]
    fn an_id_of_another_kind_or_shape_is_refused() {
        let good = InputId::generate();
        assert_eq!(good.as_str().parse(), Ok(good.clone()));
        for bad in [
            "",
            "lv_",
            "lv_../../etc/passwd000000000",
            &good.as_str().replace("lv_", "as_"),
            &good.as_str().to_uppercase(),
            &format!("{good}0"),
        ] {
            assert!(bad.parse::<InputId>().is_err(), "{bad}");
        }
    }
}
