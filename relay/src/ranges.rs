//! Range filters (draft 19 and later): which objects of a track pass, and which tracks. It owns how filters combine (all of
//! one set, any of the sets) and how an update changes them; it knows neither subscriptions nor streams.

use bytes::Bytes;
use weir_moqt::data::integer_property;
use weir_moqt::{Property, PropertyValue, RangeFilter, RangeSubject};

use crate::encode::PROPERTIES_DRAFT;

/// What an object shows to a filter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits<'a> {
    /// `None` for an object that came as a datagram: it passes no filter of subgroups.
    pub(crate) subgroup: Option<u64>,
    pub(crate) object: u64,
    pub(crate) priority: u8,
    pub(crate) properties: &'a Bytes,
}

/// The filters that objects of one request have to pass, by set. Empty: all pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Box<[RangeFilter]>);

impl Ranges {
    /// What the filters of a request say of the objects of a track with these properties; `None` when the track itself
    /// does not pass.
    pub(crate) fn within(filters: &[RangeFilter], properties: &[Property]) -> Option<Self> {
        let mut sorted = filters.to_vec();
        sorted.sort_by_key(|filter| (filter.set, filter.subject));
        let mut kept = Vec::new();
        let mut passes = filters.is_empty();
        for set in sorted.chunk_by(|one, other| one.set == other.set) {
            let is_of_track = |filter: &&RangeFilter| filter.subject == RangeSubject::TrackProperty;
            if !set.iter().filter(is_of_track).all(|filter| track_passes(filter, properties)) {
                continue;
            }
            passes = true;
            let before = kept.len();
            kept.extend(set.iter().filter(|filter| !is_of_track(filter)).cloned());
            if kept.len() == before {
                // Nothing is asked of objects here, and one set is enough.
                return Some(Self::default());
            }
        }
        passes.then(|| Self(kept.into_boxed_slice()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn pass(&self, traits: &Traits<'_>) -> bool {
        self.is_empty()
            || self
                .0
                .chunk_by(|one, other| one.set == other.set)
                .any(|set| set.iter().all(|filter| object_passes(filter, traits)))
    }

    /// What an update makes of them, unless that is more ranges than `ranges_max` in all.
    pub(crate) fn updated(&self, newer: &[RangeFilter], ranges_max: u64) -> Option<Self> {
        let mut filters = self.0.to_vec();
        if update(&mut filters, newer, ranges_max) { Self::within(&filters, &[]) } else { None }
    }
}

/// Filters of an update replace all of their subject; those without ranges only take them away. False, and nothing
/// changes, when that would leave more ranges than `ranges_max` in all: an update may bring as many for each subject.
pub(crate) fn update(
    filters: &mut Vec<RangeFilter>,
    newer: &[RangeFilter],
    ranges_max: u64,
) -> bool {
    let stays = |filter: &RangeFilter| !newer.iter().any(|it| it.subject == filter.subject);
    let all = filters.iter().filter(|filter| stays(filter)).chain(newer);
    if all.map(|filter| filter.ranges.len() as u64).sum::<u64>() > ranges_max {
        return false;
    }
    filters.retain(stays);
    filters.extend(newer.iter().filter(|filter| !filter.ranges.is_empty()).cloned());
    true
}

fn object_passes(filter: &RangeFilter, traits: &Traits<'_>) -> bool {
    let value = match filter.subject {
        RangeSubject::Subgroup => traits.subgroup,
        RangeSubject::Object => Some(traits.object),
        RangeSubject::Priority => Some(u64::from(traits.priority)),
        RangeSubject::ObjectProperty => filter
            .property
            .and_then(|kind| integer_property(PROPERTIES_DRAFT, traits.properties, kind)),
        RangeSubject::TrackProperty => return true,
    };
    holds(filter, value)
}

fn track_passes(filter: &RangeFilter, properties: &[Property]) -> bool {
    let value = properties.iter().find_map(|property| match property.value {
        PropertyValue::Int(value) if Some(property.kind) == filter.property => Some(value),
        _ => None,
    });
    holds(filter, value)
}

/// What is not there lies in no range.
fn holds(filter: &RangeFilter, value: Option<u64>) -> bool {
    value.is_some_and(|value| {
        let within = |end: Option<u64>| end.is_none_or(|end| value <= end);
        filter.ranges.iter().any(|range| range.start <= value && within(range.end))
    })
}

#[cfg(test)]
mod tests {
    use weir_moqt::ValueRange;

    use super::*;

    fn filter(subject: RangeSubject, set: u8, ranges: &[(u64, Option<u64>)]) -> RangeFilter {
        let ranges = ranges.iter().map(|&(start, end)| ValueRange { start, end }).collect();
        let by_property =
            matches!(subject, RangeSubject::ObjectProperty | RangeSubject::TrackProperty);
        RangeFilter { subject, set, property: by_property.then_some(0x20), ranges }
    }

    fn passing(filters: &[RangeFilter]) -> Vec<u64> {
        let ranges = Ranges::within(filters, &[]).unwrap();
        // Object n is in subgroup n mod 2, of priority 10 n, and has property 0x20 = 100 + n from object 4 on.
        let passes = |object: &u64| {
            let properties = if *object < 4 {
                Bytes::new()
            } else {
                Bytes::copy_from_slice(&[0x20, 100 + *object as u8])
            };
            let (subgroup, priority) = (Some(object % 2), 10 * *object as u8);
            ranges.pass(&Traits { subgroup, object: *object, priority, properties: &properties })
        };
        (0..8).filter(passes).collect()
    }

    #[test]
    fn an_object_passes_all_filters_of_any_set() {
        use RangeSubject::{Object, ObjectProperty, Priority, Subgroup};
        let some = |a, b| (a, Some(b));
        for (filters, expected) in [
            (vec![], vec![0, 1, 2, 3, 4, 5, 6, 7]),
            (vec![filter(Object, 0, &[some(0, 0), some(3, 4), (7, None)])], vec![0, 3, 4, 7]),
            (vec![filter(Subgroup, 0, &[some(1, 9)])], vec![1, 3, 5, 7]),
            (vec![filter(Priority, 9, &[some(0, 25)])], vec![0, 1, 2]),
            (vec![filter(ObjectProperty, 0, &[some(0, 105)])], vec![4, 5]),
            (vec![filter(Subgroup, 3, &[some(0, 0)]), filter(Object, 3, &[(4, None)])], vec![4, 6]),
            (
                vec![
                    filter(Subgroup, 1, &[some(0, 0)]),
                    filter(Object, 2, &[some(1, 1)]),
                    filter(Object, 1, &[(6, None)]),
                ],
                vec![1, 6],
            ),
        ] {
            assert_eq!(passing(&filters), expected, "{filters:?}");
        }
    }

    #[test]
    fn a_datagram_has_no_subgroup_to_pass_by() {
        let ranges = Ranges::within(&[filter(RangeSubject::Subgroup, 0, &[(0, None)])], &[]);
        let properties = &Bytes::new();
        let traits = Traits { subgroup: None, object: 0, priority: 0, properties };
        assert!(!ranges.unwrap().pass(&traits));
    }

    #[test]
    fn a_track_passes_by_any_set_and_its_objects_by_the_sets_it_passes() {
        use RangeSubject::{Object, TrackProperty};
        let high = [Property { kind: 0x20, value: PropertyValue::Int(9) }];
        let of_track = |set, from| filter(TrackProperty, set, &[(from, None)]);
        let first = filter(Object, 0, &[(0, Some(0))]);
        let objects = |filters: &[RangeFilter]| {
            Ranges::within(filters, &high).map(|ranges| ranges.0.into_vec())
        };
        assert_eq!(objects(&[of_track(0, 9)]), Some(vec![]));
        assert_eq!(objects(&[of_track(0, 10)]), None);
        assert_eq!(Ranges::within(&[of_track(0, 0)], &[]), None, "it has no such property");
        assert_eq!(objects(&[of_track(0, 9), first.clone()]), Some(vec![first.clone()]));
        assert_eq!(objects(&[of_track(1, 10), first.clone()]), Some(vec![first.clone()]));
        assert_eq!(objects(&[of_track(1, 9), first]), Some(vec![]), "set 1 asks for no more");
    }

    #[test]
    fn an_update_replaces_its_subject_and_stays_within_the_limit() {
        use RangeSubject::{Object, Subgroup};
        let before = Ranges::within(
            &[filter(Object, 0, &[(0, Some(0))]), filter(Subgroup, 0, &[(1, None)])],
            &[],
        );
        let before = before.unwrap();
        let after = before.updated(&[filter(Object, 1, &[(5, None)])], 2).unwrap();
        let expected = [filter(Subgroup, 0, &[(1, None)]), filter(Object, 1, &[(5, None)])];
        assert_eq!(after.0[..], expected);
        let gone = [filter(Object, 0, &[]), filter(Subgroup, 0, &[])];
        assert!(after.updated(&gone, 2).unwrap().is_empty());
        assert_eq!(after.updated(&[], 2), Some(after.clone()), "nothing new");
        let more = filter(Object, 1, &[(5, Some(6)), (9, None)]);
        assert_eq!(after.updated(&[more], 2), None, "three in all");
    }
}
