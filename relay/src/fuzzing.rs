//! Entry points for fuzzers and their corpus replay: plain functions that must neither panic, nor
//! loop, nor grow without bound, whatever the bytes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use weir_moqt::data::{ObjectHeader, SubgroupEncoder, SubgroupHeader};
use weir_moqt::{
    Feature, FetchTarget, Fill, Filter, Location, Output, Params, RangeFilter, RangeSubject,
    RequestId, Role, SetupOptions, ValueRange,
};

use crate::auth::{Algorithm, DecodingKey, KeySet, Trust, VerifyingKey, verify};
use crate::{
    Carrier, Dir, DoneCode, Draft, Event, Forwarding, FullTrackName, Limits, Namespace, ObjectIn,
    Relay, SessionId, SessionParams, StreamId, TrackId, TrackOptions, Transport, WriteError,
};

/// Reads `bytes` as a playback token under an Ed25519 and an HMAC key.
pub fn fuzz_token(bytes: &[u8]) {
    let mut keys = KeySet::new();
    keys.insert_ed25519("a", &[7; 32], "org");
    let (key, org) = (DecodingKey::from_secret(b"secret"), "org".to_owned());
    keys.insert("b", VerifyingKey { algorithm: Algorithm::HS256, key, org });
    let token = String::from_utf8_lossy(bytes);
    let wall = Duration::from_secs(1_800_000_001);
    // A token nobody signed must never open anything, except under the HMAC key a fuzzer could find
    // only by breaking HMAC.
    let _ = verify(&token, &keys, wall, crate::auth::LEEWAY_MAX);
}

/// Reads `bytes` as keys and revocations; what is read is written as it was understood.
pub fn fuzz_trust(bytes: &[u8]) {
    if let Ok(trust) = Trust::decode(bytes) {
        let again = trust.encode().map(|bytes| Trust::decode(&bytes));
        // Escapes may make the second text longer than the first, up to its bound.
        assert!(again.is_err() || again == Ok(Ok(trust)), "what was read can be written and read");
    }
}

/// Reads `bytes` as what a relay above says: the first byte chooses hop list, signed word, or the
/// word behind a good signature.
pub fn fuzz_beacon(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else { return };
    match which % 3 {
        0 => {
            if let Some(path) = crate::beacon::decode_path(rest) {
                let again = crate::beacon::decode_path(&crate::beacon::encode_path(&path));
                assert_eq!(again, Some(path), "what was read can be written and read");
            }
        }
        1 => {
            let _ = crate::beacon::Trust::open(&[7; 32], rest);
        }
        _ => {
            let _ = crate::beacon::Trust::decode(rest);
        }
    }
}

/// Reads `bytes` as the path and query of a session, with what may stand in them bounded.
pub fn fuzz_path(bytes: &[u8]) {
    use crate::path::Resource;
    let of = |secret: &crate::Secret| secret.len();
    let (name, secret) = match Resource::parse(&String::from_utf8_lossy(bytes)) {
        Resource::Playback { token, .. } | Resource::Other { token } => {
            (String::new(), token.as_ref().map_or(0, of))
        }
        Resource::Publish { input_id, key } => {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            assert!(input_id.bytes().all(is_plain), "an id is never a path: {input_id:?}");
            (input_id, of(&key))
        }
        Resource::Mesh { key, node } => (node, of(&key)),
    };
    assert!(name.len() <= 128 && secret <= crate::auth::TOKEN_BYTES_MAX + 1);
}

/// Runs `bytes` as operations on a relay with two sessions and a local track.
pub fn fuzz_relay(bytes: &[u8], start: Instant) {
    let Some(mut world) = World::new(start) else { return };
    let mut bytes = bytes;
    while bytes.len() >= 3 {
        let (op, a, b) = (bytes.get_u8(), bytes.get_u8(), bytes.get_u8());
        world.step(op, a, b, &mut bytes);
        world.settle();
        assert!(
            world.relay.metrics().cache_bytes <= CACHE_BYTES_MAX as u64,
            "the cache is bounded"
        );
    }
}

const CACHE_BYTES_MAX: usize = 4096;

struct World {
    relay: Relay,
    now: Instant,
    namespace: Namespace,
    name: FullTrackName,
    track: Option<TrackId>,
    peers: Vec<Peer>,
}

struct Peer {
    id: SessionId,
    moqt: weir_moqt::Session,
    pipe: Pipe,
    next: BTreeMap<bool, u64>,
    requests: Vec<RequestId>,
    /// Subscriptions accepted so far, from which aliases are made: odd ones.
    accepted: u64,
}

/// A transport with a little credit.
#[derive(Default)]
struct Pipe {
    credit: usize,
    opened: u64,
    down: Vec<(StreamId, Bytes, bool)>,
    blocked: Vec<StreamId>,
    closed: bool,
}

impl Transport for Pipe {
    fn open(&mut self, dir: Dir) -> Option<StreamId> {
        self.opened += 1;
        Some(StreamId(self.opened * 4 + if dir == Dir::Uni { 3 } else { 1 }))
    }

    fn write(&mut self, stream: StreamId, chunks: &mut [Bytes]) -> Result<usize, WriteError> {
        let mut taken = 0;
        for chunk in chunks {
            let part = chunk.len().min(self.credit);
            self.down.push((stream, chunk.split_to(part), false));
            self.credit -= part;
            taken += part;
        }
        if self.credit == 0 {
            self.blocked.push(stream);
        }
        if taken == 0 { Err(WriteError::Blocked) } else { Ok(taken) }
    }

    fn finish(&mut self, stream: StreamId) {
        self.down.push((stream, Bytes::new(), true));
    }

    fn reset(&mut self, _stream: StreamId, _code: u32) {}

    fn stop(&mut self, _stream: StreamId, _code: u32) {}

    fn set_priority(&mut self, _stream: StreamId, _priority: i32) {}

    fn close(&mut self, _code: u32, _reason: &str) {
        self.closed = true;
    }
}

impl World {
    fn new(now: Instant) -> Option<Self> {
        let limits = Limits {
            cache_track_bytes_max: CACHE_BYTES_MAX / 2,
            cache_shard_bytes_max: CACHE_BYTES_MAX,
            object_bytes_max: 512,
            tracks_max: 8,
            ..Limits::default()
        };
        let mut relay = Relay::new(limits, 0);
        let namespace = Namespace::new(["stream", "org", "lv"]).ok()?;
        let name = FullTrackName::new(namespace.clone(), "t").ok()?;
        let mut peers = Vec::new();
        for draft in [Draft::D18, Draft::D16, Draft::D22, Draft::D14] {
            let params = SessionParams {
                draft,
                transport: Carrier::WebTransport,
                path_and_query: Some("/publish/lv?sk=k".to_owned()),
                peer: ([192, 0, 2, 1], 1).into(),
            };
            let id = relay.open_session(params, now)?;
            // Both may use the namespace as its publisher: tokens are another target's affair.
            relay.publish_authorized(id, Ok(namespace.clone()), now, Duration::ZERO);
            let moqt = weir_moqt::Session::new(
                draft,
                Role::Client,
                Carrier::WebTransport,
                weir_moqt::Limits::default(),
                SetupOptions::default(),
            );
            let pipe = Pipe { credit: 1 << 16, ..Pipe::default() };
            let next = BTreeMap::new();
            peers.push(Peer { id, moqt, pipe, next, requests: Vec::new(), accepted: 0 });
        }
        let mut world = Self { relay, now, namespace, name, track: None, peers };
        world.settle();
        Some(world)
    }

    fn step(&mut self, op: u8, a: u8, b: u8, rest: &mut &[u8]) {
        let now = self.now;
        let slot = usize::from(b & 3);
        match op % 16 {
            0 => {
                let options = TrackOptions::default();
                self.track = self.relay.open_track(self.name.clone(), options, now);
            }
            1 | 2 => self.write(a, b),
            3 => {
                if let Some(track) = self.track {
                    self.relay.end_track(track, DoneCode::TrackEnded, now);
                }
            }
            4 => {
                self.relay.publish(&self.namespace);
            }
            5 => self.relay.unpublish(&self.namespace, now),
            6 => {
                self.relay.publish_remote(&self.namespace, u16::from(a));
            }
            7 => self.advance(a),
            8 if a >= 0xF0 => self.relay.set_load(u16::from(b) * 8),
            8 => {
                if let Some(track) = self.track {
                    self.relay.set_export(track, a & 1 == 0, now);
                }
            }
            9 => {
                self.relay.find_track(&self.name, now);
            }
            10 => self.credit(slot, a),
            11 if a >= 0xE0 => self.datagram(slot, rest),
            11 if a >= 0x80 => self.feed(slot, a, b, rest),
            11 => self.raw(slot, a, rest),
            _ => self.request(op % 16, slot, a),
        }
    }

    fn write(&mut self, a: u8, b: u8) {
        let Some(track) = self.track else { return };
        let object = ObjectIn {
            group: u64::from(a / 8),
            subgroup: u64::from(b % 5 == 4),
            object: u64::from(a % 8),
            priority: b,
            properties: Bytes::new(),
            payload: vec![b; usize::from(b) * 3].into(),
            end_of_group: b % 16 == 3,
            arrived: self.now,
            forwarding: match b % 7 {
                5 => Forwarding::Datagram,
                other => Forwarding::Subgroup { holds_end: other != 6 },
            },
        };
        let before = self.relay.cached(track).count();
        if self.relay.write_object(track, object).is_err() {
            assert_eq!(self.relay.cached(track).count(), before, "a refusal changes nothing");
        }
    }

    fn advance(&mut self, a: u8) {
        self.now += Duration::from_millis(u64::from(a) * 20);
        self.relay.handle_timeout(self.now, Duration::ZERO);
        assert!(self.relay.poll_timeout().is_none_or(|at| at > self.now), "no timer stays due");
    }

    fn credit(&mut self, slot: usize, a: u8) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        peer.pipe.credit = usize::from(a) * 16;
        for stream in std::mem::take(&mut peer.pipe.blocked) {
            self.relay.handle_writable(peer.id, stream);
        }
    }

    fn datagram(&mut self, slot: usize, rest: &mut &[u8]) {
        let Some(peer) = self.peers.get(slot) else { return };
        let data = rest.copy_to_bytes(rest.len().min(64));
        self.relay.handle_datagram(peer.id, data, self.now, Duration::ZERO);
    }

    /// A subgroup stream of the peer as a publisher that breaks rules would write it: objects begun
    /// and not ended, ids in any order, resets in the middle.
    fn feed(&mut self, slot: usize, a: u8, b: u8, rest: &mut &[u8]) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let draft = peer.moqt.draft();
        // The relay's subscriptions are accepted with their request id as alias.
        let header = SubgroupHeader {
            alias: u64::from(b >> 5),
            group: u64::from(a & 7),
            subgroup: u64::from(b & 3),
            priority: Some(b),
            properties: true,
            end_of_group: b & 4 != 0,
            first_object: b & 8 != 0,
        };
        let next = peer.next.entry(true).or_default();
        *next += 1;
        let stream = StreamId(*next * 4 + 2);
        let mut out = BytesMut::new();
        let Ok(mut encoder) = SubgroupEncoder::new(draft, &header, &mut out) else { return };
        for _ in 0..3 {
            let (Ok(id), Ok(length)) = (rest.try_get_u8(), rest.try_get_u8()) else { break };
            let payload_len = u64::from(length) * 2;
            let object = u64::from(id % 16);
            let header = ObjectHeader { object, payload_len, ..ObjectHeader::default() };
            if encoder.object(&header, &mut out).is_err() {
                break;
            }
            let come = if id & 16 == 0 { payload_len } else { payload_len / 2 };
            out.extend_from_slice(&vec![length; come as usize]);
            if come < payload_len {
                break;
            }
        }
        let (id, now) = (peer.id, self.now);
        let bytes = out.freeze();
        self.relay.handle_stream(id, stream, Dir::Uni, bytes, false, now, Duration::ZERO);
        if a & 8 != 0 {
            self.relay.handle_reset(id, stream, u32::from(b & 7), now);
        }
    }

    /// Raw bytes on a stream of the peer, or a reset or stop of it.
    fn raw(&mut self, slot: usize, a: u8, rest: &mut &[u8]) {
        let Some(peer) = self.peers.get(slot) else { return };
        let (id, stream) = (peer.id, StreamId(u64::from(a >> 2)));
        let dir = if stream.0 & 2 == 0 { Dir::Bi } else { Dir::Uni };
        let wall = Duration::ZERO;
        let length = rest.len().min(usize::from(a));
        let data = rest.copy_to_bytes(length);
        match a & 3 {
            0 => self.relay.handle_reset(id, stream, 0, self.now),
            1 => self.relay.handle_stop(id, stream, 0, self.now),
            fin => self.relay.handle_stream(id, stream, dir, data, fin == 3, self.now, wall),
        }
    }

    fn request(&mut self, op: u8, slot: usize, a: u8) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let at = Location::new(u64::from(a / 8), u64::from(a % 8));
        let filter = match a % 4 {
            0 => Filter::LargestObject,
            1 => Filter::NextGroupStart,
            2 => Filter::AbsoluteStart(at),
            _ => Filter::AbsoluteRange { start: at, end_group: at.group + 1 },
        };
        let fills = a & 0x40 != 0 && peer.moqt.supports(Feature::Fill);
        let past = Some(Filter::Relative { groups_back: u64::from(a / 8) });
        let fill = fills.then(|| Box::new(Fill { filter: past, ..Fill::default() }));
        let filters = a & 0x20 != 0 && peer.moqt.supports(Feature::RangeFilters);
        let subject = match a % 3 {
            0 => RangeSubject::Object,
            1 => RangeSubject::Subgroup,
            _ => RangeSubject::Priority,
        };
        let ranges = vec![ValueRange { start: at.object, end: Some(at.object + 2) }];
        let range = RangeFilter { subject, set: a % 2, property: None, ranges };
        let ranges: Vec<RangeFilter> = filters.then_some(range).into_iter().collect();
        let fetched = Params { ranges: ranges.clone(), ..Params::default() };
        let params = Params { filter: Some(filter), fill, ranges, ..Params::default() };
        let made = match op {
            12 => peer.moqt.subscribe(&self.name, params),
            13 => {
                let end = Location::whole_group(at.group + 2);
                let track = self.name.clone();
                let target = FetchTarget::Standalone { track, start: at, end };
                peer.moqt.fetch(&target, fetched)
            }
            14 if a & 1 == 0 => peer.moqt.publish_namespace(&self.namespace, Params::default()),
            14 if a & 6 == 0 => peer.moqt.subscribe_namespace(&self.namespace, Params::default()),
            14 if a & 6 == 4 => {
                let params = Params { forward: Some(a & 8 == 0), ..params };
                peer.moqt.subscribe_tracks(&self.namespace, params)
            }
            14 => peer.moqt.publish(&self.name, u64::from(a), Params::default(), &[]),
            _ => {
                let at = usize::from(a) % peer.requests.len().max(1);
                if at < peer.requests.len() {
                    let request = peer.requests.swap_remove(at);
                    peer.moqt.cancel(request);
                }
                return;
            }
        };
        peer.requests.extend(made);
    }

    /// Carries bytes both ways until nothing moves; bounded, because a loop would be a finding.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let mut moved = false;
            for peer in &mut self.peers {
                moved |= peer.carry_up(&mut self.relay, self.now);
            }
            while let Some(id) = self.relay.poll_dirty() {
                moved = true;
                if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == id) {
                    self.relay.drive(id, &mut peer.pipe, self.now);
                }
            }
            for peer in &mut self.peers {
                moved |= peer.carry_down();
            }
            while let Some(event) = self.relay.poll_event() {
                moved = true;
                match event {
                    Event::TrackWanted { track, .. } => {
                        let code = crate::RequestCode::DoesNotExist;
                        self.relay.refuse_track(&track, code, self.now);
                    }
                    Event::AddressClaimed { session } => {
                        self.relay.grant_address(session, self.now, Duration::ZERO);
                    }
                    _ => {}
                }
            }
            if !moved {
                return;
            }
        }
        assert!(self.peers.is_empty(), "the relay comes to rest");
    }
}

impl Peer {
    fn carry_up(&mut self, relay: &mut Relay, now: Instant) -> bool {
        let mut moved = false;
        while let Some(output) = self.moqt.poll_output() {
            moved = true;
            match output {
                Output::Open { key, dir } => {
                    let uni = dir == Dir::Uni;
                    let next = self.next.entry(uni).or_default();
                    *next += 1;
                    let _ = self.moqt.stream_opened(key, StreamId(*next * 4 + u64::from(uni) * 2));
                }
                Output::Write { stream, data, fin } => {
                    let dir = if stream.0 & 2 == 0 { Dir::Bi } else { Dir::Uni };
                    relay.handle_stream(self.id, stream, dir, data, fin, now, Duration::ZERO);
                }
                Output::Reset { stream, code } => relay.handle_reset(self.id, stream, code, now),
                Output::Stop { stream, code } => relay.handle_stop(self.id, stream, code, now),
            }
        }
        moved
    }

    fn carry_down(&mut self) -> bool {
        let down = std::mem::take(&mut self.pipe.down);
        let moved = !down.is_empty();
        for (stream, data, fin) in down {
            let dir = if stream.0 & 2 == 0 { Dir::Bi } else { Dir::Uni };
            let _ = self.moqt.handle_stream(stream, dir, data, fin);
            while let Some(event) = self.moqt.poll_event() {
                let plainly = Params::default();
                match event {
                    weir_moqt::Event::Subscribe { request, .. } => {
                        let alias = 2 * self.accepted + 1;
                        self.accepted += 1;
                        let _ = self.moqt.accept_subscribe(request, alias, plainly, &[]);
                    }
                    weir_moqt::Event::Publish { request, .. } if request.0 & 2 == 0 => {
                        let _ = self.moqt.accept(request, plainly, &[]);
                        self.requests.push(request);
                    }
                    weir_moqt::Event::Publish { request, .. } => {
                        self.moqt.cancel(request);
                    }
                    _ => {}
                }
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn operations_reach_the_streams_of_a_publisher() {
        #[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
        let mut world = World::new(Instant::now()).unwrap();
        for (op, a, b, mut rest) in [
            // Announce, subscribe, then a stream with one whole object and half of another.
            (14, 0, 0, &[][..]),
            (12, 0, 1, &[]),
            (11, 0x80, 32, &[0, 20, 17, 30]),
        ] {
            world.step(op, a, b, &mut rest);
            world.settle();
        }
        assert_eq!(world.relay.metrics().objects_in, 1);
        assert_eq!(world.relay.metrics().cache_bytes, 40);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 64,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_sequence_of_operations_leaves_the_relay_standing(
            bytes in prop::collection::vec(any::<u8>(), 0..600)
        ) {
            #[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
            fuzz_relay(&bytes, Instant::now());
        }

        #[test]
        fn any_bytes_are_looked_at_as_a_token(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            fuzz_token(&bytes);
        }
    }
}
