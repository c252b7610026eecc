//! One viewer of a measurement: subscribes, compares every byte that arrives with what was published, and ticks off
//! each object once. It holds no payload.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use weir_moqt::{Event, Filter, FullTrackName, Params, StreamId};

use super::content::{Content, STAMP_BYTES};
use super::wire::Wire;
use crate::histogram::Histogram;

/// The object a stream is in.
struct Object {
    id: u64,
    at: usize,
    good: bool,
    stamp: [u8; STAMP_BYTES],
}

/// One group's stream.
struct Reading {
    stream: StreamId,
    group: u64,
    object: Option<Object>,
}

/// What all viewers count together.
pub(super) struct Ledger {
    pub(super) content: Content,
    /// Zero of the schedule.
    pub(super) start: Instant,
    /// Objects that count, once the measurement has begun.
    pub(super) window: Range<u64>,
    pub(super) objects: u64,
    pub(super) payload_bytes: u64,
    pub(super) corrupt: u64,
    pub(super) duplicate: u64,
    pub(super) groups_reset: u64,
    pub(super) latency: Histogram,
}

impl Ledger {
    pub(super) fn new(content: Content, start: Instant) -> Self {
        Self {
            content,
            start,
            window: 0..0,
            objects: 0,
            payload_bytes: 0,
            corrupt: 0,
            duplicate: 0,
            groups_reset: 0,
            latency: Histogram::default(),
        }
    }

    /// Counts anew, and only the objects in `window`.
    pub(super) fn begin(&mut self, window: Range<u64>) {
        *self = Self { window, ..Self::new(self.content.clone(), self.start) };
    }
}

pub(super) struct Subscriber {
    pub(super) wire: Wire,
    track: FullTrackName,
    streams: Vec<Reading>,
    /// One bit for each object of the window.
    seen: Vec<u64>,
    /// What makes it live.
    aim: Aim,
    live: bool,
}

/// What a subscriber waits for before it counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    /// The relay accepted its subscription.
    Accepted,
    /// An object arrives.
    Media,
}

impl Subscriber {
    pub(super) fn new(wire: Wire, track: FullTrackName, aim: Aim) -> Self {
        Self { wire, track, streams: Vec::new(), seen: Vec::new(), aim, live: false }
    }

    /// Another window begins.
    pub(super) fn forget_seen(&mut self) {
        self.seen.clear();
    }

    /// What it waited for has come.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// Acts on what the session says.
    pub(super) fn events(&mut self, ledger: &mut Ledger, now: Instant) -> Result<()> {
        while let Some(event) = self.wire.poll_event() {
            match event {
                Event::Setup { .. } => {
                    let filter = Some(Filter::LargestObject);
                    let params = Params { filter, ..Params::default() };
                    self.wire.session.subscribe(&self.track, params)?;
                }
                // A relay that lets everybody publish asks everybody; here is nothing.
                Event::SubscribeNamespace { request, .. } => {
                    self.wire.session.accept(request, Params::default(), &[])?;
                }
                Event::SubscribeOk { .. } => self.live |= self.aim == Aim::Accepted,
                Event::RequestError { error, .. } => {
                    bail!("the relay refuses a subscriber: {}", error.reason)
                }
                Event::PublishDone { code, reason, .. } => {
                    bail!("the relay ended a subscription: {code:?} {reason}")
                }
                Event::SubgroupOpened { stream, header, .. } => {
                    self.streams.push(Reading { stream, group: header.group, object: None });
                }
                Event::ObjectStarted { stream, object } => {
                    let shape = ledger.content.shape();
                    let expected = shape.bytes(object.object) as u64;
                    let known = shape.index(0, object.object).is_some();
                    if let Some(reading) = self.reading(stream) {
                        reading.object = Some(Object {
                            id: object.object,
                            at: 0,
                            good: known && object.payload_len == expected,
                            stamp: [0; STAMP_BYTES],
                        });
                    }
                }
                Event::Payload { stream, data, last } => {
                    self.live = true;
                    let Some(reading) = self.reading(stream) else { continue };
                    let group = reading.group;
                    let Some(object) = &mut reading.object else { continue };
                    object.good &= ledger.content.matches(group, object.id, object.at, &data);
                    for (slot, byte) in object.stamp.iter_mut().skip(object.at).zip(&data) {
                        *slot = *byte;
                    }
                    object.at += data.len();
                    if last && let Some(object) = reading.object.take() {
                        self.complete(group, &object, ledger, now);
                    }
                }
                Event::DataEnded { stream } => self.streams.retain(|r| r.stream != stream),
                Event::DataReset { stream, .. } => {
                    ledger.groups_reset += 1;
                    self.streams.retain(|r| r.stream != stream);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn reading(&mut self, stream: StreamId) -> Option<&mut Reading> {
        self.streams.iter_mut().find(|reading| reading.stream == stream)
    }

    fn complete(&mut self, group: u64, object: &Object, ledger: &mut Ledger, now: Instant) {
        let index = ledger.content.shape().index(group, object.id);
        let Some(index) = index.filter(|index| ledger.window.contains(index)) else { return };
        if !object.good {
            ledger.corrupt += 1;
            return;
        }
        let offset = (index - ledger.window.start) as usize;
        let words = (ledger.window.end - ledger.window.start).div_ceil(64) as usize;
        self.seen.resize(words, 0);
        let (word, bit) = (&mut self.seen[offset / 64], 1 << (offset % 64));
        if *word & bit != 0 {
            ledger.duplicate += 1;
            return;
        }
        *word |= bit;
        ledger.objects += 1;
        ledger.payload_bytes += object.at as u64;
        let due = ledger.start + Duration::from_nanos(u64::from_be_bytes(object.stamp));
        ledger.latency.record(now.saturating_duration_since(due));
    }
}
