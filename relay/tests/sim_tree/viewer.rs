//! One viewer: a MoQT client that joins every track as the player does, and writes down what it is given.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use weir_moqt::{
    Event as Heard, Feature, FetchTarget, Fill, Filter, Limits, Output, Params, RequestId, Role,
    Session, SetupOptions,
};
use weir_relay::{Carrier, Dir, Draft, StreamId};

use crate::wire::{Mark, Sent};
use crate::world::{TRACKS, track};

/// A stream that is being read.
struct Reading {
    track: u8,
    group: u64,
    object: u64,
    payload: BytesMut,
}

pub(crate) struct Viewer {
    moqt: Session,
    next_stream: [u64; 2],
    asks: BTreeMap<RequestId, u8>,
    readings: BTreeMap<StreamId, Reading>,
    /// How often each object came.
    pub(crate) seen: BTreeMap<Mark, u32>,
    /// Refusals, resets and breaches of protocol.
    pub(crate) complaints: Vec<String>,
    pub(crate) draft: Draft,
    pub(crate) edge: usize,
    pub(crate) link: usize,
    pub(crate) joined: Instant,
    /// When it left, or its edge died.
    pub(crate) until: Option<Instant>,
}

impl Viewer {
    pub(crate) fn new(draft: Draft, (edge, link): (usize, usize), joined: Instant) -> Self {
        let options = SetupOptions::default();
        let moqt =
            Session::new(draft, Role::Client, Carrier::WebTransport, Limits::default(), options);
        let mut viewer = Self {
            moqt,
            next_stream: [0, 2],
            asks: BTreeMap::new(),
            readings: BTreeMap::new(),
            seen: BTreeMap::new(),
            complaints: Vec::new(),
            draft,
            edge,
            link,
            joined,
            until: None,
        };
        for index in 0..TRACKS.len() {
            viewer.join(index as u8);
        }
        viewer
    }

    /// The live edge by SUBSCRIBE, and the group under way by a fill or a joining FETCH.
    fn join(&mut self, index: u8) {
        let fills = self.moqt.supports(Feature::Fill);
        let past = Some(Filter::Relative { groups_back: 1 });
        let fill = fills.then(|| Box::new(Fill { filter: past, ..Fill::default() }));
        let params = Params { filter: Some(Filter::LargestObject), fill, ..Params::default() };
        let subscription = self.moqt.subscribe(&track(index), params).unwrap();
        self.asks.insert(subscription, index);
        if !fills {
            let target = FetchTarget::RelativeJoining { subscription, groups_back: 0 };
            self.asks.insert(self.moqt.fetch(&target, Params::default()).unwrap(), index);
        }
    }

    /// What it says to its relay.
    pub(crate) fn poll_sent(&mut self) -> Option<(StreamId, Sent)> {
        loop {
            match self.moqt.poll_output()? {
                Output::Open { key, dir } => {
                    let next = &mut self.next_stream[usize::from(dir == Dir::Uni)];
                    *next += 4;
                    self.moqt.stream_opened(key, StreamId(*next - 4)).unwrap();
                }
                Output::Write { stream, data, fin } => {
                    return Some((stream, Sent::Bytes { data, fin }));
                }
                Output::Reset { stream, code } => return Some((stream, Sent::Reset { code })),
                Output::Stop { stream, code } => return Some((stream, Sent::Stop { code })),
            }
        }
    }

    /// What its relay says. `made` are the payloads as they were published.
    pub(crate) fn handle(
        &mut self,
        stream: StreamId,
        sent: Sent,
        made: &BTreeMap<Mark, (Bytes, Instant)>,
    ) {
        let outcome = match sent {
            Sent::Bytes { data, fin } => {
                let dir = if stream.0 & 2 == 0 { Dir::Bi } else { Dir::Uni };
                self.moqt.handle_stream(stream, dir, data, fin)
            }
            Sent::Reset { code } => self.moqt.handle_reset(stream, u64::from(code)),
            Sent::Stop { code } => self.moqt.handle_stop(stream, u64::from(code)),
        };
        if let Err(error) = outcome {
            self.complaints.push(error.to_string());
        }
        while let Some(heard) = self.moqt.poll_event() {
            self.hear(heard, made);
        }
    }

    fn hear(&mut self, heard: Heard, made: &BTreeMap<Mark, (Bytes, Instant)>) {
        match heard {
            Heard::SubgroupOpened { stream, request, header } => {
                self.open(stream, request, header.group);
            }
            Heard::FetchOpened { stream, request } => self.open(stream, request, 0),
            Heard::ObjectStarted { stream, object } => {
                self.readings.get_mut(&stream).unwrap().object = object.object;
            }
            Heard::FetchObjectStarted { stream, object } => {
                let reading = self.readings.get_mut(&stream).unwrap();
                (reading.group, reading.object) = (object.location.group, object.location.object);
            }
            Heard::Payload { stream, data, last } => {
                let reading = self.readings.get_mut(&stream).unwrap();
                reading.payload.extend_from_slice(&data);
                if last {
                    let Reading { track, group, object, .. } = *reading;
                    let mark = Mark { track, group, object };
                    let payload = reading.payload.split();
                    let same = made.get(&mark).is_some_and(|(made, _)| made[..] == payload[..]);
                    assert!(same, "{mark:?} is not what was published");
                    *self.seen.entry(mark).or_default() += 1;
                }
            }
            Heard::DataReset { .. } | Heard::RequestError { .. } | Heard::PublishDone { .. } => {
                self.complaints.push(format!("{heard:?}"));
            }
            _ => {}
        }
    }

    fn open(&mut self, stream: StreamId, request: RequestId, group: u64) {
        let track = self.asks[&request];
        let reading = Reading { track, group, object: 0, payload: BytesMut::new() };
        self.readings.insert(stream, reading);
    }
}
