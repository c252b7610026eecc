//! Draft 14.

use moqtap_codec::draft14::message::{self as theirs, ControlMessage as Theirs};
use moqtap_codec::types::{
    ContentExists, FilterType, Forward, GroupOrder as Order, Location as At,
};

use super::*;
use crate::error::SessionError;
use crate::message::{About, Kind, NO_REQUEST};
use crate::model::RequestKind;

const D: Draft = Draft::D14;
const VERSION: u64 = 0xFF00_000E;

/// Both ways, for a message that names its request by more than an id.
fn check(sender: Role, ours: Message, about: About, their: Theirs) {
    let mut wire = BytesMut::new();
    D.codec().encode_about(&ours, &about, sender, &mut wire).unwrap();
    assert_eq!(Theirs::decode(&mut &wire[..]), Ok(their.clone()), "reading {ours:?}");
    let mut wire = Vec::new();
    their.encode(&mut wire).unwrap();
    assert_eq!(read(sender, &wire), Ok((ours, about)), "reading {their:?}");
}

/// Reads one framed message; tokens sent by value are put in.
fn read(sender: Role, wire: &[u8]) -> Result<(Message, About), SessionError> {
    let (number, head) = D.codec().rules().ints.decode(wire).unwrap();
    let kind = D.codec().kind(number, sender).unwrap();
    let decoded = D.codec().decode(kind, Bytes::copy_from_slice(&wire[head + 2..]), ON)?;
    let mut message = decoded.message;
    for action in decoded.aside.tokens {
        let TokenAction::UseValue(token) = action else { panic!("{action:?}") };
        match &mut message {
            Message::Setup(setup) => setup.options.tokens.push(token),
            message => message.params_mut().unwrap().tokens.push(token),
        }
    }
    Ok((message, decoded.aside.about))
}

fn both(ours: Message, their: Theirs) {
    check(Role::Client, ours, About::default(), their);
}

fn at(group: u64, object: u64) -> At {
    At { group: v(group), object: v(object) }
}

/// How a filter is written: type, start, end group.
fn written(filter: Option<Filter>) -> (FilterType, Option<At>, Option<VarInt>) {
    match filter {
        Some(Filter::NextGroupStart) => (FilterType::NextGroupStart, None, None),
        Some(Filter::AbsoluteStart(start)) => {
            (FilterType::AbsoluteStart, Some(at(start.group, start.object)), None)
        }
        Some(Filter::AbsoluteRange { start, end_group }) => {
            let start = at(start.group, start.object);
            (FilterType::AbsoluteRange, Some(start), Some(v(end_group)))
        }
        _ => (FilterType::LargestObject, None, None),
    }
}

/// A token and a delivery timeout.
fn asked() -> (Params, Vec<KeyValuePair>) {
    let ours =
        Params { tokens: vec![our_token()], object_timeout_ms: Some(2000), ..Params::default() };
    (ours, vec![int(2, 2000), value_token(D)])
}

/// What later drafts say as properties of a track.
fn said() -> (Vec<Property>, Vec<KeyValuePair>) {
    let int_property = |kind, value| Property { kind, value: PropertyValue::Int(value) };
    let ours = vec![int_property(2, 3000), int_property(4, 60_000), int_property(0x22, 2)];
    (ours, vec![int(2, 3000), int(4, 60_000)])
}

#[test]
fn session_messages_agree() {
    let setup = Setup { max_request_id: Some(42_069), ..setup() };
    let parameters = vec![
        bytes(1, b"/p?x=1"),
        int(2, 42_069),
        value_token(D),
        int(4, 70_000),
        bytes(5, b"weir.example:443"),
        bytes(7, b"weir"),
    ];
    let client = theirs::ClientSetup {
        supported_versions: vec![v(VERSION)],
        parameters: parameters.clone(),
    };
    both(Message::Setup(setup.clone()), Theirs::ClientSetup(client));

    let mut answer = setup;
    answer.options.authority = None;
    let parameters = parameters.into_iter().filter(|p| p.key != v(5)).collect();
    let server = theirs::ServerSetup { selected_version: v(VERSION), parameters };
    check(Role::Server, Message::Setup(answer), About::default(), Theirs::ServerSetup(server));
    both(
        Message::GoAway { uri: "moqt://b/".to_owned(), timeout_ms: None, request: None },
        Theirs::GoAway(theirs::GoAway { new_session_uri: b"moqt://b/".to_vec() }),
    );
    both(
        Message::MaxRequestId { max: 128 },
        Theirs::MaxRequestId(theirs::MaxRequestId { request_id: v(128) }),
    );
    both(
        Message::RequestsBlocked { max: 64 },
        Theirs::RequestsBlocked(theirs::RequestsBlocked { maximum_request_id: v(64) }),
    );
}

#[test]
fn the_version_is_found_in_any_list_and_missed_in_no_other() {
    let offer = |versions: &[u64]| {
        let supported_versions = versions.iter().map(|version| v(*version)).collect();
        let setup = theirs::ClientSetup { supported_versions, parameters: Vec::new() };
        let mut wire = Vec::new();
        Theirs::ClientSetup(setup).encode(&mut wire).unwrap();
        read(Role::Client, &wire).map(|_| ()).map_err(|error| (error.code, error.reason))
    };
    assert_eq!(offer(&[0xFF00_000D, VERSION, 0xFF00_0010]), Ok(()));
    let reason =
        "CLIENT_SETUP: supported versions at byte 17: draft 14 (0xff00000e) is not among them";
    let failed = Err((crate::error::SessionCode::VersionNegotiationFailed, reason.to_owned()));
    assert_eq!(offer(&[0xFF00_000D, 0xFF00_000F]), failed);
    let chosen = theirs::ServerSetup { selected_version: v(0xFF00_000D), parameters: Vec::new() };
    let mut wire = Vec::new();
    Theirs::ServerSetup(chosen).encode(&mut wire).unwrap();
    let error = read(Role::Server, &wire).unwrap_err();
    assert_eq!(error.code, crate::error::SessionCode::VersionNegotiationFailed);
    // A list longer than the message, and a message type of the other side.
    let body = Bytes::from_static(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
    assert!(D.codec().decode(Kind::Setup, body, NO_REQUEST).is_err());
    assert_eq!(D.codec().kind(0x21, Role::Client), None);
}

#[test]
fn requests_agree() {
    let request = RequestId(20_000);
    let (request_id, track_name) = (v(20_000), b"video".to_vec());
    for filter in FILTERS {
        let (asked, parameters) = asked();
        let (filter_type, start_location, end_group) = written(Some(filter));
        for (order, group_order) in [
            (None, Order::Publisher),
            (Some(GroupOrder::Ascending), Order::Ascending),
            (Some(GroupOrder::Descending), Order::Descending),
        ] {
            let params = Params {
                forward: Some(false),
                priority: Some(200),
                filter: Some(filter),
                group_order: order,
                ..asked.clone()
            };
            both(
                Message::Subscribe { request, track: track(), params },
                Theirs::Subscribe(theirs::Subscribe {
                    request_id,
                    track_namespace: their_namespace(),
                    track_name: track_name.clone(),
                    subscriber_priority: 200,
                    group_order,
                    forward: Forward::DontForward,
                    filter_type,
                    start_location,
                    end_group,
                    parameters: parameters.clone(),
                }),
            );
        }
    }
    let tokens = Params { tokens: vec![our_token()], ..Params::default() };
    let parameters = vec![value_token(D)];
    both(
        Message::TrackStatus { request, track: track(), params: tokens.clone() },
        Theirs::TrackStatus(theirs::TrackStatus {
            request_id,
            track_namespace: their_namespace(),
            track_name: track_name.clone(),
            subscriber_priority: 128,
            group_order: Order::Publisher,
            forward: Forward::Forward,
            filter_type: FilterType::LargestObject,
            start_location: None,
            end_group: None,
            parameters: parameters.clone(),
        }),
    );
    both(
        Message::PublishNamespace { request, namespace: namespace(), params: tokens.clone() },
        Theirs::PublishNamespace(theirs::PublishNamespace {
            request_id,
            track_namespace: their_namespace(),
            parameters: parameters.clone(),
        }),
    );
    let (prefix, want) = (namespace(), Want::Both);
    both(
        Message::SubscribeNamespace { request, prefix, want, params: tokens },
        Theirs::SubscribeNamespace(theirs::SubscribeNamespace {
            request_id,
            track_namespace: their_namespace(),
            parameters: parameters.clone(),
        }),
    );
    let (properties, mut parameters) = said();
    parameters.insert(1, value_token(D));
    for (largest, content_exists) in [
        (Some(Location::new(1000, 5)), ContentExists::HasLargestLocation),
        (None, ContentExists::NoLargestLocation),
    ] {
        let tokens = vec![our_token()];
        let params = Params { largest, forward: Some(false), tokens, ..Params::default() };
        let properties = properties.clone();
        both(
            Message::Publish { request, track: track(), alias: 9, params, properties },
            Theirs::Publish(theirs::Publish {
                request_id,
                track_namespace: their_namespace(),
                track_name: track_name.clone(),
                track_alias: v(9),
                group_order: Order::Descending,
                content_exists,
                largest_location: largest.map(|l| at(l.group, l.object)),
                forward: Forward::DontForward,
                parameters: parameters.clone(),
            }),
        );
    }
}

#[test]
fn updates_agree() {
    let (asked, parameters) = asked();
    let start = Location::new(70_000, 3);
    // The last group plus one, 0 for no end.
    for (filter, end_group) in [
        (Filter::AbsoluteStart(start), 0),
        (Filter::AbsoluteRange { start, end_group: 70_000 }, 70_001),
    ] {
        let params = Params {
            filter: Some(filter),
            priority: Some(0),
            forward: Some(true),
            ..asked.clone()
        };
        both(
            Message::Update { request: RequestId(8), target: RequestId(4), params },
            Theirs::SubscribeUpdate(theirs::SubscribeUpdate {
                request_id: v(8),
                subscription_request_id: v(4),
                start_location: at(70_000, 3),
                end_group: v(end_group),
                subscriber_priority: 0,
                forward: Forward::Forward,
                parameters: parameters.clone(),
            }),
        );
    }
}

#[test]
fn fetches_agree() {
    let request = RequestId(2);
    let params = Params {
        tokens: vec![our_token()],
        priority: Some(1),
        group_order: Some(GroupOrder::Descending),
        ..Params::default()
    };
    let parameters = vec![value_token(D)];
    let start = Location::new(3, 1);
    for (end, end_object) in [(Location::new(4, 7), 8), (Location::whole_group(4), 0)] {
        both(
            Message::Fetch {
                request,
                target: FetchTarget::Standalone { track: track(), start, end },
                params: params.clone(),
            },
            Theirs::Fetch(theirs::Fetch {
                request_id: v(2),
                subscriber_priority: 1,
                group_order: Order::Descending,
                fetch_type: theirs::FetchType::Standalone,
                fetch_payload: theirs::FetchPayload::Standalone {
                    track_namespace: their_namespace(),
                    track_name: b"video".to_vec(),
                    start_group: v(3),
                    start_object: v(1),
                    end_group: v(4),
                    end_object: v(end_object),
                },
                parameters: parameters.clone(),
            }),
        );
        let (properties, parameters) = said();
        let params = Params::default();
        both(
            Message::FetchOk { request, end_of_track: true, end, params, properties },
            Theirs::FetchOk(theirs::FetchOk {
                request_id: v(2),
                group_order: Order::Descending,
                end_of_track: 1,
                end_location: at(4, end_object),
                parameters,
            }),
        );
    }
    let subscription = RequestId(0);
    for (target, fetch_type) in [
        (
            FetchTarget::RelativeJoining { subscription, groups_back: 5 },
            theirs::FetchType::RelativeJoining,
        ),
        (
            FetchTarget::AbsoluteJoining { subscription, start_group: 5 },
            theirs::FetchType::AbsoluteJoining,
        ),
    ] {
        let fetch_payload =
            theirs::FetchPayload::Joining { joining_request_id: v(0), joining_start: v(5) };
        both(
            Message::Fetch { request, target, params: params.clone() },
            Theirs::Fetch(theirs::Fetch {
                request_id: v(2),
                subscriber_priority: 1,
                group_order: Order::Descending,
                fetch_type,
                fetch_payload,
                parameters: parameters.clone(),
            }),
        );
    }
    both(
        Message::FetchCancel { request },
        Theirs::FetchCancel(theirs::FetchCancel { request_id: v(2) }),
    );
}

#[test]
fn grants_agree() {
    let request = RequestId(2);
    let request_id = v(2);
    let (properties, parameters) = said();
    for (largest, content_exists) in [
        (Some(Location::new(1000, 5)), ContentExists::HasLargestLocation),
        (None, ContentExists::NoLargestLocation),
    ] {
        let params = Params { expires_ms: Some(60_000), largest, ..Params::default() };
        let largest_location = largest.map(|l| at(l.group, l.object));
        both(
            Message::SubscribeOk {
                request,
                alias: 500,
                params: params.clone(),
                properties: properties.clone(),
            },
            Theirs::SubscribeOk(theirs::SubscribeOk {
                request_id,
                track_alias: v(500),
                expires: v(60_000),
                group_order: Order::Descending,
                content_exists,
                largest_location,
                parameters: parameters.clone(),
            }),
        );
        let properties = properties.clone();
        check(
            Role::Client,
            Message::RequestOk { request, params, properties },
            About { kind: Some(RequestKind::TrackStatus), namespace: None },
            Theirs::TrackStatusOk(theirs::TrackStatusOk {
                request_id,
                track_alias: v(0),
                expires: v(60_000),
                group_order: Order::Descending,
                content_exists,
                largest_location,
                parameters: parameters.clone(),
            }),
        );
    }
    for (kind, their) in [
        (
            RequestKind::PublishNamespace,
            Theirs::PublishNamespaceOk(theirs::PublishNamespaceOk { request_id }),
        ),
        (
            RequestKind::SubscribeNamespace,
            Theirs::SubscribeNamespaceOk(theirs::SubscribeNamespaceOk { request_id }),
        ),
    ] {
        let (params, properties) = (Params::default(), Vec::new());
        let ours = Message::RequestOk { request, params, properties };
        check(Role::Client, ours, About { kind: Some(kind), namespace: None }, their);
    }
    for filter in FILTERS {
        let (filter_type, start_location, end_group) = written(Some(filter));
        let params = Params {
            object_timeout_ms: Some(2000),
            forward: Some(true),
            priority: Some(128),
            filter: Some(filter),
            group_order: Some(GroupOrder::Ascending),
            ..Params::default()
        };
        both(
            Message::PublishOk { request, params },
            Theirs::PublishOk(theirs::PublishOk {
                request_id,
                forward: Forward::Forward,
                subscriber_priority: 128,
                group_order: Order::Ascending,
                filter_type,
                start_location,
                end_group,
                parameters: vec![int(2, 2000)],
            }),
        );
    }
}

/// Each error message with each code of its own table (section 13.1).
#[test]
fn refusals_agree() {
    use RequestCode as C;
    let common = [(C::Internal, 0), (C::Unauthorized, 1), (C::Timeout, 2), (C::NotSupported, 3)];
    let tokens = [(C::MalformedToken, 0x10), (C::ExpiredToken, 0x12)];
    let track = [(C::DoesNotExist, 4), (C::InvalidRange, 5)];
    let fetch = [(C::InvalidJoiningRequest, 7), (C::UnknownStatus, 8), (C::MalformedTrack, 9)];
    let tables: [(RequestKind, Vec<(C, u64)>); 6] = [
        (RequestKind::Subscribe, [&common[..], &track, &tokens].concat()),
        (RequestKind::TrackStatus, [&common[..], &track, &tokens].concat()),
        (RequestKind::Fetch, [&common[..], &track, &fetch, &tokens].concat()),
        (RequestKind::Publish, [&common[..], &[(C::Uninterested, 4)]].concat()),
        (RequestKind::PublishNamespace, [&common[..], &[(C::Uninterested, 4)], &tokens].concat()),
        (
            RequestKind::SubscribeNamespace,
            [&common[..], &[(C::DoesNotExist, 4), (C::PrefixOverlap, 5)], &tokens].concat(),
        ),
    ];
    let request_id = v(2);
    let reason_phrase = b"why".to_vec();
    for (kind, codes) in tables {
        for (code, number) in codes {
            let error_code = v(number);
            let reason_phrase = reason_phrase.clone();
            let their = match kind {
                RequestKind::Subscribe => Theirs::SubscribeError(theirs::SubscribeError {
                    request_id,
                    error_code,
                    reason_phrase,
                }),
                RequestKind::TrackStatus => Theirs::TrackStatusError(theirs::TrackStatusError {
                    request_id,
                    error_code,
                    reason_phrase,
                }),
                RequestKind::Fetch => {
                    Theirs::FetchError(theirs::FetchError { request_id, error_code, reason_phrase })
                }
                RequestKind::Publish => Theirs::PublishError(theirs::PublishError {
                    request_id,
                    error_code,
                    reason_phrase,
                }),
                RequestKind::PublishNamespace => {
                    Theirs::PublishNamespaceError(theirs::PublishNamespaceError {
                        request_id,
                        error_code,
                        reason_phrase,
                    })
                }
                _ => Theirs::SubscribeNamespaceError(theirs::SubscribeNamespaceError {
                    request_id,
                    error_code,
                    reason_phrase,
                }),
            };
            let error = RequestError::new(code, "why");
            let ours = Message::RequestError { request: RequestId(2), error };
            check(Role::Client, ours, About { kind: Some(kind), namespace: None }, their);
            if kind == RequestKind::PublishNamespace {
                let their = Theirs::PublishNamespaceCancel(theirs::PublishNamespaceCancel {
                    track_namespace: their_namespace(),
                    error_code,
                    reason_phrase: b"why".to_vec(),
                });
                let (request, reason) = (NO_REQUEST, "why".to_owned());
                let ours = Message::PublishNamespaceCancel { request, code, reason };
                check(
                    Role::Client,
                    ours,
                    About { kind: None, namespace: Some(namespace()) },
                    their,
                );
            }
        }
    }
}

#[test]
fn endings_agree() {
    let request = RequestId(2);
    let request_id = v(2);
    for (code, number) in [
        (DoneCode::Internal, 0),
        (DoneCode::Unauthorized, 1),
        (DoneCode::TrackEnded, 2),
        (DoneCode::SubscriptionEnded, 3),
        (DoneCode::GoingAway, 4),
        (DoneCode::Expired, 5),
        (DoneCode::TooFarBehind, 6),
        (DoneCode::MalformedTrack, 7),
    ] {
        for (streams, count) in [(Some(3), 3), (None, (1 << 62) - 1)] {
            both(
                Message::PublishDone { request, code, streams, reason: "bye".to_owned() },
                Theirs::PublishDone(theirs::PublishDone {
                    request_id,
                    status_code: v(number),
                    stream_count: v(count),
                    reason_phrase: b"bye".to_vec(),
                }),
            );
        }
    }
    both(Message::Unsubscribe { request }, Theirs::Unsubscribe(theirs::Unsubscribe { request_id }));
    let about = About { kind: None, namespace: Some(namespace()) };
    check(
        Role::Client,
        Message::PublishNamespaceDone { request: NO_REQUEST },
        about.clone(),
        Theirs::PublishNamespaceDone(theirs::PublishNamespaceDone {
            track_namespace: their_namespace(),
        }),
    );
    check(
        Role::Client,
        Message::UnsubscribeNamespace { request: NO_REQUEST },
        about,
        Theirs::UnsubscribeNamespace(theirs::UnsubscribeNamespace {
            track_namespace_prefix: their_namespace(),
        }),
    );
}

#[test]
fn every_message_type_is_known_to_both_or_to_neither() {
    for number in 0..0x200 {
        let theirs = theirs::MessageType::from_id(number).is_some();
        let ours = [Role::Client, Role::Server]
            .into_iter()
            .any(|sender| D.codec().kind(number, sender).is_some());
        assert_eq!(ours, theirs, "{number:#x}");
    }
}

/// Parameters the draft does not have are skipped, wherever and how often they come; its own may not
/// repeat, but for tokens.
#[test]
fn unknown_parameters_are_skipped_and_known_ones_stand_once() {
    let publish = |parameters: Vec<KeyValuePair>| {
        let mut wire = Vec::new();
        let request_id = v(2);
        let body = theirs::PublishNamespace {
            request_id,
            track_namespace: their_namespace(),
            parameters: Vec::new(),
        };
        Theirs::PublishNamespace(body).encode(&mut wire).unwrap();
        wire.pop();
        wire.extend(ints(D, &[parameters.len() as u64]));
        for parameter in parameters {
            wire.extend(ints(D, &[parameter.key.into_inner()]));
            match parameter.value {
                KvpValue::Varint(value) => wire.extend(ints(D, &[value.into_inner()])),
                KvpValue::Bytes(value) => {
                    wire.extend(ints(D, &[value.len() as u64]));
                    wire.extend(value);
                }
            }
        }
        let length = (wire.len() - 3) as u16;
        wire[1..3].copy_from_slice(&length.to_be_bytes());
        let theirs = Theirs::decode(&mut &wire[..]).is_ok();
        let ours = read(Role::Client, &wire);
        assert_eq!(ours.is_ok(), theirs, "{ours:?}");
        ours.ok().map(|(mut message, _)| message.params_mut().unwrap().tokens.len())
    };
    let unknown = [bytes(0x35, b"x"), int(0x40, 1), bytes(0x35, b"y"), int(0x20, 900)];
    assert_eq!(publish(unknown.to_vec()), Some(0));
    assert_eq!(publish(vec![value_token(D), int(0x40, 0), value_token(D)]), Some(2));
    assert_eq!(publish(vec![int(2, 5), int(0x40, 0), int(2, 5)]), None);
    assert_eq!(publish(vec![int(4, 5), int(4, 6)]), None);
    assert_eq!(publish(vec![bytes(3, &[9])]), None);
}

/// Values with a fixed range are held to it as they do.
#[test]
fn fields_out_of_range_are_refused_by_both() {
    let name = [1, 1, b'n', 1, b't'];
    let subscribe = |tail: &[u8]| (3u8, [&[0][..], &name, tail, &[0]].concat());
    let update = |tail: &[u8]| (2u8, [&[2, 0][..], tail, &[0]].concat());
    let ok = |tail: &[u8]| (4u8, [&[0, 7, 0][..], tail, &[0]].concat());
    let publish = |tail: &[u8]| (0x1Du8, [&[0][..], &name, &[7], tail, &[0]].concat());
    let publish_ok = |tail: &[u8]| (0x1Eu8, [&[0][..], tail, &[0]].concat());
    let fetch = |tail: &[u8]| (0x16u8, [&[0][..], tail, &[0]].concat());
    let fetch_ok = |tail: &[u8]| (0x18u8, [&[0][..], tail, &[0]].concat());
    let cases = [
        // Priority, order, forward, filter.
        (subscribe(&[9, 0, 1, 2]), true),
        (subscribe(&[9, 3, 1, 2]), false),
        (subscribe(&[9, 1, 2, 2]), false),
        (subscribe(&[9, 1, 1, 0]), false),
        (subscribe(&[9, 1, 1, 5]), false),
        // Filter types are integers, of any length.
        (subscribe(&[9, 1, 1, 0x40, 2]), true),
        (subscribe(&[9, 1, 1, 3, 7]), false),
        (subscribe(&[9, 1, 1, 4, 7, 0, 9]), true),
        // Start, end plus one, priority, forward.
        (update(&[7, 0, 0, 9, 1]), true),
        (update(&[7, 0, 7, 9, 1]), true),
        (update(&[7, 0, 6, 9, 1]), false),
        (update(&[7, 0, 0, 9, 2]), false),
        // Order, content exists.
        (ok(&[1, 0]), true),
        (ok(&[0, 0]), false),
        (ok(&[3, 0]), false),
        (ok(&[1, 2]), false),
        (ok(&[1, 1, 5]), false),
        (publish(&[1, 0, 1]), true),
        (publish(&[0, 0, 1]), false),
        (publish(&[1, 0, 2]), false),
        (publish_ok(&[1, 9, 2, 1]), true),
        (publish_ok(&[1, 9, 0, 1]), false),
        (publish_ok(&[2, 9, 2, 1]), false),
        (fetch(&[9, 0, 2, 0, 1]), true),
        (fetch(&[9, 3, 2, 0, 1]), false),
        (fetch(&[9, 0, 4, 0, 1]), false),
        (fetch_ok(&[2, 0, 1, 1]), true),
        (fetch_ok(&[0, 0, 1, 1]), false),
    ];
    for ((kind, body), good) in cases {
        let mut wire = vec![kind];
        wire.extend((body.len() as u16).to_be_bytes());
        wire.extend(body);
        let theirs = Theirs::decode(&mut &wire[..]);
        assert_eq!(theirs.is_ok(), good, "{wire:?} {theirs:?}");
        let ours = read(Role::Client, &wire);
        assert_eq!(ours.is_ok(), good, "{wire:?} {ours:?}");
        if let Err(error) = ours {
            assert!(error.reason.contains(" at byte "), "{}", error.reason);
        }
    }
}

/// What the draft cannot say is refused when it is written, not bent.
#[test]
fn what_does_not_fit_the_draft_is_not_written() {
    let refused = |message: Message, about: About| {
        let mut out = BytesMut::new();
        let result = D.codec().encode_about(&message, &about, Role::Client, &mut out);
        assert!(result.is_err() && out.is_empty(), "{message:?}");
    };
    let (request, params) = (RequestId(0), Params::default());
    let empty = Namespace::default();
    let nobody = || About::default();
    refused(
        Message::PublishNamespace { request, namespace: empty.clone(), params: params.clone() },
        nobody(),
    );
    for (prefix, want) in [(empty.clone(), Want::Both), (namespace(), Want::Tracks)] {
        let params = params.clone();
        refused(Message::SubscribeNamespace { request, prefix, want, params }, nobody());
    }
    let nameless = FullTrackName::new(empty, "t").unwrap();
    refused(Message::Subscribe { request, track: nameless, params: params.clone() }, nobody());
    refused(Message::Update { request, target: request, params: params.clone() }, nobody());
    refused(Message::PublishNamespaceDone { request }, nobody());
    refused(Message::RequestOk { request, params: params.clone(), properties: vec![] }, nobody());
    refused(Message::PublishState { request, params }, nobody());
    refused(Message::Namespace { suffix: namespace() }, nobody());
    let filter = Some(Filter::AbsoluteStart(Location::new(1 << 62, 0)));
    let params = Params { filter, ..Params::default() };
    refused(Message::Subscribe { request, track: track(), params }, nobody());
}
