//! What the relay asks of publishers on behalf of others: a new group (NEW_GROUP_REQUEST, merged over all who ask), and
//! the namespaces they have (SUBSCRIBE_NAMESPACE), since some publishers announce nothing until they are asked.

use std::time::Instant;

use weir_moqt::{Namespace as Suffix, Params, PropertyValue, RequestId};

use super::Relay;
use crate::session::Access;
use crate::track::{Source, State};
use crate::{Event, Namespace, Origin, SessionId, TrackId};

/// DYNAMIC_GROUPS: 1 = the publisher begins a group when it is asked to.
const DYNAMIC_GROUPS: u64 = 0x30;

impl Relay {
    /// A subscriber wants a group to begin, after group `after` if that is not 0. One request goes up for all who want
    /// the same, and none for a group that has come.
    pub(super) fn wish_new_group(&mut self, id: TrackId, after: u64) {
        let Some(track) = self.tracks.get_mut(id.0) else { return };
        let Source::Upstream { session, request } = track.source else { return };
        let dynamic = track.properties.iter().any(|property| {
            property.kind == DYNAMIC_GROUPS && property.value == PropertyValue::Int(1)
        });
        let newest = track.cache.largest().map_or(0, |largest| largest.group);
        // 0 asks for whatever follows the newest.
        let after = if after == 0 { newest } else { after };
        if !dynamic
            || track.state != State::Open
            || after < newest
            || track.new_group_after.is_some_and(|asked| asked >= after)
        {
            return;
        }
        track.new_group_after = Some(after);
        if let Some(state) = self.live(session) {
            let params = Params { new_group: Some(after), ..Params::default() };
            // Refused when the publisher takes no more updates now: the next wish asks again.
            if state.moqt.update(request, params).is_err()
                && let Some(track) = self.tracks.get_mut(id.0)
            {
                track.new_group_after = None;
            }
            self.metrics.new_group_requests += 1;
            self.dirty.mark(session);
        }
    }

    /// Asks a session that may publish what it has. One that does not answer, or refuses, may still announce by itself.
    pub(super) fn ask_for_namespaces(&mut self, session: SessionId) {
        let Some(state) = self.live(session).filter(|state| state.is_set_up) else { return };
        let Some(publisher) = &mut state.publisher else { return };
        let Access::Granted(prefix) = &publisher.access else { return };
        if publisher.listing.is_none() {
            publisher.listing = state.moqt.subscribe_namespace(prefix, Params::default()).ok();
            self.dirty.mark(session);
        }
    }

    /// NAMESPACE: the publisher has `suffix` below its prefix.
    pub(super) fn on_namespace(
        &mut self,
        session: SessionId,
        request: RequestId,
        suffix: &Suffix,
        is_there: bool,
        now: Instant,
    ) {
        let namespaces_max = self.limits.namespaces_per_session_max;
        let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) else {
            return;
        };
        let (true, Access::Granted(prefix)) =
            (publisher.listing == Some(request), &publisher.access)
        else {
            return;
        };
        let Ok(namespace) = Namespace::new(prefix.fields().chain(suffix.fields())) else { return };
        if !is_there {
            let Some(at) = publisher.listed.iter().position(|known| *known == namespace) else {
                return;
            };
            publisher.listed.swap_remove(at);
            return self.withdraw(session, namespace, now);
        }
        if publisher.listed.len() + publisher.held.len() >= namespaces_max {
            self.metrics.limit_namespaces += 1;
            return;
        }
        if self.directory.origin(&namespace).is_some()
            || self.hold_namespace(&namespace, Origin::Session(session)).is_err()
        {
            // Announced already, or somebody else's.
            return;
        }
        if let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) {
            publisher.listed.push(namespace.clone());
        }
        self.events.push_back(Event::NamespacePublished { session, namespace });
    }
}
