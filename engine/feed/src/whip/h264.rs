//! H.264 out of RTP (RFC 6184): single NAL units, aggregates (STAP-A) and fragments (FU-A) become
//! access units in Annex B form. It takes packets in order, knows which were lost, and never hands
//! on an access unit of which a part is missing; it looks no deeper than the first slice header.

use bytes::Bytes;

const NAL_SLICE: u8 = 1;
const NAL_IDR: u8 = 5;
const NAL_SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// One access unit, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AccessUnit {
    /// RTP time, without wrap: presentation time in 90 kHz.
    pub(super) time: u64,
    /// NAL units with four-byte start codes.
    pub(super) data: Bytes,
    /// It begins with an IDR picture, maybe behind parameter sets.
    pub(super) idr: bool,
    /// The sequence parameter set in it, header byte included.
    pub(super) sps: Option<Bytes>,
}

/// What packets turned into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Whole(AccessUnit),
    /// An access unit, or a part of one, is not there.
    Lost,
}

/// Gathers packets of one stream.
#[derive(Debug)]
pub(super) struct Depacketizer {
    /// Access units beyond this are dropped.
    bytes_max: usize,
    /// Of the access unit under way.
    time: Option<u64>,
    data: Vec<u8>,
    sps: Option<(usize, usize)>,
    /// A fragmented NAL unit is under way.
    fragment: bool,
    /// Something of the access unit under way is missing or wrong.
    broken: bool,
    /// Packets were lost since the last whole access unit: the next might lack its head.
    after_loss: bool,
    slices: u32,
    starts_picture: bool,
    idr: bool,
    oversize: u64,
}

impl Depacketizer {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            time: None,
            data: Vec::new(),
            sps: None,
            fragment: false,
            broken: false,
            after_loss: false,
            slices: 0,
            starts_picture: false,
            idr: false,
            oversize: 0,
        }
    }

    /// Access units dropped for their size.
    pub(super) fn oversize(&self) -> u64 {
        self.oversize
    }

    /// Packets are missing in front of the next one.
    pub(super) fn lost(&mut self) {
        self.fragment = false;
        self.after_loss = true;
        if self.time.is_some() {
            // The end of the access unit under way may be among them.
            self.broken = true;
        }
    }

    /// The next packet. A packet without payload (padding) counts for its sequence number only.
    pub(super) fn push(&mut self, time: u64, marker: bool, payload: &[u8], out: &mut Vec<Unit>) {
        if payload.is_empty() {
            return;
        }
        if self.time.is_some_and(|held| held != time) {
            // Its marker was lost, or its sender sets none.
            self.finish(out);
        }
        self.time = Some(time);
        self.take(payload);
        if marker {
            self.finish(out);
        }
    }

    fn take(&mut self, payload: &[u8]) {
        let Some((&indicator, rest)) = payload.split_first() else { return };
        match indicator & 0x1f {
            1..=23 => {
                self.fragment = false;
                self.nal(payload);
            }
            STAP_A => {
                self.fragment = false;
                self.aggregate(rest);
            }
            FU_A => self.fragment(indicator, rest),
            // STAP-B, MTAP and FU-B belong to interleaved mode, which nobody was offered.
            _ => self.broken = true,
        }
    }

    /// RFC 6184 §5.7.1.
    fn aggregate(&mut self, mut rest: &[u8]) {
        while let Some((length, tail)) = rest.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            let Some((unit, tail)) = tail.split_at_checked(length) else {
                self.broken = true;
                return;
            };
            self.nal(unit);
            rest = tail;
        }
    }

    /// RFC 6184 §5.8.
    fn fragment(&mut self, indicator: u8, rest: &[u8]) {
        let Some((&header, body)) = rest.split_first() else {
            self.broken = true;
            return;
        };
        if header & 0x80 != 0 {
            self.fragment = true;
            let first = (indicator & 0xe0) | (header & 0x1f);
            self.begin_nal(first, body.first().copied());
            self.append(&[first]);
        } else if !self.fragment {
            self.broken = true;
            return;
        }
        self.append(body);
        if header & 0x40 != 0 {
            self.fragment = false;
        }
    }

    fn nal(&mut self, unit: &[u8]) {
        let Some((&first, body)) = unit.split_first() else { return };
        self.begin_nal(first, body.first().copied());
        if first & 0x1f == NAL_SPS {
            self.sps = Some((self.data.len(), unit.len()));
        }
        self.append(unit);
    }

    fn begin_nal(&mut self, first: u8, second: Option<u8>) {
        let kind = first & 0x1f;
        if (NAL_SLICE..=NAL_IDR).contains(&kind) {
            if self.slices == 0 {
                // first_mb_in_slice is the first Exp-Golomb code: zero is a single set bit.
                self.starts_picture = second.is_some_and(|byte| byte & 0x80 != 0);
                self.idr = kind == NAL_IDR;
            }
            self.slices += 1;
        }
        self.append(&START_CODE);
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.data.len() + bytes.len() > self.bytes_max {
            self.oversize += u64::from(!self.broken);
            self.broken = true;
        }
        if !self.broken {
            self.data.extend_from_slice(bytes);
        }
    }

    fn finish(&mut self, out: &mut Vec<Unit>) {
        let Some(time) = self.time.take() else { return };
        let data = std::mem::take(&mut self.data);
        let headless = self.after_loss && self.slices > 0 && !self.starts_picture;
        if self.broken || self.fragment || headless {
            out.push(Unit::Lost);
        } else if self.slices > 0 || !data.is_empty() {
            let data = Bytes::from(data);
            let sps = self.sps.and_then(|(at, length)| {
                data.get(at..at + length).map(|unit| data.slice_ref(unit))
            });
            // A gap that hit no access unit in part still means that whole ones may be missing.
            if self.after_loss {
                out.push(Unit::Lost);
            }
            out.push(Unit::Whole(AccessUnit { time, data, idr: self.idr, sps }));
            self.after_loss = false;
        }
        (self.fragment, self.broken, self.starts_picture, self.idr) = (false, false, false, false);
        (self.slices, self.sps) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(packets: &[(u64, bool, &[u8])]) -> Vec<Unit> {
        let mut depacketizer = Depacketizer::new(1000);
        let mut out = Vec::new();
        for (time, marker, payload) in packets {
            depacketizer.push(*time, *marker, payload, &mut out);
        }
        out
    }

    fn whole(out: &[Unit]) -> Vec<&AccessUnit> {
        out.iter()
            .filter_map(|unit| match unit {
                Unit::Whole(unit) => Some(unit),
                Unit::Lost => None,
            })
            .collect()
    }

    #[test]
    fn parameter_sets_in_an_aggregate_and_a_picture_in_fragments_are_one_access_unit() {
        let out = run(&[
            (7, false, &[0x78, 0, 2, 0x67, 0x42, 0, 1, 0x68]),
            (7, false, &[0x7c, 0x85, 0x88, 0x11]),
            (7, false, &[0x7c, 0x05, 0x22]),
            (7, true, &[0x7c, 0x45, 0x33]),
        ]);
        let units = whole(&out);
        assert_eq!(units.len(), 1);
        assert_eq!(
            units[0].data.as_ref(),
            [0, 0, 0, 1, 0x67, 0x42, 0, 0, 0, 1, 0x68, 0, 0, 0, 1, 0x65, 0x88, 0x11, 0x22, 0x33]
        );
        assert!(units[0].idr);
        assert_eq!(units[0].sps.as_deref(), Some(&[0x67, 0x42][..]));
    }

    #[test]
    fn a_missing_marker_ends_with_the_next_time() {
        let out = run(&[(1, false, &[0x41, 0x9a]), (2, true, &[0x41, 0x9b])]);
        assert_eq!(whole(&out).len(), 2);
    }

    #[test]
    fn an_access_unit_that_lost_a_part_never_goes_on() {
        let mut depacketizer = Depacketizer::new(1000);
        let mut out = Vec::new();
        // The middle of a fragment, then the end of an access unit, then the head of the next one.
        depacketizer.push(1, false, &[0x7c, 0x85, 0x88], &mut out);
        depacketizer.lost();
        depacketizer.push(1, true, &[0x7c, 0x45, 0x33], &mut out);
        assert_eq!(out, [Unit::Lost]);
        depacketizer.push(2, false, &[0x41, 0x9a], &mut out);
        depacketizer.lost();
        // A second slice of a picture whose first one is lost.
        depacketizer.push(3, true, &[0x41, 0x12], &mut out);
        assert_eq!(out, [Unit::Lost, Unit::Lost, Unit::Lost]);
        depacketizer.push(4, true, &[0x41, 0x9a], &mut out);
        assert_eq!(whole(&out).len(), 1);
        assert_eq!(out.len(), 5, "what follows a loss says so");
        depacketizer.push(5, true, &[0x41, 0x9a], &mut out);
        assert_eq!(out.len(), 6);
    }

    #[test]
    fn an_access_unit_without_end_takes_no_more_memory_than_it_may() {
        let mut depacketizer = Depacketizer::new(1000);
        let mut out = Vec::new();
        depacketizer.push(1, false, &[0x7c, 0x85, 0x88], &mut out);
        for _ in 0..1000 {
            depacketizer.push(1, false, &[0x7c, 0x05, 1, 2, 3, 4, 5, 6, 7, 8], &mut out);
            assert!(depacketizer.data.len() <= 1000);
        }
        depacketizer.push(1, true, &[0x7c, 0x45, 1], &mut out);
        assert_eq!((out.as_slice(), depacketizer.oversize()), (&[Unit::Lost][..], 1));
    }

    #[test]
    fn nonsense_is_a_lost_access_unit() {
        for payload in [&[0x78, 0, 9, 1][..], &[0x7c], &[0x7c, 0x05, 1], &[0x00], &[0x1f, 1]] {
            assert_eq!(run(&[(1, true, payload)]), [Unit::Lost], "{payload:x?}");
        }
    }
}
