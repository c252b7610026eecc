//! Section `[interop]`: namespace trees that need neither key nor token, so that other people's
//! MoQT programs can be tried out. Says what a tree is and what may never be one; whether the
//! listener is one that only this machine reaches is checked with the configuration as a whole.

use std::str::FromStr;

use serde::Deserialize;
use weir_moqt::Namespace;

/// Section `[interop]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Interop {
    /// Namespace trees that need no token; none by default.
    pub open: Vec<OpenTree>,
}

/// A namespace tree open to everybody who reaches the QUIC port: fields joined by `/`, or `*` for
/// every namespace outside [`OWN_TREE`], which nothing opens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct OpenTree(pub Namespace);

/// First field of the namespaces of Weir's own broadcasts (`stream/<org>/<id>`).
pub const OWN_TREE: &str = "stream";

impl FromStr for OpenTree {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self(Namespace::default()));
        }
        let own = text.split('/').next() == Some(OWN_TREE);
        Namespace::new(text.split('/')).ok().filter(|_| !own).map(Self).ok_or_else(|| {
            format!(
                "{text:?} is not a namespace such as moq-test/interop, outside of {OWN_TREE}, or *"
            )
        })
    }
}

impl TryFrom<String> for OpenTree {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Several trees in one variable.
pub(super) struct OpenTrees(pub(super) Vec<OpenTree>);

impl FromStr for OpenTrees {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::{Config, ListenAddr, UpFlags},
        topology::HostFacts,
    };

    #[test]
    fn a_tree_is_open_on_a_loopback_address_only() {
        let host = HostFacts { cores: vec![0] };
        let resolved = |quic: &str, trees: &str| {
            let text = format!("[listen]\nquic = {quic:?}\n[interop]\nopen = [{trees}]\n");
            Config::parse(&text, Path::new("weir.toml"))?.resolve(UpFlags::default(), &host)
        };
        for quic in ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.8.9.10:0"] {
            let up = resolved(quic, r#""moq-test/interop", "*""#).expect(quic);
            let trees: Vec<_> = up.open_trees.iter().map(Namespace::len).collect();
            assert_eq!(trees, [2, 0], "{quic}");
        }
        for quic in ["0.0.0.0:1", ":1", "[::]:1", "192.0.2.1:1", "10.0.0.1:0"] {
            let error = resolved(quic, r#""*""#).expect_err(quic);
            let address = quic.parse::<ListenAddr>().expect("an address").0;
            assert!(error.to_string().contains(&format!("listen.quic = {address} ")), "{error}");
            assert!(error.help().contains("--quic 127.0.0.1"), "{}", error.help());
            assert!(resolved(quic, "").expect("nothing is open").open_trees.is_empty());
        }
    }

    #[test]
    fn broadcasts_of_our_own_are_never_open() {
        for bad in ["stream", "stream/acme", "stream/acme/lv_1", "", "a//b", "/", "a/"] {
            assert!(bad.parse::<OpenTree>().is_err(), "{bad:?}");
        }
        for good in ["streams", "moq-test", "a/stream", "*"] {
            assert!(good.parse::<OpenTree>().is_ok(), "{good:?}");
        }
    }
}
