//! Network stories: a client and a server session joined in memory, for every draft, and a session
//! facing bytes a stranger chose.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::*;
use crate::data::{
    Datagram, FetchEncoder, FetchHeader, FetchObject, Gap, ObjectHeader, Status, SubgroupEncoder,
    SubgroupHeader,
};
use crate::draft::Feature;
use crate::error::{CommandError, DoneCode, RequestCode, RequestError, SessionCode};
use crate::model::{FetchTarget, Filter, GroupOrder, Location, Params, Property, PropertyValue};
use crate::name::{FullTrackName, Namespace};
use crate::token::Token;

mod d14;
mod fills;
mod malformed;
mod publish;

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// Two sessions and the network between them: streams keep their order, nothing else does.
struct Pair {
    draft: Draft,
    ends: [Session; 2],
    /// Which way a stream goes; both ends know it by the same id.
    dirs: BTreeMap<StreamId, Dir>,
    events: [Vec<Event>; 2],
    /// The code each side closed with.
    closed: [Option<SessionError>; 2],
    next_stream: u64,
    /// Bytes travel in pieces of this size.
    piece: usize,
}

impl Pair {
    fn new(draft: Draft) -> Self {
        Self::with(draft, Limits::default(), Limits::default())
    }

    fn with(draft: Draft, client: Limits, server: Limits) -> Self {
        let options = |name: &str| SetupOptions {
            implementation: Some(name.to_owned()),
            path: Some("/publish/in_1?sk=hush".to_owned()),
            authority: Some("weir.example".to_owned()),
            tokens: vec![Token { kind: 0, value: Bytes::from_static(b"jwt") }],
        };
        let quic = Transport::Quic;
        Self {
            draft,
            ends: [
                Session::new(draft, Role::Client, quic, client, options("left")),
                Session::new(draft, Role::Server, quic, server, options("right")),
            ],
            dirs: BTreeMap::new(),
            events: [Vec::new(), Vec::new()],
            closed: [None, None],
            next_stream: 0,
            piece: usize::MAX,
        }
    }

    /// A pair that has exchanged SETUP.
    fn ready(draft: Draft) -> Self {
        let mut pair = Self::new(draft);
        pair.run();
        pair.events = [Vec::new(), Vec::new()];
        pair
    }

    fn step(&mut self, end: usize, run: impl FnOnce(&mut Session) -> Result<(), SessionError>) {
        if let Err(error) = run(&mut self.ends[end]) {
            self.closed[end] = Some(error);
        }
    }

    /// A stream opened by `end` outside its session, as a relay does for data.
    fn open(&mut self, dir: Dir) -> StreamId {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        self.dirs.insert(id, dir);
        id
    }

    fn deliver(&mut self, to: usize, id: StreamId, data: &[u8], fin: bool) {
        let dir = self.dirs[&id];
        let mut pieces = data.chunks(self.piece.min(data.len()).max(1)).peekable();
        if pieces.peek().is_none() {
            self.step(to, |s| s.handle_stream(id, dir, Bytes::new(), fin));
        }
        while let Some(piece) = pieces.next() {
            let fin = fin && pieces.peek().is_none();
            let piece = Bytes::copy_from_slice(piece);
            self.step(to, |s| s.handle_stream(id, dir, piece, fin));
        }
    }

    /// Carries everything until both ends are quiet.
    fn run(&mut self) {
        let mut busy = true;
        while busy {
            busy = false;
            for end in [CLIENT, SERVER] {
                while let Some(output) = self.ends[end].poll_output() {
                    busy = true;
                    match output {
                        Output::Open { key, dir } => {
                            let id = self.open(dir);
                            self.step(end, |s| s.stream_opened(key, id));
                        }
                        Output::Write { stream, data, fin } => {
                            self.deliver(1 - end, stream, &data, fin);
                        }
                        Output::Reset { stream, code } => {
                            self.step(1 - end, |s| s.handle_reset(stream, u64::from(code)));
                        }
                        Output::Stop { stream, code } => {
                            self.step(1 - end, |s| s.handle_stop(stream, u64::from(code)));
                        }
                    }
                }
                while let Some(event) = self.ends[end].poll_event() {
                    self.events[end].push(event);
                }
            }
        }
    }

    /// Runs, then takes what `end` saw.
    fn seen(&mut self, end: usize) -> Vec<Event> {
        self.run();
        assert_eq!(self.closed, [None, None], "{:?}", self.draft);
        std::mem::take(&mut self.events[end])
    }

    /// The client subscribes, the server accepts under `alias`.
    fn subscribed(&mut self, alias: u64) -> RequestId {
        let request = self.ends[CLIENT].subscribe(&track("video"), Params::default()).unwrap();
        self.seen(SERVER);
        self.ends[SERVER].accept_subscribe(request, alias, Params::default(), &[]).unwrap();
        self.seen(CLIENT);
        request
    }

    fn idle(&self) {
        for end in &self.ends {
            assert!(end.requests.is_empty(), "{:?}: {:?}", self.draft, end.requests);
            assert!(end.updates.is_empty());
            assert_eq!((end.peer_open, end.peer_namespaces, end.data_streams), (0, 0, 0));
            assert_eq!((end.pending_bytes, end.pending_streams, end.early_bytes), (0, 0, 0));
            let left: Vec<_> =
                end.streams.values().filter(|s| !matches!(s, Stream::Control(_))).collect();
            assert!(left.is_empty(), "{:?} {:?}: {left:?}", self.draft, end.role);
        }
    }
}

fn ns(fields: &[&str]) -> Namespace {
    Namespace::new(fields).unwrap()
}

fn track(name: &'static str) -> FullTrackName {
    FullTrackName::new(ns(&["stream", "acme", "7"]), name).unwrap()
}

fn object(object: u64, payload_len: u64) -> ObjectHeader {
    ObjectHeader { object, payload_len, ..ObjectHeader::default() }
}

fn header(alias: u64, group: u64) -> SubgroupHeader {
    SubgroupHeader {
        alias,
        group,
        subgroup: 0,
        priority: Some(3),
        properties: true,
        end_of_group: true,
        first_object: false,
    }
}

/// A subgroup stream with objects of these payloads.
fn subgroup(draft: Draft, alias: u64, group: u64, payloads: &[&[u8]]) -> BytesMut {
    let mut out = BytesMut::new();
    let mut encoder = SubgroupEncoder::new(draft, &header(alias, group), &mut out).unwrap();
    for (id, payload) in payloads.iter().enumerate() {
        let properties = Bytes::from_static(&[2, 1]);
        let head = ObjectHeader { properties, ..object(id as u64, payload.len() as u64) };
        encoder.object(&head, &mut out).unwrap();
        out.put_slice(payload);
    }
    out
}

fn refused() -> RequestError {
    RequestError {
        retry_ms: Some(250),
        ..RequestError::new(RequestCode::DoesNotExist, "no such track")
    }
}

fn each_draft(story: impl Fn(Draft)) {
    for draft in Draft::ALL {
        story(draft);
    }
}

/// What of a request's parameters arrives: draft 14 always names a filter.
fn asked(draft: Draft, params: Params) -> Params {
    let default = draft.codec().rules().in_full.then_some(Filter::LargestObject);
    Params { filter: params.filter.or(default), ..params }
}

/// What of track properties arrives: draft 14 has parameters for a few.
fn told(draft: Draft, properties: &[Property]) -> Vec<Property> {
    let all = !draft.codec().rules().in_full;
    properties.iter().filter(|p| all || [2, 4, 0x22].contains(&p.kind)).cloned().collect()
}

/// What of `refused` arrives: draft 14 has no retry, and fewer codes.
fn heard(draft: Draft, kind: RequestKind) -> RequestError {
    match (draft.codec().rules().in_full, kind) {
        (false, _) => refused(),
        (true, RequestKind::Publish) => RequestError::new(RequestCode::Internal, "no such track"),
        (true, _) => RequestError { retry_ms: None, ..refused() },
    }
}

#[test]
fn setup_tells_each_side_what_the_other_says() {
    each_draft(|draft| {
        let mut pair = Pair::new(draft);
        pair.piece = 1;
        let seen = pair.seen(SERVER);
        let [Event::Setup { options }] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!(options.path.as_deref(), Some("/publish/in_1?sk=hush"));
        assert_eq!(options.authority.as_deref(), Some("weir.example"));
        assert_eq!(options.implementation.as_deref(), Some("left"));
        assert_eq!(&options.tokens[0].value[..], b"jwt");
        let seen = pair.seen(CLIENT);
        let [Event::Setup { options }] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!((&options.path, &options.authority), (&None, &None));
        pair.idle();
    });
}

#[test]
fn a_client_asks_right_behind_its_setup_and_is_answered() {
    each_draft(|draft| {
        let mut pair = Pair::new(draft);
        let request = pair.ends[CLIENT].subscribe(&track("video"), Params::default()).unwrap();
        let seen = pair.seen(SERVER);
        assert!(matches!(seen[0], Event::Setup { .. }));
        assert_eq!(
            seen[1],
            Event::Subscribe {
                request,
                track: track("video"),
                params: asked(draft, Params::default())
            }
        );
    });
}

#[test]
fn a_viewer_subscribes_watches_updates_and_leaves() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        pair.piece = 3;
        let wish = Params {
            filter: Some(Filter::AbsoluteRange { start: Location::new(5, 1), end_group: 9 }),
            priority: Some(7),
            group_order: Some(GroupOrder::Descending),
            forward: Some(false),
            tokens: vec![Token { kind: 1, value: Bytes::from_static(b"tok") }],
            ..Params::default()
        };
        let request = pair.ends[CLIENT].subscribe(&track("video"), wish.clone()).unwrap();
        let seen = pair.seen(SERVER);
        let params = wish.clone();
        assert_eq!(seen, [Event::Subscribe { request, track: track("video"), params }]);

        let largest = Some(Location::new(5, 1));
        let params = Params { largest, expires_ms: Some(1000), ..Params::default() };
        let properties = [
            Property { kind: 0x0E, value: PropertyValue::Int(1) },
            Property { kind: 0x79, value: PropertyValue::Bytes(Bytes::from_static(b"init")) },
        ];
        pair.ends[SERVER].accept_subscribe(request, 4, params.clone(), &properties).unwrap();
        let again = pair.ends[SERVER].accept_subscribe(request, 4, Params::default(), &[]);
        assert_eq!(again, Err(CommandError::AlreadyAnswered(request)));
        let properties = told(draft, &properties);
        let seen = pair.seen(CLIENT);
        assert_eq!(seen, [Event::SubscribeOk { request, alias: 4, params, properties }]);

        let data = subgroup(draft, 4, 5, &[b"key frame", b"delta"]);
        let stream = pair.open(Dir::Uni);
        pair.deliver(CLIENT, stream, &data, true);
        let seen = pair.seen(CLIENT);
        assert!(matches!(&seen[0], Event::SubgroupOpened { request: of, header: head, .. }
            if *of == request && *head == header(4, 5)));
        let payload: Vec<u8> = seen
            .iter()
            .filter_map(|event| match event {
                Event::Payload { data, .. } => Some(data.to_vec()),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(payload, b"key framedelta");
        assert_eq!(seen.last(), Some(&Event::DataEnded { stream }));

        let change = Params { forward: Some(true), priority: Some(1), ..Params::default() };
        let update = pair.ends[CLIENT].update(request, change.clone()).unwrap();
        let seen = pair.seen(SERVER);
        // Draft 14 says what stays, too.
        let filter = wish.filter.filter(|_| draft.codec().rules().in_full);
        let change = Params { filter, ..change };
        assert_eq!(seen, [Event::Update { request, update, params: change }]);
        pair.ends[SERVER].accept(update, Params::default(), &[]).unwrap();
        let seen = pair.seen(CLIENT);
        assert!(
            matches!(seen[..], [Event::RequestOk { request: id, kind: RequestKind::Update, .. }]
            if id == update)
        );

        pair.ends[CLIENT].cancel(request);
        assert_eq!(pair.seen(SERVER), [Event::Unsubscribed { request }]);
        assert_eq!(pair.seen(CLIENT), []);
        pair.idle();
    });
}

#[test]
fn a_refused_request_says_why_and_leaves_nothing_behind() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let request = pair.ends[CLIENT].subscribe(&track("none"), Params::default()).unwrap();
        pair.seen(SERVER);
        pair.ends[SERVER].reject(request, &refused()).unwrap();
        let kind = RequestKind::Subscribe;
        let error = heard(draft, kind);
        assert_eq!(pair.seen(CLIENT), [Event::RequestError { request, kind, error }]);
        pair.idle();
    });
}

#[test]
fn a_publisher_ends_a_track_with_publish_done() {
    each_draft(|draft| {
        for code in [DoneCode::TrackEnded, DoneCode::TooFarBehind, DoneCode::Expired] {
            for streams in [Some(7), None] {
                let mut pair = Pair::ready(draft);
                let request = pair.subscribed(1);
                pair.ends[SERVER].publish_done(request, code, streams, "bye").unwrap();
                let reason = "bye".to_owned();
                let done = Event::PublishDone { request, code, streams, reason };
                assert_eq!(pair.seen(CLIENT), [done]);
                pair.idle();
            }
        }
    });
}

#[test]
fn data_that_overtakes_subscribe_ok_waits_for_it() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let request = pair.ends[CLIENT].subscribe(&track("video"), Params::default()).unwrap();
        pair.seen(SERVER);
        let data = subgroup(draft, 9, 0, &[b"early bird"]);
        let stream = pair.open(Dir::Uni);
        pair.piece = 4;
        pair.deliver(CLIENT, stream, &data, true);
        assert_eq!(pair.seen(CLIENT), []);
        pair.ends[SERVER].accept_subscribe(request, 9, Params::default(), &[]).unwrap();
        let seen = pair.seen(CLIENT);
        assert!(matches!(seen[0], Event::SubscribeOk { .. }));
        assert!(matches!(seen[1], Event::SubgroupOpened { .. }));
        assert_eq!(
            seen[3],
            Event::Payload { stream, data: Bytes::from_static(b"early bird"), last: true }
        );
        assert_eq!(seen[4], Event::DataEnded { stream });
        pair.ends[CLIENT].cancel(request);
        pair.run();
        pair.idle();
    });
}

#[test]
fn streams_without_an_owner_are_held_within_limits_and_then_stopped() {
    each_draft(|draft| {
        let small = Limits { pending_streams: 2, pending_bytes: 64, ..Limits::default() };
        let mut pair = Pair::with(draft, small, Limits::default());
        pair.run();
        let data = subgroup(draft, 77, 0, &[b"nobody asked"]);
        let streams: Vec<StreamId> = (0..3).map(|_| pair.open(Dir::Uni)).collect();
        for stream in &streams {
            pair.deliver(CLIENT, *stream, &data, false);
        }
        assert_eq!(pair.ends[CLIENT].counters().pending_refused, 1);
        pair.deliver(CLIENT, streams[0], &[0; 64], false);
        assert_eq!(pair.ends[CLIENT].counters().pending_refused, 2);
        pair.step(CLIENT, |s| s.handle_reset(streams[1], 1));
        pair.step(CLIENT, |s| s.handle_reset(streams[0], 1));
        pair.step(CLIENT, |s| s.handle_reset(streams[2], 1));
        pair.run();
        pair.idle();
    });
}

#[test]
fn data_of_a_cancelled_subscription_is_stopped_not_delivered() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let request = pair.subscribed(2);
        let open = pair.open(Dir::Uni);
        let data = subgroup(draft, 2, 0, &[b"one"]);
        pair.deliver(CLIENT, open, &data, false);
        pair.seen(CLIENT);
        pair.ends[CLIENT].cancel(request);
        let late = pair.open(Dir::Uni);
        pair.deliver(CLIENT, late, &data, false);
        let mut stopped = Vec::new();
        while let Some(output) = pair.ends[CLIENT].poll_output() {
            if let Output::Stop { stream, code } = output {
                assert_eq!(code, 1);
                stopped.push(stream);
            }
        }
        assert!(stopped.contains(&open) && stopped.contains(&late), "{stopped:?}");
        assert_eq!(pair.ends[CLIENT].poll_event(), None);
        assert_eq!(pair.ends[CLIENT].counters().stale_streams, 1);
    });
}

#[test]
fn a_viewer_fetches_a_range_with_a_hole() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let (start, end) = (Location::new(3, 0), Location::whole_group(4));
        let target = FetchTarget::Standalone { track: track("video"), start, end };
        let order = GroupOrder::Ascending;
        let request = pair.ends[CLIENT].fetch(&target, Params::default()).unwrap();
        let params = Params::default();
        assert_eq!(pair.seen(SERVER), [Event::Fetch { request, target, params }]);
        let end = Location::new(4, 6);
        pair.ends[SERVER].accept_fetch(request, true, end, Params::default(), &[]).unwrap();
        let (params, properties) = (Params::default(), Vec::new());
        let ok = Event::FetchOk { request, end_of_track: true, end, params, properties };
        assert_eq!(pair.seen(CLIENT), [ok]);

        let mut out = BytesMut::new();
        let mut encoder =
            FetchEncoder::new(draft, &FetchHeader { request }, order, &mut out).unwrap();
        let first = FetchObject {
            location: start,
            subgroup: Some(0),
            priority: 1,
            properties: Bytes::from_static(&[2, 9]),
            payload_len: 3,
        };
        encoder.object(&first, &mut out).unwrap();
        out.put_slice(b"abc");
        let hole = Location::new(4, 5);
        let said = encoder.gap(hole, Gap::Unknown, &mut out).is_ok();
        assert_eq!(said, !draft.codec().rules().in_full);
        let last = FetchObject { location: end, payload_len: 0, ..first.clone() };
        encoder.object(&last, &mut out).unwrap();
        let stream = pair.open(Dir::Uni);
        pair.piece = 1;
        pair.deliver(CLIENT, stream, &out, true);
        pair.ends[SERVER].finish_fetch(request);
        let seen: Vec<Event> = pair
            .seen(CLIENT)
            .into_iter()
            .filter(|event| !matches!(event, Event::Payload { .. }))
            .collect();
        let mut expected = vec![
            Event::FetchOpened { stream, request },
            Event::FetchObjectStarted { stream, object: first },
            Event::FetchGap { stream, end: hole, gap: Gap::Unknown },
            Event::FetchObjectStarted { stream, object: last },
            Event::DataEnded { stream },
        ];
        expected.retain(|event| said || !matches!(event, Event::FetchGap { .. }));
        assert_eq!(seen, expected);
        pair.idle();
    });
}

#[test]
fn joining_fetches_name_their_subscription_and_may_be_cancelled() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let subscription = pair.subscribed(1);
        if !pair.ends[CLIENT].supports(Feature::JoiningFetch) {
            let target = FetchTarget::RelativeJoining { subscription, groups_back: 1 };
            assert!(pair.ends[CLIENT].fetch(&target, Params::default()).is_err());
            return;
        }
        let targets = [
            FetchTarget::RelativeJoining { subscription, groups_back: 1 },
            FetchTarget::AbsoluteJoining { subscription, start_group: 40 },
        ];
        for target in targets {
            let request = pair.ends[CLIENT].fetch(&target, Params::default()).unwrap();
            let params = Params::default();
            assert_eq!(pair.seen(SERVER), [Event::Fetch { request, target, params }]);
            pair.ends[CLIENT].cancel(request);
            assert_eq!(pair.seen(SERVER), [Event::FetchCancelled { request }]);
        }
        let stranger = FetchTarget::RelativeJoining {
            subscription: RequestId(subscription.0 + 100),
            groups_back: 0,
        };
        pair.ends[CLIENT].fetch(&stranger, Params::default()).unwrap();
        let seen = pair.seen(CLIENT);
        assert!(matches!(&seen[..], [Event::RequestError { error, .. }]
            if error.code == RequestCode::InvalidJoiningRequest));
        assert_eq!(pair.seen(SERVER), []);
        let backwards = FetchTarget::Standalone {
            track: track("video"),
            start: Location::new(3, 1),
            end: Location::new(3, 0),
        };
        pair.ends[CLIENT].fetch(&backwards, Params::default()).unwrap();
        let seen = pair.seen(CLIENT);
        assert!(
            matches!(&seen[..], [Event::RequestError { error, .. }]
            if error.code == RequestCode::InvalidRange),
            "{seen:?}"
        );
    });
}

#[test]
fn a_namespace_is_offered_discovered_taken_back_and_revoked() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let namespace = ns(&["stream", "acme", "7"]);
        let offer = pair.ends[CLIENT].publish_namespace(&namespace, Params::default()).unwrap();
        let params = Params::default();
        let seen = pair.seen(SERVER);
        assert_eq!(seen, [Event::PublishNamespace { request: offer, namespace, params }]);
        pair.ends[SERVER].accept(offer, Params::default(), &[]).unwrap();
        let kind = RequestKind::PublishNamespace;
        let seen = pair.seen(CLIENT);
        assert!(matches!(seen[..], [Event::RequestOk { request, kind: k, .. }]
            if request == offer && k == kind));
        pair.ends[CLIENT].cancel(offer);
        assert_eq!(pair.seen(SERVER), [Event::PublishNamespaceDone { request: offer }]);

        let other = pair.ends[CLIENT].publish_namespace(&ns(&["x"]), Params::default()).unwrap();
        pair.seen(SERVER);
        pair.ends[SERVER].accept(other, Params::default(), &[]).unwrap();
        pair.seen(CLIENT);
        pair.ends[SERVER].revoke(other, &refused()).unwrap();
        let seen = pair.seen(CLIENT);
        assert!(matches!(seen[..], [Event::Revoked { request, kind: k, .. }]
            if request == other && k == kind));

        let prefix = ns(&["stream"]);
        let search = pair.ends[SERVER].subscribe_namespace(&prefix, Params::default()).unwrap();
        let tracks_too = draft.codec().rules().in_full;
        let params = Params::default();
        let wish = Event::SubscribeNamespace { request: search, prefix, tracks_too, params };
        assert_eq!(pair.seen(CLIENT), [wish]);
        pair.ends[CLIENT].accept(search, Params::default(), &[]).unwrap();
        let suffix = ns(&["acme", "7"]);
        pair.ends[CLIENT].namespace(search, &suffix).unwrap();
        pair.ends[CLIENT].namespace_done(search, &suffix).unwrap();
        let seen = pair.seen(SERVER);
        assert_eq!(seen[1], Event::Namespace { request: search, suffix: suffix.clone() });
        assert_eq!(seen[2], Event::NamespaceDone { request: search, suffix });
        pair.ends[SERVER].cancel(search);
        assert_eq!(pair.seen(CLIENT), [Event::UnsubscribedNamespace { request: search }]);
        pair.idle();
    });
}

#[test]
fn a_track_status_is_answered_once() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let request = pair.ends[CLIENT].track_status(&track("video"), Params::default()).unwrap();
        pair.seen(SERVER);
        let params = Params { largest: Some(Location::new(8, 2)), ..Params::default() };
        pair.ends[SERVER].accept(request, params.clone(), &[]).unwrap();
        let (kind, properties) = (RequestKind::TrackStatus, Vec::new());
        let ok = Event::RequestOk { request, kind, params, properties };
        assert_eq!(pair.seen(CLIENT), [ok]);
        pair.idle();
    });
}

#[test]
fn goaway_is_heard_once_and_stops_new_requests() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        pair.ends[SERVER].goaway("moqt://other.example/", 5000).unwrap();
        pair.ends[SERVER].goaway("moqt://again.example/", 5000).unwrap();
        let seen = pair.seen(CLIENT);
        assert!(matches!(&seen[..], [Event::GoAway { request: None, uri, .. }]
            if uri == "moqt://other.example/"));
        let late = pair.ends[CLIENT].subscribe(&track("video"), Params::default());
        assert_eq!(late, Err(CommandError::GoingAway));
    });
}

#[test]
fn a_datagram_finds_its_subscription_or_is_counted() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let request = pair.subscribed(5);
        let datagram = Datagram {
            alias: 5,
            location: Location::new(1, 2),
            priority: Some(9),
            payload: Bytes::from_static(b"beat"),
            ..Datagram::default()
        };
        let mut out = BytesMut::new();
        datagram.encode(draft, &mut out).unwrap();
        pair.step(CLIENT, |s| s.handle_datagram(out.freeze()));
        assert_eq!(pair.seen(CLIENT), [Event::Datagram { request, datagram: datagram.clone() }]);
        let mut out = BytesMut::new();
        Datagram { alias: 6, ..datagram }.encode(draft, &mut out).unwrap();
        pair.step(CLIENT, |s| s.handle_datagram(out.freeze()));
        assert_eq!(pair.ends[CLIENT].counters().datagrams_dropped, 1);
    });
}

#[test]
fn too_many_requests_are_refused_or_held_back_and_flow_again() {
    each_draft(|draft| {
        let few = Limits { open_requests: 4, ..Limits::default() };
        let mut pair = Pair::with(draft, Limits::default(), few);
        pair.run();
        let wishes: Vec<RequestId> = (0..6)
            .map(|_| pair.ends[CLIENT].subscribe(&track("video"), Params::default()).unwrap())
            .collect();
        let open: Vec<RequestId> = pair
            .seen(SERVER)
            .into_iter()
            .filter_map(|event| match event {
                Event::Subscribe { request, .. } => Some(request),
                _ => None,
            })
            .collect();
        assert_eq!(open, wishes[..4], "{draft:?}");
        if draft.codec().rules().request_ids {
            for request in open {
                pair.ends[SERVER].reject(request, &refused()).unwrap();
            }
            assert_eq!(pair.seen(SERVER).len(), 2, "the two that waited for MAX_REQUEST_ID");
        } else {
            let refused = pair.seen(CLIENT).into_iter().filter(|event| {
                matches!(event, Event::RequestError { error, .. }
                    if error.code == RequestCode::ExcessiveLoad)
            });
            assert_eq!(refused.count(), 2);
            assert_eq!(pair.ends[SERVER].counters().requests_refused, 2);
        }
    });
}

#[test]
fn ids_go_on_over_a_long_life() {
    each_draft(|draft| {
        let few = Limits { open_requests: 4, ..Limits::default() };
        let mut pair = Pair::with(draft, few.clone(), few);
        pair.run();
        for _ in 0..50 {
            let request = pair.ends[CLIENT].subscribe(&track("video"), Params::default()).unwrap();
            pair.run();
            pair.ends[SERVER].reject(request, &refused()).unwrap();
            pair.run();
        }
        pair.seen(CLIENT);
        pair.idle();
        assert!(pair.ends[SERVER].peer_ids.insert(50), "50 ids used, the next is free");
    });
}

// A stranger's bytes. Each case says what a peer wrote and how the session must end.

/// The server after these stream bytes from a client; every `true` is a bidirectional stream.
fn server_after(draft: Draft, streams: &[(bool, &[u8])]) -> Result<Session, SessionError> {
    let limits = Limits::default();
    let options = SetupOptions::default();
    let mut server = Session::new(draft, Role::Server, Transport::Quic, limits, options);
    for (id, (bidi, bytes)) in streams.iter().enumerate() {
        let dir = if *bidi { Dir::Bi } else { Dir::Uni };
        let data = Bytes::copy_from_slice(bytes);
        server.handle_stream(StreamId(id as u64), dir, data, false)?;
    }
    Ok(server)
}

fn code_after(draft: Draft, streams: &[(bool, &[u8])]) -> SessionCode {
    match server_after(draft, streams) {
        Ok(_) => panic!("{draft:?} took {streams:?}"),
        Err(error) => {
            assert!(!error.reason.is_empty());
            error.code
        }
    }
}

const SETUP_18: (bool, &[u8]) = (false, &[0xAF, 0x00, 0, 0]);
/// With MAX_REQUEST_ID 42069, as Shaka sends it.
const SETUP_16: (bool, &[u8]) = (true, &[0x20, 0, 6, 1, 2, 0x80, 0, 0xA4, 0x55]);
/// The same, behind a list of one version.
const SETUP_14: (bool, &[u8]) =
    (true, &[0x20, 0, 15, 1, 0xC0, 0, 0, 0, 0xFF, 0, 0, 0x0E, 1, 2, 0x80, 0, 0xA4, 0x55]);

/// H24: a message before SETUP, lengths that lie, trailing bytes.
#[test]
fn control_bytes_out_of_order_or_shape_are_a_protocol_violation() {
    let violation = SessionCode::ProtocolViolation;
    // SUBSCRIBE, GOAWAY and an unknown message in place of SETUP.
    assert_eq!(code_after(Draft::D16, &[(true, &[3, 0, 0])]), violation);
    assert_eq!(code_after(Draft::D16, &[(true, &[0x10, 0, 1, 0])]), violation);
    assert_eq!(code_after(Draft::D16, &[(true, &[0x3F, 0, 0])]), violation);
    // SERVER_SETUP from a client; SETUP twice; SETUP on a second control stream.
    assert_eq!(code_after(Draft::D16, &[(true, &[0x21, 0, 1, 0])]), violation);
    assert_eq!(code_after(Draft::D16, &[(true, &[0x20, 0, 1, 0, 0x20, 0, 1, 0])]), violation);
    assert_eq!(code_after(Draft::D18, &[SETUP_18, SETUP_18]), violation);
    // A request on the control stream of draft 18; SUBSCRIBE on a stream of its own in draft 16.
    assert_eq!(code_after(Draft::D18, &[(false, &[0xAF, 0, 0, 0, 3, 0, 0])]), violation);
    assert_eq!(code_after(Draft::D16, &[SETUP_16, (true, &[3, 0, 0])]), violation);
    // A track name of 2^62-1 bytes, a namespace field of 2^62-1 bytes, 2^62-1 fields, parameters.
    let huge_16 = [0xFF; 8];
    let subscribe_16 = |fields: &[u8]| {
        let mut bytes = SETUP_16.1.to_vec();
        bytes.extend([3, 0, (1 + fields.len() + 8) as u8, 0]);
        bytes.extend(fields);
        bytes.extend(huge_16);
        bytes
    };
    for fields in [&[1, 1, b'n'][..], &[1], &[], &[1, 1, b'n', 1, b't']] {
        assert_eq!(code_after(Draft::D16, &[(true, &subscribe_16(fields))]), violation);
        let mut bytes = vec![3, 0, (1 + fields.len() + 9) as u8, 0];
        bytes.extend(fields);
        bytes.extend([0xFF; 9]);
        assert_eq!(code_after(Draft::D18, &[SETUP_18, (true, &bytes)]), violation);
    }
    // Trailing bytes behind the fields; a length that cuts the fields short.
    let whole = [3, 0, 7, 0, 1, 1, b'n', 1, b't', 0];
    assert!(server_after(Draft::D18, &[SETUP_18, (true, &whole)]).is_ok());
    let trailing = [3, 0, 8, 0, 1, 1, b'n', 1, b't', 0, 0];
    assert_eq!(code_after(Draft::D18, &[SETUP_18, (true, &trailing)]), violation);
    let cut = [3, 0, 6, 0, 1, 1, b'n', 1, b't', 0];
    assert_eq!(code_after(Draft::D18, &[SETUP_18, (true, &cut)]), violation);
    // A message above our limit is refused from its length alone.
    assert_eq!(code_after(Draft::D18, &[SETUP_18, (true, &[3, 0xFF, 0xFF])]), violation);
    // The control stream may not end.
    let mut server = server_after(Draft::D18, &[SETUP_18]).unwrap();
    let end = server.handle_stream(StreamId(0), Dir::Uni, Bytes::new(), true);
    assert_eq!(end.unwrap_err().code, violation);
    let again = server.handle_reset(StreamId(9), 0);
    assert_eq!(again.unwrap_err().code, violation, "a failed session stays failed");
}

/// H24: what overtakes SETUP is held within limits, then obeyed.
#[test]
fn a_request_that_overtakes_setup_waits_but_a_flood_does_not() {
    let subscribe = [3, 0, 7, 0, 1, 1, b'n', 1, b't', 0];
    let mut server =
        server_after(Draft::D18, &[(true, &subscribe[..4]), (false, &[0xAF])]).unwrap();
    assert_eq!(server.poll_event(), None);
    let rest = Bytes::copy_from_slice(&subscribe[4..]);
    server.handle_stream(StreamId(0), Dir::Bi, rest, false).unwrap();
    let rest = Bytes::from_static(&[0x00, 0, 0]);
    server.handle_stream(StreamId(1), Dir::Uni, rest, false).unwrap();
    assert!(matches!(server.poll_event(), Some(Event::Setup { .. })));
    assert!(matches!(server.poll_event(), Some(Event::Subscribe { .. })));

    let flood = vec![0u8; 30_000];
    let code = code_after(Draft::D18, &[(true, &flood)]);
    assert_eq!(code, SessionCode::ProtocolViolation);
    let many = [(true, &[3u8][..]); 40];
    assert_eq!(code_after(Draft::D18, &many), SessionCode::ProtocolViolation);
}

/// H25: wrong parity, reuse, or above MAX_REQUEST_ID.
#[test]
fn a_request_id_that_is_not_the_peers_to_use_ends_the_session() {
    let subscribe = |id: u8| [3, 0, 7, id, 1, 1, b'n', 1, b't', 0];
    let on_18 = |ids: &[u8]| {
        let requests: Vec<_> = ids.iter().map(|id| subscribe(*id)).collect();
        let mut streams = vec![SETUP_18];
        streams.extend(requests.iter().map(|bytes| (true, &bytes[..])));
        server_after(Draft::D18, &streams).map_err(|e| e.code)
    };
    assert!(on_18(&[2, 0, 4]).is_ok(), "streams may overtake each other");
    assert_eq!(on_18(&[1]).unwrap_err(), SessionCode::InvalidRequestId);
    assert_eq!(on_18(&[0, 2, 0]).unwrap_err(), SessionCode::InvalidRequestId);

    let on_16 = |requests: &[u8]| {
        let bytes = [SETUP_16.1, requests].concat();
        server_after(Draft::D16, &[(true, &bytes)]).map_err(|e| e.code)
    };
    assert!(on_16(&subscribe(0)).is_ok());
    assert_eq!(on_16(&subscribe(1)).unwrap_err(), SessionCode::InvalidRequestId);
    let twice = [subscribe(0), subscribe(0)].concat();
    assert_eq!(on_16(&twice).unwrap_err(), SessionCode::InvalidRequestId);
    // 64 open requests are granted: 126 is the last id, 128 one too many.
    let at = |id: u8| [3, 0, 8, 0x40, id, 1, 1, b'n', 1, b't', 0];
    assert!(on_16(&at(126)).is_ok());
    assert_eq!(on_16(&at(128)).unwrap_err(), SessionCode::TooManyRequests);
    // A MAX_REQUEST_ID that goes down.
    let down = [0x15, 0, 1, 10];
    assert_eq!(on_16(&down).unwrap_err(), SessionCode::ProtocolViolation);
}

/// H27: 33 fields, empty fields, 64 KB; a path-like name is only bytes.
#[test]
fn a_namespace_beyond_its_limits_is_a_violation_and_a_path_stays_bytes() {
    let offer = |fields: &[u8]| {
        let mut bytes = vec![6];
        bytes.put_u16(fields.len() as u16 + 2);
        bytes.push(0);
        bytes.extend(fields);
        bytes.push(0);
        bytes
    };
    let fields = |count: u8, field: &[u8]| {
        let mut bytes = vec![count];
        for _ in 0..count {
            bytes.push(field.len() as u8);
            bytes.extend(field);
        }
        bytes
    };
    let on = |bytes: &[u8]| server_after(Draft::D18, &[SETUP_18, (true, bytes)]);
    let code = |bytes: &[u8]| on(bytes).unwrap_err().code;
    assert!(on(&offer(&fields(32, b"f"))).is_ok());
    assert_eq!(code(&offer(&fields(33, b"f"))), SessionCode::ProtocolViolation);
    assert_eq!(code(&offer(&fields(1, b""))), SessionCode::ProtocolViolation);
    let long = [b'f'; 127];
    assert!(on(&offer(&fields(32, &long))).is_ok());
    let mut too_long = vec![1, 0x90, 0x01];
    too_long.extend([b'f'; 4097]);
    assert_eq!(code(&offer(&too_long)), SessionCode::ProtocolViolation);

    let mut server = on(&offer(&[2, 3, b'.', b'.', b'/', 1, 0])).unwrap();
    server.poll_event();
    let Some(Event::PublishNamespace { namespace, .. }) = server.poll_event() else {
        panic!("no event")
    };
    assert_eq!(namespace.to_string(), ".2e.2e.2f-.00");
}

#[test]
fn a_data_stream_that_breaks_the_rules_ends_the_session() {
    let violation = SessionCode::ProtocolViolation;
    // Unknown type; the reserved subgroup mode; an answer to a fetch never asked for.
    assert_eq!(code_after(Draft::D18, &[SETUP_18, (false, &[0x3F])]), violation, "type 0x3f");
    assert_eq!(code_after(Draft::D18, &[SETUP_18, (false, &[0x16, 0, 0])]), violation);
    assert_eq!(code_after(Draft::D18, &[SETUP_18, (false, &[0x05, 1])]), violation);
    assert_eq!(code_after(Draft::D16, &[SETUP_16, (false, &[0x05, 1])]), violation);
    // FIRST_OBJECT and padding came with draft 17 and later.
    assert_eq!(code_after(Draft::D16, &[SETUP_16, (false, &[0x40, 0x50, 0, 0])]), violation);
    let mut pad = BytesMut::new();
    crate::varint::Ints::Moq.encode(0x132B_3E28, &mut pad);
    pad.put_bytes(0, 5000);
    let server = server_after(Draft::D18, &[SETUP_18, (false, &pad)]).unwrap();
    assert_eq!(server.data_streams, 0, "padding is thrown away");
}

#[test]
fn an_object_above_its_limit_costs_the_stream_not_the_session() {
    each_draft(|draft| {
        let small = Limits { object_bytes: 10, property_bytes: 4, ..Limits::default() };
        let mut pair = Pair::with(draft, small, Limits::default());
        pair.run();
        pair.subscribed(1);
        let stream = pair.open(Dir::Uni);
        let data = subgroup(draft, 1, 0, &[b"short", b"much too long"]);
        pair.deliver(CLIENT, stream, &data, false);
        let code = ResetCode::ExcessiveLoad;
        assert!(pair.seen(CLIENT).contains(&Event::DataReset { stream, code }));
        assert_eq!(pair.ends[CLIENT].counters().objects_too_large, 1);

        let mut out = BytesMut::new();
        let mut encoder = SubgroupEncoder::new(draft, &header(1, 1), &mut out).unwrap();
        let properties = Bytes::from_static(&[3, 3, 0, 0, 0]);
        encoder.object(&ObjectHeader { properties, ..object(0, 1) }, &mut out).unwrap();
        let stream = pair.open(Dir::Uni);
        pair.deliver(CLIENT, stream, &out, false);
        assert!(pair.seen(CLIENT).contains(&Event::DataReset { stream, code }));
    });
}

#[test]
fn a_stream_that_ends_inside_an_object_is_a_violation() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        pair.subscribed(1);
        let data = subgroup(draft, 1, 0, &[b"whole", b"cut off"]);
        let stream = pair.open(Dir::Uni);
        pair.deliver(CLIENT, stream, &data[..data.len() - 1], true);
        let error = pair.closed[CLIENT].clone().unwrap();
        assert_eq!(error.code, SessionCode::ProtocolViolation);
    });
}

#[test]
fn an_alias_two_subscriptions_share_is_refused() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        pair.subscribed(1);
        let second = pair.ends[CLIENT].subscribe(&track("audio"), Params::default()).unwrap();
        pair.seen(SERVER);
        pair.ends[SERVER].accept_subscribe(second, 1, Params::default(), &[]).unwrap();
        pair.run();
        let error = pair.closed[CLIENT].clone().unwrap();
        assert_eq!(error.code, SessionCode::DuplicateTrackAlias);
    });
}

#[test]
fn a_token_alias_without_a_cache_has_its_defined_error() {
    // SUBSCRIBE with AUTHORIZATION_TOKEN = REGISTER alias 1, USE_ALIAS 1, and a cut structure.
    let with_token = |token: &[u8]| {
        let mut bytes = vec![3, 0, (9 + token.len()) as u8, 0, 1, 1, b'n', 1, b't', 1, 3];
        bytes.push(token.len() as u8);
        bytes.extend(token);
        bytes
    };
    let code = |token: &[u8]| code_after(Draft::D18, &[SETUP_18, (true, &with_token(token))]);
    assert_eq!(code(&[1, 1, 0, b'v']), SessionCode::TokenCacheOverflow);
    assert_eq!(code(&[2, 1]), SessionCode::UnknownTokenAlias);
    assert_eq!(code(&[0, 1]), SessionCode::UnknownTokenAlias);
    assert_eq!(code(&[3]), SessionCode::KeyValueFormatting);
    assert_eq!(code(&[9, 1]), SessionCode::KeyValueFormatting);
}

#[test]
fn publish_and_subscribe_tracks_can_be_answered_not_supported() {
    // PUBLISH and SUBSCRIBE_TRACKS of draft 18; PUBLISH and SUBSCRIBE_NAMESPACE option 0 of draft 16.
    let publish = [0x1D, 0, 8, 0, 1, 1, b'n', 1, b't', 9, 0];
    let tracks = [0x51, 0, 5, 2, 1, 1, b'n', 0];
    let server = server_after(Draft::D18, &[SETUP_18, (true, &publish), (true, &tracks)]);
    let mut server = server.unwrap();
    server.poll_event();
    assert!(matches!(server.poll_event(), Some(Event::Publish { alias: 9, .. })));
    assert!(matches!(server.poll_event(), Some(Event::SubscribeTracks { .. })));
    let no = RequestError::new(RequestCode::NotSupported, "publish by namespace");
    server.reject(RequestId(0), &no).unwrap();
    server.reject(RequestId(2), &no).unwrap();
    let answers: Vec<Output> = std::iter::from_fn(|| server.poll_output()).collect();
    assert!(matches!(&answers[answers.len() - 1],
        Output::Write { data, fin: true, .. } if data[0] == 5 && data[3] == 3));

    let bytes = [SETUP_16.1, &publish].concat();
    let tracks = [0x11, 0, 6, 2, 1, 1, b'n', 0, 0];
    let mut server = server_after(Draft::D16, &[(true, &bytes), (true, &tracks)]).unwrap();
    server.poll_event();
    assert!(matches!(server.poll_event(), Some(Event::Publish { alias: 9, .. })));
    assert!(matches!(server.poll_event(), Some(Event::SubscribeTracks { .. })));
}

#[test]
fn status_markers_reach_the_owner() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        pair.subscribed(1);
        let mut out = BytesMut::new();
        let mut encoder = SubgroupEncoder::new(draft, &header(1, 1), &mut out).unwrap();
        for (id, status) in [(0, Status::Normal), (4, Status::EndOfGroup), (9, Status::EndOfTrack)]
        {
            encoder.object(&ObjectHeader { status, ..object(id, 0) }, &mut out).unwrap();
        }
        let stream = pair.open(Dir::Uni);
        pair.deliver(CLIENT, stream, &out, true);
        let seen = pair.seen(CLIENT);
        let status = Status::EndOfTrack;
        let object = ObjectHeader { status, ..object(9, 0) };
        assert_eq!(seen[3], Event::ObjectStarted { stream, object });
    });
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Random operations behind an honest SETUP; the shapes are draft, role and transport.
    #[test]
    fn a_session_survives_random_operations(
        shape in 0..8u8,
        operations in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..800),
    ) {
        let bytes: Vec<u8> = std::iter::once(shape).chain(operations).collect();
        crate::fuzzing::fuzz_session(&bytes);
    }

    /// The same with small numbers, which frame messages that parse.
    #[test]
    fn a_session_survives_plausible_messages(
        shape in 0..8u8,
        messages in proptest::collection::vec(
            (0..32u8, proptest::collection::vec(0..12u8, 1..14), 2..0x1Eu8), 0..60,
        ),
    ) {
        let mut bytes = vec![shape];
        for (stream, body, kind) in messages {
            // Operation 4 with a body of this length: 8 * length, rounded to 4 modulo 12.
            let length = body.len() as u8 + 1;
            let Some(op) = (8 * length..8 * length + 8).find(|op| op % 12 == 4) else { continue };
            bytes.extend([op, stream, kind]);
            bytes.extend(body);
        }
        crate::fuzzing::fuzz_session(&bytes);
    }
}

/// Weir holds thousands of idle viewers: what one session costs beside its QUIC connection.
#[test]
fn an_idle_viewer_session_stays_small() {
    let fixed = size_of::<Session>();
    let entry = size_of::<Request>() + size_of::<Stream>() + size_of::<Alias>();
    assert!(fixed <= 1536, "{fixed} bytes");
    assert!(entry <= 256, "{entry} bytes a request");
    // The queues of a drained session hold at most this.
    let queues = QUEUE_KEPT * (size_of::<Event>() + size_of::<Output>());
    assert!(queues <= 14 * 1024, "{queues} bytes");
}
