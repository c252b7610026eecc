//! Property blocks of objects: key-value pairs in the integer encoding of a draft, delta-coded but for
//! draft 14. A relay forwards them unread; only towards a peer of another family are they rewritten here.

use bytes::{BufMut, Bytes, BytesMut};

use crate::draft::{Draft, Rules};
use crate::varint::Ints;

/// Immutable properties hold pairs themselves (section 12.7).
const IMMUTABLE: u64 = 0x0B;

/// Rewrites a property block for a peer of another draft; `None` when it cannot be parsed or does not
/// fit. Between drafts of one family the same bytes come back.
pub fn convert_properties(from: Draft, to: Draft, block: &Bytes) -> Option<Bytes> {
    let (from, to) = (from.codec().rules(), to.codec().rules());
    if (from.ints == to.ints && from.pair_deltas == to.pair_deltas) || block.is_empty() {
        return Some(block.clone());
    }
    Some(convert(from, to, block, true)?.freeze())
}

/// The integer property of this (even) type in a block of `draft`, also among the immutable ones; `None` when it is not
/// there, and when the block does not parse up to it.
pub fn integer_property(draft: Draft, block: &[u8], kind: u64) -> Option<u64> {
    find(draft.codec().rules(), block, kind, true)
}

pub(crate) fn find(rules: &Rules, mut block: &[u8], kind: u64, outermost: bool) -> Option<u64> {
    let mut key = 0u64;
    while !block.is_empty() {
        let next = int(rules.ints, &mut block)?;
        key = if rules.pair_deltas { key.checked_add(next)? } else { next };
        let value = int(rules.ints, &mut block)?;
        if key.is_multiple_of(2) {
            if key == kind {
                return Some(value);
            }
            continue;
        }
        let (bytes, rest) = block.split_at_checked(usize::try_from(value).ok()?)?;
        block = rest;
        if key == IMMUTABLE
            && outermost
            && let Some(value) = find(rules, bytes, kind, false)
        {
            return Some(value);
        }
    }
    None
}

fn convert(from: &Rules, to: &Rules, mut block: &[u8], outermost: bool) -> Option<BytesMut> {
    let whole = block;
    let mut out = BytesMut::with_capacity(block.len() + 8);
    let (mut key, mut written) = (0u64, 0u64);
    while !block.is_empty() {
        let kind = int(from.ints, &mut block)?;
        key = if from.pair_deltas { key.checked_add(kind)? } else { kind };
        if to.pair_deltas {
            let Some(delta) = key.checked_sub(written) else {
                return convert(from, to, &ascending(from, whole)?, outermost);
            };
            put(to.ints, delta, &mut out)?;
            written = key;
        } else {
            put(to.ints, key, &mut out)?;
        }
        let value = int(from.ints, &mut block)?;
        if key.is_multiple_of(2) {
            put(to.ints, value, &mut out)?;
            continue;
        }
        let (bytes, rest) = block.split_at_checked(usize::try_from(value).ok()?)?;
        block = rest;
        // A nested block that is no list of pairs stays as it is, like any other bytes.
        let nested =
            if key == IMMUTABLE && outermost { convert(from, to, bytes, false) } else { None };
        let bytes = nested.as_deref().unwrap_or(bytes);
        put(to.ints, bytes.len() as u64, &mut out)?;
        out.put_slice(bytes);
    }
    Some(out)
}

/// A list whose types stand as they are, in ascending order of type; equal ones keep theirs.
fn ascending(rules: &Rules, mut block: &[u8]) -> Option<Vec<u8>> {
    let mut pairs = Vec::new();
    while !block.is_empty() {
        let pair = block;
        let key = int(rules.ints, &mut block)?;
        let value = int(rules.ints, &mut block)?;
        if !key.is_multiple_of(2) {
            block = block.get(usize::try_from(value).ok()?..)?;
        }
        pairs.push((key, pair.get(..pair.len() - block.len())?));
    }
    pairs.sort_by_key(|(key, _)| *key);
    Some(pairs.into_iter().flat_map(|(_, pair)| pair).copied().collect())
}

fn int(ints: Ints, bytes: &mut &[u8]) -> Option<u64> {
    let (value, len) = ints.decode(bytes)?;
    *bytes = bytes.get(len..)?;
    Some(value)
}

fn put(ints: Ints, value: u64, out: &mut BytesMut) -> Option<()> {
    (value <= ints.max()).then(|| ints.encode(value, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_block_survives_the_way_to_the_other_family_and_back() {
        // Type 2 = 300, type 11 = {type 4 = 200}, type 121 = "hi".
        let quic =
            Bytes::from_static(&[2, 0x41, 0x2C, 9, 3, 4, 0x40, 200, 0x40, 110, 2, b'h', b'i']);
        let moq = convert_properties(Draft::D16, Draft::D18, &quic).unwrap();
        assert_eq!(moq[..], [2, 0x81, 0x2C, 9, 3, 4, 0x80, 200, 110, 2, b'h', b'i']);
        assert_eq!(convert_properties(Draft::D18, Draft::D16, &moq).unwrap(), quic);
    }

    #[test]
    fn an_integer_property_is_found_by_its_type_wherever_it_stands() {
        // Type 2 = 300, type 11 = {type 4 = 200}, type 121 = "hi".
        let quic = [2, 0x41, 0x2C, 9, 3, 4, 0x40, 200, 0x40, 110, 2, b'h', b'i'];
        let of = |kind| integer_property(Draft::D16, &quic, kind);
        assert_eq!([of(2), of(4), of(6), of(120)], [Some(300), Some(200), None, None]);
        // Draft 14 has types as they are; a block that is cut short has what stands before.
        assert_eq!(integer_property(Draft::D14, &[6, 1, 4, 7], 4), Some(7));
        assert_eq!(integer_property(Draft::D16, &[4, 7, 7, 9], 4), Some(7));
        assert_eq!(integer_property(Draft::D16, &[4, 7, 7, 9], 6), None);
    }

    #[test]
    fn a_property_that_does_not_fit_or_does_not_parse_is_refused() {
        let huge = Bytes::from_static(&[2, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(convert_properties(Draft::D18, Draft::D16, &huge), None);
        let cut = Bytes::from_static(&[3, 9, 1]);
        assert_eq!(convert_properties(Draft::D18, Draft::D16, &cut), None);
        assert_eq!(convert_properties(Draft::D14, Draft::D16, &cut), None);
    }

    #[test]
    fn properties_of_draft_14_stand_in_any_order_and_are_put_in_theirs() {
        // Type 121 = "hi", type 2 = 300, type 11 = {type 6 = 1, type 4 = 200}, type 2 = 7.
        let block = Bytes::from_static(&[
            0x40, 121, 2, b'h', b'i', 2, 0x41, 0x2C, 11, 5, 6, 1, 4, 0x40, 200, 2, 7,
        ]);
        let sorted = Bytes::from_static(&[
            2, 0x41, 0x2C, 2, 7, 11, 5, 4, 0x40, 200, 6, 1, 0x40, 121, 2, b'h', b'i',
        ]);
        let deltas = [2, 0x41, 0x2C, 0, 7, 9, 5, 4, 0x40, 200, 2, 1, 0x40, 110, 2, b'h', b'i'];
        let later = convert_properties(Draft::D14, Draft::D16, &block).unwrap();
        assert_eq!(later[..], deltas);
        assert_eq!(convert_properties(Draft::D16, Draft::D14, &later).unwrap(), sorted);
        let newest = convert_properties(Draft::D14, Draft::D22, &block).unwrap();
        assert_eq!(convert_properties(Draft::D22, Draft::D14, &newest).unwrap(), sorted);
        assert_eq!(convert_properties(Draft::D14, Draft::D14, &block).unwrap(), block);
    }
}
