//! Which namespace is held by whom: the shard's replica of the node's directory. It matches by
//! field, never takes a namespace from its holder, and knows neither tracks nor sessions.

use std::collections::BTreeMap;

use crate::{Namespace, Origin};

/// Namespaces of this node as one shard knows them, in order.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    held: BTreeMap<Namespace, Origin>,
}

/// Why a namespace was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Somebody else holds it.
    Taken,
    /// `namespaces_max`.
    Full,
}

impl Directory {
    /// Enters a namespace; true when it is new, false when the same origin held it already.
    pub(crate) fn insert(
        &mut self,
        namespace: &Namespace,
        origin: Origin,
        namespaces_max: usize,
    ) -> Result<bool, Refused> {
        match self.held.get(namespace) {
            Some(holder) if *holder == origin => Ok(false),
            Some(_) => Err(Refused::Taken),
            None if self.held.len() >= namespaces_max => Err(Refused::Full),
            None => {
                self.held.insert(namespace.clone(), origin);
                Ok(true)
            }
        }
    }

    pub(crate) fn remove(&mut self, namespace: &Namespace) -> Option<Origin> {
        self.held.remove(namespace)
    }

    pub(crate) fn origin(&self, namespace: &Namespace) -> Option<Origin> {
        self.held.get(namespace).copied()
    }

    /// Who serves a track of this namespace: the holder of it, else of its longest prefix that is held.
    pub(crate) fn serving(&self, namespace: &Namespace) -> Option<Origin> {
        (1..=namespace.len()).rev().find_map(|fields| {
            let prefix = Namespace::new(namespace.fields().take(fields)).ok()?;
            self.origin(&prefix)
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Namespaces under `prefix`, in order. A namespace sorts behind its own prefixes, but others
    /// may sort between, so the range starts at the prefix and is filtered by field.
    pub(crate) fn under<'a>(
        &'a self,
        prefix: &'a Namespace,
    ) -> impl Iterator<Item = &'a Namespace> + 'a {
        self.held
            .range(prefix.clone()..)
            .map(|(namespace, _)| namespace)
            .take_while(move |namespace| namespace.starts_with(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(fields: &[&str]) -> Namespace {
        Namespace::new(fields).unwrap()
    }

    #[test]
    fn a_namespace_is_not_taken_over_and_the_directory_does_not_overflow() {
        let mut directory = Directory::default();
        let one = ns(&["stream", "acme", "lv_1"]);
        assert_eq!(directory.insert(&one, Origin::Local, 2), Ok(true));
        assert_eq!(directory.insert(&one, Origin::Local, 2), Ok(false));
        assert_eq!(directory.insert(&one, Origin::Shard(1), 2), Err(Refused::Taken));
        assert_eq!(directory.insert(&ns(&["stream", "acme", "lv_2"]), Origin::Local, 2), Ok(true));
        let third = ns(&["stream", "acme", "lv_3"]);
        assert_eq!(directory.insert(&third, Origin::Local, 2), Err(Refused::Full));
        assert_eq!(directory.remove(&one), Some(Origin::Local));
        assert_eq!(directory.insert(&third, Origin::Shard(1), 2), Ok(true));
        assert_eq!(directory.origin(&third), Some(Origin::Shard(1)));
    }

    #[test]
    fn a_track_is_served_by_who_holds_the_longest_prefix_of_its_namespace() {
        let mut directory = Directory::default();
        directory.insert(&ns(&["moq-test"]), Origin::Shard(1), 10).unwrap();
        directory.insert(&ns(&["moq-test", "run"]), Origin::Shard(2), 10).unwrap();
        let serving = |fields: &[&str]| directory.serving(&ns(fields));
        assert_eq!(serving(&["moq-test"]), Some(Origin::Shard(1)));
        assert_eq!(serving(&["moq-test", "runs", "x"]), Some(Origin::Shard(1)));
        assert_eq!(serving(&["moq-test", "run", "x", "y"]), Some(Origin::Shard(2)));
        assert_eq!(serving(&["moq-tests"]), None);
        assert_eq!(serving(&[]), None);
    }

    #[test]
    fn a_prefix_finds_whole_fields_only() {
        let mut directory = Directory::default();
        for id in ["lv_1", "lv_10", "lv_2"] {
            directory.insert(&ns(&["stream", "acme", id]), Origin::Local, 10).unwrap();
        }
        directory.insert(&ns(&["stream", "acmeco", "lv_1"]), Origin::Local, 10).unwrap();
        directory.insert(&ns(&["a", "acme", "lv_1"]), Origin::Local, 10).unwrap();
        let count = |fields: &[&str]| directory.under(&ns(fields)).count();
        assert_eq!(count(&["stream", "acme"]), 3);
        assert_eq!(count(&["stream", "acme", "lv_1"]), 1);
        assert_eq!(count(&["stream", "ac"]), 0);
        assert_eq!(count(&["stream"]), 4);
        assert_eq!(count(&[]), 5);
    }
}
