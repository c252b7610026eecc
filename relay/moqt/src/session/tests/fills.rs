//! Stories of what came after draft 18: fills instead of joining fetches, range filters, limits told in
//! SETUP, and requests whose stream is finished early.

use super::*;
use crate::model::{Fill, RangeFilter, RangeSubject, ValueRange};

/// Drafts that can say this.
fn each_with(feature: Feature, story: impl Fn(Draft)) {
    each_draft(|draft| {
        if draft.codec().rules().features.contains(&feature) {
            story(draft);
        }
    });
}

fn fill_of(order: GroupOrder) -> Params {
    let fill = Fill {
        filter: Some(Filter::Relative { groups_back: 3 }),
        group_order: Some(order),
        ..Fill::default()
    };
    Params { filter: Some(Filter::LargestObject), fill: Some(Box::new(fill)), ..Params::default() }
}

/// A fetch stream of `request` with one object of each group.
fn filled(draft: Draft, request: RequestId, order: GroupOrder, groups: &[u64]) -> BytesMut {
    let mut out = BytesMut::new();
    let header = FetchHeader { request };
    let mut encoder = FetchEncoder::new(draft, &header, order, &mut out).unwrap();
    for group in groups {
        let object = FetchObject {
            location: Location::new(*group, 0),
            subgroup: Some(0),
            priority: 1,
            properties: Bytes::new(),
            payload_len: 4,
        };
        encoder.object(&object, &mut out).unwrap();
        out.put_slice(b"past");
    }
    out
}

fn groups_of(events: &[Event]) -> Vec<u64> {
    let object = |event: &Event| match event {
        Event::FetchObjectStarted { object, .. } => Some(object.location.group),
        _ => None,
    };
    events.iter().filter_map(object).collect()
}

#[test]
fn a_late_viewer_has_the_past_filled_on_its_subscription() {
    each_with(Feature::Fill, |draft| {
        for order in [GroupOrder::Ascending, GroupOrder::Descending] {
            let mut pair = Pair::ready(draft);
            let params = fill_of(order);
            let request = pair.ends[CLIENT].subscribe(&track("video"), params.clone()).unwrap();
            let seen = pair.seen(SERVER);
            assert_eq!(seen, [Event::Subscribe { request, track: track("video"), params }]);
            pair.ends[SERVER].accept_subscribe(request, 4, Params::default(), &[]).unwrap();
            pair.seen(CLIENT);
            let stream = pair.open(Dir::Uni);
            let groups = if order == GroupOrder::Ascending { [5, 6] } else { [6, 5] };
            pair.deliver(CLIENT, stream, &filled(draft, request, order, &groups), true);
            let seen = pair.seen(CLIENT);
            assert_eq!(seen[0], Event::FetchOpened { stream, request });
            assert_eq!(groups_of(&seen), groups);
            assert_eq!(seen.last(), Some(&Event::DataEnded { stream }));
            // The subscription goes on, and may be filled again.
            let update = pair.ends[CLIENT].update(request, fill_of(order)).unwrap();
            assert!(matches!(&pair.seen(SERVER)[..], [Event::Update { params, .. }]
                if params.fill.is_some()));
            pair.ends[SERVER].accept(update, Params::default(), &[]).unwrap();
            pair.seen(CLIENT);
            let stream = pair.open(Dir::Uni);
            pair.deliver(CLIENT, stream, &filled(draft, request, order, &[7]), false);
            assert_eq!(groups_of(&pair.seen(CLIENT)), [7]);
            // Leaving stops the fill with the rest.
            pair.ends[CLIENT].cancel(request);
            let stopped = |o: Output| matches!(o, Output::Stop { stream: of, .. } if of == stream);
            assert!(std::iter::from_fn(|| pair.ends[CLIENT].poll_output()).any(stopped));
        }
    });
}

#[test]
fn a_fill_that_overtakes_the_answer_is_read_at_once() {
    each_with(Feature::Fill, |draft| {
        let mut pair = Pair::ready(draft);
        let order = GroupOrder::Ascending;
        let request = pair.ends[CLIENT].subscribe(&track("video"), fill_of(order)).unwrap();
        pair.seen(SERVER);
        let stream = pair.open(Dir::Uni);
        pair.deliver(CLIENT, stream, &filled(draft, request, order, &[5]), true);
        assert_eq!(groups_of(&pair.seen(CLIENT)), [5]);
    });
}

#[test]
fn a_published_track_is_filled_too_and_a_stray_fill_costs_nothing() {
    each_with(Feature::Fill, |draft| {
        let mut pair = Pair::ready(draft);
        let order = GroupOrder::Ascending;
        let request =
            pair.ends[CLIENT].publish(&track("video"), 1, Params::default(), &[]).unwrap();
        pair.seen(SERVER);
        pair.ends[SERVER].accept(request, fill_of(order), &[]).unwrap();
        let seen = pair.seen(CLIENT);
        // What PUBLISH_OK cannot say follows as an update.
        assert!(matches!(&seen[..], [
            Event::RequestOk { kind: RequestKind::Publish, .. },
            Event::Update { params, .. },
        ] if *params == fill_of(order)));
        let Event::Update { update, .. } = seen[1] else { panic!("{seen:?}") };
        pair.ends[CLIENT].accept(update, Params::default(), &[]).unwrap();
        assert_eq!(pair.seen(SERVER), [], "the owner of the answer asked for no update");
        let stream = pair.open(Dir::Uni);
        pair.deliver(SERVER, stream, &filled(draft, request, order, &[5]), true);
        assert_eq!(groups_of(&pair.seen(SERVER)), [5]);
        let stray = pair.open(Dir::Uni);
        let unknown = RequestId(request.0 + 20);
        pair.deliver(SERVER, stray, &filled(draft, unknown, order, &[5]), true);
        assert_eq!(pair.seen(SERVER), []);
        assert_eq!(pair.ends[SERVER].counters().stale_streams, 1);
    });
}

#[test]
fn an_answer_to_a_publish_is_complete_where_the_draft_allows_it() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let request =
            pair.ends[CLIENT].publish(&track("video"), 1, Params::default(), &[]).unwrap();
        pair.seen(SERVER);
        let wish = Params { forward: Some(false), priority: Some(9), ..Params::default() };
        pair.ends[SERVER].accept(request, wish.clone(), &[]).unwrap();
        let told: Vec<Params> = pair
            .seen(CLIENT)
            .into_iter()
            .map(|event| match event {
                Event::RequestOk { params, .. } | Event::Update { params, .. } => params,
                other => panic!("{other:?}"),
            })
            .collect();
        let whole = draft.codec().rules().publish_ok_params;
        let wish = publish::taken(draft, wish);
        assert_eq!(told, if whole { vec![wish] } else { vec![Params::default(), wish] });
    });
}

#[test]
fn what_a_draft_cannot_ask_for_is_refused_before_it_is_sent() {
    each_draft(|draft| {
        let mut pair = Pair::ready(draft);
        let fills = pair.ends[CLIENT].supports(Feature::Fill);
        let asked = pair.ends[CLIENT].subscribe(&track("v"), fill_of(GroupOrder::Ascending));
        assert_eq!(asked.is_ok(), fills, "{draft:?}");
        // Nobody takes ranges who did not say so.
        let params = Params { ranges: vec![ranges(1)], ..Params::default() };
        let asked = pair.ends[CLIENT].subscribe(&track("v"), params);
        assert!(matches!(asked, Err(CommandError::NotSupported(_))), "{draft:?}");
        let recent = FetchTarget::Recent { track: track("v"), groups_back: 2 };
        let fetched = pair.ends[CLIENT].fetch(&recent, Params::default());
        assert_eq!(fetched.is_ok(), fills, "{draft:?}");
        let join = FetchTarget::RelativeJoining { subscription: RequestId(0), groups_back: 0 };
        let joins = pair.ends[CLIENT].supports(Feature::JoiningFetch);
        assert_eq!(pair.ends[CLIENT].fetch(&join, Params::default()).is_ok(), joins);
    });
}

fn ranges(count: u64) -> RangeFilter {
    let range = |at| ValueRange { start: 10 * at, end: Some(10 * at + 5) };
    let ranges = (0..count).map(range).collect();
    RangeFilter { subject: RangeSubject::Object, set: 0, property: None, ranges }
}

#[test]
fn range_filters_go_as_far_as_the_peer_allows() {
    each_with(Feature::RangeFilters, |draft| {
        let takes = Limits { filter_ranges: 2, ..Limits::default() };
        let mut pair = Pair::with(draft, Limits::default(), takes);
        pair.run();
        pair.events = [Vec::new(), Vec::new()];
        let params = |count| Params { ranges: vec![ranges(count)], ..Params::default() };
        let request = pair.ends[CLIENT].subscribe(&track("v"), params(2)).unwrap();
        let seen = pair.seen(SERVER);
        assert_eq!(seen, [Event::Subscribe { request, track: track("v"), params: params(2) }]);
        let asked = pair.ends[CLIENT].subscribe(&track("v"), params(3));
        assert!(matches!(asked, Err(CommandError::NotSupported(_))));
        // One that asks all the same is refused, and nothing else happens to it.
        pair.ends[CLIENT].peer_filter_ranges = 9;
        let kind = RequestKind::Subscribe;
        let request = pair.ends[CLIENT].subscribe(&track("v"), params(3)).unwrap();
        let error = RequestError::new(RequestCode::InvalidFilter, "too many filter ranges");
        assert_eq!(pair.seen(CLIENT), [Event::RequestError { request, kind, error }]);
        assert_eq!(pair.seen(SERVER), []);
        let request = pair.subscribed(4);
        let update = pair.ends[CLIENT].update(request, params(3)).unwrap();
        let seen = pair.seen(CLIENT);
        assert!(matches!(&seen[..], [Event::RequestError { request: of, error, .. }]
            if *of == update && error.code == RequestCode::InvalidFilter));
        assert_eq!(pair.ends[SERVER].counters().ranges_refused, 2, "{draft:?}");
    });
}

#[test]
fn an_update_of_a_request_that_waits_is_answered_behind_it() {
    each_with(Feature::RangeFilters, |draft| {
        let takes = Limits { filter_ranges: 2, ..Limits::default() };
        let mut pair = Pair::with(draft, Limits::default(), takes);
        pair.run();
        pair.events = [Vec::new(), Vec::new()];
        pair.ends[CLIENT].peer_filter_ranges = 9;
        let params = |count| Params { ranges: vec![ranges(count)], ..Params::default() };
        let request = pair.ends[CLIENT].subscribe(&track("v"), params(1)).unwrap();
        let good = pair.ends[CLIENT].update(request, params(2)).unwrap();
        let bad = pair.ends[CLIENT].update(request, params(3)).unwrap();
        pair.seen(SERVER);
        pair.ends[SERVER].accept(good, Params::default(), &[]).unwrap();
        let again = pair.ends[SERVER].accept(good, Params::default(), &[]);
        assert_eq!(again, Err(CommandError::AlreadyAnswered(good)));
        assert_eq!(pair.seen(CLIENT), [], "{draft:?}: nothing is answered before the request");
        pair.ends[SERVER].accept_subscribe(request, 7, Params::default(), &[]).unwrap();
        let seen = pair.seen(CLIENT);
        let [Event::SubscribeOk { request: first, .. }, taken, refused] = &seen[..] else {
            panic!("{draft:?}: {seen:?}");
        };
        assert_eq!(*first, request);
        assert!(matches!(taken, Event::RequestOk { request, .. } if *request == good));
        assert!(matches!(refused, Event::RequestError { request, .. } if *request == bad));
    });
}

#[test]
fn a_filter_nobody_could_follow_refuses_the_request_not_the_session() {
    each_with(Feature::RangeFilters, |draft| {
        // SUBSCRIBE 0 of n/t with one PRIORITY_FILTER of set 0: 200 to 456; then an odd property; then ids
        // that overflow.
        let huge = [0x26, 11, 0, 5, 0xFF, 255, 255, 255, 255, 255, 255, 255, 255];
        for filter in [&[0x27, 5, 0, 0x80, 200, 0x81, 0][..], &[0x28, 4, 0, 3, 1, 1], &huge] {
            let body = [&[0, 1, 1, b'n', 1, b't', 1], filter].concat();
            let message = [&[3, 0, body.len() as u8], &body[..]].concat();
            let mut server = server_after(draft, &[SETUP_18, (true, &message)]).unwrap();
            assert!(matches!(server.poll_event(), Some(Event::Setup { .. })));
            assert_eq!(server.poll_event(), None, "{draft:?} {filter:?}");
            let refused = std::iter::from_fn(|| server.poll_output()).any(|output| {
                matches!(output, Output::Write { data, fin: true, .. }
                    if data[0] == 5 && data[3] == 0x36)
            });
            assert!(refused, "{draft:?} {filter:?}");
        }
    });
}

#[test]
fn more_updates_than_were_allowed_end_the_session() {
    each_with(Feature::RangeFilters, |draft| {
        let few = Limits { request_updates: 2, ..Limits::default() };
        let mut pair = Pair::with(draft, Limits::default(), few);
        pair.run();
        pair.events = [Vec::new(), Vec::new()];
        let request = pair.subscribed(1);
        let other = pair.subscribed(2);
        for _ in 0..2 {
            pair.ends[CLIENT].update(request, Params::default()).unwrap();
            pair.ends[CLIENT].update(other, Params::default()).unwrap();
        }
        // We keep to what the peer said.
        let third = pair.ends[CLIENT].update(request, Params::default());
        assert_eq!(third, Err(CommandError::TooManyRequests));
        assert_eq!(pair.seen(SERVER).len(), 4);
        pair.ends[CLIENT].peer_updates = 9;
        pair.ends[CLIENT].update(request, Params::default()).unwrap();
        pair.run();
        let code = pair.closed[SERVER].as_ref().map(|error| error.code);
        assert_eq!(code, Some(SessionCode::TooManyUpdates));
    });
}

#[test]
fn a_finished_request_stream_says_that_no_update_follows() {
    each_draft(|draft| {
        let rules = draft.codec().rules();
        if !(rules.own_stream)(RequestKind::PublishNamespace) {
            return;
        }
        // PUBLISH_NAMESPACE 0 of n, and the end of its stream.
        let offer = [6, 0, 5, 0, 1, 1, b'n', 0];
        let mut server = server_after(draft, &[SETUP_18]).unwrap();
        server.poll_event();
        let stream = StreamId(40);
        server.handle_stream(stream, Dir::Bi, Bytes::copy_from_slice(&offer), true).unwrap();
        let offered = server.poll_event();
        assert!(matches!(offered, Some(Event::PublishNamespace { .. })), "{draft:?} {offered:?}");
        let ended = server.poll_event();
        let request = RequestId(0);
        let gone = Event::PublishNamespaceDone { request };
        assert_eq!(ended, rules.fin_ends_namespace.then_some(gone.clone()), "{draft:?}");
        if !rules.fin_ends_namespace {
            server.accept(request, Params::default(), &[]).unwrap();
            server.handle_stop(stream, 1).unwrap();
            assert_eq!(server.poll_event(), Some(gone), "{draft:?}");
        }
    });
}

#[test]
fn a_fetch_of_the_future_is_refused() {
    each_with(Feature::Fill, |draft| {
        let mut pair = Pair::ready(draft);
        let future = FetchTarget::Recent { track: track("v"), groups_back: 0 };
        pair.ends[CLIENT].fetch(&future, Params::default()).unwrap();
        let seen = pair.seen(CLIENT);
        assert!(matches!(&seen[..], [Event::RequestError { error, .. }]
            if error.code == RequestCode::InvalidRange));
        assert_eq!(pair.seen(SERVER), []);
    });
}
