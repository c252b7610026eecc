//! Plain counters of one shard's relay. The engine reads them and names them for Prometheus; the
//! relay only counts. Gauges are marked as such, all else only grows.

/// What the relay has done so far. One shard, one writer: plain integers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Objects taken into caches, from local feeds, publishers and other shards.
    pub objects_in: u64,
    /// Payload bytes of those.
    pub bytes_in: u64,
    /// Objects wholly handed to a transport, over all subscribers and fetches.
    pub objects_out: u64,
    /// Stream bytes (headers and payload) handed to transports.
    pub bytes_out: u64,
    /// Group streams opened towards subscribers.
    pub groups_out: u64,
    /// Subgroup streams given up, by [`DropReason::index`]; see [`Metrics::dropped`].
    pub drops: [u64; DropReason::COUNT],
    /// Datagram objects handed to transports.
    pub datagrams_out: u64,
    /// Datagram objects a transport had no room for now.
    pub datagrams_dropped_blocked: u64,
    /// Datagram objects that fit no packet of a path, or whose peer takes none.
    pub datagrams_dropped_size: u64,
    /// Datagram objects a subscriber missed because it was too many behind.
    pub datagrams_dropped_behind: u64,
    /// Objects refused: duplicate with other payload, order broken, group backwards.
    pub objects_malformed: u64,
    /// Objects that were there already (replay overlapping the live link).
    pub objects_duplicate: u64,
    /// Objects dropped because they belong to a group long gone or a stream nobody wants.
    pub objects_dropped: u64,
    /// Objects trimmed from the head of an over-long group.
    pub objects_trimmed: u64,
    /// Groups evicted from caches by age, count or bytes.
    pub groups_evicted: u64,
    /// Gauge: payload bytes held in caches.
    pub cache_bytes: u64,
    /// Gauge: sessions.
    pub sessions: u64,
    /// Gauge: sessions that lost groups for want of room within `lossy_window`.
    pub sessions_lossy: u64,
    /// Sessions opened since start.
    pub sessions_opened: u64,
    /// Gauge: downstream subscriptions.
    pub subscriptions: u64,
    /// Tracks offered to subscribers of their prefix (PUBLISH towards them).
    pub tracks_offered: u64,
    /// Tracks not offered for want of room, whether or not the subscriber was told.
    pub tracks_withheld: u64,
    /// `withheld_per_prefix_max` was hit: a subscriber was not told.
    pub limit_withheld: u64,
    /// Subscriptions accepted since start.
    pub subscriptions_accepted: u64,
    /// Gauge: upstream subscriptions to publisher sessions.
    pub upstream_subscriptions: u64,
    /// Gauge: those of them that we dialled, to relays above.
    pub sessions_above: u64,
    /// Joins answered from memory: the relay above had said that the track is not there.
    pub absent_hits: u64,
    /// Tracks given up because no relay above had them for `upstream_hold` or `upstream_wait`.
    pub upstream_given_up: u64,
    /// Nodes refused or cut off for their key.
    pub nodes_refused: u64,
    /// Gauge: tracks.
    pub tracks: u64,
    /// Gauge: namespaces in the directory.
    pub namespaces: u64,
    /// FETCHes answered.
    pub fetches_accepted: u64,
    /// Requests refused, whatever the reason.
    pub requests_refused: u64,
    /// Sessions ended for a breach of protocol.
    pub protocol_violations: u64,
    /// Authentication failures by [`crate::auth::AuthError::index`].
    pub auth_failures: [u64; crate::auth::AuthError::COUNT],
    /// Sessions ended because their token ran out or was withdrawn.
    pub sessions_expired: u64,
    /// Requests answered with another relay's address (REDIRECT).
    pub redirects_sent: u64,
    /// Redirects of relays above that led to another of them.
    pub redirects_followed: u64,
    /// `redirect_hops_max` was hit.
    pub limit_redirect_hops: u64,
    /// Sessions told to go elsewhere by GOAWAY.
    pub goaways_sent: u64,
    /// Sessions closed because they stayed past the deadline of GOAWAY.
    pub goaway_timeouts: u64,
    /// Subscriptions ended because their grant did while the session went on.
    pub subscriptions_expired: u64,
    /// Limits of admission that were hit, by [`crate::admission::Full::index`].
    pub limit_admission: [u64; crate::admission::Full::ALL.len()],
    /// Publishers refused by the engine or by time-out.
    pub publishers_refused: u64,
    /// `sessions_max` was hit.
    pub limit_sessions: u64,
    /// `subscriptions_per_session_max` was hit.
    pub limit_subscriptions: u64,
    /// `namespaces_per_session_max`, `namespace_subscriptions_per_session_max` or `namespaces_max` was hit.
    pub limit_namespaces: u64,
    /// NEW_GROUP_REQUESTs sent to publishers, each for all subscribers who wanted the same.
    pub new_group_requests: u64,
    /// FETCHes sent to publishers for holes of the cache.
    pub upstream_fetches: u64,
    /// Those that were not answered in time.
    pub upstream_fetches_late: u64,
    /// FETCHes answered with what another one had brought.
    pub upstream_fetches_spared: u64,
    /// Answers not kept, or not for as long as they should: `upstream_answers_bytes_max`.
    pub limit_upstream_answers: u64,
    /// `upstream_fetches_max` was hit, or an answer was larger than asked for.
    pub limit_upstream_fetches: u64,
    /// `rendezvous_max` was hit.
    pub limit_rendezvous: u64,
    /// `tracks_max` or `tracks_per_publisher_max` was hit.
    pub limit_tracks: u64,
    /// `fetches_per_session_max` was hit.
    pub limit_fetches: u64,
    /// `fetch_bytes_per_session_max` or `fetch_objects_max` was hit.
    pub limit_fetch_budget: u64,
    /// `filter_ranges_max` was hit.
    pub limit_filter_ranges: u64,
    /// Objects not sent because a subscriber's range filters do not ask for them.
    pub objects_filtered: u64,
    /// `cache_track_bytes_max` or `cache_shard_bytes_max` forced an eviction.
    pub limit_cache_bytes: u64,
    /// `object_bytes_max` was hit.
    pub limit_object_bytes: u64,
    /// `control_bytes_max` was hit.
    pub limit_control_bytes: u64,
    /// `setup_timeout` was hit.
    pub limit_setup_timeout: u64,
    /// `publisher_objects_per_second_max` or `publisher_bytes_per_second_max` was hit.
    pub limit_publisher_rate: u64,
    /// `events_max` was hit: an exported object was dropped.
    pub limit_events: u64,
    /// Subgroups not taken because their group had too many.
    pub limit_subgroups: u64,
    /// Newcomers refused because the shard carries what it can (`load_max_permille`,
    /// `lossy_sessions_max_permille`).
    pub limit_load: u64,
}

impl Metrics {
    /// Subgroup streams given up for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason.index()).copied().unwrap_or(0)
    }

    pub(crate) fn count_drop(&mut self, reason: DropReason) {
        if let Some(count) = self.drops.get_mut(reason.index()) {
            *count += 1;
        }
    }

    pub(crate) fn count_full(&mut self, full: crate::admission::Full) {
        if let Some(count) = self.limit_admission.get_mut(full.index()) {
            *count += 1;
        }
    }
}

/// Why a subscriber does not get the rest of a subgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropReason {
    /// An object was older than OBJECT_DELIVERY_TIMEOUT.
    ObjectTimeout,
    /// Not acknowledged within SUBGROUP_DELIVERY_TIMEOUT of its end.
    SubgroupTimeout,
    /// An object was older than `delivery_timeout`, our own bound.
    TooOld,
    /// More than `groups_behind_max` newer groups wait.
    FarBehind,
    /// More than `bytes_behind_max` wait.
    BytesBehind,
    /// As [`DropReason::FarBehind`], before any byte of it was sent.
    Skipped,
    /// The cache no longer holds its group.
    Evicted,
    /// The cache lost objects in its middle: the stream was reset, another goes on behind them.
    Trimmed,
    /// The subscriber sent STOP_SENDING.
    Stopped,
    /// Its publisher reset it.
    Publisher,
}

impl DropReason {
    /// How many there are.
    pub const COUNT: usize = 10;

    /// All of them, in the order of their index.
    pub const ALL: [Self; Self::COUNT] = [
        Self::ObjectTimeout,
        Self::SubgroupTimeout,
        Self::TooOld,
        Self::FarBehind,
        Self::BytesBehind,
        Self::Skipped,
        Self::Evicted,
        Self::Trimmed,
        Self::Stopped,
        Self::Publisher,
    ];

    /// Its place in [`Metrics::drops`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its name as a metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::ObjectTimeout => "delivery_timeout",
            Self::SubgroupTimeout => "subgroup_timeout",
            Self::TooOld => "too_old",
            Self::FarBehind => "too_far_behind",
            Self::BytesBehind => "bytes_behind",
            Self::Skipped => "skipped",
            Self::Evicted => "cache_evicted",
            Self::Trimmed => "cache_trimmed",
            Self::Stopped => "stopped",
            Self::Publisher => "publisher_reset",
        }
    }

    /// Whether it says that the way to the subscriber carries too little.
    pub(crate) fn is_pressure(self) -> bool {
        !matches!(self, Self::Stopped | Self::Publisher | Self::Trimmed)
    }
}
