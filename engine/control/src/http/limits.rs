//! Caps and timeouts of the HTTP server, and the counters that tell when they are hit.

use std::{
    collections::HashMap,
    fmt::Write,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Bounds on what visitors may take. The defaults suit one machine's pages.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Open connections in all: 512, each with at most 16 KiB of head and a task, about 25 MB.
    pub connections: usize,
    /// Open connections from one IPv4 address or IPv6 /64; loopback is exempt.
    pub connections_per_source: usize,
    /// From accepting to the end of the TLS handshake, and again to the first whole request.
    pub opening: Duration,
    /// Largest request head.
    pub head_bytes: usize,
    /// Time for one answer.
    pub request: Duration,
    /// Age at which a connection is asked to end; pages simply open another.
    pub connection_age: Duration,
    /// Time for answers under way when a connection is asked to end.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            connections_per_source: 64,
            opening: Duration::from_secs(5),
            head_bytes: 16 * 1024,
            request: Duration::from_secs(10),
            connection_age: Duration::from_mins(5),
            grace: Duration::from_secs(2),
        }
    }
}

/// What the HTTP server counts. All relaxed: each number stands alone.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) open: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) refused_full: AtomicU64,
    pub(super) refused_source: AtomicU64,
    pub(super) opening_failed: AtomicU64,
    pub(super) timed_out: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes them in the Prometheus text format.
    pub(super) fn render(&self, out: &mut String) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "# HELP http_connections_open Open connections of pages and metrics.\n\
             # TYPE http_connections_open gauge\n\
             http_connections_open {}\n\
             # HELP http_requests Requests answered.\n\
             # TYPE http_requests counter\n\
             http_requests_total {}\n\
             # HELP http_connections_refused Connections closed by a cap or a timeout.\n\
             # TYPE http_connections_refused counter\n\
             http_connections_refused_total{{reason=\"full\"}} {}\n\
             http_connections_refused_total{{reason=\"source\"}} {}\n\
             http_connections_refused_total{{reason=\"opening\"}} {}\n\
             # HELP http_requests_timed_out Answers given up after the time limit.\n\
             # TYPE http_requests_timed_out counter\n\
             http_requests_timed_out_total {}\n",
            read(&self.open),
            read(&self.requests),
            read(&self.refused_full),
            read(&self.refused_source),
            read(&self.opening_failed),
            read(&self.timed_out),
        );
    }
}

/// Counts open connections per source.
#[derive(Debug, Clone, Default)]
pub(super) struct Sources(Arc<Mutex<HashMap<u64, usize>>>);

/// One connection of a source; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    sources: Sources,
    source: Option<u64>,
}

impl Sources {
    /// A place for one more connection from `ip`, unless it has `max` already. Never larger than
    /// the number of open connections.
    pub(super) fn enter(&self, ip: IpAddr, max: usize) -> Option<Place> {
        let source = source(ip);
        if let Some(source) = source {
            let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let count = open.entry(source).or_default();
            if *count >= max {
                return None;
            }
            *count += 1;
        }
        Some(Place { sources: self.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(source) = self.source else { return };
        let mut open = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&source);
            }
        }
    }
}

/// What counts as one visitor: an IPv4 address, also when it comes mapped into IPv6, or an IPv6
/// /64. IPv6 prefixes in use have high bits set, so the two kinds do not meet.
fn source(ip: IpAddr) -> Option<u64> {
    let ip = ip.to_canonical();
    if ip.is_loopback() {
        return None;
    }
    Some(match ip {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_fills_its_places_and_gets_them_back() {
        let sources = Sources::default();
        let a = "192.0.2.1".parse().expect("address");
        let mapped = "::ffff:192.0.2.1".parse().expect("address");
        let b = "2001:db8:0:1::1".parse().expect("address");
        let b_too = "2001:db8:0:1:ffff::2".parse().expect("address");
        let first = sources.enter(a, 1);
        assert!(first.is_some());
        assert!(sources.enter(mapped, 1).is_none(), "the same address in its other form");
        let other = sources.enter(b, 1);
        assert!(other.is_some());
        assert!(sources.enter(b_too, 1).is_none(), "the same /64");
        drop((first, other));
        assert!(sources.0.lock().expect("not poisoned").is_empty());
        assert!(sources.enter(a, 1).is_some());
    }

    #[test]
    fn this_machine_is_not_limited() {
        let sources = Sources::default();
        let places: Vec<_> =
            (0..3).map(|_| sources.enter("127.0.0.1".parse().expect("address"), 1)).collect();
        assert!(places.iter().all(Option::is_some));
    }
}
