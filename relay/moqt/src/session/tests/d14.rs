//! Stories only draft 14 can tell: versions in SETUP, names in place of request ids, updates that say
//! everything and hear nothing.

use super::*;

const D: Draft = Draft::D14;

/// The error of a fresh session of `role` over these control bytes.
fn error_of(role: Role, bytes: &[u8]) -> SessionError {
    let (limits, options) = (Limits::default(), SetupOptions::default());
    let mut session = Session::new(D, role, Transport::Quic, limits, options);
    let control = StreamId(0);
    if let Some(Output::Open { key, .. }) = session.poll_output() {
        session.stream_opened(key, control).unwrap();
    }
    session.handle_stream(control, Dir::Bi, Bytes::copy_from_slice(bytes), false).unwrap_err()
}

#[test]
fn a_setup_without_our_version_closes_with_version_negotiation_failed() {
    let error = error_of(Role::Server, &[0x20, 0, 10, 1, 0xC0, 0, 0, 0, 0xFF, 0, 0, 0x0D, 0]);
    assert_eq!(error.code, SessionCode::VersionNegotiationFailed);
    assert!(error.reason.starts_with("CLIENT_SETUP: supported versions at byte 9"), "{error}");
    let error = error_of(Role::Server, &[0x20, 0, 2, 0, 0]);
    assert_eq!(error.code, SessionCode::VersionNegotiationFailed);
    let error = error_of(Role::Client, &[0x21, 0, 9, 0xC0, 0, 0, 0, 0xFF, 0, 0, 0x0D, 0]);
    assert_eq!(error.code, SessionCode::VersionNegotiationFailed);
    assert!(error.reason.starts_with("SERVER_SETUP: selected version at byte 8"), "{error}");
    // Each side's SETUP is its own, and stands first.
    for (role, kind) in [(Role::Server, 0x21), (Role::Client, 0x20), (Role::Server, 3)] {
        assert_eq!(error_of(role, &[kind, 0, 1, 0]).code, SessionCode::ProtocolViolation);
    }
    let late = [SETUP_14.1, SETUP_14.1].concat();
    assert_eq!(error_of(Role::Server, &late).code, SessionCode::ProtocolViolation);
}

#[test]
fn a_server_that_says_its_name_where_the_draft_misplaced_it_is_understood() {
    let (limits, options) = (Limits::default(), SetupOptions::default());
    let mut client = Session::new(D, Role::Client, Transport::Quic, limits, options);
    let Some(Output::Open { key, .. }) = client.poll_output() else { panic!() };
    client.stream_opened(key, StreamId(0)).unwrap();
    let setup = [0x21, 0, 13, 0xC0, 0, 0, 0, 0xFF, 0, 0, 0x0E, 1, 5, 2, b'h', b'i'];
    client.handle_stream(StreamId(0), Dir::Bi, Bytes::copy_from_slice(&setup), false).unwrap();
    let implementation = Some("hi".to_owned());
    let options = SetupOptions { implementation, ..SetupOptions::default() };
    assert_eq!(client.poll_event(), Some(Event::Setup { options }));
}

/// Every answer has a type of its own; one for a request of another kind ends the session.
#[test]
fn an_answer_of_the_wrong_type_is_a_violation() {
    let answers: [(u8, &[u8]); 9] = [
        (0x07, &[]),
        (0x08, &[1, 0]),
        (0x0E, &[0, 0, 1, 0, 0]),
        (0x0F, &[1, 0]),
        (0x12, &[]),
        (0x13, &[1, 0]),
        (0x19, &[1, 0]),
        (0x1F, &[1, 0]),
        (0x18, &[1, 0, 5, 5, 0]),
    ];
    for (kind, rest) in answers {
        let mut pair = Pair::ready(D);
        let request = pair.ends[CLIENT].subscribe(&track("video"), Params::default()).unwrap();
        pair.run();
        let control = pair.ends[CLIENT].control.unwrap();
        let wire = [&[kind, 0, 1 + rest.len() as u8, request.0 as u8], rest].concat();
        pair.deliver(CLIENT, control, &wire, false);
        let error = pair.closed[CLIENT].take().unwrap();
        assert_eq!(error.code, SessionCode::ProtocolViolation, "{kind:#x}");
        assert!(error.reason.contains("has no place on"), "{kind:#x}: {error}");
    }
    let mut pair = Pair::ready(D);
    let request = pair.ends[CLIENT].publish_namespace(&ns(&["x"]), Params::default()).unwrap();
    pair.run();
    let control = pair.ends[CLIENT].control.unwrap();
    // SUBSCRIBE_NAMESPACE_OK.
    pair.deliver(CLIENT, control, &[0x12, 0, 1, request.0 as u8], false);
    assert!(pair.closed[CLIENT].is_some());
}

#[test]
fn an_update_says_where_the_subscription_stands() {
    let largest = Some(Location::new(8, 2));
    for (filter, start) in [
        (None, Location::new(8, 3)),
        (Some(Filter::LargestObject), Location::new(8, 3)),
        (Some(Filter::Relative { groups_back: 1 }), Location::new(8, 3)),
        (Some(Filter::NextGroupStart), Location::new(9, 0)),
        (Some(Filter::AbsoluteStart(Location::new(20, 1))), Location::new(20, 1)),
    ] {
        let mut pair = Pair::ready(D);
        let wish = Params { filter, priority: Some(9), ..Params::default() };
        let request = pair.ends[CLIENT].subscribe(&track("video"), wish).unwrap();
        pair.seen(SERVER);
        let pause = Params { forward: Some(false), ..Params::default() };
        if !matches!(filter, Some(Filter::AbsoluteStart(_))) {
            // Nobody knows yet where it starts.
            let early = pair.ends[CLIENT].update(request, pause.clone());
            assert!(matches!(early, Err(CommandError::NotEncodable(_))), "{filter:?}");
        }
        let params = Params { largest, ..Params::default() };
        pair.ends[SERVER].accept_subscribe(request, 4, params, &[]).unwrap();
        pair.seen(CLIENT);
        let update = pair.ends[CLIENT].update(request, pause).unwrap();
        // Silence is consent.
        let kind = RequestKind::Update;
        let (params, properties) = (Params::default(), Vec::new());
        let ok = Event::RequestOk { request: update, kind, params, properties };
        assert_eq!(pair.ends[CLIENT].poll_event(), Some(ok));
        let whole = Params {
            filter: Some(Filter::AbsoluteStart(start)),
            forward: Some(false),
            priority: Some(9),
            ..Params::default()
        };
        let event = Event::Update { request, update, params: whole.clone() };
        assert_eq!(pair.seen(SERVER), [event]);
        // What one update changed, the next repeats.
        let narrow = Filter::AbsoluteRange { start: Location::new(30, 0), end_group: 31 };
        let params = Params { filter: Some(narrow), ..Params::default() };
        let second = pair.ends[CLIENT].update(request, params).unwrap();
        let params = Params { filter: Some(narrow), ..whole };
        assert_eq!(pair.seen(SERVER), [Event::Update { request, update: second, params }]);
        // No answer of either kind reaches the client.
        pair.ends[SERVER].accept(update, Params::default(), &[]).unwrap();
        pair.ends[SERVER].reject(second, &refused()).unwrap();
        assert!(
            matches!(pair.seen(CLIENT)[..], [Event::RequestOk { request: of, .. }] if of == second)
        );
        let jump = Params { filter: Some(Filter::NextGroupStart), ..Params::default() };
        let jumped = pair.ends[CLIENT].update(request, jump);
        assert!(matches!(jumped, Err(CommandError::NotEncodable(_))));
        pair.ends[CLIENT].cancel(request);
        pair.seen(SERVER);
        pair.idle();
    }
}

#[test]
fn an_update_of_no_subscription_is_a_violation_and_a_late_one_is_nothing() {
    let mut pair = Pair::ready(D);
    let over = pair.subscribed(1);
    pair.ends[CLIENT].cancel(over);
    let offer = pair.ends[CLIENT].publish_namespace(&ns(&["x"]), Params::default()).unwrap();
    let change = pair.ends[CLIENT].update(offer, Params::default());
    assert!(matches!(change, Err(CommandError::NotSupported(_))));
    pair.seen(SERVER);
    let control = pair.ends[SERVER].control.unwrap();
    let mut update = |id: u8, of: RequestId| {
        let wire = [2, 0, 8, id, of.0 as u8, 0, 0, 0, 1, 1, 0];
        pair.deliver(SERVER, control, &wire, false);
        pair.closed[SERVER].take()
    };
    assert_eq!(update(40, over), None);
    let error = update(42, offer).unwrap();
    assert_eq!(error.code, SessionCode::ProtocolViolation);
}

#[test]
fn namespaces_are_advertised_by_requests_the_owner_never_sees() {
    let mut pair = Pair::ready(D);
    let prefix = ns(&["stream"]);
    let search = pair.ends[CLIENT].subscribe_namespace(&prefix, Params::default()).unwrap();
    pair.seen(SERVER);
    pair.ends[SERVER].accept(search, Params::default(), &[]).unwrap();
    for suffix in [ns(&["a"]), ns(&["b"]), Namespace::default()] {
        pair.ends[SERVER].namespace(search, &suffix).unwrap();
    }
    let seen = pair.seen(CLIENT);
    assert!(matches!(seen[0], Event::RequestOk { kind: RequestKind::SubscribeNamespace, .. }));
    assert_eq!(seen[1], Event::Namespace { request: search, suffix: ns(&["a"]) });
    assert_eq!(seen[3], Event::Namespace { request: search, suffix: Namespace::default() });
    assert_eq!(pair.seen(SERVER), [], "their answers are nobody's business");
    assert_eq!(pair.ends[SERVER].requests.len(), 4);
    pair.ends[SERVER].namespace_done(search, &ns(&["a"])).unwrap();
    pair.ends[SERVER].namespace_done(search, &ns(&["never"])).unwrap();
    assert_eq!(pair.seen(CLIENT), [Event::NamespaceDone { request: search, suffix: ns(&["a"]) }]);
    // A namespace outside the prefix is an offer like any other.
    let offer = pair.ends[SERVER].publish_namespace(&ns(&["other"]), Params::default()).unwrap();
    let seen = pair.seen(CLIENT);
    assert!(matches!(seen[..], [Event::PublishNamespace { request, .. }] if request == offer));
    pair.ends[SERVER].cancel(offer);
    pair.seen(CLIENT);
    // The end of the subscription is the end of what was advertised on it.
    pair.ends[CLIENT].cancel(search);
    assert_eq!(pair.seen(SERVER), [Event::UnsubscribedNamespace { request: search }]);
    assert_eq!(pair.seen(CLIENT), []);
    pair.idle();
}

#[test]
fn advertisements_above_their_limit_are_refused() {
    let few = Limits { advertised: 1, ..Limits::default() };
    let mut pair = Pair::with(D, few, Limits::default());
    pair.run();
    let prefix = ns(&["stream"]);
    let search = pair.ends[CLIENT].subscribe_namespace(&prefix, Params::default()).unwrap();
    pair.run();
    pair.ends[SERVER].accept(search, Params::default(), &[]).unwrap();
    pair.ends[SERVER].namespace(search, &ns(&["a"])).unwrap();
    pair.ends[SERVER].namespace(search, &ns(&["b"])).unwrap();
    let adverts = pair.seen(CLIENT).into_iter().filter(|e| matches!(e, Event::Namespace { .. }));
    assert_eq!(adverts.count(), 1);
    assert_eq!(pair.ends[CLIENT].counters().advertised_overflow, 1);
    assert_eq!(pair.ends[SERVER].requests.len(), 2, "the refused one is forgotten");
}

#[test]
fn a_name_nobody_offered_is_taken_back_without_harm() {
    let mut pair = Pair::ready(D);
    let control = pair.ends[CLIENT].control.unwrap();
    for kind in [0x09, 0x14] {
        pair.deliver(SERVER, control, &[kind, 0, 3, 1, 1, b'x'], false);
        pair.deliver(CLIENT, control, &[kind, 0, 3, 1, 1, b'x'], false);
    }
    pair.deliver(CLIENT, control, &[0x0C, 0, 5, 1, 1, b'x', 0, 0], false);
    assert_eq!((pair.seen(SERVER), pair.seen(CLIENT)), (Vec::new(), Vec::new()));
}
