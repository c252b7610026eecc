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
    /// Groups given up because a newer one had begun too long ago.
    pub groups_dropped_behind: u64,
    /// Groups given up because too many bytes waited.
    pub groups_dropped_bytes: u64,
    /// Groups given up because an object was older than the delivery timeout.
    pub groups_dropped_timeout: u64,
    /// Groups given up because the cache no longer held them.
    pub groups_dropped_evicted: u64,
    /// Groups the subscriber itself stopped.
    pub groups_stopped: u64,
    /// Groups skipped whole before any byte of them was sent.
    pub groups_skipped: u64,
    /// Objects refused: duplicate with other payload, order broken, group backwards.
    pub objects_malformed: u64,
    /// Objects that were there already (replay overlapping the live link).
    pub objects_duplicate: u64,
    /// Objects dropped because they belong to no supported subgroup or a group long gone.
    pub objects_dropped: u64,
    /// Objects trimmed from the head of an over-long group.
    pub objects_trimmed: u64,
    /// Groups evicted from caches by age, count or bytes.
    pub groups_evicted: u64,
    /// Gauge: payload bytes held in caches.
    pub cache_bytes: u64,
    /// Gauge: sessions.
    pub sessions: u64,
    /// Sessions opened since start.
    pub sessions_opened: u64,
    /// Gauge: downstream subscriptions.
    pub subscriptions: u64,
    /// Subscriptions accepted since start.
    pub subscriptions_accepted: u64,
    /// Gauge: upstream subscriptions to publisher sessions.
    pub upstream_subscriptions: u64,
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
    /// Publishers refused by the engine or by time-out.
    pub publishers_refused: u64,
    /// `sessions_max` was hit.
    pub limit_sessions: u64,
    /// `subscriptions_per_session_max` was hit.
    pub limit_subscriptions: u64,
    /// `namespaces_per_session_max`, `namespace_subscriptions_per_session_max` or `namespaces_max` was hit.
    pub limit_namespaces: u64,
    /// `tracks_max` or `tracks_per_publisher_max` was hit.
    pub limit_tracks: u64,
    /// `fetches_per_session_max` was hit.
    pub limit_fetches: u64,
    /// `fetch_bytes_per_session_max` or `fetch_objects_max` was hit.
    pub limit_fetch_budget: u64,
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
}
