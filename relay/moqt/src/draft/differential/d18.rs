//! Draft 18.

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
        let params = Params { group_order: None, rendezvous_timeout_ms: None, prefix, ..params };
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
    let parameters = parameters.into_iter().filter(|p| p.key != v(3) && p.key != v(4)).collect();
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
