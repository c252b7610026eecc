//! The little a feed must know of H.264: that a decoder configuration is whole, and which kinds of
//! NAL unit an access unit holds (ITU-T H.264 table 7-1, ISO/IEC 14496-15 section 5.3). Picture
//! size, reordering and codec strings are the packager's.

const NAL_SLICE: u8 = 1;
const NAL_IDR: u8 = 5;
const NAL_SPS: u8 = 7;
const NAL_PPS: u8 = 8;

/// What [`scan`] saw in an access unit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Seen {
    /// A slice of an IDR picture: decoding can start here, in a browser too.
    pub(super) idr: bool,
    /// A slice of any picture.
    pub(super) picture: bool,
}

/// Bytes of each NAL length prefix, from an `AVCDecoderConfigurationRecord` that has at least one
/// SPS and one PPS, all within its bounds; `None` for anything else.
pub(super) fn nal_length_bytes(record: &[u8]) -> Option<usize> {
    let ([version, _, _, _, lengths, sps_count], mut rest) = record.split_first_chunk()?;
    let length_bytes = usize::from(lengths & 0x03) + 1;
    if *version != 1 || length_bytes == 3 {
        return None;
    }
    skip_parameter_sets(&mut rest, sps_count & 0x1f, NAL_SPS)?;
    let (pps_count, mut rest) = rest.split_first()?;
    skip_parameter_sets(&mut rest, *pps_count, NAL_PPS)?;
    Some(length_bytes)
}

/// Walks the NAL units of an access unit; `None` if the lengths do not add up to it exactly.
pub(super) fn scan(mut nals: &[u8], length_bytes: usize) -> Option<Seen> {
    let mut seen = Seen::default();
    while !nals.is_empty() {
        let (prefix, rest) = nals.split_at_checked(length_bytes)?;
        let length = prefix.iter().fold(0_usize, |sum, &byte| sum << 8 | usize::from(byte));
        let (nal, rest) = rest.split_at_checked(length)?;
        let kind = nal.first()? & 0x1f;
        seen.idr |= kind == NAL_IDR;
        seen.picture |= (NAL_SLICE..=NAL_IDR).contains(&kind);
        nals = rest;
    }
    Some(seen)
}

fn skip_parameter_sets(rest: &mut &[u8], count: u8, kind: u8) -> Option<()> {
    if count == 0 {
        return None;
    }
    for _ in 0..count {
        let (length, after) = rest.split_first_chunk()?;
        let (set, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        if set.first()? & 0x1f != kind {
            return None;
        }
        *rest = after;
    }
    Some(())
}
