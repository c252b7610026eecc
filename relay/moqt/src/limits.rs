//! Every limit of a session, by name, and what is counted when one is hit. A session never holds more
//! than these sums allow, whatever the peer sends.

/// Limits of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest control message body. GOAWAY (8192) and a full name (4096) with a few tokens of 2 KB fit.
    /// Past it: PROTOCOL_VIOLATION.
    pub control_message_bytes: usize,
    /// Requests of the peer open at once: 4 tracks x (subscription + fetch) x 8 broadcasts.
    /// Past it: REQUEST_ERROR EXCESSIVE_LOAD (draft 16: MAX_REQUEST_ID stops them).
    pub open_requests: usize,
    /// Requests of ours open or waiting at once. Past it: [`crate::CommandError::TooManyRequests`].
    pub own_requests: usize,
    /// PUBLISH_NAMESPACE and namespace subscriptions of the peer open at once. Past it: EXCESSIVE_LOAD.
    pub namespaces: usize,
    /// NAMESPACE advertisements held open by the peer on one of our namespace subscriptions.
    /// Past it: the subscription is cancelled.
    pub advertised: usize,
    /// Request and data streams that came before SETUP, bytes in all: one flight of 16 packets.
    /// Past it: PROTOCOL_VIOLATION.
    pub before_setup_bytes: usize,
    /// Request and data streams that came before SETUP, in number. Past it: PROTOCOL_VIOLATION.
    pub before_setup_streams: usize,
    /// Data streams whose track alias is not known yet. Past it: the stream is stopped.
    pub pending_streams: usize,
    /// Bytes held for those streams in all: 250 ms of an 8 Mbit/s rendition. Past it: the stream is stopped.
    pub pending_bytes: usize,
    /// Data streams of the peer open at once. Past it: the stream is stopped.
    pub data_streams: usize,
    /// Largest object payload. Past it: the stream is stopped.
    pub object_bytes: u64,
    /// Largest property block of an object; it is held whole. Past it: the stream is stopped.
    pub property_bytes: usize,
    /// Ranges in all range filters of one request (MAX_FILTER_RANGES), at most 64. Past it: REQUEST_ERROR
    /// INVALID_FILTER. 0 = the owner does not filter by ranges, and the peer is told so.
    pub filter_ranges: u64,
    /// Updates of one request the peer may leave unanswered (MAX_REQUEST_UPDATES). Past it:
    /// TOO_MANY_REQUEST_UPDATES.
    pub request_updates: u64,
    /// Token cache granted to the peer (MAX_AUTH_TOKEN_CACHE_SIZE). 0 = aliases are refused.
    pub token_cache_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            control_message_bytes: 16 * 1024,
            open_requests: 64,
            own_requests: 1024,
            namespaces: 64,
            advertised: 4096,
            before_setup_bytes: 24 * 1024,
            before_setup_streams: 32,
            pending_streams: 32,
            pending_bytes: 256 * 1024,
            data_streams: 256,
            object_bytes: 32 * 1024 * 1024,
            property_bytes: 4 * 1024,
            filter_ranges: 0,
            request_updates: 32,
            token_cache_bytes: 0,
        }
    }
}

/// How often each limit was hit without ending the session, and what was thrown away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests refused for `open_requests` or `namespaces`.
    pub requests_refused: u64,
    /// Data streams stopped for `data_streams`.
    pub data_streams_refused: u64,
    /// Data streams stopped for `pending_streams` or `pending_bytes`.
    pub pending_refused: u64,
    /// Data streams stopped for `object_bytes` or `property_bytes`.
    pub objects_too_large: u64,
    /// Data streams stopped because their subscription or fetch is over.
    pub stale_streams: u64,
    /// Datagrams dropped: unknown alias or a limit.
    pub datagrams_dropped: u64,
    /// Requests and updates refused for `filter_ranges`.
    pub ranges_refused: u64,
    /// Namespace subscriptions cancelled for `advertised`.
    pub advertised_overflow: u64,
}
