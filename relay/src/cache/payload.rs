//! The bytes of one object as they arrive: a growing list of fragments, shared by reference with
//! every subscriber. It never copies and never looks at a byte but to compare two objects.

use bytes::{Bytes, BytesMut};

/// A payload of known length, whole or still growing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Payload {
    first: Bytes,
    /// Empty for an object that came in one piece, which most do.
    more: Vec<Bytes>,
    have: usize,
    length: usize,
}

impl Payload {
    /// Nothing yet of `length` bytes.
    pub(crate) fn growing(length: usize) -> Self {
        Self { length, ..Self::default() }
    }

    /// Bytes there will be.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Bytes there are.
    pub(crate) fn have(&self) -> usize {
        self.have
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.have == self.length
    }

    /// Appends what came; what would exceed the length is cut off.
    pub(crate) fn push(&mut self, mut piece: Bytes) {
        piece.truncate(self.length - self.have);
        if piece.is_empty() {
            return;
        }
        self.have += piece.len();
        if self.first.is_empty() {
            self.first = piece;
        } else {
            self.more.push(piece);
        }
    }

    /// The fragment with this index, in order of arrival.
    pub(crate) fn fragment(&self, index: usize) -> Option<&Bytes> {
        match index.checked_sub(1) {
            None => (!self.first.is_empty()).then_some(&self.first),
            Some(index) => self.more.get(index),
        }
    }

    pub(crate) fn fragments(&self) -> impl Iterator<Item = &Bytes> {
        (0..).map_while(|index| self.fragment(index))
    }

    /// Whether `piece` is what stands at `offset`, as far as anything stands there.
    pub(crate) fn agrees(&self, mut offset: usize, mut piece: &[u8]) -> bool {
        if offset.saturating_add(piece.len()) > self.length {
            return false;
        }
        for fragment in self.fragments() {
            let Some(from) = fragment.get(offset..) else {
                offset -= fragment.len();
                continue;
            };
            let common = from.len().min(piece.len());
            if from.get(..common) != piece.get(..common) {
                return false;
            }
            piece = piece.get(common..).unwrap_or_default();
            offset = 0;
            if piece.is_empty() {
                break;
            }
        }
        true
    }

    /// The whole in one piece; copied only when it came in several.
    pub(crate) fn joined(&self) -> Bytes {
        if self.more.is_empty() {
            return self.first.clone();
        }
        let mut out = BytesMut::with_capacity(self.have);
        for fragment in self.fragments() {
            out.extend_from_slice(fragment);
        }
        out.freeze()
    }
}

impl From<Bytes> for Payload {
    fn from(whole: Bytes) -> Self {
        Self { have: whole.len(), length: whole.len(), first: whole, more: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_grows_to_its_length_and_no_further() {
        let mut payload = Payload::growing(7);
        for piece in ["abc", "", "de", "fgXX", "YY"] {
            payload.push(Bytes::from_static(piece.as_bytes()));
        }
        assert!(payload.is_whole());
        assert_eq!((payload.have(), payload.len()), (7, 7));
        assert_eq!(payload.fragments().count(), 3);
        assert_eq!(payload.joined(), "abcdefg");
    }

    #[test]
    fn a_piece_is_compared_across_fragments_as_far_as_they_reach() {
        let mut payload = Payload::growing(9);
        payload.push(Bytes::from_static(b"abc"));
        payload.push(Bytes::from_static(b"def"));
        for (offset, piece, expected) in [
            (0, "abcdef", true),
            (2, "cd", true),
            (2, "cX", false),
            (5, "fgh", true),
            (6, "ghi", true),
            (6, "ghij", false),
            (0, "b", false),
        ] {
            assert_eq!(payload.agrees(offset, piece.as_bytes()), expected, "{offset} {piece}");
        }
    }
}
