//! Every cap of the relay core, by name. Each has a counter in [`crate::Metrics`] that says how
//! often it was hit. The sums beside the fields say why the number is what it is.

use std::time::Duration;

/// The caps of one shard's relay.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Sessions on this shard. 20 000 viewers x about 20 KB of relay state = 400 MB.
    pub sessions_max: usize,
    /// Downstream subscriptions of one session: 6 renditions, audio, two catalogs, and room.
    pub subscriptions_per_session_max: usize,
    /// Namespaces one publisher session may announce (H26).
    pub namespaces_per_session_max: usize,
    /// SUBSCRIBE_NAMESPACE and SUBSCRIBE_TRACKS requests of one session (H26).
    pub namespace_subscriptions_per_session_max: usize,
    /// Tracks of which one SUBSCRIBE_TRACKS is told that they are not offered (PUBLISH_BLOCKED): as many as
    /// it could have been offered, at some 60 bytes each.
    pub withheld_per_prefix_max: usize,
    /// Namespaces the directory of this shard holds in all.
    pub namespaces_max: usize,
    /// SUBSCRIBEs on this shard that wait for a publisher to come.
    pub rendezvous_max: usize,
    /// Longest such wait (RENDEZVOUS_TIMEOUT): an encoder that is being started.
    pub rendezvous_timeout_max: Duration,
    /// Tracks on this shard: 1 000 broadcasts of 8 tracks. As many names are known of other shards'.
    pub tracks_max: usize,
    /// FETCHes one session may have open at once (H29).
    pub fetches_per_session_max: usize,
    /// Payload one session's open FETCHes may hold together: two groups of 4 s at 8 Mb/s = 8 MB.
    pub fetch_bytes_per_session_max: usize,
    /// FETCHes of ours that publishers of this shard have not answered yet, each for one hole: with
    /// `fetch_bytes_per_session_max` at most 64 x 8 MB.
    pub upstream_fetches_max: usize,
    /// How long a publisher may bring nothing more for one; then the rest is said to be unknown. Four
    /// times this is its end in any case.
    pub upstream_fetch_timeout: Duration,
    /// How long such an answer is kept for others who join the same group: a group of 10 s.
    pub upstream_answer_kept: Duration,
    /// Payload of all answers kept: eight groups of 4 s at 8 Mb/s = 32 MB.
    pub upstream_answers_bytes_max: usize,
    /// Objects one FETCH may name: 2 groups of 10 s at 60 chunks a second.
    pub fetch_objects_max: usize,
    /// Ranges in all range filters of one request (MAX_FILTER_RANGES): eight of objects, eight of properties. Each is
    /// looked at for every object of every subscriber that has them, some 20 ns.
    pub filter_ranges_max: u64,
    /// Payload cached per track: 16 s at 12 Mb/s = 24 MB.
    pub cache_track_bytes_max: usize,
    /// Payload cached per shard over all tracks.
    pub cache_shard_bytes_max: usize,
    /// Age past which a group that is not the newest leaves the cache.
    pub cache_age_max: Duration,
    /// Groups of one track that stay in the cache at most.
    pub cache_groups_max: usize,
    /// Objects in one group: 10 s groups at 400 objects a second; beyond, the head is trimmed.
    pub group_objects_max: usize,
    /// One object's payload: an 8K intra picture of 8 MB.
    pub object_bytes_max: usize,
    /// Unfinished group streams per subscription before the oldest is reset (section 4.4: two groups).
    pub groups_behind_max: usize,
    /// Bytes a subscription may be behind before its oldest group is reset (section 4.4: 8 MB).
    pub bytes_behind_max: usize,
    /// Age of an object past which its group is given up, when neither side asked for less.
    pub delivery_timeout: Duration,
    /// How long an ended track waits for subscribers that are still reading.
    pub linger: Duration,
    /// How long a replica waits for its replay before those who want it are served with what is
    /// there: two turns of a busy shard, and below what a viewer notices.
    pub replay_timeout: Duration,
    /// Control bytes waiting for one peer that does not read (a 64 KB window, four times over).
    pub control_bytes_max: usize,
    /// Time a peer has to send SETUP after its connection is up.
    pub setup_timeout: Duration,
    /// Time the engine has to answer [`crate::Event::AuthorizePublish`].
    pub authorize_timeout: Duration,
    /// Clock difference forgiven in tokens; never more than 60 s.
    pub token_leeway: Duration,
    /// Grants one session may hold: eight broadcasts on one page, each with a renewal.
    pub grants_per_session_max: usize,
    /// Tokens one request may carry: one for the broadcast, one for its renewal, and room. Each
    /// costs a signature check of some 60 us.
    pub tokens_per_request_max: usize,
    /// Sessions with one token (`jti`), over all shards: a link that leaked fills half a shard.
    pub sessions_per_token_max: u32,
    /// Sessions of one viewer (`vid`), over all shards: ten devices, each reconnecting twice before
    /// its old session is known to be gone.
    pub sessions_per_viewer_max: u32,
    /// Sessions that may watch one broadcast, over all shards: what five shards hold in all.
    pub viewers_per_broadcast_max: u32,
    /// Objects a publisher session may send in one second (H31): 8 tracks of 60 and audio, doubled.
    pub publisher_objects_per_second_max: u32,
    /// Bytes a publisher session may send in one second: 200 Mb/s.
    pub publisher_bytes_per_second_max: u64,
    /// Downstream subscriptions of one session that is a relay of ours: as many as there are tracks.
    pub subscriptions_per_node_max: usize,
    /// How long a track that a relay above does not have is answered for without asking again: a
    /// flood of joins asks once a second.
    pub absent_ttl: Duration,
    /// How long a joiner waits for a relay above to connect: below the player's own patience.
    pub upstream_wait: Duration,
    /// How long an open track without any relay above keeps its viewers: the reconnect window of a
    /// publisher, since an upstream restart is seen as both.
    pub upstream_hold: Duration,
    /// How long a relay above that is being left may finish its groups: one long group.
    pub upstream_grace: Duration,
    /// Redirects in a row that are followed for one track from above: as many relays as there may be above, less one.
    pub redirect_hops_max: u32,
    /// Tracks relayed from one publisher session.
    pub tracks_per_publisher_max: usize,
    /// Events waiting for the engine; past it exports are dropped and counted.
    pub events_max: usize,
    /// Share of its time a shard may spend in turns before newcomers get `capacity`: above 90 % a
    /// burst of joins (one TLS handshake is 1 ms) makes those who watch already wait.
    pub load_max_permille: u16,
    /// Share of the subscribed sessions that may be losing groups for want of room before newcomers
    /// get `capacity`. One slow viewer is his own affair; a third of them is our uplink.
    pub lossy_sessions_max_permille: u16,
    /// Subscribed sessions below which `lossy_sessions_max_permille` says nothing.
    pub lossy_sessions_min: usize,
    /// How long a session counts as losing groups after it lost one.
    pub lossy_window: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: 20_000,
            subscriptions_per_session_max: 64,
            namespaces_per_session_max: 4,
            namespace_subscriptions_per_session_max: 8,
            withheld_per_prefix_max: 64,
            namespaces_max: 10_000,
            rendezvous_max: 1_000,
            rendezvous_timeout_max: Duration::from_secs(30),
            tracks_max: 8_000,
            upstream_fetches_max: 64,
            upstream_fetch_timeout: Duration::from_secs(2),
            upstream_answer_kept: Duration::from_secs(10),
            upstream_answers_bytes_max: 32 << 20,
            fetches_per_session_max: 16,
            fetch_bytes_per_session_max: 32 << 20,
            fetch_objects_max: 4_096,
            filter_ranges_max: 16,
            cache_track_bytes_max: 24 << 20,
            cache_shard_bytes_max: 1 << 30,
            cache_age_max: Duration::from_secs(10),
            cache_groups_max: 4,
            group_objects_max: 4_096,
            object_bytes_max: 8 << 20,
            groups_behind_max: 2,
            bytes_behind_max: 8 << 20,
            delivery_timeout: Duration::from_secs(8),
            linger: Duration::from_secs(5),
            replay_timeout: Duration::from_millis(100),
            control_bytes_max: 256 << 10,
            setup_timeout: Duration::from_secs(5),
            authorize_timeout: Duration::from_secs(5),
            token_leeway: Duration::from_secs(5),
            grants_per_session_max: 16,
            tokens_per_request_max: 4,
            sessions_per_token_max: 10_000,
            sessions_per_viewer_max: 30,
            viewers_per_broadcast_max: 100_000,
            publisher_objects_per_second_max: 2_000,
            publisher_bytes_per_second_max: 25_000_000,
            subscriptions_per_node_max: 8_000,
            absent_ttl: Duration::from_secs(1),
            upstream_wait: Duration::from_secs(5),
            upstream_hold: Duration::from_secs(30),
            upstream_grace: Duration::from_secs(10),
            redirect_hops_max: 3,
            tracks_per_publisher_max: 16,
            events_max: 16_384,
            load_max_permille: 900,
            lossy_sessions_max_permille: 333,
            lossy_sessions_min: 8,
            lossy_window: Duration::from_secs(4),
        }
    }
}
