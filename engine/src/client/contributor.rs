//! A publisher of one broadcast, sans-IO: samples in, CMAF chunks out as MoQT objects at the publish address of an input.
//! It owns one MoQT session, the packager that cuts the chunks, and what the path has no room for yet; it opens no
//! connection and reads no clock. The Rust twin of the pages' `BroadcastPublisher`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use weir_moqt::data::{ObjectHeader, Status, SubgroupEncoder, SubgroupHeader};
use weir_moqt::{
    Dir, DoneCode, Draft, Event as Heard, FullTrackName, Namespace, Params, RequestId, Role,
    Session, SessionError, SetupOptions, StreamId, Transport as Carrier,
};
use weir_packager::{Object, Output, Packager, Sample, TrackConfig};
use weir_relay::{Transport, WriteError};

use super::outbox::Outbox;
use super::{Options, Peer};

/// Objects that wait for the path: 4 s at 16 Mb/s. Beyond it the oldest group of the track that has most is dropped.
const WAITING_BYTES_MAX: usize = 8 << 20;
const RESET_TOO_FAR_BEHIND: weir_moqt::ResetCode = weir_moqt::ResetCode::TooFarBehind;

/// What a [`Contributor`] has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Told {
    /// The relay takes a track.
    Accepted {
        /// Which.
        track: Arc<str>,
    },
    /// It does not.
    Refused {
        /// Which.
        track: Arc<str>,
        /// Why.
        reason: String,
    },
    /// The relay is going away.
    GoAway {
        /// Where to go instead; empty = the same place.
        uri: String,
    },
    /// The session is over; the last one.
    Ended {
        /// Session code.
        code: u32,
        /// For people.
        reason: String,
    },
}

/// A publisher over one connection. Hand in what the connection received, then call [`Contributor::drive`].
#[derive(Debug)]
pub struct Contributor {
    session: Session,
    outbox: Outbox,
    draft: Draft,
    namespace: Namespace,
    packager: Packager,
    tracks: Vec<Track>,
    waiting_bytes: usize,
    dropped_groups: u64,
    told: VecDeque<Told>,
    closing: Option<(u32, String)>,
    over: bool,
}

#[derive(Debug)]
struct Track {
    name: Arc<str>,
    request: RequestId,
    alias: u64,
    streams: u64,
    /// The stream of the group under way.
    open: Option<Open>,
    queue: VecDeque<Object>,
    /// No more objects come.
    ended: bool,
    done: bool,
}

#[derive(Debug)]
struct Open {
    stream: StreamId,
    group: u64,
    encoder: SubgroupEncoder,
    /// Head and payload that the stream has not taken.
    rest: Vec<Bytes>,
    blocked: bool,
}

impl Contributor {
    /// A publisher on a fresh connection; `options` name address and draft, `packaging` how chunks are cut.
    pub fn new(options: &Options, packaging: weir_packager::Options) -> Self {
        let setup = SetupOptions {
            path: options.path.clone(),
            authority: options.authority.clone(),
            implementation: Some(concat!("weir ", env!("CARGO_PKG_VERSION")).to_owned()),
            ..SetupOptions::default()
        };
        let limits = options.limits.session.clone();
        let carrier: Carrier = options.transport;
        Self {
            session: Session::new(options.draft, Role::Client, carrier, limits, setup),
            outbox: Outbox::default(),
            draft: options.draft,
            namespace: options.namespace.clone(),
            packager: Packager::new(packaging),
            tracks: Vec::new(),
            waiting_bytes: 0,
            dropped_groups: 0,
            told: VecDeque::new(),
            closing: None,
            over: false,
        }
    }

    /// A track of the source appears or changes.
    pub fn handle_track(
        &mut self,
        config: TrackConfig,
        now: Instant,
    ) -> Result<(), weir_packager::Error> {
        self.packager.handle_track(config, now)?;
        self.take_outputs();
        Ok(())
    }

    /// A sample of the source, captured at `wall`.
    pub fn handle_sample(
        &mut self,
        sample: Sample,
        wall: Duration,
        now: Instant,
    ) -> Result<(), weir_packager::Error> {
        self.packager.handle_sample(sample, wall, now)?;
        self.take_outputs();
        Ok(())
    }

    /// The source is over: what waits is still sent, then the session is closed.
    pub fn handle_end(&mut self) {
        self.packager.handle_end();
        self.take_outputs();
        for track in &mut self.tracks {
            track.ended = true;
        }
    }

    /// The deadline of [`Contributor::poll_timeout`] has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.packager.handle_timeout(now);
        self.take_outputs();
    }

    /// When [`Contributor::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.packager.poll_timeout()
    }

    /// Payload that waits for the path.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Groups given up because the path was too narrow.
    pub fn dropped_groups(&self) -> u64 {
        self.dropped_groups
    }

    /// Whether the session is over, or is as soon as it is driven.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The next thing to tell.
    pub fn poll_told(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    /// Leaves at once: the next `drive` closes the connection without error.
    pub fn close(&mut self) {
        self.closing.get_or_insert((0, String::new()));
    }

    /// Writes what there is to write; closes the connection when the session is over.
    pub fn drive(&mut self, transport: &mut impl Transport) {
        if self.over {
            return;
        }
        let driven = self.outbox.drive(&mut self.session, transport);
        self.after(driven);
        self.write(transport);
        let driven = self.outbox.drive(&mut self.session, transport);
        self.after(driven);
        let said = self.outbox.bytes() == 0;
        if !self.tracks.is_empty() && self.tracks.iter().all(|track| track.done) && said {
            self.closing.get_or_insert((0, String::new()));
        }
        if let Some((code, reason)) = self.closing.take() {
            transport.close(code, &reason);
            self.end(code, reason);
        }
    }

    fn take_outputs(&mut self) {
        while let Some(output) = self.packager.poll_output() {
            match output {
                Output::Track { name } => self.publish(name),
                Output::Object(object) => {
                    let Some(at) =
                        self.tracks.iter().position(|t| t.name == object.track && !t.ended)
                    else {
                        continue;
                    };
                    self.waiting_bytes += object.payload.len();
                    if let Some(track) = self.tracks.get_mut(at) {
                        track.queue.push_back(object);
                    }
                    self.make_room();
                }
                Output::TrackEnded { name } => {
                    for track in self.tracks.iter_mut().filter(|track| track.name == name) {
                        track.ended = true;
                    }
                }
            }
        }
    }

    fn publish(&mut self, name: Arc<str>) {
        let alias = self.tracks.len() as u64 + 1;
        let Ok(full) =
            FullTrackName::new(self.namespace.clone(), Bytes::copy_from_slice(name.as_bytes()))
        else {
            return;
        };
        // Nobody gave the session a limit of requests that a handful of tracks could reach.
        let Ok(request) = self.session.publish(&full, alias, Params::default(), &[]) else {
            return;
        };
        self.tracks.push(Track {
            name,
            request,
            alias,
            streams: 0,
            open: None,
            queue: VecDeque::new(),
            ended: false,
            done: false,
        });
    }

    /// Drops whole groups that have not begun, oldest first, where most waits.
    fn make_room(&mut self) {
        while self.waiting_bytes > WAITING_BYTES_MAX {
            let bytes = |track: &Track| -> usize {
                track.queue.iter().map(|object| object.payload.len()).sum()
            };
            let Some(track) = self.tracks.iter_mut().max_by_key(|track| bytes(track)) else {
                return;
            };
            let Some(group) = track.queue.front().map(|object| object.group) else { return };
            if let Some(open) = track.open.as_mut().filter(|open| open.group == group) {
                // What of it was sent is of no use without the rest.
                open.rest.clear();
            }
            while track.queue.front().is_some_and(|object| object.group == group) {
                if let Some(object) = track.queue.pop_front() {
                    self.waiting_bytes -= object.payload.len();
                }
            }
            self.dropped_groups += 1;
        }
    }

    fn write(&mut self, transport: &mut impl Transport) {
        for track in &mut self.tracks {
            loop {
                if let Some(open) = &mut track.open {
                    if open.blocked {
                        break;
                    }
                    if !open.rest.is_empty() {
                        match transport.write(open.stream, &mut open.rest) {
                            Ok(_) => open.rest.retain(|chunk| !chunk.is_empty()),
                            Err(WriteError::Blocked) => {}
                            Err(_) => {
                                track.open = None;
                                continue;
                            }
                        }
                        if !open.rest.is_empty() {
                            open.blocked = true;
                            break;
                        }
                    }
                }
                let Some(object) = track.queue.front() else { break };
                if let Some(open) = track.open.take_if(|open| open.group != object.group) {
                    transport.finish(open.stream);
                }
                let mut head = BytesMut::with_capacity(32);
                if track.open.is_none() {
                    let Some(stream) = transport.open(Dir::Uni) else { break };
                    transport.set_priority(stream, -i32::from(object.priority));
                    let header = SubgroupHeader {
                        alias: track.alias,
                        group: object.group,
                        subgroup: 0,
                        priority: Some(object.priority),
                        properties: false,
                        end_of_group: true,
                        first_object: object.object == 0,
                    };
                    let Ok(encoder) = SubgroupEncoder::new(self.draft, &header, &mut head) else {
                        break;
                    };
                    track.streams += 1;
                    let group = object.group;
                    track.open =
                        Some(Open { stream, group, encoder, rest: Vec::new(), blocked: false });
                }
                let Some(object) = track.queue.pop_front() else { break };
                self.waiting_bytes -= object.payload.len();
                let Some(open) = &mut track.open else { break };
                let header = ObjectHeader {
                    object: object.object,
                    properties: Bytes::new(),
                    payload_len: object.payload.len() as u64,
                    status: Status::Normal,
                };
                if open.encoder.object(&header, &mut head).is_err() {
                    // A group dropped in its middle: its rest is no use.
                    let code = self.draft.reset_code(RESET_TOO_FAR_BEHIND);
                    transport.reset(open.stream, code);
                    track.open = None;
                    continue;
                }
                open.rest.push(head.freeze());
                open.rest.push(object.payload);
            }
            let idle = track.queue.is_empty()
                && track.open.as_ref().is_none_or(|open| open.rest.is_empty());
            if track.ended && idle && !track.done {
                if let Some(open) = track.open.take() {
                    transport.finish(open.stream);
                }
                track.done = true;
                let streams = Some(track.streams);
                let _ = self.session.publish_done(
                    track.request,
                    DoneCode::TrackEnded,
                    streams,
                    "the broadcast is over",
                );
            } else if idle
                && track.name.ends_with("catalog")
                && let Some(open) = track.open.take()
            {
                transport.finish(open.stream);
            }
        }
    }

    fn after(&mut self, result: Result<(), SessionError>) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Heard::RequestOk { request, .. } => {
                    if let Some(track) = self.tracks.iter().find(|t| t.request == request) {
                        let track = Arc::clone(&track.name);
                        self.told.push_back(Told::Accepted { track });
                    }
                }
                Heard::RequestError { request, error, .. } => {
                    if let Some(track) = self.tracks.iter_mut().find(|t| t.request == request) {
                        (track.ended, track.done) = (true, true);
                        track.queue.clear();
                        let (track, reason) = (Arc::clone(&track.name), error.reason);
                        self.told.push_back(Told::Refused { track, reason });
                    }
                }
                Heard::GoAway { request: None, uri, .. } => {
                    self.told.push_back(Told::GoAway { uri });
                }
                _ => {}
            }
        }
        if let Err(error) = result {
            self.closing.get_or_insert((error.code.wire(), error.reason));
        }
    }

    fn end(&mut self, code: u32, reason: String) {
        if !std::mem::replace(&mut self.over, true) {
            self.told.push_back(Told::Ended { code, reason });
        }
    }
}

impl Peer for Contributor {
    fn handle_stream(&mut self, stream: StreamId, dir: Dir, data: Bytes, fin: bool, _: Instant) {
        if !self.over {
            let result = self.session.handle_stream(stream, dir, data, fin);
            self.after(result);
        }
    }

    fn handle_reset(&mut self, stream: StreamId, code: u32, _: Instant) {
        if !self.over {
            let result = self.session.handle_reset(stream, u64::from(code));
            self.after(result);
        }
    }

    fn handle_stop(&mut self, stream: StreamId, code: u32, _: Instant) {
        let open = self
            .tracks
            .iter_mut()
            .find(|track| track.open.as_ref().is_some_and(|open| open.stream == stream));
        if let Some(track) = open {
            track.open = None;
        } else if !self.over {
            let result = self.session.handle_stop(stream, u64::from(code));
            self.after(result);
        }
    }

    fn handle_writable(&mut self, stream: StreamId) {
        for open in self.tracks.iter_mut().filter_map(|track| track.open.as_mut()) {
            if open.stream == stream {
                open.blocked = false;
            }
        }
        self.outbox.handle_writable(stream);
    }

    fn handle_streams_available(&mut self, _: Dir) {}

    fn handle_closed(&mut self, code: u32, reason: &str) {
        self.end(code, reason.to_owned());
    }
}
