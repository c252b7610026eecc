//! Every control message of every draft against `moqtap-codec`, an independent codec: what we write it
//! must read, what it writes we must read, and both must mean the same.
#![expect(clippy::needless_pass_by_value, reason = "each case of a table is used once")]

use bytes::{Bytes, BytesMut};
use moqtap_codec::auth_token::{AuthorizationToken, TokenAliasType};
use moqtap_codec::kvp::{KeyValuePair, KvpValue};
use moqtap_codec::types::TrackNamespace;
use moqtap_codec::varint::{Moqt18, VarInt};

use super::Draft;
use crate::error::{DoneCode, Redirect, RequestCode, RequestError};
use crate::message::{Message, Setup, Want};
use crate::model::{
    FetchTarget, Filter, GroupOrder, Location, Params, Property, PropertyValue, RequestId, Role,
};
use crate::name::{FullTrackName, Namespace};
use crate::session::SetupOptions;
use crate::token::{Token, TokenAction};

/// The request whose stream a message of draft 18 stands on.
const ON: RequestId = RequestId(6);

fn v(value: u64) -> VarInt {
    VarInt::from_u64_moqt(value)
}

fn int(key: u64, value: u64) -> KeyValuePair {
    KeyValuePair { key: v(key), value: KvpValue::Varint(v(value)) }
}

fn bytes(key: u64, value: &[u8]) -> KeyValuePair {
    KeyValuePair { key: v(key), value: KvpValue::Bytes(value.to_vec()) }
}

fn ints(draft: Draft, values: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        draft.codec().rules().ints.encode(*value, &mut out);
    }
    out
}

fn their_token(draft: Draft, token: &AuthorizationToken) -> KeyValuePair {
    let mut out = Vec::new();
    match draft {
        Draft::D16 => token.encode(&mut out).unwrap(),
        Draft::D18 => token.encode_moqt::<Moqt18>(&mut out),
    }
    bytes(3, &out)
}

fn value_token(draft: Draft) -> KeyValuePair {
    their_token(
        draft,
        &AuthorizationToken {
            alias_type: TokenAliasType::UseValue,
            alias: None,
            token_type: Some(300),
            value: b"tok".to_vec(),
        },
    )
}

fn our_token() -> Token {
    Token { kind: 300, value: Bytes::from_static(b"tok") }
}

fn track() -> FullTrackName {
    FullTrackName::new(namespace(), "video").unwrap()
}

fn namespace() -> Namespace {
    Namespace::new(["stream", "acme"]).unwrap()
}

fn their_namespace() -> TrackNamespace {
    TrackNamespace(vec![b"stream".to_vec(), b"acme".to_vec()])
}

fn properties() -> (Vec<Property>, Vec<KeyValuePair>) {
    let ours = vec![
        Property { kind: 0x0E, value: PropertyValue::Int(9) },
        Property { kind: 0x22, value: PropertyValue::Int(2) },
        Property { kind: 0x79, value: PropertyValue::Bytes(Bytes::from_static(b"init")) },
    ];
    (ours, vec![int(0x0E, 9), int(0x22, 2), bytes(0x79, b"init")])
}

fn setup() -> Setup {
    Setup {
        options: SetupOptions {
            path: Some("/p?x=1".to_owned()),
            authority: Some("weir.example:443".to_owned()),
            tokens: vec![our_token()],
            implementation: Some("weir".to_owned()),
        },
        max_request_id: None,
        token_cache_bytes: Some(70_000),
        filter_ranges: None,
        request_updates: None,
    }
}

fn encode(draft: Draft, sender: Role, message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    draft.codec().encode(message, sender, &mut out).unwrap();
    out.freeze()
}

/// Reads one framed message; tokens sent by value are put in, others returned.
fn decode(draft: Draft, sender: Role, wire: &[u8]) -> (Message, Vec<TokenAction>) {
    let codec = draft.codec();
    let (number, head) = codec.rules().ints.decode(wire).unwrap();
    let kind = codec.kind(number, sender).unwrap();
    let length = usize::from(u16::from_be_bytes([wire[head], wire[head + 1]]));
    assert_eq!(wire.len(), head + 2 + length);
    let decoded = codec.decode(kind, Bytes::copy_from_slice(&wire[head + 2..]), ON).unwrap();
    let (mut message, mut actions) = (decoded.message, Vec::new());
    assert_eq!(decoded.aside.refusal, None);
    for action in decoded.aside.tokens {
        match (action, &mut message) {
            (TokenAction::UseValue(token), Message::Setup(setup)) => {
                setup.options.tokens.push(token);
            }
            (TokenAction::UseValue(token), message) => {
                message.params_mut().unwrap().tokens.push(token);
            }
            (action, _) => actions.push(action),
        }
    }
    (message, actions)
}

/// All parameters a SUBSCRIBE can have in `draft`, in both models.
fn subscribe_params(draft: Draft, filter: Filter) -> (Params, Vec<KeyValuePair>) {
    let d18 = draft == Draft::D18;
    let wire = match filter {
        Filter::NextGroupStart => ints(draft, &[1]),
        Filter::AbsoluteStart(start) => ints(draft, &[3, start.group, start.object]),
        Filter::AbsoluteRange { start, end_group } => {
            let end = if d18 { end_group - start.group } else { end_group };
            ints(draft, &[4, start.group, start.object, end])
        }
        _ => ints(draft, &[2]),
    };
    let ours = Params {
        tokens: vec![our_token()],
        object_timeout_ms: Some(2000),
        subgroup_timeout_ms: d18.then_some(3000),
        rendezvous_timeout_ms: d18.then_some(4000),
        forward: Some(false),
        priority: Some(200),
        filter: Some(filter),
        group_order: Some(GroupOrder::Descending),
        new_group: Some(77),
        ..Params::default()
    };
    let mut theirs = vec![int(2, 2000), value_token(draft)];
    if d18 {
        theirs.extend([int(4, 4000), int(6, 3000)]);
    }
    theirs.extend([int(0x10, 0), int(0x20, 200), bytes(0x21, &wire), int(0x22, 2), int(0x32, 77)]);
    (ours, theirs)
}

const FILTERS: [Filter; 4] = [
    Filter::NextGroupStart,
    Filter::LargestObject,
    Filter::AbsoluteStart(Location::new(70_000, 3)),
    Filter::AbsoluteRange { start: Location::new(5, 300), end_group: 9 },
];

fn ok_params(draft: Draft) -> (Params, Vec<KeyValuePair>) {
    let largest = Location::new(1000, 5);
    let ours = Params { expires_ms: Some(60_000), largest: Some(largest), ..Params::default() };
    (ours, vec![int(8, 60_000), bytes(9, &ints(draft, &[1000, 5]))])
}

fn token_params(draft: Draft) -> (Params, Vec<KeyValuePair>) {
    let ours = Params { tokens: vec![our_token()], ..Params::default() };
    (ours, vec![value_token(draft)])
}

fn fetch_params(draft: Draft) -> (Params, Vec<KeyValuePair>) {
    let d18 = draft == Draft::D18;
    let ours = Params {
        tokens: vec![our_token()],
        fill_timeout_ms: d18.then_some(900),
        priority: Some(1),
        group_order: Some(GroupOrder::Ascending),
        ..Params::default()
    };
    let mut theirs = vec![value_token(draft)];
    if d18 {
        theirs.push(int(0x0A, 900));
    }
    theirs.extend([int(0x20, 1), int(0x22, 1)]);
    (ours, theirs)
}

/// A request error with each code, as (ours, number).
const CODES: [(RequestCode, u64); 13] = [
    (RequestCode::Internal, 0x0),
    (RequestCode::Unauthorized, 0x1),
    (RequestCode::Timeout, 0x2),
    (RequestCode::NotSupported, 0x3),
    (RequestCode::MalformedToken, 0x4),
    (RequestCode::ExpiredToken, 0x5),
    (RequestCode::DoesNotExist, 0x10),
    (RequestCode::InvalidRange, 0x11),
    (RequestCode::MalformedTrack, 0x12),
    (RequestCode::DuplicateSubscription, 0x19),
    (RequestCode::Uninterested, 0x20),
    (RequestCode::PrefixOverlap, 0x30),
    (RequestCode::InvalidJoiningRequest, 0x32),
];

mod d16 {
    use moqtap_codec::draft16::message::{self as theirs, ControlMessage as Theirs};

    use super::*;

    const D: Draft = Draft::D16;

    fn check(sender: Role, ours: Message, their: Theirs) {
        let wire = encode(D, sender, &ours);
        assert_eq!(Theirs::decode(&mut &wire[..]), Ok(their.clone()), "reading {ours:?}");
        let mut wire = Vec::new();
        their.encode(&mut wire).unwrap();
        assert_eq!(decode(D, sender, &wire), (ours, Vec::new()), "reading {their:?}");
    }

    fn both(ours: Message, their: Theirs) {
        check(Role::Client, ours, their);
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
        let client = theirs::ClientSetup { parameters: parameters.clone() };
        check(Role::Client, Message::Setup(setup.clone()), Theirs::ClientSetup(client));
        let server = theirs::ServerSetup { parameters };
        check(Role::Server, Message::Setup(setup), Theirs::ServerSetup(server));
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
    fn requests_agree() {
        let request = RequestId(20_000);
        let (request_id, track_name) = (v(20_000), b"video".to_vec());
        for filter in FILTERS {
            let (params, parameters) = subscribe_params(D, filter);
            both(
                Message::Subscribe { request, track: track(), params: params.clone() },
                Theirs::Subscribe(theirs::Subscribe {
                    request_id,
                    track_namespace: their_namespace(),
                    track_name: track_name.clone(),
                    parameters: parameters.clone(),
                }),
            );
            let params = Params { group_order: None, ..params };
            let parameters: Vec<_> = parameters.into_iter().filter(|p| p.key != v(0x22)).collect();
            both(
                Message::Update { request, target: RequestId(4), params: params.clone() },
                Theirs::RequestUpdate(theirs::RequestUpdate {
                    request_id,
                    existing_request_id: v(4),
                    parameters,
                }),
            );
        }
        let (params, parameters) = token_params(D);
        both(
            Message::TrackStatus { request, track: track(), params: params.clone() },
            Theirs::TrackStatus(theirs::TrackStatus {
                request_id,
                track_namespace: their_namespace(),
                track_name: track_name.clone(),
                parameters: parameters.clone(),
            }),
        );
        both(
            Message::PublishNamespace { request, namespace: namespace(), params: params.clone() },
            Theirs::PublishNamespace(theirs::PublishNamespace {
                request_id,
                track_namespace: their_namespace(),
                parameters: parameters.clone(),
            }),
        );
        for (want, options) in [(Want::Tracks, 0), (Want::Namespaces, 1), (Want::Both, 2)] {
            let (prefix, params) = (Namespace::default(), params.clone());
            both(
                Message::SubscribeNamespace { request, prefix, want, params },
                Theirs::SubscribeNamespace(theirs::SubscribeNamespace {
                    request_id,
                    namespace_prefix: TrackNamespace(Vec::new()),
                    subscribe_options: v(options),
                    parameters: parameters.clone(),
                }),
            );
        }
        let (properties, track_extensions) = properties();
        let (params, mut parameters) = ok_params(D);
        let params = Params { forward: Some(true), ..params };
        parameters.push(int(0x10, 1));
        both(
            Message::Publish { request, track: track(), alias: 9, params, properties },
            Theirs::Publish(theirs::Publish {
                request_id,
                track_namespace: their_namespace(),
                track_name,
                track_alias: v(9),
                parameters,
                track_extensions,
            }),
        );
    }

    #[test]
    fn fetches_agree() {
        let request = RequestId(2);
        let (params, parameters) = fetch_params(D);
        let start = Location::new(3, 1);
        // Inclusive here; object plus one there, 0 for the whole group.
        for (end, end_object) in [(Location::new(4, 7), 8), (Location::whole_group(4), 0)] {
            both(
                Message::Fetch {
                    request,
                    target: FetchTarget::Standalone { track: track(), start, end },
                    params: params.clone(),
                },
                Theirs::Fetch(theirs::Fetch {
                    request_id: v(2),
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
            let (ok, ok_parameters) = (Params::default(), Vec::new());
            let (properties, track_extensions) = properties();
            both(
                Message::FetchOk { request, end_of_track: true, end, params: ok, properties },
                Theirs::FetchOk(theirs::FetchOk {
                    request_id: v(2),
                    end_of_track: 1,
                    end_group: v(4),
                    end_object: v(end_object),
                    parameters: ok_parameters,
                    track_extensions,
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
            let parameters = parameters.clone();
            both(
                Message::Fetch { request, target, params: params.clone() },
                Theirs::Fetch(theirs::Fetch {
                    request_id: v(2),
                    fetch_type,
                    fetch_payload,
                    parameters,
                }),
            );
        }
        both(
            Message::FetchCancel { request },
            Theirs::FetchCancel(theirs::FetchCancel { request_id: v(2) }),
        );
    }

    #[test]
    fn answers_agree() {
        let request = RequestId(2);
        let request_id = v(2);
        let (params, parameters) = ok_params(D);
        let (properties, track_extensions) = properties();
        both(
            Message::SubscribeOk { request, alias: 500, params: params.clone(), properties },
            Theirs::SubscribeOk(theirs::SubscribeOk {
                request_id,
                track_alias: v(500),
                parameters: parameters.clone(),
                track_extensions,
            }),
        );
        both(
            Message::RequestOk { request, params, properties: Vec::new() },
            Theirs::RequestOk(theirs::RequestOk { request_id, parameters }),
        );
        let (params, parameters) = subscribe_params(D, Filter::NextGroupStart);
        let params = Params { tokens: Vec::new(), ..params };
        let parameters = parameters.into_iter().filter(|p| p.key != v(3)).collect();
        both(
            Message::PublishOk { request, params },
            Theirs::PublishOk(theirs::PublishOk { request_id, parameters }),
        );
        for (code, number) in CODES {
            for retry_ms in [None, Some(0), Some(5000)] {
                let reason = "why".to_owned();
                let error = RequestError { code, retry_ms, reason, redirect: None };
                both(
                    Message::RequestError { request, error },
                    Theirs::RequestError(theirs::RequestError {
                        request_id,
                        error_code: v(number),
                        retry_interval: v(retry_ms.map_or(0, |ms| ms + 1)),
                        reason_phrase: b"why".to_vec(),
                    }),
                );
            }
            both(
                Message::PublishNamespaceCancel { request, code, reason: "why".to_owned() },
                Theirs::PublishNamespaceCancel(theirs::PublishNamespaceCancel {
                    request_id,
                    error_code: v(number),
                    reason_phrase: b"why".to_vec(),
                }),
            );
        }
    }

    #[test]
    fn endings_agree() {
        let request = RequestId(2);
        let request_id = v(2);
        for (code, number) in [
            (DoneCode::TrackEnded, 2),
            (DoneCode::SubscriptionEnded, 3),
            (DoneCode::Expired, 5),
            (DoneCode::TooFarBehind, 6),
            (DoneCode::MalformedTrack, 0x12),
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
        both(
            Message::Unsubscribe { request },
            Theirs::Unsubscribe(theirs::Unsubscribe { request_id }),
        );
        both(
            Message::PublishNamespaceDone { request },
            Theirs::PublishNamespaceDone(theirs::PublishNamespaceDone { request_id }),
        );
        both(
            Message::Namespace { suffix: namespace() },
            Theirs::Namespace(theirs::Namespace { namespace_suffix: their_namespace() }),
        );
        both(
            Message::NamespaceDone { suffix: namespace() },
            Theirs::NamespaceDone(theirs::NamespaceDone { namespace_suffix: their_namespace() }),
        );
    }
}

mod d18 {
    use moqtap_codec::draft18::message::{self as theirs, ControlMessage as Theirs};

    use super::*;

    const D: Draft = Draft::D18;

    fn both(ours: Message, their: Theirs) {
        let wire = encode(D, Role::Client, &ours);
        assert_eq!(Theirs::decode(&mut &wire[..]), Ok(their.clone()), "reading {ours:?}");
        let mut wire = Vec::new();
        their.encode(&mut wire).unwrap();
        assert_eq!(decode(D, Role::Client, &wire), (ours, Vec::new()), "reading {their:?}");
    }

    #[test]
    fn session_messages_agree() {
        let options = vec![
            bytes(1, b"/p?x=1"),
            value_token(D),
            int(4, 70_000),
            bytes(5, b"weir.example:443"),
            bytes(7, b"weir"),
        ];
        both(Message::Setup(setup()), Theirs::Setup(theirs::Setup { options }));
        for request in [None, Some(RequestId(12))] {
            both(
                Message::GoAway { uri: "moqt://b/".to_owned(), timeout_ms: Some(5000), request },
                Theirs::GoAway(theirs::GoAway {
                    new_session_uri: b"moqt://b/".to_vec(),
                    timeout: v(5000),
                    request_id: request.map(|id| v(id.0)),
                }),
            );
        }
    }

    #[test]
    fn requests_agree() {
        let request = RequestId(u64::MAX - 1);
        let (request_id, track_name) = (v(u64::MAX - 1), b"video".to_vec());
        for filter in FILTERS {
            let (params, parameters) = subscribe_params(D, filter);
            both(
                Message::Subscribe { request, track: track(), params: params.clone() },
                Theirs::Subscribe(theirs::Subscribe {
                    request_id,
                    track_namespace: their_namespace(),
                    track_name: track_name.clone(),
                    parameters: parameters.clone(),
                }),
            );
            let prefix = Some(namespace());
            let params =
                Params { group_order: None, rendezvous_timeout_ms: None, prefix, ..params };
            let mut parameters: Vec<_> =
                parameters.into_iter().filter(|p| p.key != v(0x22) && p.key != v(4)).collect();
            let mut prefix = Vec::new();
            their_namespace().encode_moqt::<Moqt18>(&mut prefix);
            parameters.push(bytes(0x34, &prefix));
            both(
                Message::Update { request, target: ON, params },
                Theirs::RequestUpdate(theirs::RequestUpdate { request_id, parameters }),
            );
        }
        let (params, parameters) = token_params(D);
        both(
            Message::TrackStatus { request, track: track(), params: params.clone() },
            Theirs::TrackStatus(theirs::TrackStatus {
                request_id,
                track_namespace: their_namespace(),
                track_name: track_name.clone(),
                parameters: parameters.clone(),
            }),
        );
        both(
            Message::PublishNamespace { request, namespace: namespace(), params: params.clone() },
            Theirs::PublishNamespace(theirs::PublishNamespace {
                request_id,
                track_namespace: their_namespace(),
                parameters: parameters.clone(),
            }),
        );
        let (prefix, namespace_prefix) = (Namespace::default(), TrackNamespace(Vec::new()));
        let want = Want::Namespaces;
        both(
            Message::SubscribeNamespace {
                request,
                prefix: prefix.clone(),
                want,
                params: params.clone(),
            },
            Theirs::SubscribeNamespace(theirs::SubscribeNamespace {
                request_id,
                namespace_prefix: namespace_prefix.clone(),
                parameters: parameters.clone(),
            }),
        );
        let mut parameters = parameters;
        parameters.push(int(0x10, 0));
        let (want, params) = (Want::Tracks, Params { forward: Some(false), ..params });
        both(
            Message::SubscribeNamespace { request, prefix, want, params },
            Theirs::SubscribeTracks(theirs::SubscribeTracks {
                request_id,
                namespace_prefix,
                parameters,
            }),
        );
        let (properties, track_properties) = properties();
        let (params, parameters) = ok_params(D);
        both(
            Message::Publish { request, track: track(), alias: 9, params, properties },
            Theirs::Publish(theirs::Publish {
                request_id,
                track_namespace: their_namespace(),
                track_name,
                track_alias: v(9),
                parameters,
                track_properties,
            }),
        );
    }

    #[test]
    fn fetches_agree() {
        let request = RequestId(2);
        let (params, parameters) = fetch_params(D);
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
            let (properties, track_properties) = properties();
            let params = Params::default();
            both(
                Message::FetchOk { request: ON, end_of_track: false, end, params, properties },
                Theirs::FetchOk(theirs::FetchOk {
                    end_of_track: 0,
                    end_group: v(4),
                    end_object: v(end_object),
                    parameters: Vec::new(),
                    track_properties,
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
            let parameters = parameters.clone();
            both(
                Message::Fetch { request, target, params: params.clone() },
                Theirs::Fetch(theirs::Fetch {
                    request_id: v(2),
                    fetch_type,
                    fetch_payload,
                    parameters,
                }),
            );
        }
    }

    #[test]
    fn answers_agree() {
        let request = ON;
        let (params, parameters) = ok_params(D);
        let (properties, track_properties) = properties();
        both(
            Message::SubscribeOk {
                request,
                alias: 500,
                params: params.clone(),
                properties: properties.clone(),
            },
            Theirs::SubscribeOk(theirs::SubscribeOk {
                track_alias: v(500),
                parameters: parameters.clone(),
                track_properties: track_properties.clone(),
            }),
        );
        both(
            Message::RequestOk { request, params, properties },
            Theirs::RequestOk(theirs::RequestOk { parameters, track_properties }),
        );
        let codes = CODES.into_iter().chain([
            (RequestCode::GoingAway, 0x6),
            (RequestCode::ExcessiveLoad, 0x9),
            (RequestCode::NamespaceTooLarge, 0x31),
            (RequestCode::UnsupportedExtension, 0x33),
        ]);
        for (code, number) in codes {
            for retry_ms in [None, Some(0), Some(5000)] {
                let reason = "why".to_owned();
                let error = RequestError { code, retry_ms, reason, redirect: None };
                both(
                    Message::RequestError { request, error },
                    Theirs::RequestError(theirs::RequestError {
                        error_code: v(number),
                        retry_interval: v(retry_ms.map_or(0, |ms| ms + 1)),
                        reason_phrase: b"why".to_vec(),
                        redirect: None,
                    }),
                );
            }
        }
        let redirect = Redirect { uri: "moqt://c/".to_owned(), track: Some(track()) };
        let error = RequestError {
            redirect: Some(Box::new(redirect)),
            ..RequestError::new(RequestCode::Redirect, "there")
        };
        both(
            Message::RequestError { request, error },
            Theirs::RequestError(theirs::RequestError {
                error_code: v(0x34),
                retry_interval: v(0),
                reason_phrase: b"there".to_vec(),
                redirect: Some(theirs::Redirect {
                    connect_uri: b"moqt://c/".to_vec(),
                    track_namespace: their_namespace(),
                    track_name: b"video".to_vec(),
                }),
            }),
        );
    }

    /// PUBLISH_OK is a REQUEST_OK here; reading it back needs the session to tell.
    #[test]
    fn publish_ok_is_written_as_request_ok() {
        let (params, parameters) = subscribe_params(D, Filter::NextGroupStart);
        let params = Params { tokens: Vec::new(), rendezvous_timeout_ms: None, ..params };
        let parameters =
            parameters.into_iter().filter(|p| p.key != v(3) && p.key != v(4)).collect();
        let wire = encode(D, Role::Client, &Message::PublishOk { request: ON, params });
        let ok = theirs::RequestOk { parameters, track_properties: Vec::new() };
        assert_eq!(Theirs::decode(&mut &wire[..]), Ok(Theirs::RequestOk(ok)));
    }

    #[test]
    fn endings_agree() {
        for (code, number) in [
            (DoneCode::TrackEnded, 2),
            (DoneCode::TooFarBehind, 5),
            (DoneCode::Expired, 6),
            (DoneCode::ExcessiveLoad, 9),
            (DoneCode::MalformedTrack, 0x12),
        ] {
            for (streams, count) in [(Some(3), 3), (None, (1 << 62) - 1)] {
                both(
                    Message::PublishDone { request: ON, code, streams, reason: "bye".to_owned() },
                    Theirs::PublishDone(theirs::PublishDone {
                        status_code: v(number),
                        stream_count: v(count),
                        reason_phrase: b"bye".to_vec(),
                    }),
                );
            }
        }
        both(
            Message::Namespace { suffix: namespace() },
            Theirs::Namespace(theirs::Namespace { namespace_suffix: their_namespace() }),
        );
        both(
            Message::NamespaceDone { suffix: namespace() },
            Theirs::NamespaceDone(theirs::NamespaceDone { namespace_suffix: their_namespace() }),
        );
        both(
            Message::PublishBlocked { suffix: namespace(), name: Bytes::from_static(b"video") },
            Theirs::PublishBlocked(theirs::PublishBlocked {
                namespace_suffix: their_namespace(),
                track_name: b"video".to_vec(),
            }),
        );
    }

    /// The alias actions, which we never send.
    #[test]
    fn token_actions_are_read() {
        let cases = [
            (TokenAliasType::Delete, None, TokenAction::Delete { alias: 700 }),
            (TokenAliasType::UseAlias, None, TokenAction::UseAlias { alias: 700 }),
            (
                TokenAliasType::Register,
                Some(300),
                TokenAction::Register { alias: 700, token: our_token() },
            ),
        ];
        for (alias_type, token_type, action) in cases {
            let value = if token_type.is_some() { b"tok".to_vec() } else { Vec::new() };
            let token = AuthorizationToken { alias_type, alias: Some(700), token_type, value };
            let their = Theirs::TrackStatus(theirs::TrackStatus {
                request_id: v(2),
                track_namespace: their_namespace(),
                track_name: b"video".to_vec(),
                parameters: vec![their_token(D, &token)],
            });
            let mut wire = Vec::new();
            their.encode(&mut wire).unwrap();
            assert_eq!(decode(D, Role::Client, &wire).1, [action]);
        }
    }
}
