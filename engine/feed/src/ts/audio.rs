//! Audio units of a transport stream cut into frames with a time each. Owns the frame that straddles two units and the
//! clock between stamps; what a frame looks like is each codec's file.

use bytes::{Buf, Bytes, BytesMut};

use super::pes::Unit;
use super::psi::Kind;
use super::{Counters, TIMESCALE, ac3, adts, latm, opus};
use crate::Codec;

/// Bytes of the longest frame: LATM's and ADTS' 13 bits of length, Opus and E-AC-3 stay below.
const FRAME_BYTES_MAX: usize = 1 << 13;

/// One step of cutting.
pub(super) enum Cut {
    /// A frame and how much of the input it was.
    Frame(Frame, usize),
    /// So many bytes are of no use.
    Skip(usize),
    /// The rest of a frame has not come.
    More,
}

/// One coded frame.
pub(super) struct Frame {
    pub(super) data: Bytes,
    /// How long it lasts: samples, and how many are a second.
    pub(super) samples: u32,
    pub(super) rate: u32,
    pub(super) codec: Codec,
}

/// What comes out.
pub(super) enum Output {
    Codec(Codec),
    Frame { time: i64, data: Bytes },
}

/// Frames of one elementary stream.
#[derive(Debug)]
pub(super) struct Framer {
    cutter: Cutter,
    held: BytesMut,
    codec: Option<Codec>,
    clock: Option<Clock>,
}

#[derive(Debug)]
enum Cutter {
    Adts,
    Latm(latm::Reader),
    Opus(opus::Reader),
    Ac3,
    Eac3,
}

/// Time of the next frame: a stamp and what has been since.
#[derive(Debug)]
struct Clock {
    stamp: i64,
    samples: u64,
    rate: u32,
}

impl Framer {
    /// None if the kind is no audio.
    pub(super) fn new(kind: Kind) -> Option<Self> {
        let cutter = match kind {
            Kind::Adts => Cutter::Adts,
            Kind::Latm => Cutter::Latm(latm::Reader::default()),
            Kind::Opus(channels) => Cutter::Opus(opus::Reader::new(channels)),
            Kind::Ac3 => Cutter::Ac3,
            Kind::Eac3 => Cutter::Eac3,
            _ => return None,
        };
        Some(Self { cutter, held: BytesMut::new(), codec: None, clock: None })
    }

    /// Cuts one unit. Its time is that of the first frame that begins in it (§2.4.3.7).
    pub(super) fn handle_unit(
        &mut self,
        unit: &Unit,
        mut time: Option<i64>,
        counters: &mut Counters,
        emit: &mut impl FnMut(Output),
    ) {
        if unit.after_loss {
            self.held.clear();
        }
        let mut before = self.held.len();
        self.held.extend_from_slice(&unit.data);
        let mut bytes = std::mem::take(&mut self.held).freeze();
        while !bytes.is_empty() {
            let cut = match &mut self.cutter {
                Cutter::Adts => adts::cut(&bytes),
                Cutter::Latm(reader) => reader.cut(&bytes),
                Cutter::Opus(reader) => reader.cut(&bytes),
                Cutter::Ac3 => ac3::cut(&bytes),
                Cutter::Eac3 => ac3::cut_enhanced(&bytes),
            };
            let used = match cut {
                Cut::Frame(frame, used) => {
                    if before == 0
                        && let Some(stamp) = time.take()
                    {
                        self.clock = Some(Clock { stamp, samples: 0, rate: frame.rate });
                    }
                    self.frame(frame, counters, emit);
                    used
                }
                Cut::Skip(count) => {
                    counters.malformed += 1;
                    count
                }
                Cut::More if bytes.len() > FRAME_BYTES_MAX * 2 => {
                    counters.malformed += 1;
                    bytes.len()
                }
                Cut::More => break,
            };
            let used = used.clamp(1, bytes.len());
            bytes.advance(used);
            before = before.saturating_sub(used);
        }
        self.held.extend_from_slice(&bytes);
        // The stamp belongs to a frame that begins here and is not whole yet.
        if let Some(stamp) = time
            && before == 0
            && !self.held.is_empty()
        {
            let rate = self.clock.as_ref().map_or(TIMESCALE, |clock| clock.rate);
            self.clock = Some(Clock { stamp, samples: 0, rate });
        }
    }

    fn frame(&mut self, frame: Frame, counters: &mut Counters, emit: &mut impl FnMut(Output)) {
        let Some(clock) = &mut self.clock else {
            counters.without_time += 1;
            return;
        };
        if self.codec.as_ref() != Some(&frame.codec) {
            self.codec = Some(frame.codec.clone());
            emit(Output::Codec(frame.codec));
        }
        if clock.rate != frame.rate {
            *clock = Clock { stamp: clock.time(), samples: 0, rate: frame.rate };
        }
        emit(Output::Frame { time: clock.time(), data: frame.data });
        clock.samples += u64::from(frame.samples);
    }
}

impl Clock {
    fn time(&self) -> i64 {
        let since = self.samples * u64::from(TIMESCALE) / u64::from(self.rate.max(1));
        self.stamp.saturating_add(since as i64)
    }
}

/// Where the next two bytes with these bits are, for a search after damage; all of it if nowhere.
pub(super) fn next_sync(bytes: &[u8], mask: u16, pattern: u16) -> usize {
    let found = bytes.windows(2).skip(1).position(|pair| match pair {
        [a, b] => u16::from_be_bytes([*a, *b]) & mask == pattern,
        _ => false,
    });
    // The last byte may be the first of the two.
    found.map_or(bytes.len().saturating_sub(1).max(1), |at| at + 1)
}
