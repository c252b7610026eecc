//! What publisher and subscriber ask of delivery: timeouts, order, priorities. Values and sums only; who
//! is served when they conflict is the pump's affair.

use std::time::Duration;

use weir_moqt::{GroupOrder, Property, PropertyValue};

/// Delivery timeouts; zero and absent are the same: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// OBJECT_DELIVERY_TIMEOUT: from an object's arrival until it is handed to the transport.
    pub(crate) object: Option<Duration>,
    /// SUBGROUP_DELIVERY_TIMEOUT: from a subgroup's end until it is acknowledged.
    pub(crate) subgroup: Option<Duration>,
}

impl Timeouts {
    /// As they stand in parameters or track properties, in milliseconds.
    pub(crate) fn new(object_ms: Option<u64>, subgroup_ms: Option<u64>) -> Self {
        let asked = |ms: Option<u64>| ms.filter(|ms| *ms > 0).map(Duration::from_millis);
        Self { object: asked(object_ms), subgroup: asked(subgroup_ms) }
    }

    /// The smaller of those both sides ask for (section 8 of the draft).
    pub(crate) fn min(self, other: Self) -> Self {
        let least = |a: Option<Duration>, b| a.into_iter().chain(b).min();
        Self {
            object: least(self.object, other.object),
            subgroup: least(self.subgroup, other.subgroup),
        }
    }
}

/// What a publisher says of its track that a relay acts on (track properties).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) timeouts: Timeouts,
    pub(crate) order: GroupOrder,
    /// MAX_CACHE_DURATION.
    pub(crate) cache: Option<Duration>,
    /// DEFAULT_PUBLISHER_PRIORITY.
    pub(crate) priority: Option<u8>,
}

impl Terms {
    pub(crate) fn of(properties: &[Property]) -> Self {
        let int = |kind| {
            properties.iter().find(|property| property.kind == kind).and_then(|property| {
                match property.value {
                    PropertyValue::Int(value) => Some(value),
                    PropertyValue::Bytes(_) => None,
                }
            })
        };
        Self {
            timeouts: Timeouts::new(int(0x02), int(0x06)),
            order: if int(0x22) == Some(2) {
                GroupOrder::Descending
            } else {
                GroupOrder::Ascending
            },
            cache: int(0x04).map(Duration::from_millis),
            priority: int(0x0E).and_then(|priority| u8::try_from(priority).ok()),
        }
    }
}

/// Priority of control and request streams: before all media.
pub(crate) const CONTROL_PRIORITY: i32 = i32::MAX;

/// Bits of the group's ordinal in a stream priority. Groups that wait together are neighbours, so
/// 2^10 are plenty; a wrap misorders one pair of groups for the length of their overlap.
const ORDINAL_BITS: u32 = 10;

/// Bits of the subgroup's place in its group: [`crate::cache`] takes 16.
const RANK_BITS: u32 = 5;

/// Section 7 of the transport: subscriber priority, publisher priority, then groups in the order
/// asked for, then subgroups by id. The two priority bytes take 16 bits, the ordinal 10, the subgroup
/// 5: 31 bits, and always below [`CONTROL_PRIORITY`].
pub(crate) fn stream_priority(
    subscriber: u8,
    publisher: u8,
    order: GroupOrder,
    ordinal: u32,
    subgroup_rank: usize,
) -> i32 {
    const ORDINALS: u32 = (1 << ORDINAL_BITS) - 1;
    let ordinal = match order {
        GroupOrder::Ascending => ORDINALS - (ordinal & ORDINALS),
        GroupOrder::Descending => ordinal & ORDINALS,
    };
    let rank = (1 << RANK_BITS) - 1 - subgroup_rank.min((1 << RANK_BITS) - 1) as u32;
    compose(subscriber, publisher, ordinal << RANK_BITS | rank)
}

/// A FETCH goes before the live groups of its track: a joiner needs the past first.
pub(crate) fn fetch_priority(subscriber: u8, publisher: u8) -> i32 {
    compose(subscriber, publisher, (1 << (ORDINAL_BITS + RANK_BITS)) - 1)
}

fn compose(subscriber: u8, publisher: u8, place: u32) -> i32 {
    let importance = 0xffff - (u32::from(subscriber) << 8 | u32::from(publisher));
    let priority = importance << (ORDINAL_BITS + RANK_BITS) | place;
    i32::try_from(priority).unwrap_or(CONTROL_PRIORITY).min(CONTROL_PRIORITY - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_order_subscriber_then_publisher_then_groups_then_subgroups() {
        use GroupOrder::{Ascending, Descending};
        let priority = stream_priority;
        for (first, second) in [
            (priority(0, 255, Ascending, 9, 9), priority(1, 0, Ascending, 1, 0)),
            (priority(7, 1, Ascending, 9, 9), priority(7, 2, Ascending, 1, 0)),
            (priority(7, 1, Ascending, 4, 9), priority(7, 1, Ascending, 5, 0)),
            (priority(7, 1, Descending, 5, 9), priority(7, 1, Descending, 4, 0)),
            (priority(7, 1, Ascending, 4, 0), priority(7, 1, Ascending, 4, 1)),
            (fetch_priority(7, 1), priority(7, 1, Ascending, 4, 0)),
            (CONTROL_PRIORITY, fetch_priority(0, 0)),
            (CONTROL_PRIORITY, priority(0, 0, Ascending, 0, 0)),
        ] {
            assert!(first > second, "{first} {second}");
        }
        assert!(priority(255, 255, Ascending, 1023, 40) >= 0);
    }

    #[test]
    fn the_smaller_timeout_counts_and_zero_is_none() {
        let ours = Timeouts::new(Some(0), Some(300));
        let theirs = Timeouts::new(Some(500), Some(200));
        let both = Timeouts::new(Some(500), Some(200));
        assert_eq!(ours.min(theirs), both);
        assert_eq!(theirs.min(ours), both);
        assert_eq!(Timeouts::default().min(Timeouts::default()), Timeouts::default());
    }
}
