//! Stories of a publisher that speaks first: PUBLISH, SUBSCRIBE_TRACKS and what follows them.

use super::*;
use crate::error::Redirect;

/// The client publishes a track under `alias`; the server has not answered.
fn published(pair: &mut Pair, alias: u64) -> RequestId {
    let params = Params { largest: Some(Location::new(4, 2)), ..Params::default() };
    let properties = [Property { kind: 0x0E, value: PropertyValue::Int(9) }];
    let track = track("video");
    let request = pair.ends[CLIENT].publish(&track, alias, params.clone(), &properties).unwrap();
    let properties = told(pair.draft, &properties);
    let seen = pair.seen(SERVER);
    assert_eq!(seen, [Event::Publish { request, track, alias, params, properties }]);
    request
}

fn granted(pair: &mut Pair, alias: u64) -> RequestId {
    let request = published(pair, alias);
    pair.ends[SERVER].accept(request, Params::default(), &[]).unwrap();
    let kind = RequestKind::Publish;
    let (params, properties) = (taken(pair.draft, Params::default()), Vec::new());
    let ok = Event::RequestOk { request, kind, params, properties };
    assert_eq!(pair.seen(CLIENT), [ok]);
    request
}

/// What of the answer to a PUBLISH arrives: draft 14 names all.
pub(super) fn taken(draft: Draft, params: Params) -> Params {
    if !draft.codec().rules().in_full {
        return params;
    }
    Params {
        forward: Some(params.forwards()),
        priority: Some(params.subscriber_priority()),
        filter: params.filter.or(Some(Filter::LargestObject)),
        group_order: params.group_order.or(Some(GroupOrder::Ascending)),
        ..params
    }
}

#[test]
fn a_published_track_is_taken_changed_and_ended_by_its_publisher() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let request = granted(&mut pair, 5);
        let stream = pair.open(Dir::Uni);
        pair.deliver(SERVER, stream, &subgroup(draft, 5, 7, &[b"key frame"]), true);
        let seen = pair.seen(SERVER);
        assert!(matches!(seen[0], Event::SubgroupOpened { request: of, .. } if of == request));

        let params = Params { forward: Some(false), ..Params::default() };
        let update = pair.ends[SERVER].update(request, params.clone()).unwrap();
        let params = if draft.codec().rules().in_full {
            // From behind the largest object, as it was.
            let filter = Some(Filter::AbsoluteStart(Location::new(4, 3)));
            Params { filter, priority: Some(128), ..params }
        } else {
            params
        };
        assert_eq!(pair.seen(CLIENT), [Event::Update { request, update, params }]);
        pair.ends[CLIENT].accept(update, Params::default(), &[]).unwrap();
        let seen = pair.seen(SERVER);
        assert!(
            matches!(seen[..], [Event::RequestOk { request: id, kind: RequestKind::Update, .. }]
            if id == update)
        );

        let (code, streams) = (DoneCode::TrackEnded, Some(1));
        pair.ends[CLIENT].publish_done(request, code, streams, "over").unwrap();
        let reason = "over".to_owned();
        let done = Event::PublishDone { request, code, streams, reason };
        assert_eq!(pair.seen(SERVER), [done]);
        pair.idle();
    });
}

#[test]
fn a_publisher_that_reads_no_more_still_says_how_its_track_ended() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let request = granted(&mut pair, 5);
        let Link::Stream(stream) = pair.ends[SERVER].requests[&request].link else { return };
        pair.step(SERVER, |server| server.handle_stop(stream, 0));
        // Our half is reset, which somebody who stopped it does not look at.
        let answer = pair.ends[SERVER].poll_output();
        assert!(matches!(answer, Some(Output::Reset { stream: of, .. }) if of == stream));
        assert_eq!(pair.seen(SERVER), [], "{draft:?}: not over yet");
        let (code, streams) = (DoneCode::TrackEnded, Some(1));
        pair.ends[CLIENT].publish_done(request, code, streams, "over").unwrap();
        let reason = "over".to_owned();
        let done = Event::PublishDone { request, code, streams, reason };
        assert_eq!(pair.seen(SERVER), [done], "{draft:?}");
    });
}

#[test]
fn a_published_track_is_refused_or_dropped_later() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let refused_one = published(&mut pair, 1);
        pair.ends[SERVER].reject(refused_one, &refused()).unwrap();
        let kind = RequestKind::Publish;
        let error = heard(draft, kind);
        assert_eq!(pair.seen(CLIENT), [Event::RequestError { request: refused_one, kind, error }]);
        let request = granted(&mut pair, 1);
        pair.ends[SERVER].cancel(request);
        assert_eq!(pair.seen(CLIENT), [Event::Unsubscribed { request }]);
        let late = pair.ends[CLIENT].publish_done(request, DoneCode::TrackEnded, None, "");
        assert_eq!(late, Err(CommandError::UnknownRequest(request)));
        // Not answered yet: dropping it is refusing it.
        let request = published(&mut pair, 2);
        pair.ends[SERVER].cancel(request);
        let seen = pair.seen(CLIENT);
        assert!(matches!(&seen[..], [Event::RequestError { error, .. }]
            if error.code == RequestCode::Uninterested));
        pair.idle();
    });
}

#[test]
fn a_publisher_that_gives_up_before_the_answer_is_heard_and_the_late_answer_is_not_missed() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let request = published(&mut pair, 1);
        pair.ends[SERVER].accept(request, Params::default(), &[]).unwrap();
        pair.ends[CLIENT].cancel(request);
        let seen = pair.seen(SERVER);
        assert!(matches!(seen[..], [Event::PublishDone { request: of, .. }] if of == request));
        assert_eq!(pair.seen(CLIENT), []);
        pair.idle();
        // Given up before its stream was there: the peer hears nothing of it, or that it ended.
        let track = track("video");
        let request = pair.ends[CLIENT].publish(&track, 2, Params::default(), &[]).unwrap();
        pair.ends[CLIENT].publish_done(request, DoneCode::TrackEnded, Some(0), "").unwrap();
        let seen = pair.seen(SERVER);
        assert!(matches!(
            seen[..],
            [] | [Event::Publish { .. }, Event::PublishDone { code: DoneCode::TrackEnded, .. }]
        ));
        assert!(pair.ends.iter().all(|end| end.requests.is_empty()));
    });
}

#[test]
fn tracks_under_a_prefix_are_asked_for_and_published_or_named_as_blocked() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let prefix = ns(&["stream"]);
        let wish = pair.ends[SERVER].subscribe_tracks(&prefix, Params::default());
        if !pair.ends[SERVER].supports(Feature::SubscribeTracks) {
            assert_eq!(wish, Err(CommandError::NotSupported("SUBSCRIBE_TRACKS")));
            return;
        }
        let request = wish.unwrap();
        let params = Params::default();
        assert_eq!(pair.seen(CLIENT), [Event::SubscribeTracks { request, prefix, params }]);
        pair.ends[CLIENT].accept(request, Params::default(), &[]).unwrap();
        let (suffix, name) = (ns(&["acme", "7"]), Bytes::from_static(b"audio"));
        pair.ends[CLIENT].publish_blocked(request, &suffix, &name).unwrap();
        let seen = pair.seen(SERVER);
        assert!(matches!(seen[0], Event::RequestOk { kind: RequestKind::SubscribeTracks, .. }));
        let told = pair.ends[CLIENT].supports(Feature::PublishBlocked);
        let blocked = Event::PublishBlocked { request, suffix, name };
        assert_eq!(seen.get(1), told.then_some(&blocked));
        let video = granted(&mut pair, 1);
        pair.ends[SERVER].cancel(request);
        assert_eq!(pair.seen(CLIENT), [Event::UnsubscribedNamespace { request }]);
        // What was published on the way stays.
        pair.ends[SERVER].cancel(video);
        assert_eq!(pair.seen(CLIENT), [Event::Unsubscribed { request: video }]);
        pair.idle();
    });
}

#[test]
fn a_publisher_tells_of_a_changed_state_where_the_draft_has_words_for_it() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let params = Params { largest: Some(Location::new(9, 9)), ..Params::default() };
        let ours = granted(&mut pair, 1);
        pair.ends[CLIENT].publish_state(ours, params.clone()).unwrap();
        let told = pair.ends[CLIENT].supports(Feature::PublishState);
        let state = |request| Event::PublishState { request, params: params.clone() };
        assert_eq!(pair.seen(SERVER), Vec::from_iter(told.then(|| state(ours))));
        let theirs = pair.subscribed(2);
        pair.ends[SERVER].publish_state(theirs, params.clone()).unwrap();
        assert_eq!(pair.seen(CLIENT), Vec::from_iter(told.then(|| state(theirs))));
        let nobody = pair.ends[CLIENT].publish_state(RequestId(4000), params.clone());
        assert_eq!(nobody, Err(CommandError::UnknownRequest(RequestId(4000))));
    });
}

#[test]
fn one_request_is_asked_to_move_where_the_draft_has_words_for_it() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let request = pair.subscribed(2);
        let uri = "moqt://b.example/";
        let sent = pair.ends[SERVER].goaway_request(request, uri, 700);
        if !pair.ends[SERVER].supports(Feature::RequestGoAway) {
            assert_eq!(sent, Err(CommandError::NotSupported("GOAWAY for one request")));
            return;
        }
        pair.ends[SERVER].goaway_request(request, uri, 700).unwrap();
        let (of, uri, timeout_ms) = (Some(request), uri.to_owned(), Some(700));
        assert_eq!(pair.seen(CLIENT), [Event::GoAway { request: of, uri, timeout_ms }]);
        // The session itself goes on.
        pair.subscribed(3);
        // A client has no place to name.
        pair.ends[CLIENT].goaway_request(request, "moqt://c.example/", 0).unwrap();
        let (of, uri, timeout_ms) = (Some(request), String::new(), Some(0));
        assert_eq!(pair.seen(SERVER), [Event::GoAway { request: of, uri, timeout_ms }]);
    });
}

#[test]
fn a_request_is_sent_elsewhere_as_far_as_the_draft_can_say_it() {
    each_draft(|draft| {
        for place in [None, Some(track("video"))] {
            let mut pair = Pair::ready(draft);
            let request = pair.ends[CLIENT].subscribe(&track("video"), Params::default()).unwrap();
            pair.seen(SERVER);
            let redirect = Redirect { uri: "moqt://b.example/".to_owned(), track: place };
            let error = RequestError {
                redirect: Some(Box::new(redirect)),
                ..RequestError::new(RequestCode::Redirect, "there")
            };
            pair.ends[SERVER].reject(request, &error).unwrap();
            let seen = pair.seen(CLIENT);
            let [Event::RequestError { error: read, .. }] = &seen[..] else { panic!("{seen:?}") };
            if pair.ends[CLIENT].supports(Feature::Redirect) {
                assert_eq!(*read, error);
            } else {
                assert_eq!((read.code, &read.redirect), (RequestCode::NotSupported, &None));
            }
            pair.idle();
        }
    });
}

#[test]
fn a_state_told_by_the_wrong_side_or_of_another_request_ends_the_session() {
    each_draft(|draft| {
        if !draft.codec().rules().features.contains(&Feature::PublishState) {
            return;
        }
        let state = [0x22, 0, 1, 0];
        // After SUBSCRIBE, FETCH, PUBLISH_NAMESPACE and SUBSCRIBE_TRACKS of the same peer.
        for request in [
            &[3, 0, 6, 0, 1, 1, b'n', 1, b't', 0][..],
            &[0x16, 0, 7, 0, 1, 1, b'n', 1, b't', 0],
            &[6, 0, 5, 0, 1, 1, b'n', 0],
            &[0x51, 0, 5, 0, 1, 1, b'n', 0],
        ] {
            let mut request = request.to_vec();
            request[2] = request.len() as u8 - 3;
            let bytes = [&request[..], &state].concat();
            let code = code_after(draft, &[SETUP_18, (true, &bytes)]);
            assert_eq!(code, SessionCode::ProtocolViolation, "{draft:?} {request:?}");
        }
        // A publisher may say it of what it publishes.
        let publish = [0x1D, 0, 8, 0, 1, 1, b'n', 1, b't', 9, 0];
        let bytes = [&publish[..], &state].concat();
        assert!(server_after(draft, &[SETUP_18, (true, &bytes)]).is_ok(), "{draft:?}");
    });
}
