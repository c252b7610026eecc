//! The two integer encodings of MoQT: RFC 9000 section 16 varints (draft 16 and older) and vi64
//! (section 1.4.1 since draft 17). Knows bytes, not fields.

use bytes::BufMut;

/// Which encoding a draft uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ints {
    /// RFC 9000: two bits of length, values below 2^62.
    Quic,
    /// vi64: leading ones count the extra bytes, values up to 2^64-1.
    Moq,
}

/// Largest value of an RFC 9000 varint.
pub(crate) const QUIC_MAX: u64 = (1 << 62) - 1;

impl Ints {
    /// Largest value that can be written.
    pub(crate) const fn max(self) -> u64 {
        match self {
            Self::Quic => QUIC_MAX,
            Self::Moq => u64::MAX,
        }
    }

    /// How many bytes an integer has that starts with `first`.
    pub(crate) const fn len_of(self, first: u8) -> usize {
        match self {
            Self::Quic => 1 << (first >> 6),
            Self::Moq => 1 + first.leading_ones() as usize,
        }
    }

    /// Reads an integer off the front; `None` when `bytes` end too early.
    pub(crate) fn decode(self, bytes: &[u8]) -> Option<(u64, usize)> {
        let first = *bytes.first()?;
        let len = self.len_of(first);
        let tail = bytes.get(1..len)?;
        // The length bits leave this mask of the first byte; vi64 with 7 or 8 leading ones leaves none.
        let mask = match self {
            Self::Quic => 0x3F,
            Self::Moq => 0x7Fu8.checked_shr(len as u32 - 1).unwrap_or(0),
        };
        let value = tail.iter().fold(u64::from(first & mask), |v, &b| (v << 8) | u64::from(b));
        Some((value, len))
    }

    /// Appends `value` in its shortest form. Values above [`Ints::max`] are cut to it: callers that take
    /// ids from another draft check them first.
    pub(crate) fn encode(self, value: u64, out: &mut impl BufMut) {
        debug_assert!(value <= self.max(), "{value} does not fit {self:?}");
        match self {
            Self::Quic => match value.min(QUIC_MAX) {
                v @ 0..0x40 => out.put_u8(v as u8),
                v @ 0x40..0x4000 => out.put_u16(0x4000 | v as u16),
                v @ 0x4000..0x4000_0000 => out.put_u32(0x8000_0000 | v as u32),
                v => out.put_u64(0xC000_0000_0000_0000 | v),
            },
            Self::Moq => {
                let bits = 64 - value.leading_zeros() as usize;
                // 7 bits a byte up to 8 bytes, then 9 bytes for the rest.
                let len = bits.div_ceil(7).clamp(1, 9);
                if len == 9 {
                    out.put_u8(0xFF);
                    out.put_u64(value);
                } else {
                    let prefix = !(0xFFu64 >> (len - 1)) & 0xFF;
                    out.put_uint(value | (prefix << (8 * (len - 1))), len);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(ints: Ints, value: u64, len: usize) {
        let mut out = Vec::new();
        ints.encode(value, &mut out);
        assert_eq!(out.len(), len, "{ints:?} {value:#x}");
        assert_eq!(ints.decode(&out), Some((value, len)), "{ints:?} {value:#x}");
        for cut in 0..len {
            assert_eq!(ints.decode(&out[..cut]), None, "{ints:?} {value:#x} cut at {cut}");
        }
    }

    #[test]
    fn every_length_boundary_survives() {
        for (bits, len) in [(6, 1), (14, 2), (30, 4), (62, 8)] {
            round_trip(Ints::Quic, (1 << bits) - 1, len);
        }
        round_trip(Ints::Quic, 0, 1);
        round_trip(Ints::Quic, 1 << 30, 8);
        round_trip(Ints::Moq, 0, 1);
        for len in 1..=8 {
            round_trip(Ints::Moq, (1 << (7 * len)) - 1, len);
            round_trip(Ints::Moq, 1 << (7 * len), len + 1);
        }
        round_trip(Ints::Moq, u64::MAX, 9);
    }

    #[test]
    fn long_forms_of_small_numbers_are_read() {
        assert_eq!(Ints::Moq.decode(&[0xFF, 0, 0, 0, 0, 0, 0, 0, 37]), Some((37, 9)));
        assert_eq!(Ints::Moq.decode(&[0x80, 37]), Some((37, 2)));
        assert_eq!(Ints::Quic.decode(&[0x40, 37]), Some((37, 2)));
    }
}
