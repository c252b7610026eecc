//! What other shards of this node get of a track: the cache as it is, then every new object and end of a
//! subgroup. It owns what an export looks like; the rings it travels on are the engine's.

use std::time::Instant;

use weir_moqt::data::Status;

use super::Relay;
use crate::cache::{Group, Object, Place, Subgroup};
use crate::track::{Source, State};
use crate::{
    Event, Forwarding, Found, FullTrackName, ObjectIn, Origin, SubgroupEnd, TrackFacts, TrackId,
};

impl Relay {
    pub(super) fn export(&mut self, event: Event) {
        if self.events.len() < self.limits.events_max {
            self.events.push_back(event);
        } else {
            self.metrics.limit_events += 1;
        }
    }

    /// A subgroup of a replica came to its end at its owner ([`Event::ExportedEnd`]).
    pub fn end_subgroup(&mut self, track: TrackId, end: SubgroupEnd, now: Instant) {
        let SubgroupEnd { group, subgroup, reset } = end;
        let known = self.tracks.get(track.0).and_then(|track| track.cache.group(group));
        if let Some(known) = known.and_then(|group| group.subgroup(subgroup)) {
            let place = Place { group, subgroup, serial: known.serial };
            self.end_place(track, place, reset, now);
        }
    }

    /// Finds a track for another shard, asking its publisher session if there is one. Counts as
    /// interest until [`Relay::set_export`] is called with false.
    pub fn find_track(&mut self, name: &FullTrackName, now: Instant) -> Found {
        let known =
            self.names.get(name).copied().or_else(|| match self.origin(name.namespace())? {
                Origin::Above => self.start_from_above(name, now),
                Origin::Session(publisher) => self.start_upstream(publisher, name, now),
                Origin::Local | Origin::Shard(_) => None,
            });
        let Some((id, track)) =
            known.and_then(|id| self.tracks.get_mut(id.0).map(|track| (id, track)))
        else {
            return Found::Missing;
        };
        match (track.state, track.source) {
            // A replica is never exported again: no chains, no loops.
            (_, Source::Shard(_)) | (State::Ended(_), _) => Found::Missing,
            (State::Open, _) => Found::Open(id),
            (State::Pending, _) => {
                track.exported = true;
                Found::Pending(id)
            }
        }
    }

    /// Starts or stops [`Event::Exported`] for each new object. Export counts as interest.
    pub fn set_export(&mut self, track: TrackId, export: bool, now: Instant) {
        if let Some(state) = self.tracks.get_mut(track.0) {
            state.exported = export;
            self.release(track, now);
        }
    }

    /// What a replica of the track has to know beside its objects.
    pub fn facts(&self, track: TrackId) -> TrackFacts {
        let track = self.tracks.get(track.0);
        track.map_or_else(TrackFacts::default, |track| TrackFacts {
            properties: track.properties.clone(),
            largest: track.cache.largest(),
        })
    }

    /// What the owner of a replica knows of the track; before [`Relay::track_ready`].
    pub fn set_facts(&mut self, track: TrackId, facts: TrackFacts) {
        let Some(track) = self.tracks.get_mut(track.0) else { return };
        track.set_properties(facts.properties);
        if let Some(largest) = facts.largest {
            track.cache.note_largest(largest);
        }
    }

    /// What the cache of a track holds, oldest first, to replay on another shard.
    pub fn cached(&self, track: TrackId) -> impl Iterator<Item = ObjectIn> + '_ {
        let groups = self.tracks.get(track.0).into_iter().flat_map(|track| track.cache.groups());
        groups.flat_map(|group| {
            let whole = group.objects().into_iter().filter(|(_, object)| object.payload.is_whole());
            whole.map(move |(subgroup, object)| exported_object(group, subgroup, object))
        })
    }

    /// The ends of subgroups in the cache of a track, to follow [`Relay::cached`].
    pub fn cached_ends(&self, track: TrackId) -> impl Iterator<Item = SubgroupEnd> + '_ {
        let groups = self.tracks.get(track.0).into_iter().flat_map(|track| track.cache.groups());
        groups.flat_map(Group::ends)
    }
}

/// An object as another shard takes it.
pub(super) fn exported_object(
    group: &Group,
    subgroup: Option<&Subgroup>,
    object: &Object,
) -> ObjectIn {
    let marker = object.status == Status::EndOfGroup;
    let last = group.end == Some(object.id + 1) && object.payload.len() > 0;
    let forwarding = match subgroup {
        Some(subgroup) => Forwarding::Subgroup { holds_end: subgroup.holds_end && !marker },
        None => Forwarding::Datagram,
    };
    ObjectIn {
        group: group.id,
        subgroup: subgroup.map_or(0, |subgroup| subgroup.id),
        object: object.id,
        priority: object.priority,
        properties: object.properties.clone(),
        payload: object.payload.joined(),
        end_of_group: marker || (last && group.is_over()),
        arrived: object.arrived,
        forwarding,
    }
}
