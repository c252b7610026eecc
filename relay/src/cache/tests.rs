use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use bytes::Bytes;

use super::*;
use crate::encode::object_heads;
use crate::{Forwarding, ObjectIn};
use weir_moqt::data::Status;

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a test needs some point in time to start from")]
    Instant::now()
}

fn object(at: Instant, group: u64, object: u64, payload: &[u8]) -> ObjectIn {
    ObjectIn {
        group,
        subgroup: 0,
        object,
        priority: 2,
        properties: Bytes::new(),
        payload: Bytes::copy_from_slice(payload),
        end_of_group: false,
        arrived: at,
        forwarding: Forwarding::default(),
    }
}

fn marker(at: Instant, group: u64, id: u64) -> ObjectIn {
    ObjectIn { end_of_group: true, ..object(at, group, id, b"") }
}

/// Where the stream of subgroup 0 of a group stands.
fn place(cache: &Cache, group: u64) -> Place {
    let serial = cache.group(group).unwrap().subgroup(0).unwrap().serial;
    Place { group, subgroup: 0, serial }
}

fn progress(cache: &Cache) -> Progress {
    cache.newest().unwrap().subgroup(0).unwrap().progress
}

/// Everything in the cache: what an attack must leave as it was.
fn contents(cache: &Cache) -> Vec<(u64, u64, Vec<u8>)> {
    cache
        .groups()
        .flat_map(|group| {
            let objects = group.objects().into_iter();
            objects.map(|(_, o)| (group.id, o.id, o.payload.joined().to_vec()))
        })
        .collect()
}

#[test]
fn h28_a_duplicate_with_another_payload_is_poison_and_changes_nothing() {
    let t = now();
    for order in [Order::Strict, Order::Streams, Order::Replica] {
        let mut cache = Cache::new(1, order);
        cache.insert(object(t, 5, 0, b"key"), 100).unwrap();
        cache.insert(object(t, 5, 1, b"delta"), 100).unwrap();
        let before = contents(&cache);
        assert_eq!(cache.insert(object(t, 5, 0, b"KEY"), 100), Err(ObjectError::Conflict));
        let mut other = object(t, 5, 0, b"key");
        other.properties = Bytes::from_static(&[0x10, 0x01]);
        assert_eq!(cache.insert(other, 100), Err(ObjectError::Conflict));
        assert_eq!(cache.insert(object(t, 5, 0, b"key"), 100), Ok(Taken::Duplicate));
        assert_eq!(contents(&cache), before);
        assert_eq!(cache.bytes(), 8);
    }
}

#[test]
fn h28_groups_and_objects_of_a_feed_never_go_backwards() {
    let t = now();
    let mut cache = Cache::new(1, Order::Strict);
    cache.insert(object(t, 5, 0, b"a"), 100).unwrap();
    cache.insert(object(t, 5, 3, b"b"), 100).unwrap();
    cache.insert(object(t, 6, 0, b"c"), 100).unwrap();
    let before = contents(&cache);
    let mut refused = |object| cache.insert(object, 100).unwrap_err();
    assert_eq!(refused(object(t, 4, 0, b"x")), ObjectError::GroupBackwards);
    assert_eq!(refused(object(t, 5, 4, b"x")), ObjectError::GroupBackwards);
    assert_eq!(refused(object(t, 5, 2, b"x")), ObjectError::ObjectBackwards);
    assert_eq!(refused(object(t, 7, ID_MAX + 1, b"x")), ObjectError::IdRange);
    assert_eq!(refused(object(t, 7, 0, &[0; 101])), ObjectError::TooLarge);
    assert_eq!(
        refused(ObjectIn { subgroup: ID_MAX + 1, ..object(t, 7, 0, b"x") }),
        ObjectError::IdRange
    );
    assert_eq!(contents(&cache), before);
    assert_eq!(cache.largest(), Some(Location::new(6, 0)));
}

#[test]
fn an_end_of_group_is_final() {
    let t = now();
    let mut cache = Cache::new(1, Order::Strict);
    cache.insert(object(t, 1, 0, b"a"), 100).unwrap();
    assert_eq!(progress(&cache), Progress::Growing);
    assert_eq!(cache.insert(marker(t, 1, 1), 100), Ok(Taken::Marker));
    assert_eq!(progress(&cache), Progress::Complete);
    let more = cache.insert(object(t, 1, 1, b"b"), 100);
    assert_eq!(more, Err(ObjectError::ObjectBackwards));
    cache.insert(ObjectIn { end_of_group: true, ..object(t, 2, 0, b"c") }, 100).unwrap();
    assert_eq!(progress(&cache), Progress::Complete);
    assert_eq!(contents(&cache).len(), 2);
}

#[test]
fn streams_of_a_publisher_may_overlap_a_little() {
    let t = now();
    let mut cache = Cache::new(1, Order::Streams);
    cache.insert(object(t, 10, 0, b"a"), 100).unwrap();
    cache.insert(object(t, 11, 0, b"b"), 100).unwrap();
    // The older group is still being sent on its own stream.
    assert_eq!(cache.insert(object(t, 10, 1, b"c"), 100), Ok(Taken::New));
    assert!(cache.admits_group(9));
    assert!(!cache.admits_group(8));
    cache.complete(place(&cache, 10), t);
    let more = cache.insert(object(t, 10, 2, b"d"), 100);
    assert_eq!(more, Err(ObjectError::GroupBackwards));
    cache.abort(place(&cache, 11), ResetCode::Cancelled);
    assert_eq!(progress(&cache), Progress::Aborted(ResetCode::Cancelled));
}

#[test]
fn replay_and_live_may_overlap_in_any_order() {
    let t = now();
    let mut cache = Cache::new(1, Order::Replica);
    cache.insert(object(t, 7, 2, b"live"), 100).unwrap();
    for (id, payload) in [(0, "key"), (1, "one"), (2, "live")] {
        cache.insert(object(t, 7, id, payload.as_bytes()), 100).unwrap();
    }
    cache.insert(object(t, 6, 0, b"old"), 100).unwrap();
    let found: Vec<_> = contents(&cache).into_iter().map(|(g, o, _)| (g, o)).collect();
    assert_eq!(found, [(6, 0), (7, 0), (7, 1), (7, 2)]);
    let group = cache.group(7).unwrap();
    let chain = group.objects().into_iter().map(|(_, o)| (o.previous, o.id, o.end_offset));
    let chain: Vec<_> = chain.collect();
    assert_eq!(chain, [(None, 0, 3), (Some(0), 1, 6), (Some(1), 2, 10)]);
    assert_eq!(group.known_from, 0);
    let same = object_heads(Some(1), 2, &Bytes::new(), 4, Status::Normal).unwrap();
    assert_eq!(group.object(2).unwrap().heads, same);
}

#[test]
fn the_newest_group_stays_and_older_ones_leave_by_count_age_and_bytes() {
    let t = now();
    let limits = Limits {
        cache_groups_max: 3,
        cache_age_max: Duration::from_secs(10),
        group_objects_max: 4,
        ..Limits::default()
    };
    let ids = |cache: &Cache| cache.groups().map(|group| group.id).collect::<Vec<_>>();
    let mut cache = Cache::new(1, Order::Strict);
    for group in 0..5 {
        cache.insert(object(t + Duration::from_secs(group), group, 0, &[1; 10]), 100).unwrap();
    }
    assert_eq!(cache.evict(&limits, 1000, t).groups, 2);
    assert_eq!(ids(&cache), [2, 3, 4]);
    assert_eq!(cache.evict(&limits, 1000, t + Duration::from_secs(13)).groups, 1);
    assert_eq!(ids(&cache), [3, 4]);
    let evicted = cache.evict(&limits, 15, t);
    assert!(evicted.by_bytes);
    assert_eq!(ids(&cache), [4]);
    assert_eq!(cache.evict(&limits, 15, t + Duration::from_hours(1)).groups, 0);
    for id in 1..6 {
        cache.insert(object(t, 4, id, &[2; 10]), 100).unwrap();
    }
    assert_eq!(cache.evict(&limits, 1000, t).trimmed, 2);
    assert_eq!(cache.evict(&limits, 25, t).trimmed, 2);
    assert_eq!(cache.bytes(), 20);
    assert_eq!(cache.newest().unwrap().known_from, 4);
    // What has left is not taken back, and is no reason to end the track.
    let mut cache = Cache::new(1, Order::Streams);
    for group in 0..5 {
        cache.insert(object(t, group, 0, b"x"), 100).unwrap();
    }
    cache.evict(&limits, 1000, t);
    assert_eq!(cache.insert(object(t, 1, 1, b"late"), 100), Ok(Taken::TooOld));
}

/// What the cache is allowed to do, written as slowly and plainly as possible.
#[derive(Default)]
struct Oracle {
    objects: BTreeMap<(u64, u64), Vec<u8>>,
}

impl Oracle {
    fn insert(&mut self, group: u64, object: u64, payload: &[u8]) -> bool {
        if let Some(known) = self.objects.get(&(group, object)) {
            return known == payload;
        }
        if self.objects.range((group, object)..).next().is_some() {
            return false;
        }
        self.objects.insert((group, object), payload.to_vec());
        true
    }

    fn evict(&mut self, groups_max: usize) {
        let mut groups: Vec<u64> = self.objects.keys().map(|(group, _)| *group).collect();
        groups.dedup();
        for old in groups.iter().take(groups.len().saturating_sub(groups_max)) {
            self.objects.retain(|(group, _), _| group != old);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_feed_cache_is_what_a_plain_map_would_be(
        writes in prop::collection::vec((0u64..6, 0u64..6, 0u8..3), 0..200)
    ) {
        let t = now();
        let limits = Limits { cache_groups_max: 3, ..Limits::default() };
        let mut cache = Cache::new(1, Order::Strict);
        let mut oracle = Oracle::default();
        let mut gone = 0;
        for (group, id, payload) in writes {
            // Ids creep upwards so that runs get somewhere; groups below the oldest are old news.
            let (group, payload) = (gone + group, vec![payload; usize::from(payload)]);
            let taken = cache.insert(object(t, group, id, &payload), 100).is_ok();
            let expected = group >= gone && oracle.insert(group, id, &payload);
            prop_assert_eq!(taken, expected, "group {} object {}", group, id);
            cache.evict(&limits, usize::MAX, t);
            oracle.evict(3);
            gone = oracle.objects.keys().next().map_or(0, |(group, _)| *group);
            let expected: Vec<_> =
                oracle.objects.iter().map(|((g, o), p)| (*g, *o, p.clone())).collect();
            prop_assert_eq!(contents(&cache), expected);
            let bytes: usize = oracle.objects.values().map(Vec::len).sum();
            prop_assert_eq!(cache.bytes(), bytes);
            for group in cache.groups() {
                for wanted in 0..8 {
                    let found = group.subgroup(0).unwrap().at_or_after(wanted).map(|o| o.id);
                    let mut ids = group.objects().into_iter().map(|(_, o)| o.id);
                    let plain = ids.find(|id| *id >= wanted);
                    prop_assert_eq!(found, plain);
                }
            }
        }
    }

    #[test]
    fn a_replica_ends_up_equal_whatever_the_order(
        mut writes in prop::collection::vec((0u64..3, 0u64..8), 1..60),
        seed in any::<u64>(),
    ) {
        let t = now();
        let mut cache = Cache::new(1, Order::Replica);
        let payload = |group: u64, id: u64| vec![(group * 8 + id) as u8; 3];
        // A shuffle by the seed, so that a failure repeats.
        writes.sort_by_key(|(g, o)| (g * 31 + o).wrapping_mul(seed | 1));
        for (group, id) in &writes {
            cache.insert(object(t, *group, *id, &payload(*group, *id)), 100).unwrap();
        }
        writes.sort_unstable();
        writes.dedup();
        let expected: Vec<_> = writes.iter().map(|(g, o)| (*g, *o, payload(*g, *o))).collect();
        prop_assert_eq!(contents(&cache), expected);
        for group in cache.groups() {
            let mut previous = None;
            for (_, object) in group.objects() {
                prop_assert_eq!(object.previous, previous);
                previous = Some(object.id);
            }
        }
    }
}
