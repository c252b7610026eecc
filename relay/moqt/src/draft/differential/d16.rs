//! Draft 16.

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
    both(Message::Unsubscribe { request }, Theirs::Unsubscribe(theirs::Unsubscribe { request_id }));
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

/// What the draft has no code for arrives as the nearest it has; reason and retry interval say the rest.
#[test]
fn later_refusals_keep_their_reason_and_retry_interval() {
    for (code, read) in [
        (RequestCode::ExcessiveLoad, RequestCode::Internal),
        (RequestCode::GoingAway, RequestCode::Internal),
        (RequestCode::ConflictingFilters, RequestCode::Internal),
        (RequestCode::NamespaceTooLarge, RequestCode::PrefixOverlap),
        (RequestCode::UnsupportedExtension, RequestCode::NotSupported),
        (RequestCode::InvalidFilter, RequestCode::NotSupported),
        (RequestCode::Redirect, RequestCode::NotSupported),
    ] {
        let request = RequestId(2);
        let error = |code| RequestError {
            retry_ms: Some(250),
            ..RequestError::new(code, "too many viewers")
        };
        let wire = encode(D, Role::Server, &Message::RequestError { request, error: error(code) });
        let (told, _) = decode(D, Role::Server, &wire);
        assert_eq!(told, Message::RequestError { request, error: error(read) });
    }
}
