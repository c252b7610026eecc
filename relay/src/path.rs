//! The request paths of a session: `/playback/<id>?tok=…`, `/publish/<input_id>?sk=…`, and
//! `/mesh?nk=…&id=…` of a relay below us. A path is a resource, never a namespace and never a file; secrets come out wrapped.

use crate::Secret;
use crate::auth::TOKEN_BYTES_MAX;
use crate::node::{NODE_ID_BYTES_MAX, NODE_KEY_BYTES_MAX};

/// Longest input id taken from a path: ours have 29 bytes.
const ID_BYTES_MAX: usize = 128;
/// Longest stream key: ours have about 40 bytes.
const KEY_BYTES_MAX: usize = 256;

/// What a session's path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Watch; the token may come later, in SETUP or in a request.
    Playback {
        token: Option<Secret>,
        /// `announce=1`: it waits to be told of the broadcast (PUBLISH_NAMESPACE), as players do that are given no name.
        announce: bool,
    },
    /// Publish.
    Publish { input_id: String, key: Secret },
    /// Relay onwards: another node of ours, its key and its id.
    Mesh { key: Secret, node: String },
    /// Anything else: a session that may only use tokens from SETUP and requests.
    Other { token: Option<Secret> },
}

impl Resource {
    pub(crate) fn parse(path_and_query: &str) -> Self {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        if let Some(id) = path.strip_prefix("/publish/")
            && !id.is_empty()
            && id.len() <= ID_BYTES_MAX
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        {
            let key = parameter(query, "sk", KEY_BYTES_MAX).unwrap_or_default();
            return Self::Publish { input_id: id.to_owned(), key: Secret::new(key) };
        }
        if path == "/mesh" {
            let key = parameter(query, "nk", NODE_KEY_BYTES_MAX + 1).unwrap_or_default();
            let node = parameter(query, "id", NODE_ID_BYTES_MAX).unwrap_or_default();
            return Self::Mesh { key: Secret::new(key), node };
        }
        // One byte too many stays too many: `auth::verify` refuses it by length.
        let token = parameter(query, "tok", TOKEN_BYTES_MAX + 1).map(Secret::new);
        if path.starts_with("/playback/") {
            let announce = parameter(query, "announce", 2).as_deref() == Some("1");
            Self::Playback { token, announce }
        } else {
            Self::Other { token }
        }
    }
}

/// The first value of a query parameter, percent-decoded, cut at `bytes_max`.
fn parameter(query: &str, name: &str, bytes_max: usize) -> Option<String> {
    let value = query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')))?;
    let mut out = Vec::with_capacity(value.len().min(bytes_max));
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        if out.len() == bytes_max {
            break;
        }
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        out.push((high << 4 | low) as u8);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_give_up_their_secrets_wrapped() {
        let publish = Resource::parse("/publish/lv_1?sk=sk_live_abc&x=1");
        let expected =
            Resource::Publish { input_id: "lv_1".into(), key: Secret::new("sk_live_abc") };
        assert_eq!(publish, expected);
        assert!(!format!("{publish:?}").contains("sk_live_abc"));
        let playback = Resource::parse("/playback/lv_1?a=b&tok=e%4A.x");
        assert_eq!(
            playback,
            Resource::Playback { token: Some(Secret::new("eJ.x")), announce: false }
        );
        let told = Resource::parse("/playback/lv_1?announce=1");
        assert_eq!(told, Resource::Playback { token: None, announce: true });
        for no in ["announce=0", "announce=11", "announce=", "announce"] {
            let path = format!("/playback/lv_1?{no}");
            assert!(matches!(Resource::parse(&path), Resource::Playback { announce: false, .. }));
        }
        assert_eq!(
            Resource::parse("/playback/lv_1"),
            Resource::Playback { token: None, announce: false }
        );
        assert_eq!(Resource::parse("/"), Resource::Other { token: None });
    }

    #[test]
    fn a_node_shows_its_key_wrapped() {
        let mesh = Resource::parse("/mesh?nk=nk_live_abc&id=edge-1");
        let expected =
            Resource::Mesh { key: Secret::new("nk_live_abc"), node: "edge-1".to_owned() };
        assert_eq!(mesh, expected);
        assert!(!format!("{mesh:?}").contains("nk_live_abc"));
        assert!(matches!(Resource::parse("/mesh/x"), Resource::Other { .. }));
    }

    #[test]
    fn a_publish_path_is_never_a_file_path() {
        for path in ["/publish/../x", "/publish/", "/publish/a/b", "/publish/%00", "/publish/a b"] {
            assert!(matches!(Resource::parse(path), Resource::Other { .. }), "{path}");
        }
    }

    #[test]
    fn a_megabyte_of_token_is_cut_and_still_too_large() {
        let path = format!("/playback/lv_1?tok={}", "a".repeat(1 << 20));
        let Resource::Playback { token: Some(token), .. } = Resource::parse(&path) else {
            panic!("a playback path")
        };
        assert_eq!(token.len(), TOKEN_BYTES_MAX + 1);
    }

    #[test]
    fn broken_percent_signs_yield_no_value() {
        assert_eq!(
            Resource::parse("/playback/x?tok=%4"),
            Resource::Playback { token: None, announce: false }
        );
        assert_eq!(
            Resource::parse("/playback/x?tok=%zz"),
            Resource::Playback { token: None, announce: false }
        );
        assert_eq!(
            Resource::parse("/playback/x?tok=%ff"),
            Resource::Playback { token: None, announce: false }
        );
    }
}
