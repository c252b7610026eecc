//! A stream key on its way from the wire to the one place that checks it. Owns the rule that a key
//! is never printed; knows nothing about what makes it right.

use std::fmt;

/// Text that must not reach a log, an error or a debug dump. It has no `Display` on purpose, so
/// that `{}` does not compile; `{:?}` prints one ellipsis whatever is inside, its length included.
#[derive(Clone)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself. Compare it in constant time, or hash it first.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn a_key_prints_as_an_ellipsis() {
        let key = Secret::new("sk_live_visible");
        assert_eq!(format!("{key:?} {:#?}", Some(&key)), "… Some(\n    …,\n)");
        assert_eq!(key.expose(), "sk_live_visible");
    }
}
