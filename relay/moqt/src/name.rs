//! Track namespaces and full track names: opaque byte tuples with the limits of the specification
//! checked once, at construction. They know nothing of how a draft writes them.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// Most fields of a namespace (section 2.4.1).
pub const NAMESPACE_FIELDS_MAX: usize = 32;
/// Most bytes of namespace fields plus track name (section 2.4.1).
pub const FULL_NAME_BYTES_MAX: usize = 4096;

/// A name that breaks a limit of section 2.4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// More than 32 fields.
    #[error("a namespace has at most 32 fields")]
    TooManyFields,
    /// A field of zero bytes.
    #[error("a namespace field has at least one byte")]
    EmptyField,
    /// Fields and name together above 4096 bytes.
    #[error("namespace and name have at most 4096 bytes")]
    TooLong,
}

/// A track namespace or a prefix of one: 0 to 32 non-empty byte fields, together at most 4096 bytes.
///
/// Cheap to clone; comparing and hashing look at one flat byte string.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace {
    /// Each field as a big-endian u16 length and its bytes, so that a tuple prefix is a byte prefix.
    flat: Bytes,
}

impl Namespace {
    /// Builds a namespace from its fields.
    pub fn new<F: AsRef<[u8]>>(fields: impl IntoIterator<Item = F>) -> Result<Self, NameError> {
        let mut builder = NamespaceBuilder::default();
        for field in fields {
            builder.push(field.as_ref())?;
        }
        Ok(builder.finish())
    }

    /// The fields, in order.
    pub fn fields(&self) -> Fields<'_> {
        Fields { rest: &self.flat }
    }

    /// How many fields.
    pub fn len(&self) -> usize {
        self.fields().count()
    }

    /// True for the empty prefix, which matches every namespace.
    pub fn is_empty(&self) -> bool {
        self.flat.is_empty()
    }

    /// Bytes of all fields, as the 4096 limit counts them.
    pub fn field_bytes(&self) -> usize {
        self.flat.len() - 2 * self.len()
    }

    /// True when `prefix` is this namespace or its leading fields.
    pub fn starts_with(&self, prefix: &Namespace) -> bool {
        self.flat.starts_with(&prefix.flat)
    }

    /// What follows `prefix`, or `None` when this namespace does not start with it.
    pub fn strip_prefix(&self, prefix: &Namespace) -> Option<Namespace> {
        self.starts_with(prefix).then(|| Self { flat: self.flat.slice(prefix.flat.len()..) })
    }

    /// This namespace followed by `suffix`.
    pub fn join(&self, suffix: &Namespace) -> Result<Namespace, NameError> {
        Self::new(self.fields().chain(suffix.fields()))
    }
}

/// Text form of section 2.4.2: fields joined by `-`, bytes outside `[A-Za-z0-9_]` as `.xx`.
impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, field) in self.fields().enumerate() {
            if i > 0 {
                f.write_str("-")?;
            }
            write_escaped(field, f)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Iterator over the fields of a [`Namespace`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<2>()?;
        let (field, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        self.rest = rest;
        Some(field)
    }
}

/// Collects fields under the limits.
#[derive(Debug, Default)]
pub(crate) struct NamespaceBuilder {
    flat: BytesMut,
    fields: usize,
}

impl NamespaceBuilder {
    pub(crate) fn push(&mut self, field: &[u8]) -> Result<(), NameError> {
        if field.is_empty() {
            return Err(NameError::EmptyField);
        }
        if self.fields == NAMESPACE_FIELDS_MAX {
            return Err(NameError::TooManyFields);
        }
        let used = self.flat.len() - 2 * self.fields;
        if field.len() > FULL_NAME_BYTES_MAX - used {
            return Err(NameError::TooLong);
        }
        self.flat.put_u16(field.len() as u16);
        self.flat.put_slice(field);
        self.fields += 1;
        Ok(())
    }

    pub(crate) fn finish(self) -> Namespace {
        Namespace { flat: self.flat.freeze() }
    }
}

/// A track: namespace and name, together at most 4096 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FullTrackName {
    namespace: Namespace,
    name: Bytes,
}

impl FullTrackName {
    /// Joins the two halves.
    pub fn new(namespace: Namespace, name: impl Into<Bytes>) -> Result<Self, NameError> {
        let name = name.into();
        if name.len() + namespace.field_bytes() > FULL_NAME_BYTES_MAX {
            return Err(NameError::TooLong);
        }
        Ok(Self { namespace, name })
    }

    /// The namespace half.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The name half; may be empty.
    pub fn name(&self) -> &Bytes {
        &self.name
    }

    /// True when neither half has a byte.
    pub fn is_empty(&self) -> bool {
        self.namespace.is_empty() && self.name.is_empty()
    }

    /// True for tracks whose namespace starts with the field `.session`: hop-local, never forwarded
    /// (section 2.4.3).
    pub fn is_session_local(&self) -> bool {
        self.namespace.fields().next().is_some_and(|field| field == b".session")
    }
}

impl fmt::Display for FullTrackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}--", self.namespace)?;
        write_escaped(&self.name, f)
    }
}

impl fmt::Debug for FullTrackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn write_escaped(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || byte == b'_' {
            write!(f, "{}", char::from(byte))?;
        } else {
            write!(f, ".{byte:02x}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(fields: &[&str]) -> Namespace {
        Namespace::new(fields).unwrap()
    }

    #[test]
    fn a_prefix_matches_by_field_not_by_byte() {
        let broadcast = ns(&["stream", "acme", "7"]);
        assert!(broadcast.starts_with(&ns(&["stream", "acme"])));
        assert!(broadcast.starts_with(&Namespace::default()));
        assert!(!broadcast.starts_with(&ns(&["stream", "ac"])));
        assert_eq!(broadcast.strip_prefix(&ns(&["stream"])).unwrap(), ns(&["acme", "7"]));
        assert_eq!(ns(&["stream"]).join(&ns(&["acme", "7"])).unwrap(), broadcast);
        assert_eq!(broadcast.len(), 3);
        assert_eq!(broadcast.field_bytes(), 11);
    }

    #[test]
    fn names_past_a_limit_cannot_be_built() {
        assert_eq!(Namespace::new([""]), Err(NameError::EmptyField));
        assert_eq!(Namespace::new(["a"; 33]), Err(NameError::TooManyFields));
        assert!(Namespace::new(["a"; 32]).is_ok());
        assert_eq!(Namespace::new([vec![0; 4097]]), Err(NameError::TooLong));
        assert_eq!(Namespace::new([vec![0; 4000], vec![0; 97]]), Err(NameError::TooLong));
        let long = Namespace::new([vec![b'n'; 4096]]).unwrap();
        assert_eq!(FullTrackName::new(long, "x"), Err(NameError::TooLong));
    }

    #[test]
    fn a_name_that_looks_like_a_path_prints_without_dots_slashes_or_nul() {
        let track = FullTrackName::new(ns(&["..", "a/b"]), &b"x\0"[..]).unwrap();
        assert_eq!(track.to_string(), ".2e.2e-a.2fb--x.00");
    }
}
