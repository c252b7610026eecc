//! The other codec as a judge of bytes: what it accepts and how it writes that again. Compares verdicts
//! over tables of parameters and over random messages, where the other files compare meanings.

use moqtap_codec::{draft14, draft16, draft18, draft19, draft20, draft21, draft22};
use proptest::prelude::*;

use super::*;
use crate::message::Kind;
use crate::model::{Fill, RangeFilter, RangeSubject, ValueRange};

/// What the other codec reads from a framed message, written again; `None` if it refuses it.
pub(super) fn rewritten(draft: Draft, wire: &[u8]) -> Option<Vec<u8>> {
    macro_rules! with {
        ($theirs:ident) => {{
            let mut rest = wire;
            let read = $theirs::message::ControlMessage::decode(&mut rest).ok()?;
            let mut out = Vec::new();
            read.encode(&mut out).ok()?;
            rest.is_empty().then_some(out)
        }};
    }
    match draft {
        Draft::D14 => with!(draft14),
        Draft::D16 => with!(draft16),
        Draft::D18 => with!(draft18),
        Draft::D19 => with!(draft19),
        Draft::D20 => with!(draft20),
        Draft::D21 => with!(draft21),
        Draft::D22 => with!(draft22),
    }
}

fn frame(draft: Draft, kind: u64, body: &[u8]) -> Vec<u8> {
    let mut wire = ints(draft, &[kind]);
    wire.extend((body.len() as u16).to_be_bytes());
    wire.extend(body);
    wire
}

/// Our verdict over a framed message.
fn ours_reads(draft: Draft, wire: &[u8]) -> bool {
    let codec = draft.codec();
    let Some((number, head)) = codec.rules().ints.decode(wire) else { return false };
    let Some(kind) = codec.kind(number, Role::Client) else { return false };
    let body = Bytes::copy_from_slice(&wire[head + 2..]);
    match codec.decode(kind, body, ON).map(|read| read.message) {
        // Up to draft 19 they refuse this while they read; our session answers it.
        Ok(Message::Fetch { target: FetchTarget::Standalone { start, end, .. }, .. })
            if draft < Draft::D20 =>
        {
            start <= end
        }
        read => read.is_ok(),
    }
}

const LATER: [Draft; 5] = [Draft::D18, Draft::D19, Draft::D20, Draft::D21, Draft::D22];

/// A value of the right form for each key of drafts 18 and later.
fn value(draft: Draft, key: u64) -> Vec<u8> {
    match key {
        0x09 => vec![7, 9],
        0x03 => vec![3, 3, 0, b't'],
        0x21 if draft == Draft::D22 => vec![2, 5, 6],
        0x21 if draft < Draft::D20 => vec![1, 1],
        0x21 => vec![2, 5, 6],
        0x23 => vec![1, 0],
        0x25..=0x27 => vec![3, 0, 4, 5],
        0x28 | 0x29 => vec![4, 0, 2, 4, 5],
        0x34 => vec![1, 1, b'n'],
        _ => vec![1],
    }
}

/// Every message with parameters, up to where they begin.
fn heads(draft: Draft) -> Vec<(u64, Vec<u8>)> {
    let name = [1, 1, b'n', 1, b't'];
    let named = |more: &[u8]| [&[2][..], &name, more].concat();
    let fetch =
        if draft < Draft::D20 { [&[2, 1][..], &name, &[0, 0, 9, 0]].concat() } else { named(&[]) };
    let mut heads = vec![
        (0x02, vec![2]),
        (0x03, named(&[])),
        (0x04, vec![8]),
        (0x06, vec![2, 1, 1, b'n']),
        (0x07, vec![]),
        (0x0D, named(&[])),
        (0x16, fetch),
        (0x18, vec![0, 9, 9]),
        (0x1D, named(&[8])),
        (0x50, vec![2, 0]),
        (0x51, vec![2, 0]),
    ];
    if draft >= Draft::D20 {
        heads.push((0x22, vec![]));
    }
    heads
}

#[test]
fn every_parameter_has_the_same_scope_in_every_message() {
    for draft in LATER {
        let mut accepted = 0;
        for (kind, head) in heads(draft) {
            for key in 0..0x40 {
                let body = [&head[..], &[1], &ints(draft, &[key]), &value(draft, key)].concat();
                let wire = frame(draft, kind, &body);
                let theirs = rewritten(draft, &wire).is_some();
                assert_eq!(ours_reads(draft, &wire), theirs, "{draft:?} {kind:#x} {key:#x}");
                accepted += usize::from(theirs);
            }
        }
        // Otherwise a mistake in the table above would make all of them agree.
        assert!(accepted > 30, "{draft:?} {accepted}");
    }
}

#[test]
fn every_parameter_has_the_same_scope_inside_a_fill() {
    for draft in [Draft::D20, Draft::D21, Draft::D22] {
        let mut accepted = Vec::new();
        for key in 0..0x40 {
            let fill = [&[1][..], &ints(draft, &[key]), &value(draft, key)].concat();
            let name = [2, 1, 1, b'n', 1, b't'];
            let body = [&name[..], &[1, 0x23, fill.len() as u8], &fill].concat();
            let wire = frame(draft, 3, &body);
            let theirs = rewritten(draft, &wire).is_some();
            assert_eq!(ours_reads(draft, &wire), theirs, "{draft:?} {key:#x}");
            if theirs {
                accepted.push(key);
            }
        }
        assert_eq!(accepted, [0x0A, 0x20, 0x21, 0x22, 0x25, 0x26, 0x27, 0x28]);
    }
}

#[test]
fn every_message_type_is_known_to_both_or_to_neither() {
    for draft in LATER {
        let theirs = |number: u64| {
            // A known type with no body fails otherwise than by its type.
            let wire = frame(draft, number, &[]);
            let error = format!(
                "{:?}",
                match draft {
                    Draft::D18 => draft18::message::ControlMessage::decode(&mut &wire[..]).err(),
                    Draft::D19 => draft19::message::ControlMessage::decode(&mut &wire[..]).err(),
                    Draft::D20 => draft20::message::ControlMessage::decode(&mut &wire[..]).err(),
                    Draft::D21 => draft21::message::ControlMessage::decode(&mut &wire[..]).err(),
                    _ => draft22::message::ControlMessage::decode(&mut &wire[..]).err(),
                }
            );
            !error.contains("UnknownMessageType")
        };
        for number in (0..0x200).chain([0x2F00]) {
            // PUBLISH_OK stands in the table of draft 18 and is written by nobody.
            let ours = draft.codec().kind(number, Role::Client).is_some();
            assert_eq!(ours, theirs(number), "{draft:?} {number:#x}");
        }
    }
}

fn location() -> impl Strategy<Value = Location> {
    (id(), id()).prop_map(|(group, object)| Location { group, object })
}

/// Small and huge ids, never above what every draft can write.
fn id() -> impl Strategy<Value = u64> {
    prop_oneof![0..300u64, 0..1u64 << 62]
}

fn filter() -> impl Strategy<Value = Filter> {
    let range = (location(), 0..1u64 << 40, id());
    prop_oneof![
        Just(Filter::NextGroupStart),
        Just(Filter::LargestObject),
        (1..u64::MAX).prop_map(|groups_back| Filter::Relative { groups_back }),
        location().prop_map(Filter::AbsoluteStart),
        (location(), 0..1u64 << 40).prop_map(|(start, delta)| {
            Filter::AbsoluteRange { start, end_group: start.group.saturating_add(delta) }
        }),
        range.prop_map(|(start, delta, object)| {
            let group = start.group.saturating_add(delta);
            Filter::Range { start, end: Location { group, object } }
        }),
    ]
}

fn ranges(subjects: &'static [RangeSubject]) -> impl Strategy<Value = Vec<RangeFilter>> {
    let spans = prop::collection::vec((0..60u64, 0..60u64), 1..3);
    let one = (0..subjects.len(), any::<u8>(), 0..1u64 << 40, spans, any::<bool>()).prop_map(
        |(subject, set, property, spans, open)| {
            let subject = subjects[subject];
            let named =
                matches!(subject, RangeSubject::ObjectProperty | RangeSubject::TrackProperty);
            let mut at = 0;
            let mut ranges: Vec<ValueRange> = spans
                .into_iter()
                .map(|(skip, len)| {
                    let start = at + skip;
                    at = start + len;
                    ValueRange { start, end: Some(at) }
                })
                .collect();
            if open && let Some(last) = ranges.last_mut() {
                last.end = None;
            }
            RangeFilter { subject, set, property: named.then_some(2 * property), ranges }
        },
    );
    prop::collection::vec(one, 0..4).prop_map(|mut filters| {
        filters.sort_by_key(|f| (f.subject, f.set, f.property));
        filters.dedup_by_key(|f| (f.subject, f.set, f.property));
        filters
    })
}

const OF_OBJECTS: &[RangeSubject] = &[
    RangeSubject::Subgroup,
    RangeSubject::Object,
    RangeSubject::Priority,
    RangeSubject::ObjectProperty,
];
const OF_ALL: &[RangeSubject] = &[
    RangeSubject::Subgroup,
    RangeSubject::Object,
    RangeSubject::Priority,
    RangeSubject::ObjectProperty,
    RangeSubject::TrackProperty,
];

fn order() -> impl Strategy<Value = Option<GroupOrder>> {
    prop::option::of(prop_oneof![Just(GroupOrder::Ascending), Just(GroupOrder::Descending)])
}

prop_compose! {
    fn fill()(
        filter in prop::option::of(filter()),
        priority: Option<u8>,
        group_order in order(),
        fill_timeout_ms in prop::option::of(id()),
        ranges in ranges(OF_OBJECTS),
    ) -> Fill {
        Fill { filter, priority, group_order, fill_timeout_ms, ranges }
    }
}

prop_compose! {
    /// Every parameter there is; a message leaves out what it does not have.
    fn params()(
        (object_timeout_ms, subgroup_timeout_ms, rendezvous_timeout_ms, fill_timeout_ms, expires_ms)
            in prop::option::of((1..1u64 << 62, id(), id(), id(), id())).prop_map(|some| match some {
                Some((a, b, c, d, e)) => (Some(a), Some(b), Some(c), Some(d), Some(e)),
                None => Default::default(),
            }),
        largest in prop::option::of(location()),
        forward: Option<bool>,
        priority: Option<u8>,
        filter in prop::option::of(filter()),
        group_order in order(),
        fill in prop::option::of(fill().prop_map(Box::new)),
        ranges in ranges(OF_ALL),
        new_group in prop::option::of(id()),
        include_properties: Option<bool>,
        prefixed: bool,
        with_tokens: bool,
    ) -> Params {
        Params {
            tokens: if with_tokens { vec![our_token()] } else { Vec::new() },
            object_timeout_ms, subgroup_timeout_ms, rendezvous_timeout_ms, fill_timeout_ms,
            expires_ms, largest, forward, priority, filter, group_order, fill, ranges, new_group,
            prefix: prefixed.then(namespace), include_properties,
        }
    }
}

fn messages(params: &Params, a: u64, b: u64, end: Location) -> Vec<Message> {
    let request = RequestId(a);
    let params = params.clone();
    let properties = Vec::new();
    // They refuse a range that ends before it starts while they read; our session answers it.
    let start = Location::new(end.group / 2, b).min(end);
    vec![
        Message::Subscribe { request, track: track(), params: params.clone() },
        Message::SubscribeOk {
            request: ON,
            alias: b,
            params: params.clone(),
            properties: properties.clone(),
        },
        Message::Update { request, target: ON, params: params.clone() },
        Message::Publish {
            request,
            track: track(),
            alias: b,
            params: params.clone(),
            properties: properties.clone(),
        },
        Message::PublishState { request: ON, params: params.clone() },
        Message::Fetch {
            request,
            target: FetchTarget::Standalone { track: track(), start, end },
            params: params.clone(),
        },
        Message::Fetch {
            request,
            target: FetchTarget::Recent { track: track(), groups_back: b },
            params: params.clone(),
        },
        Message::FetchOk {
            request: ON,
            end_of_track: b.is_multiple_of(2),
            end,
            params: params.clone(),
            properties: properties.clone(),
        },
        Message::TrackStatus { request, track: track(), params: params.clone() },
        Message::PublishNamespace { request, namespace: namespace(), params: params.clone() },
        Message::SubscribeNamespace {
            request,
            prefix: namespace(),
            want: Want::Namespaces,
            params: params.clone(),
        },
        Message::SubscribeNamespace {
            request,
            prefix: namespace(),
            want: Want::Tracks,
            params: params.clone(),
        },
        Message::PublishOk { request: ON, params: params.clone() },
        Message::RequestOk { request: ON, params, properties },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Random messages: they read what we write and write it with the same bytes, and what we read from
    /// those is written the same again. Meanings are compared beside this, case by case.
    #[test]
    fn random_messages_have_the_same_bytes_in_both_codecs(
        params in params(), a in id(), b in id(), end in location(),
    ) {
        for draft in Draft::ALL {
            for ours in messages(&params, a, b, end) {
                let mut wire = BytesMut::new();
                if draft.codec().encode(&ours, Role::Client, &mut wire).is_err() {
                    continue;
                }
                let theirs = rewritten(draft, &wire);
                prop_assert_eq!(theirs.as_deref(), Some(&wire[..]), "{:?} {:?}", draft, ours);
                // PUBLISH_OK is read as REQUEST_OK in later drafts.
                if draft > Draft::D16 && ours.kind() == Kind::PublishOk {
                    continue;
                }
                let (read, _) = decode(draft, Role::Client, &wire);
                prop_assert_eq!(read.kind(), ours.kind());
                let again = encode(draft, Role::Client, &read);
                prop_assert_eq!(&again[..], &wire[..], "{:?} {:?}", draft, ours);
            }
        }
    }

    /// Random bodies, plausible ones with a byte changed among them: both give the same verdict.
    #[test]
    fn random_bodies_get_the_same_verdict(
        pick in 0..12usize,
        keys in prop::collection::btree_set(0..0x36u64, 0..4),
        body in prop::collection::vec(0..60u8, 0..40),
        flip in (any::<prop::sample::Index>(), any::<u8>()),
    ) {
        for draft in LATER {
            let heads = heads(draft);
            let (kind, head) = &heads[pick % heads.len()];
            let random = [&head[..], &[keys.len() as u8], &body].concat();
            let mut listed = [&head[..], &[keys.len() as u8]].concat();
            let mut previous = 0;
            for key in &keys {
                listed.extend(ints(draft, &[key - previous]));
                listed.extend(value(draft, *key));
                previous = *key;
            }
            let mut flipped = listed.clone();
            let at = flip.0.index(flipped.len());
            flipped[at] = flip.1;
            for body in [random, listed, flipped] {
                let wire = frame(draft, *kind, &body);
                let theirs = rewritten(draft, &wire).is_some();
                prop_assert_eq!(ours_reads(draft, &wire), theirs, "{:?} {:x?}", draft, wire);
            }
        }
    }
}
