//! Property blocks of objects: delta-coded key-value pairs in the integer encoding of a draft. A relay
//! forwards them unread; only towards a peer of another family are they rewritten here.

use bytes::{BufMut, Bytes, BytesMut};

use crate::draft::Draft;
use crate::varint::Ints;

/// Immutable properties hold pairs themselves (section 12.7).
const IMMUTABLE: u64 = 0x0B;

/// Rewrites a property block for a peer of another draft; `None` when it cannot be parsed or does not
/// fit. Between drafts of one family the same bytes come back.
pub fn convert_properties(from: Draft, to: Draft, block: &Bytes) -> Option<Bytes> {
    let (from, to) = (from.codec().rules().ints, to.codec().rules().ints);
    if from == to || block.is_empty() {
        return Some(block.clone());
    }
    Some(convert(from, to, block, true)?.freeze())
}

fn convert(from: Ints, to: Ints, mut block: &[u8], outermost: bool) -> Option<BytesMut> {
    let mut out = BytesMut::with_capacity(block.len() + 8);
    let mut key = 0u64;
    while !block.is_empty() {
        let delta = int(from, &mut block)?;
        key = key.checked_add(delta)?;
        put(to, delta, &mut out)?;
        let value = int(from, &mut block)?;
        if key.is_multiple_of(2) {
            put(to, value, &mut out)?;
            continue;
        }
        let (bytes, rest) = block.split_at_checked(usize::try_from(value).ok()?)?;
        block = rest;
        // A nested block that is no list of pairs stays as it is, like any other bytes.
        let nested =
            if key == IMMUTABLE && outermost { convert(from, to, bytes, false) } else { None };
        let bytes = nested.as_deref().unwrap_or(bytes);
        put(to, bytes.len() as u64, &mut out)?;
        out.put_slice(bytes);
    }
    Some(out)
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
    fn a_property_that_does_not_fit_or_does_not_parse_is_refused() {
        let huge = Bytes::from_static(&[2, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(convert_properties(Draft::D18, Draft::D16, &huge), None);
        let cut = Bytes::from_static(&[3, 9, 1]);
        assert_eq!(convert_properties(Draft::D18, Draft::D16, &cut), None);
    }
}
