//! The viewer itself: a MoQT session in client role, the requests it makes for one broadcast, and the data streams it
//! reads. It owns what is incomplete; order within a track is `sequence`'s, bytes towards the transport are `outbox`'s.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use weir_moqt::data::Status;
use weir_moqt::{
    CommandError, Dir, DoneCode, Draft, Event as Heard, Feature, FetchTarget, Fill, Filter,
    FullTrackName, Location, Params, Redirect, RequestCode, RequestError, RequestId, Role, Session,
    SessionCode, SessionError, SetupOptions, StreamId,
};
use weir_packager::CATALOG_TRACK;
use weir_packager::catalog::{Catalog, Kind};
use weir_relay::Transport;

use super::arrivals::Arrivals;
use super::outbox::Outbox;
use super::sequence::{Released, Sequence, Whole};
use super::{Event, Join, Object, Options, Peer, Selection};

/// The bit of a stream's id that says that bytes go one way (RFC 9000 section 2.1).
const UNIDIRECTIONAL: u64 = 2;

/// A viewer of one broadcast over one connection.
///
/// Hand in what the connection received with the `handle_*` calls, then call [`Viewer::drive`] with the connection and
/// drain [`Viewer::poll_event`]. Call `drive` once at the start, too: SETUP and the first requests leave together.
#[derive(Debug)]
pub struct Viewer {
    session: Session,
    outbox: Outbox,
    options: Options,
    tracks: Vec<Track>,
    asks: BTreeMap<RequestId, Ask>,
    readings: BTreeMap<StreamId, Reading>,
    /// Streams that overtook others.
    arrivals: Arrivals,
    /// Payload bytes of incomplete objects.
    incomplete: usize,
    events: VecDeque<Event>,
    /// Payload bytes in `events`.
    undelivered: usize,
    catalog: Option<Catalog>,
    told_to_go: bool,
    phase: Phase,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// The transport is to be closed with this.
    Closing(u32, String),
    Closed,
}

#[derive(Debug)]
struct Track {
    name: Arc<str>,
    subscription: RequestId,
    accepted: bool,
    /// The joining FETCH in flight.
    fetch: Option<RequestId>,
    /// A fill was asked for instead and is not over.
    filling: bool,
    /// The joining FETCH overtook its SUBSCRIBE and is to be repeated.
    rejoin: Rejoin,
    /// Redirects followed within this session.
    redirects: u32,
    sequence: Sequence,
    streams_seen: u64,
    streams_open: u64,
    done: Option<Done>,
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rejoin {
    Possible,
    OnceAccepted,
    Tried,
}

/// The publisher's last word on a subscription.
#[derive(Clone, Copy, Debug)]
struct Done {
    code: DoneCode,
    streams: Option<u64>,
    since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Ask {
    track: usize,
    is_fetch: bool,
}

/// A data stream.
#[derive(Debug)]
struct Reading {
    track: usize,
    is_fetch: bool,
    /// False when its group is done with: it is read and dropped.
    wanted: bool,
    location: Location,
    properties: Bytes,
    chunks: Vec<Bytes>,
    length: usize,
}

impl Viewer {
    /// A viewer on a fresh connection; its requests wait for [`Viewer::drive`].
    pub fn new(options: Options) -> Self {
        let setup = SetupOptions {
            path: options.path.clone(),
            authority: options.authority.clone(),
            implementation: Some(concat!("weir ", env!("CARGO_PKG_VERSION")).to_owned()),
            ..SetupOptions::default()
        };
        let limits = options.limits.session.clone();
        let session = Session::new(options.draft, Role::Client, options.transport, limits, setup);
        let mut viewer = Self {
            session,
            outbox: Outbox::default(),
            tracks: Vec::new(),
            asks: BTreeMap::new(),
            readings: BTreeMap::new(),
            arrivals: Arrivals::default(),
            incomplete: 0,
            events: VecDeque::new(),
            undelivered: 0,
            catalog: None,
            told_to_go: false,
            phase: Phase::Running,
            options,
        };
        match viewer.options.selection.clone() {
            Selection::Catalog => {
                viewer.watch(CATALOG_TRACK);
                let expected = std::mem::take(&mut viewer.options.expected);
                for name in &expected {
                    viewer.watch(name);
                }
            }
            Selection::Named(names) => names.iter().for_each(|name| viewer.watch(name)),
        }
        viewer
    }

    /// The draft spoken.
    pub fn draft(&self) -> Draft {
        self.session.draft()
    }

    /// Bytes of a stream, in order; `fin` with the last ones or with none.
    pub fn handle_stream(
        &mut self,
        stream: StreamId,
        dir: Dir,
        data: Bytes,
        fin: bool,
        now: Instant,
    ) {
        if self.phase == Phase::Running {
            if dir == Dir::Uni {
                self.arrivals.saw(stream, now);
            }
            let result = self.session.handle_stream(stream, dir, data, fin);
            self.after(result, now);
        }
    }

    /// The relay reset its side of a stream.
    pub fn handle_reset(&mut self, stream: StreamId, code: u32, now: Instant) {
        if self.phase == Phase::Running {
            if stream.0 & UNIDIRECTIONAL != 0 {
                self.arrivals.saw(stream, now);
            }
            let result = self.session.handle_reset(stream, u64::from(code));
            self.after(result, now);
        }
    }

    /// The relay stopped our side of a stream.
    pub fn handle_stop(&mut self, stream: StreamId, code: u32, now: Instant) {
        if self.phase == Phase::Running {
            let result = self.session.handle_stop(stream, u64::from(code));
            self.after(result, now);
        }
    }

    /// A stream has room again.
    pub fn handle_writable(&mut self, stream: StreamId) {
        self.outbox.handle_writable(stream);
    }

    /// Streams can be opened again; the next `drive` does.
    pub fn handle_streams_available(&mut self, _dir: Dir) {}

    /// The connection is gone, with this code and reason of the peer or of the transport.
    pub fn handle_closed(&mut self, code: u32, reason: &str) {
        if self.phase == Phase::Running {
            self.end(code, reason);
        }
        self.phase = Phase::Closed;
    }

    /// The deadline of [`Viewer::poll_timeout`] has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.phase == Phase::Running {
            self.after(Ok(()), now);
        }
    }

    /// When [`Viewer::handle_timeout`] wants to be called though nothing arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.phase != Phase::Running {
            return None;
        }
        let limits = &self.options.limits;
        let live = self.tracks.iter().filter(|track| !track.over);
        live.flat_map(|track| {
            let done = track.done.map(|done| done.since + limits.stall_patience);
            done.into_iter().chain(track.sequence.deadline(limits, &self.arrivals))
        })
        .min()
    }

    /// Leaves: the next `drive` closes the connection without error.
    pub fn close(&mut self) {
        if self.phase == Phase::Running {
            self.phase = Phase::Closing(SessionCode::NoError.wire(), String::new());
        }
    }

    /// Writes what waits, and closes the connection when the session is over.
    pub fn drive(&mut self, transport: &mut impl Transport, now: Instant) {
        if self.phase == Phase::Running {
            let written = self.outbox.drive(&mut self.session, transport);
            let waiting = self.outbox.bytes();
            if let Err(error) = written {
                self.fail(&error);
            } else if waiting > self.options.limits.control_bytes {
                self.end(SessionCode::Internal.wire(), "requests are not taken");
            }
            if self.phase == Phase::Running {
                self.after(Ok(()), now);
            }
        }
        if let Phase::Closing(code, reason) = &self.phase {
            transport.close(*code, reason);
            self.phase = Phase::Closed;
        }
    }

    /// What happened next.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if let Event::Object(object) = &event {
            self.undelivered -= object.payload.len();
        }
        Some(event)
    }

    // Requests.

    fn watch(&mut self, name: &str) {
        let at = self.tracks.len();
        if at >= self.options.limits.tracks {
            return;
        }
        let track: Arc<str> = name.into();
        let full = FullTrackName::new(self.options.namespace.clone(), name.to_owned());
        let Ok(full) = full else {
            return self.refused(track, RequestCode::Internal, "the name is too long");
        };
        let joins = self.options.join == Join::NewestGroup || self.is_catalog(name);
        let fills = joins && self.session.supports(Feature::Fill);
        let subscription = match self.subscribe(&full, fills) {
            Ok(request) => request,
            Err(error) => return self.refused(track, RequestCode::Internal, &error.to_string()),
        };
        self.asks.insert(subscription, Ask { track: at, is_fetch: false });
        self.tracks.push(Track {
            name: track,
            subscription,
            accepted: false,
            fetch: None,
            filling: fills,
            rejoin: Rejoin::Possible,
            redirects: 0,
            sequence: Sequence::new(joins),
            streams_seen: 0,
            streams_open: 0,
            done: None,
            over: false,
        });
        if joins && !fills {
            self.join(at);
        }
    }

    fn subscribe(&mut self, full: &FullTrackName, fills: bool) -> Result<RequestId, CommandError> {
        // Without a filter a relay may begin with the newest group.
        let filter = Some(Filter::LargestObject);
        // One group back from the next one is the current one.
        let past = Some(Filter::Relative { groups_back: 1 });
        let fill = fills.then(|| Box::new(Fill { filter: past, ..Fill::default() }));
        self.session.subscribe(full, Params { filter, fill, ..Params::default() })
    }

    /// Goes where a refused subscription is sent: the whole viewer to another relay, or one track to another name here.
    /// False when it will not, because that is too often, or another track at another place, which would need another token.
    fn follow(&mut self, at: usize, redirect: &Redirect) -> bool {
        let Some(track) = self.tracks.get_mut(at) else { return false };
        let namespace = &self.options.namespace;
        let same = redirect.track.as_ref().is_none_or(|to| {
            to.namespace() == namespace && to.name()[..] == *track.name.as_bytes()
        });
        if same && !redirect.uri.is_empty() {
            if !std::mem::replace(&mut self.told_to_go, true) {
                self.events.push_back(Event::Redirected { uri: redirect.uri.clone() });
            }
            return true;
        }
        let Some(to) = redirect.track.as_ref().filter(|_| !same && redirect.uri.is_empty()) else {
            return false;
        };
        if track.redirects >= self.options.limits.redirects {
            return false;
        }
        track.redirects += 1;
        let joins = track.sequence.is_joining();
        let fetch = track.fetch.take();
        if let Some(fetch) = fetch {
            self.session.cancel(fetch);
            self.asks.remove(&fetch);
        }
        let fills = joins && self.session.supports(Feature::Fill);
        let Ok(subscription) = self.subscribe(to, fills) else { return false };
        self.asks.insert(subscription, Ask { track: at, is_fetch: false });
        if let Some(track) = self.tracks.get_mut(at) {
            track.subscription = subscription;
            track.filling = fills;
            track.rejoin = Rejoin::Possible;
            track.sequence = Sequence::new(joins);
        }
        if joins && !fills {
            self.join(at);
        }
        true
    }

    /// Asks for the newest group up to where the subscription starts.
    fn join(&mut self, at: usize) {
        let Some(track) = self.tracks.get_mut(at) else { return };
        let subscription = track.subscription;
        let target = FetchTarget::RelativeJoining { subscription, groups_back: 0 };
        if let Ok(request) = self.session.fetch(&target, Params::default()) {
            track.fetch = Some(request);
            self.asks.insert(request, Ask { track: at, is_fetch: true });
        } else {
            self.join_failed(at);
        }
    }

    fn join_failed(&mut self, at: usize) {
        let Some(track) = self.tracks.get_mut(at) else { return };
        if let Some(request) = track.fetch.take() {
            self.session.cancel(request);
            self.asks.remove(&request);
        }
        track.filling = false;
        if track.sequence.join_failed() {
            self.events.push_back(Event::Skipped { track: track.name.clone(), groups: 1 });
        }
    }

    fn refused(&mut self, track: Arc<str>, code: RequestCode, reason: &str) {
        self.events.push_back(Event::Refused { track, code, reason: reason.to_owned() });
    }

    fn is_catalog(&self, name: &str) -> bool {
        self.options.selection == Selection::Catalog && name == CATALOG_TRACK
    }

    // What the session tells.

    /// Settles everything after input.
    fn after(&mut self, result: Result<(), SessionError>, now: Instant) {
        while let Some(heard) = self.session.poll_event() {
            self.hear(heard, now);
        }
        self.release(now);
        if let Err(error) = result {
            return self.fail(&error);
        }
        let sequences: usize = self.tracks.iter().map(|track| track.sequence.held()).sum();
        if sequences + self.incomplete + self.undelivered > self.options.limits.held_bytes {
            return self.end(SessionCode::Internal.wire(), "more media than the viewer holds");
        }
        self.look_for_end();
    }

    fn hear(&mut self, heard: Heard, now: Instant) {
        match heard {
            Heard::Setup { .. } => self.events.push_back(Event::Ready),
            Heard::GoAway { uri, timeout_ms, .. } if !self.told_to_go => {
                self.told_to_go = true;
                // Zero says nothing (draft 18 section 10.4).
                let timeout = timeout_ms.filter(|ms| *ms > 0).map(Duration::from_millis);
                self.events.push_back(Event::GoAway { uri, timeout });
            }
            Heard::SubscribeOk { request, .. } => self.on_accepted(request),
            Heard::RequestError { request, error, .. } => self.on_refused(request, &error),
            Heard::PublishDone { request, code, streams, .. } => {
                if let Some(track) = self.asked(request) {
                    track.done.get_or_insert(Done { code, streams, since: now });
                }
            }
            Heard::SubgroupOpened { stream, request, header } => {
                self.on_stream(stream, request, Some(header.group));
            }
            Heard::FetchOpened { stream, request } => {
                self.on_stream(stream, request, None);
            }
            Heard::ObjectStarted { stream, object } if object.status == Status::Normal => {
                if let Some(reading) = self.readings.get_mut(&stream) {
                    reading.location.object = object.object;
                    reading.properties = object.properties;
                    if object.payload_len == 0 {
                        self.complete(stream);
                    }
                }
            }
            Heard::FetchObjectStarted { stream, object } => {
                if let Some(reading) = self.readings.get_mut(&stream) {
                    reading.location = object.location;
                    reading.properties = object.properties;
                    if object.payload_len == 0 {
                        self.complete(stream);
                    }
                }
            }
            Heard::Payload { stream, data, last } => {
                if let Some(reading) = self.readings.get_mut(&stream) {
                    if reading.wanted {
                        reading.length += data.len();
                        self.incomplete += data.len();
                        reading.chunks.push(data);
                    }
                    if last {
                        self.complete(stream);
                    }
                }
            }
            Heard::DataEnded { stream } => self.on_stream_over(stream, false),
            Heard::DataReset { stream, .. } => self.on_stream_over(stream, true),
            Heard::Subscribe { request, .. }
            | Heard::Fetch { request, .. }
            | Heard::TrackStatus { request, .. }
            | Heard::PublishNamespace { request, .. }
            | Heard::SubscribeNamespace { request, .. }
            | Heard::SubscribeTracks { request, .. }
            | Heard::Publish { request, .. }
            | Heard::Update { update: request, .. } => {
                let error = RequestError::new(RequestCode::NotSupported, "a viewer only watches");
                // An error means that the peer ended the request in the same moment.
                let _ = self.session.reject(request, &error);
            }
            _ => {}
        }
    }

    fn asked(&mut self, request: RequestId) -> Option<&mut Track> {
        let ask = self.asks.get(&request)?;
        self.tracks.get_mut(ask.track)
    }

    fn on_accepted(&mut self, request: RequestId) {
        let Some(&Ask { track: at, .. }) = self.asks.get(&request) else { return };
        let Some(track) = self.tracks.get_mut(at) else { return };
        track.accepted = true;
        if track.rejoin == Rejoin::OnceAccepted {
            track.rejoin = Rejoin::Tried;
            self.join(at);
        }
    }

    fn on_refused(&mut self, request: RequestId, error: &RequestError) {
        let Some(ask) = self.asks.remove(&request) else { return };
        if let Some(redirect) = error.redirect.as_deref().filter(|_| !ask.is_fetch)
            && self.follow(ask.track, redirect)
        {
            return;
        }
        let Some(track) = self.tracks.get_mut(ask.track) else { return };
        if !ask.is_fetch {
            track.over = true;
            let name = track.name.clone();
            if let Some(fetch) = track.fetch.take() {
                self.session.cancel(fetch);
                self.asks.remove(&fetch);
            }
            return self.refused(name, error.code, &error.reason);
        }
        track.fetch = None;
        // Each request may have a stream of its own, so a FETCH can arrive before its SUBSCRIBE.
        let early = error.code == RequestCode::InvalidJoiningRequest;
        match (early && track.rejoin == Rejoin::Possible, track.accepted) {
            (true, true) => {
                track.rejoin = Rejoin::Tried;
                self.join(ask.track);
            }
            (true, false) => track.rejoin = Rejoin::OnceAccepted,
            (false, _) => self.join_failed(ask.track),
        }
    }

    /// A stream of a live group, or without one a fetch or fill stream.
    fn on_stream(&mut self, stream: StreamId, request: RequestId, group: Option<u64>) {
        let Some(&Ask { track: at, is_fetch: of_fetch }) = self.asks.get(&request) else { return };
        let Some(track) = self.tracks.get_mut(at) else { return };
        if !of_fetch {
            // Fills count among the streams of a subscription.
            track.streams_seen += 1;
        }
        let wanted = match group {
            None => of_fetch || track.filling,
            Some(group) => {
                track.streams_open += 1;
                track.sequence.open(group, stream.0)
            }
        };
        let is_fetch = group.is_none();
        let location = Location::new(group.unwrap_or_default(), 0);
        let reading = Reading {
            track: at,
            is_fetch,
            wanted,
            location,
            properties: Bytes::new(),
            chunks: Vec::new(),
            length: 0,
        };
        self.readings.insert(stream, reading);
    }

    fn complete(&mut self, stream: StreamId) {
        let Some(reading) = self.readings.get_mut(&stream) else { return };
        self.incomplete -= std::mem::take(&mut reading.length);
        let chunks = std::mem::take(&mut reading.chunks);
        let Some(track) = self.tracks.get_mut(reading.track) else { return };
        if !reading.wanted {
            return;
        }
        let whole = Whole {
            location: reading.location,
            properties: std::mem::take(&mut reading.properties),
            payload: join_chunks(chunks),
        };
        if reading.is_fetch {
            track.sequence.push_fetched(whole);
        } else {
            track.sequence.push(whole);
        }
    }

    fn on_stream_over(&mut self, stream: StreamId, reset: bool) {
        let Some(reading) = self.readings.remove(&stream) else { return };
        self.incomplete -= reading.length;
        let Some(track) = self.tracks.get_mut(reading.track) else { return };
        if !reading.is_fetch {
            track.streams_open -= 1;
            if reading.wanted {
                track.sequence.close(reading.location.group, reset);
            }
        } else if !reading.wanted {
            // A fill that was given up, or another than the one asked for.
        } else if reset {
            self.join_failed(reading.track);
        } else if std::mem::take(&mut track.filling) {
            track.sequence.join_done();
        } else if let Some(fetch) = track.fetch.take() {
            track.sequence.join_done();
            self.asks.remove(&fetch);
        }
    }

    // What goes out.

    fn release(&mut self, now: Instant) {
        self.arrivals.forget(self.options.limits.stall_patience, now);
        let mut at = 0;
        // A catalog may add tracks while this runs.
        while at < self.tracks.len() && self.phase == Phase::Running {
            self.release_track(at, now);
            at += 1;
        }
    }

    fn release_track(&mut self, at: usize, now: Instant) {
        while let Some(track) = self.tracks.get_mut(at) {
            if let Some(done) = track.done
                && track.streams_open == 0
                && (done.streams.is_none_or(|streams| track.streams_seen >= streams)
                    || now >= done.since + self.options.limits.stall_patience)
            {
                track.sequence.end();
            }
            let released = track.sequence.release(now, &self.options.limits, &self.arrivals);
            let Some(released) = released else { break };
            let name = track.name.clone();
            match released {
                Released::Object(whole) if self.is_catalog(&name) => {
                    self.on_catalog(&whole.payload);
                }
                Released::Object(Whole { location, properties, payload }) => {
                    self.undelivered += payload.len();
                    let Location { group, object } = location;
                    let object = Object { track: name, group, object, payload, properties };
                    self.events.push_back(Event::Object(object));
                }
                // A catalog says everything anew.
                Released::Skipped(_) if self.is_catalog(&name) => {}
                Released::Skipped(groups) => {
                    self.events.push_back(Event::Skipped { track: name, groups });
                }
                Released::JoinAbandoned => self.join_failed(at),
            }
            if self.phase != Phase::Running {
                return;
            }
        }
        let Some(track) = self.tracks.get_mut(at).filter(|track| !track.over) else { return };
        if let Some(done) = track.done
            && track.sequence.is_ending()
            && (track.sequence.is_drained() || (track.fetch.is_none() && !track.filling))
        {
            track.over = true;
            let (track, code) = (track.name.clone(), done.code);
            self.events.push_back(Event::TrackEnded { track, code });
        }
    }

    fn on_catalog(&mut self, json: &[u8]) {
        let catalog = match Catalog::parse(json) {
            Ok(catalog) => catalog,
            Err(error) => {
                return self.end(SessionCode::ProtocolViolation.wire(), &error.to_string());
            }
        };
        if self.catalog.as_ref() == Some(&catalog) {
            return;
        }
        for track in &catalog.tracks {
            let watched = self.tracks.iter().any(|known| *known.name == *track.name && !known.over);
            if track.kind != Kind::Unknown && !watched && catalog.live {
                self.watch(&track.name);
            }
        }
        self.catalog = Some(catalog.clone());
        self.events.push_back(Event::Catalog(catalog));
    }

    fn look_for_end(&mut self) {
        if self.phase == Phase::Running && self.tracks.iter().all(|track| track.over) {
            self.end(SessionCode::NoError.wire(), "every track has ended");
        }
    }

    fn fail(&mut self, error: &SessionError) {
        self.end(error.code.wire(), &error.reason);
    }

    fn end(&mut self, code: u32, reason: &str) {
        if self.phase == Phase::Running {
            self.phase = Phase::Closing(code, reason.to_owned());
            self.events.push_back(Event::Ended { code, reason: reason.to_owned() });
        }
    }
}

fn join_chunks(mut chunks: Vec<Bytes>) -> Bytes {
    if chunks.len() <= 1 {
        return chunks.pop().unwrap_or_default();
    }
    let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    for chunk in chunks {
        whole.extend_from_slice(&chunk);
    }
    whole.freeze()
}

impl Peer for Viewer {
    fn handle_stream(&mut self, stream: StreamId, dir: Dir, data: Bytes, fin: bool, now: Instant) {
        Self::handle_stream(self, stream, dir, data, fin, now);
    }

    fn handle_reset(&mut self, stream: StreamId, code: u32, now: Instant) {
        Self::handle_reset(self, stream, code, now);
    }

    fn handle_stop(&mut self, stream: StreamId, code: u32, now: Instant) {
        Self::handle_stop(self, stream, code, now);
    }

    fn handle_writable(&mut self, stream: StreamId) {
        Self::handle_writable(self, stream);
    }

    fn handle_streams_available(&mut self, dir: Dir) {
        Self::handle_streams_available(self, dir);
    }

    fn handle_closed(&mut self, code: u32, reason: &str) {
        Self::handle_closed(self, code, reason);
    }
}
