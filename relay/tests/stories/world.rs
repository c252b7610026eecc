//! The world of a story: one relay, any number of connections, and virtual time. Bytes travel when
//! `settle` is called; nothing else happens by itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Buf as _, Bytes};
use ed25519_dalek::{Signer as _, SigningKey};
use weir_moqt::{
    Event as Heard, Feature, FetchTarget, Fill, Filter, Limits as MoqtLimits, Location, Output,
    Params, RequestId, Role, SetupOptions, Token,
};
use weir_relay::{
    Carrier, DatagramError, Dir, Draft, Event, FullTrackName, KeySet, Limits, Namespace, ObjectIn,
    Relay, Secret, SessionId, SessionParams, StreamId, TrackId, TrackOptions, Transport,
    UpstreamParams, WriteError,
};

pub(crate) const WALL: u64 = 1_800_000_000;

/// What the relay did to a stream, on its way to the client.
enum Sent {
    Bytes { stream: StreamId, data: Bytes, fin: bool },
    Datagram(Bytes),
    Reset { stream: StreamId, code: u32 },
    Stop { stream: StreamId, code: u32 },
}

/// One connection as the relay sees it.
pub(crate) struct Wire {
    sent: VecDeque<Sent>,
    /// Bytes of media the relay may still write; control is not counted.
    pub(crate) credit: usize,
    /// Bytes of control it may still write.
    pub(crate) control_credit: usize,
    /// Uni streams the relay may still open for media.
    pub(crate) streams: usize,
    blocked: BTreeSet<StreamId>,
    next_stream: [u64; 2],
    pub(crate) priorities: BTreeMap<StreamId, i32>,
    pub(crate) resets: Vec<(StreamId, u32)>,
    /// Media streams that were finished.
    pub(crate) finished: Vec<StreamId>,
    /// Datagrams the connection still takes.
    pub(crate) datagrams: usize,
    pub(crate) closed: Option<(u32, String)>,
    pub(crate) written: usize,
}

impl Wire {
    fn is_control(&self, stream: StreamId) -> bool {
        self.priorities.get(&stream).is_none_or(|priority| *priority == i32::MAX)
    }
}

impl Transport for Wire {
    fn open(&mut self, dir: Dir) -> Option<StreamId> {
        if dir == Dir::Uni {
            self.streams = self.streams.checked_sub(1)?;
        }
        let next = &mut self.next_stream[usize::from(dir == Dir::Uni)];
        *next += 4;
        Some(StreamId(*next - 4))
    }

    fn write(&mut self, stream: StreamId, chunks: &mut [Bytes]) -> Result<usize, WriteError> {
        let mut taken = 0;
        let control = self.is_control(stream);
        let room = if control { self.control_credit } else { self.credit };
        for chunk in chunks {
            let part = chunk.len().min(room - taken);
            if part > 0 {
                let data = chunk.slice(..part);
                self.sent.push_back(Sent::Bytes { stream, data, fin: false });
            }
            chunk.advance(part);
            taken += part;
            if !chunk.is_empty() {
                self.blocked.insert(stream);
                break;
            }
        }
        if control {
            self.control_credit -= taken;
        } else {
            self.credit -= taken;
        }
        self.written += taken;
        if taken == 0 && self.blocked.contains(&stream) {
            Err(WriteError::Blocked)
        } else {
            Ok(taken)
        }
    }

    fn finish(&mut self, stream: StreamId) {
        if !self.is_control(stream) {
            self.finished.push(stream);
        }
        self.sent.push_back(Sent::Bytes { stream, data: Bytes::new(), fin: true });
    }

    fn reset(&mut self, stream: StreamId, code: u32) {
        self.blocked.remove(&stream);
        self.resets.push((stream, code));
        self.sent.push_back(Sent::Reset { stream, code });
    }

    fn stop(&mut self, stream: StreamId, code: u32) {
        self.sent.push_back(Sent::Stop { stream, code });
    }

    fn set_priority(&mut self, stream: StreamId, priority: i32) {
        self.priorities.insert(stream, priority);
    }

    fn send_datagram(&mut self, datagram: Bytes) -> Result<(), DatagramError> {
        self.datagrams = self.datagrams.checked_sub(1).ok_or(DatagramError::Blocked)?;
        self.sent.push_back(Sent::Datagram(datagram));
        Ok(())
    }

    fn close(&mut self, code: u32, reason: &str) {
        self.closed = Some((code, reason.to_owned()));
    }
}

/// An object as a client got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) request: RequestId,
    pub(crate) location: Location,
    pub(crate) payload: Vec<u8>,
}

/// One client.
pub(crate) struct Peer {
    pub(crate) id: SessionId,
    pub(crate) moqt: weir_moqt::Session,
    pub(crate) wire: Wire,
    next_stream: [u64; 2],
    /// All events, in order.
    pub(crate) heard: Vec<Heard>,
    /// Whole objects, in order of completion.
    pub(crate) got: Vec<Got>,
    reading: BTreeMap<StreamId, (RequestId, u64, Location, Vec<u8>)>,
    pub(crate) ended: Vec<u64>,
    pub(crate) failure: Option<String>,
}

pub(crate) struct World {
    pub(crate) relay: Relay,
    pub(crate) peers: Vec<Peer>,
    pub(crate) events: Vec<Event>,
    pub(crate) now: Instant,
    pub(crate) wall: Duration,
}

pub(crate) fn ns(fields: &[&str]) -> Namespace {
    Namespace::new(fields).unwrap()
}

pub(crate) fn broadcast() -> Namespace {
    ns(&["stream", "org_a", "lv_1"])
}

pub(crate) fn track(name: &str) -> FullTrackName {
    FullTrackName::new(broadcast(), name.to_owned()).unwrap()
}

fn signer() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub(crate) fn keys() -> KeySet {
    let mut keys = KeySet::new();
    keys.insert_ed25519("sgk_1", signer().verifying_key().as_bytes(), "org_a");
    keys
}

/// A playback token of `sub` that ends `ttl` seconds after the story begins.
pub(crate) fn token(sub: &str, ttl: i64) -> String {
    token_with(sub, ttl, &format!("j-{sub}"), None, 0)
}

pub(crate) fn token_with(sub: &str, ttl: i64, jti: &str, vid: Option<&str>, ver: u64) -> String {
    let exp = WALL.saturating_add_signed(ttl);
    let iat = exp - 3600.min(ttl.unsigned_abs().max(60));
    let vid = vid.map(|vid| format!(r#","vid":"{vid}""#)).unwrap_or_default();
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","typ":"JWT","kid":"sgk_1"}"#);
    let claims = URL_SAFE_NO_PAD.encode(format!(
        r#"{{"sub":"{sub}","aud":"playback","iat":{iat},"exp":{exp},"jti":"{jti}","ver":{ver}{vid}}}"#
    ));
    let signature = signer().sign(format!("{header}.{claims}").as_bytes()).to_bytes();
    format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(signature))
}

pub(crate) fn payload(group: u64, object: u64) -> Vec<u8> {
    (0..100).map(|i| (group * 31 + object * 7 + i) as u8).collect()
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default(), 0)
    }

    pub(crate) fn with(limits: Limits, shard: u16) -> Self {
        let mut relay = Relay::new(limits, shard);
        #[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
        let now = Instant::now();
        relay.set_keys(keys(), now);
        let wall = Duration::from_secs(WALL);
        Self { relay, peers: Vec::new(), events: Vec::new(), now, wall }
    }

    /// A live broadcast with one track.
    pub(crate) fn broadcasting() -> (Self, TrackId) {
        let mut world = Self::new();
        assert!(world.relay.publish(&broadcast()));
        let id = world.open("video");
        (world, id)
    }

    pub(crate) fn open(&mut self, name: &str) -> TrackId {
        self.relay.open_track(track(name), TrackOptions::default(), self.now).unwrap()
    }

    pub(crate) fn object(&self, group: u64, object: u64) -> ObjectIn {
        ObjectIn {
            group,
            subgroup: 0,
            object,
            priority: 2,
            properties: Bytes::new(),
            payload: payload(group, object).into(),
            end_of_group: false,
            arrived: self.now,
            forwarding: weir_relay::Forwarding::default(),
        }
    }

    pub(crate) fn write(&mut self, id: TrackId, group: u64, object: u64) {
        let object = self.object(group, object);
        self.relay.write_object(id, object).unwrap();
        self.settle();
    }

    /// A WebTransport client on this path; its SETUP is done.
    pub(crate) fn dial(&mut self, draft: Draft, path: &str) -> usize {
        self.dial_with(draft, Some(path), SetupOptions::default())
    }

    pub(crate) fn viewer(&mut self, draft: Draft) -> usize {
        self.dial(draft, &format!("/playback/lv_1?tok={}", token("lv_1", 3600)))
    }

    pub(crate) fn dial_with(
        &mut self,
        draft: Draft,
        path: Option<&str>,
        options: SetupOptions,
    ) -> usize {
        let transport = if path.is_some() { Carrier::WebTransport } else { Carrier::Quic };
        let params = SessionParams {
            draft,
            transport,
            path_and_query: path.map(str::to_owned),
            peer: "192.0.2.1:4433".parse().unwrap(),
        };
        let id = self.relay.open_session(params, self.now).unwrap();
        let moqt =
            weir_moqt::Session::new(draft, Role::Client, transport, MoqtLimits::default(), options);
        self.meet(id, moqt, [1, 3], [0, 2])
    }

    /// A relay above, which the relay dialled; its SETUP is done.
    pub(crate) fn dial_above(&mut self, draft: Draft) -> usize {
        self.dial_above_at(draft, "192.0.2.2:4433")
    }

    pub(crate) fn dial_above_at(&mut self, draft: Draft, authority: &str) -> usize {
        let params = UpstreamParams {
            draft,
            path: Secret::new("/mesh?nk=nk_live_hush&id=edge-1"),
            authority: authority.to_owned(),
        };
        let id = self.relay.open_upstream(params, self.now).unwrap();
        let (limits, options) = (MoqtLimits::default(), SetupOptions::default());
        let moqt = weir_moqt::Session::new(draft, Role::Server, Carrier::Quic, limits, options);
        self.meet(id, moqt, [0, 2], [1, 3])
    }

    /// A peer with its own stream ids and those of the relay.
    fn meet(
        &mut self,
        id: SessionId,
        moqt: weir_moqt::Session,
        relays: [u64; 2],
        own: [u64; 2],
    ) -> usize {
        let wire = Wire {
            sent: VecDeque::new(),
            credit: usize::MAX / 2,
            control_credit: usize::MAX / 2,
            streams: 1000,
            blocked: BTreeSet::new(),
            next_stream: relays,
            priorities: BTreeMap::new(),
            resets: Vec::new(),
            finished: Vec::new(),
            datagrams: usize::MAX,
            closed: None,
            written: 0,
        };
        self.peers.push(Peer {
            id,
            moqt,
            wire,
            next_stream: own,
            heard: Vec::new(),
            got: Vec::new(),
            reading: BTreeMap::new(),
            ended: Vec::new(),
            failure: None,
        });
        self.settle();
        self.peers.len() - 1
    }

    pub(crate) fn peer(&mut self, at: usize) -> &mut Peer {
        &mut self.peers[at]
    }

    /// From the next object on.
    pub(crate) fn subscribe(&mut self, at: usize, name: &str) -> RequestId {
        let params = Params { filter: Some(Filter::LargestObject), ..Params::default() };
        self.subscribe_with(at, name, params)
    }

    pub(crate) fn subscribe_with(&mut self, at: usize, name: &str, params: Params) -> RequestId {
        let request = self.peers[at].moqt.subscribe(&track(name), params).unwrap();
        self.settle();
        request
    }

    /// The player's way in: SUBSCRIBE from the largest object, and a joining FETCH or a fill for the rest.
    /// Returns the requests whose objects are the live ones and those of the past.
    pub(crate) fn join(&mut self, at: usize, name: &str) -> (RequestId, RequestId) {
        let filter = Some(Filter::LargestObject);
        if self.peers[at].moqt.supports(Feature::Fill) {
            let filter_of_fill = Some(Filter::Relative { groups_back: 1 });
            let fill = Some(Box::new(Fill { filter: filter_of_fill, ..Fill::default() }));
            let params = Params { filter, fill, ..Params::default() };
            let subscription = self.subscribe_with(at, name, params);
            return (subscription, subscription);
        }
        let params = Params { filter, ..Params::default() };
        let subscription = self.peers[at].moqt.subscribe(&track(name), params).unwrap();
        let target = FetchTarget::RelativeJoining { subscription, groups_back: 0 };
        let fetch = self.peers[at].moqt.fetch(&target, Params::default()).unwrap();
        self.settle();
        (subscription, fetch)
    }

    pub(crate) fn with_token(token: &str) -> Params {
        let value = Bytes::copy_from_slice(token.as_bytes());
        Params { tokens: vec![Token { kind: 0, value }], ..Params::default() }
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now += by;
        self.wall += by;
        while self.relay.poll_timeout().is_some_and(|at| at <= self.now) {
            self.relay.handle_timeout(self.now, self.wall);
        }
        self.settle();
    }

    /// Gives a peer's connection room for `bytes` more of media.
    pub(crate) fn grant(&mut self, at: usize, bytes: usize) {
        self.peers[at].wire.credit += bytes;
        let id = self.peers[at].id;
        for stream in std::mem::take(&mut self.peers[at].wire.blocked) {
            self.relay.handle_writable(id, stream);
        }
        self.settle();
    }

    /// Lets everything that can travel travel.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = false;
            for at in 0..self.peers.len() {
                moved |= self.carry_up(at);
            }
            while let Some(id) = self.relay.poll_dirty() {
                moved = true;
                if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) {
                    self.relay.drive(id, &mut peer.wire, self.now);
                }
            }
            for peer in &mut self.peers {
                moved |= peer.carry_down();
            }
            while let Some(event) = self.relay.poll_event() {
                moved = true;
                self.events.push(event);
            }
            if !moved {
                return;
            }
        }
        panic!("the story does not come to rest");
    }

    fn carry_up(&mut self, at: usize) -> bool {
        let mut moved = false;
        let Self { peers, relay, now, wall, .. } = self;
        let peer = &mut peers[at];
        while let Some(output) = peer.moqt.poll_output() {
            moved = true;
            match output {
                Output::Open { key, dir } => {
                    let next = &mut peer.next_stream[usize::from(dir == Dir::Uni)];
                    *next += 4;
                    peer.moqt.stream_opened(key, StreamId(*next - 4)).unwrap();
                }
                Output::Write { stream, data, fin } => {
                    let dir = if stream.0 & 2 == 0 { Dir::Bi } else { Dir::Uni };
                    relay.handle_stream(peer.id, stream, dir, data, fin, *now, *wall);
                }
                Output::Reset { stream, code } => relay.handle_reset(peer.id, stream, code, *now),
                Output::Stop { stream, code } => relay.handle_stop(peer.id, stream, code, *now),
            }
        }
        moved
    }

    /// A publisher's own data stream, straight to the relay.
    pub(crate) fn send_raw(&mut self, at: usize, stream: StreamId, data: Bytes, fin: bool) {
        let id = self.peers[at].id;
        self.relay.handle_stream(id, stream, Dir::Uni, data, fin, self.now, self.wall);
        self.settle();
    }

    pub(crate) fn new_uni(&mut self, at: usize) -> StreamId {
        let next = &mut self.peers[at].next_stream[1];
        *next += 4;
        StreamId(*next - 4)
    }
}

impl Peer {
    fn carry_down(&mut self) -> bool {
        let mut moved = false;
        // Not all that a session tells its owner follows from bytes.
        while let Some(event) = self.moqt.poll_event() {
            self.hear(event);
        }
        while let Some(sent) = self.wire.sent.pop_front() {
            moved = true;
            let outcome = match sent {
                Sent::Bytes { stream, data, fin } => {
                    let dir = if stream.0 & 2 == 0 { Dir::Bi } else { Dir::Uni };
                    self.moqt.handle_stream(stream, dir, data, fin)
                }
                Sent::Datagram(data) => self.moqt.handle_datagram(data),
                Sent::Reset { stream, code } => self.moqt.handle_reset(stream, u64::from(code)),
                Sent::Stop { stream, code } => self.moqt.handle_stop(stream, u64::from(code)),
            };
            if let Err(error) = outcome {
                self.failure.get_or_insert(error.to_string());
            }
            while let Some(event) = self.moqt.poll_event() {
                self.hear(event);
            }
        }
        moved
    }

    fn hear(&mut self, event: Heard) {
        match &event {
            Heard::SubgroupOpened { stream, request, header } => {
                let location = Location::new(header.group, 0);
                self.reading.insert(*stream, (*request, 0, location, Vec::new()));
            }
            Heard::FetchOpened { stream, request } => {
                self.reading.insert(*stream, (*request, 0, Location::default(), Vec::new()));
            }
            Heard::ObjectStarted { stream, object } => {
                self.start(*stream, None, object.object, object.payload_len);
            }
            Heard::FetchObjectStarted { stream, object } => {
                let at = object.location;
                self.start(*stream, Some(at.group), at.object, object.payload_len);
            }
            Heard::Payload { stream, data, last } => {
                let reading = self.reading.get_mut(stream).unwrap();
                reading.3.extend_from_slice(data);
                if *last {
                    self.complete(*stream);
                }
            }
            Heard::DataEnded { stream } => {
                if let Some(reading) = self.reading.remove(stream) {
                    self.ended.push(reading.2.group);
                }
            }
            _ => {}
        }
        self.heard.push(event);
    }

    fn start(&mut self, stream: StreamId, group: Option<u64>, object: u64, length: u64) {
        let reading = self.reading.get_mut(&stream).unwrap();
        reading.2 = Location::new(group.unwrap_or(reading.2.group), object);
        reading.3.clear();
        if length == 0 {
            self.complete(stream);
        }
    }

    fn complete(&mut self, stream: StreamId) {
        let reading = self.reading.get_mut(&stream).unwrap();
        let payload = std::mem::take(&mut reading.3);
        self.got.push(Got { request: reading.0, location: reading.2, payload });
    }

    /// Locations got for a request, in order of arrival.
    pub(crate) fn locations(&self, request: RequestId) -> Vec<(u64, u64)> {
        self.got
            .iter()
            .filter(|got| got.request == request)
            .map(|got| (got.location.group, got.location.object))
            .collect()
    }

    /// Asserts that every payload is what the publisher made.
    pub(crate) fn assert_unaltered(&self) {
        for got in &self.got {
            assert_eq!(got.payload, payload(got.location.group, got.location.object));
        }
        assert_eq!(self.failure, None);
    }

    pub(crate) fn was_refused(&self, request: RequestId) -> Option<String> {
        self.heard.iter().find_map(|event| match event {
            Heard::RequestError { request: refused, error, .. } if *refused == request => {
                Some(format!("{:?}: {}", error.code, error.reason))
            }
            _ => None,
        })
    }

    pub(crate) fn was_accepted(&self, request: RequestId) -> bool {
        self.heard.iter().any(|event| match event {
            Heard::SubscribeOk { request: accepted, .. }
            | Heard::FetchOk { request: accepted, .. }
            | Heard::RequestOk { request: accepted, .. } => *accepted == request,
            _ => false,
        })
    }

    pub(crate) fn close_reason(&self) -> &str {
        self.wire.closed.as_ref().map_or("", |(_, reason)| reason)
    }
}
