//! Packetised elementary streams (ISO/IEC 13818-1 §2.4.3.6): access units put together from packets, with their times.
//! Owns when one is whole and when it is damaged.

use bytes::{Bytes, BytesMut};

use super::{Counters, UNIT_BYTES_MAX};

/// What one PES packet held.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) data: Bytes,
    /// Presentation and decode time, 33 bits each.
    pub(super) times: Option<(u64, u64)>,
    /// Units before this one are missing.
    pub(super) after_loss: bool,
}

/// A unit that cannot become whole.
#[derive(Debug)]
pub(super) struct Incomplete;

/// The packet under way.
#[derive(Debug, Default)]
pub(super) struct Pes {
    open: Option<Open>,
    lost: bool,
}

#[derive(Debug)]
struct Open {
    data: BytesMut,
    times: Option<(u64, u64)>,
    /// Bytes of data the header promised; none for video of any length.
    promised: Option<usize>,
    broken: bool,
}

impl Pes {
    /// Packets are missing: what is under way cannot become whole.
    pub(super) fn handle_gap(&mut self) {
        self.lost = true;
        if let Some(open) = &mut self.open {
            open.broken = true;
        }
    }

    /// Ends the one under way, because another begins or nothing follows.
    pub(super) fn finish(&mut self) -> Option<Result<Unit, Incomplete>> {
        let open = self.open.take()?;
        let short = open.promised.is_some_and(|promised| open.data.len() < promised);
        if open.broken || short {
            self.lost = true;
            return Some(Err(Incomplete));
        }
        Some(Ok(self.close(open)))
    }

    /// The one under way, if it has all it promised.
    pub(super) fn poll_whole(&mut self) -> Option<Unit> {
        let whole = |open: &mut Open| !open.broken && open.promised == Some(open.data.len());
        let open = self.open.take_if(whole)?;
        Some(self.close(open))
    }

    /// Begins with the payload of a packet that says so.
    pub(super) fn start(&mut self, payload: &[u8], counters: &mut Counters) {
        match header(payload) {
            Some((times, promised, data)) => {
                let broken = false;
                self.open = Some(Open { data: BytesMut::new(), times, promised, broken });
                self.extend(data, counters);
            }
            None => counters.malformed += 1,
        }
    }

    pub(super) fn extend(&mut self, payload: &[u8], counters: &mut Counters) {
        // Before the first beginning, or behind one that was whole.
        let Some(open) = &mut self.open else { return };
        let room = open.promised.unwrap_or(UNIT_BYTES_MAX).saturating_sub(open.data.len());
        if payload.len() > room && open.promised.is_none() && !open.broken {
            open.broken = true;
            counters.malformed += 1;
        }
        if !open.broken {
            open.data.extend_from_slice(payload.get(..room).unwrap_or(payload));
        }
    }

    fn close(&mut self, open: Open) -> Unit {
        let after_loss = std::mem::take(&mut self.lost);
        Unit { data: open.data.freeze(), times: open.times, after_loss }
    }
}

type Header<'a> = (Option<(u64, u64)>, Option<usize>, &'a [u8]);

/// Times, promised bytes of data, and the data that is here.
fn header(payload: &[u8]) -> Option<Header<'_>> {
    let (fixed, rest) = payload.split_first_chunk::<9>()?;
    let [0, 0, 1, _stream, length_high, length_low, _, flags, header_bytes] = *fixed else {
        return None;
    };
    let (header, data) = rest.split_at_checked(usize::from(header_bytes))?;
    let stamp = |at: usize| header.get(at..)?.first_chunk::<5>().copied().map(stamp);
    let times = match flags >> 6 {
        0b10 => stamp(0).map(|pts| (pts, pts)),
        0b11 => stamp(0).zip(stamp(5)),
        _ => None,
    };
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    let promised = match length {
        0 => None,
        length => Some(length.checked_sub(3 + usize::from(header_bytes))?),
    };
    Some((times, promised, data))
}

/// 33 bits among marker bits. Some encoders get the markers wrong, so nobody looks at them.
fn stamp([head, high @ .., low]: [u8; 5]) -> u64 {
    let [high, middle, middle_low] = high.map(u64::from);
    let (head, low) = (u64::from(head >> 1 & 7), u64::from(low >> 1));
    head << 30 | high << 22 | (middle >> 1) << 15 | middle_low << 7 | low
}
