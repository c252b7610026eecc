//! Drafts 19 to 22: one set of cases, the types of each.

use super::*;
use crate::model::{Fill, RangeFilter, RangeSubject, ValueRange};

/// A filter in the form of a draft, in both models.
fn filters(draft: Draft) -> Vec<(Filter, Vec<u8>)> {
    let at = Location::new(70_000, 3);
    let start = Location::new(5, 300);
    let range = Filter::AbsoluteRange { start, end_group: 9 };
    if draft == Draft::D19 {
        return vec![
            (Filter::NextGroupStart, ints(draft, &[1])),
            (Filter::LargestObject, ints(draft, &[2])),
            (Filter::AbsoluteStart(at), ints(draft, &[3, 70_000, 3])),
            (range, ints(draft, &[4, 5, 300, 4])),
        ];
    }
    // The number of fields names the form; draft 22 says it, and has a form of its own for the next object.
    let form = |fields: &[u64]| match draft {
        Draft::D22 => ints(draft, &[&[fields.len() as u64], fields].concat()),
        _ => ints(draft, fields),
    };
    let next = if draft == Draft::D22 { ints(draft, &[5]) } else { form(&[0, 0]) };
    vec![
        (Filter::NextGroupStart, form(&[0])),
        (Filter::Relative { groups_back: 700 }, form(&[700])),
        (Filter::LargestObject, next),
        (Filter::AbsoluteStart(at), form(&[70_000, 3])),
        (range, form(&[5, 300, 4])),
        (Filter::Range { start, end: Location::new(9, 2) }, form(&[5, 300, 4, 2])),
    ]
}

/// Range filters, in both models: sets, a property, an open end.
fn range_filters(draft: Draft, of_track: bool) -> (Vec<RangeFilter>, Vec<KeyValuePair>) {
    let range = |start, end| ValueRange { start, end };
    let mut ours = vec![
        RangeFilter {
            subject: RangeSubject::Subgroup,
            set: 0,
            property: None,
            ranges: vec![range(3, Some(5)), range(10, Some(15))],
        },
        RangeFilter {
            subject: RangeSubject::Subgroup,
            set: 1,
            property: None,
            ranges: vec![range(7, None)],
        },
        RangeFilter {
            subject: RangeSubject::ObjectProperty,
            set: 0,
            property: Some(0x3C),
            ranges: vec![range(0, Some(1 << 40))],
        },
    ];
    let mut theirs = vec![
        bytes(0x25, &[&[0][..], &ints(draft, &[3, 2, 5, 5])].concat()),
        bytes(0x25, &[&[1][..], &ints(draft, &[7])].concat()),
        bytes(0x28, &[&[0][..], &ints(draft, &[0x3C, 0, 1 << 40])].concat()),
    ];
    if of_track {
        ours.push(RangeFilter {
            subject: RangeSubject::TrackProperty,
            set: 200,
            property: Some(8),
            ranges: vec![range(9, Some(9))],
        });
        theirs.push(bytes(0x29, &[&[200][..], &ints(draft, &[8, 9, 0])].concat()));
    }
    (ours, theirs)
}

/// A fill, and the parameters in it as bytes: count, then key deltas and values.
fn fill(draft: Draft, filter: Filter, wire: &[u8]) -> (Box<Fill>, KeyValuePair) {
    let fill = Fill {
        filter: Some(filter),
        priority: Some(9),
        group_order: Some(GroupOrder::Descending),
        fill_timeout_ms: Some(900),
        ranges: Vec::new(),
    };
    let mut value = ints(draft, &[4, 0x0A, 900]);
    value.extend([0x20 - 0x0A, 9, 1]);
    if draft != Draft::D22 {
        value.push(wire.len() as u8);
    }
    value.extend(wire);
    value.extend([1, 2]);
    (Box::new(fill), bytes(0x23, &value))
}

macro_rules! family {
    ($name:ident, $draft:expr, $theirs:ident) => {
        mod $name {
            use moqtap_codec::$theirs::message::{self as theirs, ControlMessage as Theirs};

            use super::*;

            const D: Draft = $draft;

            fn both(ours: Message, their: Theirs) {
                let wire = encode(D, Role::Client, &ours);
                assert_eq!(Theirs::decode(&mut &wire[..]), Ok(their.clone()), "reading {ours:?}");
                let mut wire = Vec::new();
                their.encode(&mut wire).unwrap();
                let read = decode(D, Role::Client, &wire);
                assert_eq!(read, (ours, Vec::new()), "reading {their:?}");
            }

            /// All that a SUBSCRIBE of the draft can say.
            fn wish(filter: Filter, wire: &[u8]) -> (Params, Vec<KeyValuePair>) {
                let (ranges, their_ranges) = range_filters(D, false);
                let (fill, their_fill) = fill(D, filter, wire);
                let flat = D != Draft::D19;
                let ours = Params {
                    tokens: vec![our_token(), our_token()],
                    object_timeout_ms: Some(2000),
                    subgroup_timeout_ms: Some(3000),
                    rendezvous_timeout_ms: Some(4000),
                    forward: Some(false),
                    priority: Some(200),
                    filter: Some(filter),
                    group_order: Some(GroupOrder::Descending),
                    fill: flat.then_some(fill),
                    ranges,
                    new_group: Some(77),
                    include_properties: flat.then_some(false),
                    ..Params::default()
                };
                let mut theirs = vec![int(2, 2000), value_token(D), value_token(D)];
                theirs.extend([int(4, 4000), int(6, 3000), int(0x10, 0), int(0x20, 200)]);
                theirs.extend([bytes(0x21, wire), int(0x22, 2)]);
                theirs.extend(flat.then_some(their_fill));
                theirs.extend(their_ranges);
                theirs.push(int(0x32, 77));
                theirs.extend(flat.then(|| int(0x35, 0)));
                (ours, theirs)
            }

            fn without(pairs: &[KeyValuePair], keys: &[u64]) -> Vec<KeyValuePair> {
                let keep = |p: &&KeyValuePair| !keys.iter().any(|key| p.key == v(*key));
                pairs.iter().filter(keep).cloned().collect()
            }

            #[test]
            fn session_messages_agree() {
                let options = vec![
                    bytes(1, b"/p?x=1"),
                    value_token(D),
                    int(4, 70_000),
                    bytes(5, b"weir.example:443"),
                    int(6, 300),
                    bytes(7, b"weir"),
                    int(8, 40),
                ];
                let ours = Setup { filter_ranges: Some(300), request_updates: Some(40), ..setup() };
                both(Message::Setup(ours), Theirs::Setup(theirs::Setup { options }));
                let (uri, timeout_ms) = ("moqt://b/".to_owned(), Some(5000));
                both(
                    Message::GoAway { uri, timeout_ms, request: None },
                    Theirs::GoAway(theirs::GoAway {
                        new_session_uri: b"moqt://b/".to_vec(),
                        timeout: v(5000),
                    }),
                );
            }

            #[test]
            fn requests_agree() {
                let request = RequestId(u64::MAX - 1);
                let (request_id, track_name) = (v(u64::MAX - 1), b"video".to_vec());
                let track_namespace = their_namespace();
                for (filter, wire) in filters(D) {
                    let (params, parameters) = wish(filter, &wire);
                    both(
                        Message::Subscribe { request, track: track(), params: params.clone() },
                        Theirs::Subscribe(theirs::Subscribe {
                            request_id,
                            track_namespace: track_namespace.clone(),
                            track_name: track_name.clone(),
                            parameters: parameters.clone(),
                        }),
                    );
                    let prefix = Some(namespace());
                    let params = Params {
                        group_order: None,
                        rendezvous_timeout_ms: None,
                        include_properties: None,
                        prefix,
                        ..params
                    };
                    let mut parameters = without(&parameters, &[4, 0x22, 0x35]);
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
                        track_namespace: track_namespace.clone(),
                        track_name: track_name.clone(),
                        parameters: parameters.clone(),
                    }),
                );
                let offer = params.clone();
                both(
                    Message::PublishNamespace { request, namespace: namespace(), params: offer },
                    Theirs::PublishNamespace(theirs::PublishNamespace {
                        request_id,
                        track_namespace: track_namespace.clone(),
                        parameters: parameters.clone(),
                    }),
                );
                let (prefix, namespace_prefix) = (Namespace::default(), TrackNamespace(Vec::new()));
                both(
                    Message::SubscribeNamespace {
                        request,
                        prefix: prefix.clone(),
                        want: Want::Namespaces,
                        params: params.clone(),
                    },
                    Theirs::SubscribeNamespace(theirs::SubscribeNamespace {
                        request_id,
                        namespace_prefix: namespace_prefix.clone(),
                        parameters: parameters.clone(),
                    }),
                );
                let (ranges, their_ranges) = range_filters(D, true);
                let group_order = Some(GroupOrder::Ascending);
                let params = Params { forward: Some(false), group_order, ranges, ..params };
                let mut parameters = parameters;
                parameters.extend([int(0x10, 0), int(0x22, 1)]);
                parameters.extend(their_ranges);
                both(
                    Message::SubscribeNamespace { request, prefix, want: Want::Tracks, params },
                    Theirs::SubscribeTracks(theirs::SubscribeTracks {
                        request_id,
                        namespace_prefix,
                        parameters,
                    }),
                );
                let (properties, track_properties) = properties();
                let (params, mut parameters) = ok_params(D);
                let params = Params { forward: Some(true), ..params };
                parameters.push(int(0x10, 1));
                both(
                    Message::Publish { request, track: track(), alias: 9, params, properties },
                    Theirs::Publish(theirs::Publish {
                        request_id,
                        track_namespace,
                        track_name,
                        track_alias: v(9),
                        parameters,
                        track_properties,
                    }),
                );
            }

            #[test]
            fn an_update_can_take_a_range_filter_away() {
                let subject = RangeSubject::Object;
                let none = RangeFilter { subject, set: 0, property: None, ranges: Vec::new() };
                let params = Params { ranges: vec![none], ..Params::default() };
                both(
                    Message::Update { request: RequestId(2), target: ON, params },
                    Theirs::RequestUpdate(theirs::RequestUpdate {
                        request_id: v(2),
                        parameters: vec![bytes(0x26, &[])],
                    }),
                );
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
                let newest = D != Draft::D19;
                let gone = |code: &RequestCode| {
                    *code == RequestCode::DuplicateSubscription
                        || (newest && *code == RequestCode::InvalidJoiningRequest)
                };
                let codes = CODES.into_iter().filter(|(code, _)| !gone(code)).chain([
                    (RequestCode::GoingAway, 0x6),
                    (RequestCode::ExcessiveLoad, 0x9),
                    (RequestCode::NamespaceTooLarge, 0x31),
                    (RequestCode::UnsupportedExtension, 0x33),
                    (RequestCode::ConflictingFilters, 0x35),
                    (RequestCode::InvalidFilter, 0x36),
                ]);
                for (code, number) in codes {
                    let error =
                        RequestError { retry_ms: Some(250), ..RequestError::new(code, "why") };
                    both(
                        Message::RequestError { request, error },
                        Theirs::RequestError(theirs::RequestError {
                            error_code: v(number),
                            retry_interval: v(251),
                            reason_phrase: b"why".to_vec(),
                            redirect: None,
                        }),
                    );
                }
                for track in [Some(track()), None] {
                    let there = track.is_some();
                    let redirect = Redirect { uri: "moqt://c/".to_owned(), track };
                    let error = RequestError {
                        redirect: Some(Box::new(redirect)),
                        ..RequestError::new(RequestCode::Redirect, "there")
                    };
                    let nowhere = TrackNamespace(Vec::new());
                    both(
                        Message::RequestError { request, error },
                        Theirs::RequestError(theirs::RequestError {
                            error_code: v(0x34),
                            retry_interval: v(0),
                            reason_phrase: b"there".to_vec(),
                            redirect: Some(theirs::Redirect {
                                connect_uri: b"moqt://c/".to_vec(),
                                track_namespace: if there { their_namespace() } else { nowhere },
                                track_name: if there { b"video".to_vec() } else { Vec::new() },
                            }),
                        }),
                    );
                }
            }

            /// PUBLISH_OK is a REQUEST_OK; reading it back needs the session to tell.
            #[test]
            fn publish_ok_is_written_as_request_ok() {
                let params = Params {
                    expires_ms: Some(7000),
                    forward: Some(false),
                    priority: Some(3),
                    ..Params::default()
                };
                let wire = encode(D, Role::Client, &Message::PublishOk { request: ON, params });
                let mut parameters = vec![int(8, 7000)];
                if D == Draft::D19 {
                    parameters.extend([int(0x10, 0), int(0x20, 3)]);
                }
                let ok = theirs::RequestOk { parameters, track_properties: Vec::new() };
                assert_eq!(Theirs::decode(&mut &wire[..]), Ok(Theirs::RequestOk(ok)));
            }

            #[test]
            fn endings_agree() {
                let mut codes = vec![
                    (DoneCode::Internal, 0),
                    (DoneCode::Unauthorized, 1),
                    (DoneCode::TrackEnded, 2),
                    (DoneCode::GoingAway, 4),
                    (DoneCode::TooFarBehind, 5),
                    (DoneCode::Expired, 6),
                    (DoneCode::UpdateFailed, 8),
                    (DoneCode::ExcessiveLoad, 9),
                    (DoneCode::MalformedTrack, 0x12),
                ];
                let mut unknown = u64::MAX;
                if D == Draft::D19 {
                    codes.push((DoneCode::SubscriptionEnded, 3));
                    unknown = (1 << 62) - 1;
                }
                for (code, number) in codes {
                    for (streams, count) in [(Some(3), 3), (None, unknown)] {
                        let reason = "bye".to_owned();
                        both(
                            Message::PublishDone { request: ON, code, streams, reason },
                            Theirs::PublishDone(theirs::PublishDone {
                                status_code: v(number),
                                stream_count: v(count),
                                reason_phrase: b"bye".to_vec(),
                            }),
                        );
                    }
                }
                let namespace_suffix = their_namespace();
                both(
                    Message::Namespace { suffix: namespace() },
                    Theirs::Namespace(theirs::Namespace {
                        namespace_suffix: namespace_suffix.clone(),
                    }),
                );
                both(
                    Message::NamespaceDone { suffix: namespace() },
                    Theirs::NamespaceDone(theirs::NamespaceDone {
                        namespace_suffix: namespace_suffix.clone(),
                    }),
                );
                let name = Bytes::from_static(b"video");
                both(
                    Message::PublishBlocked { suffix: namespace(), name },
                    Theirs::PublishSkipped(theirs::PublishSkipped {
                        namespace_suffix,
                        track_name: b"video".to_vec(),
                    }),
                );
            }
        }
    };
}

family!(d19, Draft::D19, draft19);
family!(d20, Draft::D20, draft20);
family!(d21, Draft::D21, draft21);
family!(d22, Draft::D22, draft22);

/// FETCH and PUBLISH_STATE_NOTIFY as drafts 20 and later have them.
macro_rules! flat {
    ($name:ident, $draft:expr, $theirs:ident) => {
        mod $name {
            use moqtap_codec::$theirs::message::{self as theirs, ControlMessage as Theirs};

            use super::*;

            const D: Draft = $draft;

            fn check(ours: &Message, their: &Theirs) {
                let wire = encode(D, Role::Client, ours);
                assert_eq!(Theirs::decode(&mut &wire[..]), Ok(their.clone()), "reading {ours:?}");
                let mut wire = Vec::new();
                their.encode(&mut wire).unwrap();
                assert_eq!(decode(D, Role::Client, &wire).0, *ours, "reading {their:?}");
            }

            fn fetch(target: FetchTarget, filter: Option<Vec<u8>>) {
                let (ranges, their_ranges) = range_filters(D, false);
                let (params, mut parameters) = fetch_params(D);
                let params = Params { ranges, include_properties: Some(true), ..params };
                if let Some(filter) = filter {
                    parameters.insert(3, bytes(0x21, &filter));
                }
                parameters.extend(their_ranges);
                parameters.push(int(0x35, 1));
                let request = RequestId(2);
                check(
                    &Message::Fetch { request, target, params },
                    &Theirs::Fetch(theirs::Fetch {
                        request_id: v(2),
                        track_namespace: their_namespace(),
                        track_name: b"video".to_vec(),
                        parameters,
                    }),
                );
            }

            #[test]
            fn fetches_agree() {
                let form = |fields: &[u64]| match D {
                    Draft::D22 => ints(D, &[&[fields.len() as u64], fields].concat()),
                    _ => ints(D, fields),
                };
                let largest = Location::whole_group(u64::MAX);
                let start = Location::new(3, 1);
                let target = |start, end| FetchTarget::Standalone { track: track(), start, end };
                fetch(target(Location::default(), largest), None);
                fetch(target(start, largest), Some(form(&[3, 1])));
                fetch(target(start, Location::whole_group(900)), Some(form(&[3, 1, 897])));
                fetch(target(start, Location::new(4, 7)), Some(form(&[3, 1, 1, 7])));
                fetch(target(start, Location::new(4, 0)), Some(form(&[3, 1, 1, 0])));
                let recent = FetchTarget::Recent { track: track(), groups_back: 2 };
                fetch(recent, Some(form(&[2])));
                for end in [Location::new(4, 7), Location::new(4, 0)] {
                    let (properties, track_properties) = properties();
                    let params = Params::default();
                    check(
                        &Message::FetchOk {
                            request: ON,
                            end_of_track: true,
                            end,
                            params,
                            properties,
                        },
                        &Theirs::FetchOk(theirs::FetchOk {
                            end_of_track: 1,
                            end_group: v(end.group),
                            end_object: v(end.object),
                            parameters: Vec::new(),
                            track_properties,
                        }),
                    );
                }
            }

            #[test]
            fn a_join_cannot_be_fetched() {
                let target =
                    FetchTarget::RelativeJoining { subscription: RequestId(0), groups_back: 1 };
                let join =
                    Message::Fetch { request: RequestId(2), target, params: Params::default() };
                let refused = D.codec().encode(&join, Role::Client, &mut BytesMut::new());
                assert!(refused.is_err());
            }

            /// Codes of older drafts are unassigned here: they are neither sent nor understood.
            #[test]
            fn what_went_away_is_internal() {
                let done = |code| Message::PublishDone {
                    request: ON,
                    code,
                    streams: Some(1),
                    reason: String::new(),
                };
                let wire = encode(D, Role::Client, &done(DoneCode::SubscriptionEnded));
                assert_eq!(decode(D, Role::Client, &wire).0, done(DoneCode::Internal));
                let old = [0x0B, 0, 3, 3, 1, 0];
                assert_eq!(decode(D, Role::Client, &old).0, done(DoneCode::Internal));
                let error = |code| Message::RequestError {
                    request: ON,
                    error: RequestError::new(code, ""),
                };
                for (number, code) in [
                    (0x19, RequestCode::DuplicateSubscription),
                    (0x32, RequestCode::InvalidJoiningRequest),
                ] {
                    let wire = encode(D, Role::Client, &error(code));
                    assert_eq!(decode(D, Role::Client, &wire).0, error(RequestCode::NotSupported));
                    let old = [5, 0, 3, number, 0, 0];
                    assert_eq!(decode(D, Role::Client, &old).0, error(RequestCode::Internal));
                }
            }

            #[test]
            fn changes_of_state_agree() {
                for (filter, wire) in filters(D) {
                    let largest = Some(Location::new(1000, 5));
                    let params = Params {
                        largest,
                        forward: Some(false),
                        filter: Some(filter),
                        ..Params::default()
                    };
                    check(
                        &Message::PublishState { request: ON, params },
                        &Theirs::PublishStateNotify(theirs::PublishStateNotify {
                            parameters: vec![
                                bytes(9, &ints(D, &[1000, 5])),
                                int(0x10, 0),
                                bytes(0x21, &wire),
                            ],
                        }),
                    );
                }
                // "No filter" has a form of its own where a message changes one.
                let none = if D == Draft::D22 { ints(D, &[0]) } else { Vec::new() };
                let params = Params { filter: Some(Filter::NextObject), ..Params::default() };
                check(
                    &Message::PublishState { request: ON, params },
                    &Theirs::PublishStateNotify(theirs::PublishStateNotify {
                        parameters: vec![bytes(0x21, &none)],
                    }),
                );
            }

            /// A fill of everything, and one that says nothing.
            #[test]
            fn fills_of_the_whole_track_agree() {
                let whole = Some(Filter::AbsoluteStart(Location::default()));
                let form =
                    if D == Draft::D22 { ints(D, &[1, 0x21, 2, 0, 0]) } else { vec![1, 0x21, 0] };
                for (filter, value) in [(whole, form), (None, vec![0])] {
                    let fill = Some(Box::new(Fill { filter, ..Fill::default() }));
                    let params = Params { fill, ..Params::default() };
                    check(
                        &Message::Update { request: RequestId(2), target: ON, params },
                        &Theirs::RequestUpdate(theirs::RequestUpdate {
                            request_id: v(2),
                            parameters: vec![bytes(0x23, &value)],
                        }),
                    );
                }
            }
        }
    };
}

flat!(flat_20, Draft::D20, draft20);
flat!(flat_21, Draft::D21, draft21);
flat!(flat_22, Draft::D22, draft22);
