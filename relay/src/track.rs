//! A track of this shard: its name, where it comes from, its cache, and who is interested in it. It
//! owns the dense list of subscribers; what each of them has been sent lives with the subscriber.

use std::time::Instant;

use weir_moqt::{Property, RequestId};

use crate::cache::Cache;
use crate::fanout::Terms;
use crate::{DoneCode, FullTrackName, SessionId};

/// Where a track's objects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// `write_object` calls of a local feed.
    Local,
    /// `write_object` calls with another shard's objects.
    Shard(u16),
    /// Our subscription to a publisher session.
    Upstream { session: SessionId, request: RequestId },
    /// A relay above us, and none is connected at the moment.
    Orphan,
}

/// Life of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Wanted, not yet there.
    Pending,
    Open,
    /// Ended: subscribers still read what is cached.
    Ended(DoneCode),
}

/// What a publisher said when it ended our subscription, until its last streams are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamDone {
    pub(crate) code: DoneCode,
    pub(crate) streams: Option<u64>,
}

/// A request that waits for the track to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) session: SessionId,
    pub(crate) request: RequestId,
}

/// One track.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) name: FullTrackName,
    /// The same for every subscriber, so that heads are the same bytes for all of them.
    pub(crate) alias: u64,
    pub(crate) source: Source,
    pub(crate) state: State,
    pub(crate) priority: u8,
    /// As the publisher sent them, for its subscribers.
    pub(crate) properties: Vec<Property>,
    /// What of them concerns us.
    pub(crate) terms: Terms,
    pub(crate) cache: Cache,
    /// Sessions with a subscription here. Dense, walked for every object.
    pub(crate) subscribers: Vec<SessionId>,
    /// Requests that wait while the track is pending, in order of arrival.
    pub(crate) waiting: Vec<Waiter>,
    /// Subscribers of a prefix to whom it is offered once it is open.
    pub(crate) offering: Vec<Waiter>,
    /// Its publisher offered it (PUBLISH); we did not ask.
    pub(crate) offered: bool,
    /// A new group was asked for, after this one.
    pub(crate) new_group_after: Option<u64>,
    /// Other shards want every new object.
    pub(crate) exported: bool,
    pub(crate) upstream_done: Option<UpstreamDone>,
    /// Streams the publisher opened for our subscription so far.
    pub(crate) upstream_streams: u64,
    /// When an ended track stops waiting for its readers.
    pub(crate) linger_until: Option<Instant>,
}

impl Track {
    pub(crate) fn new(name: FullTrackName, alias: u64, source: Source, cache: Cache) -> Self {
        Self {
            name,
            alias,
            source,
            state: State::Pending,
            priority: 128,
            properties: Vec::new(),
            terms: Terms::default(),
            cache,
            subscribers: Vec::new(),
            waiting: Vec::new(),
            offering: Vec::new(),
            offered: false,
            new_group_after: None,
            exported: false,
            upstream_done: None,
            upstream_streams: 0,
            linger_until: None,
        }
    }

    /// The publisher's track properties.
    pub(crate) fn set_properties(&mut self, properties: Vec<Property>) {
        self.terms = Terms::of(&properties);
        self.cache.set_age_max(self.terms.cache);
        self.priority = self.terms.priority.unwrap_or(self.priority);
        self.properties = properties;
    }

    /// Whether anybody would miss the track.
    pub(crate) fn wanted(&self) -> bool {
        self.exported
            || !self.subscribers.is_empty()
            || !self.waiting.is_empty()
            || !self.offering.is_empty()
    }

    /// Whether its publisher brought it forward, here and by itself. What we only have because a
    /// viewer named it is no news to anybody.
    pub(crate) fn is_published(&self) -> bool {
        self.source == Source::Local || self.offered
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Adds a subscriber and says where it sits.
    pub(crate) fn add_subscriber(&mut self, session: SessionId) -> usize {
        self.subscribers.push(session);
        self.subscribers.len() - 1
    }

    /// Removes the subscriber at `seat`; returns the session that now sits there, if another was
    /// moved.
    pub(crate) fn remove_subscriber(
        &mut self,
        seat: usize,
        session: SessionId,
    ) -> Option<SessionId> {
        if self.subscribers.get(seat) != Some(&session) {
            return None;
        }
        self.subscribers.swap_remove(seat);
        self.subscribers.get(seat).copied()
    }
}
