//! Namespace trees that need neither key nor token, for trying out other people's programs. Owns
//! which trees those are; who may reach the relay at all is the engine's to decide.

use super::Relay;
use crate::Namespace;

/// What is open: everything under one of the prefixes that neither lies in nor contains `closed`.
#[derive(Debug, Default)]
pub(super) struct OpenTrees {
    prefixes: Vec<Namespace>,
    closed: Namespace,
}

impl OpenTrees {
    /// Whether anybody may use this namespace, or ask for what lies under this prefix.
    pub(super) fn hold(&self, namespace: &Namespace) -> bool {
        self.prefixes.iter().any(|prefix| namespace.starts_with(prefix))
            && !namespace.starts_with(&self.closed)
            && !self.closed.starts_with(namespace)
    }
}

impl Relay {
    /// Lets every session publish and subscribe under these prefixes without key or token, but
    /// never under `closed` nor under a prefix that contains it. With no prefix, which is how a
    /// relay starts, nothing is open.
    pub fn open_namespaces(&mut self, prefixes: Vec<Namespace>, closed: Namespace) {
        self.open = OpenTrees { prefixes, closed };
    }
}
