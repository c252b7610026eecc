//! What an address may take of a node before it has shown a good key: connections that publish nothing yet, key checks
//! at a time, bad keys, and lines in the log. Each keeps its own count, so a flood from one place is slow for that
//! place and for nobody else. It closes nothing and words no refusal.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use weir_relay::admission::{Backoff, Prefix};

/// A refusal is logged once for an address in this time, whatever it tries.
const REFUSAL_INTERVAL: Duration = Duration::from_mins(1);

/// Addresses whose last refusal is remembered: 1,024 lines a minute are what a log can take. Those beyond are
/// not logged, only counted.
const REFUSALS_MAX: usize = 1_024;

/// Key checks of one address under way: each takes about a millisecond of the store, which others wait for.
const CHECKS_MAX: usize = 4;

/// Key checks of one address that wait for those: a hall of encoders that starts at once. More are refused.
const CHECKS_WAITING_MAX: usize = 64;

/// Connections of one address that have not published yet, on one shard. Each is a stranger for some round trips,
/// and may cost 20 MiB meanwhile.
pub(super) const CONNECTIONS_MAX: usize = 32;

/// Refusals of a node, all shards and protocols together.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals(Arc<Mutex<HashMap<Prefix, Instant>>>);

impl Refusals {
    /// Whether a refusal of `peer` is news.
    pub(super) fn is_news(&self, peer: IpAddr, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |at: &Instant| now.saturating_duration_since(*at) < REFUSAL_INTERVAL;
        let prefix = Prefix::of(peer);
        if told.get(&prefix).is_some_and(recent) {
            return false;
        }
        if told.len() >= REFUSALS_MAX {
            told.retain(|_, at| recent(at));
            if told.len() >= REFUSALS_MAX {
                return false;
            }
        }
        told.insert(prefix, now);
        true
    }
}

/// Who shows keys. This machine itself is not limited: behind a proxy it would be everybody.
#[derive(Clone, Debug, Default)]
pub(super) struct Checks(Arc<Mutex<Asking>>);

#[derive(Debug, Default)]
struct Asking {
    backoff: Backoff,
    under_way: HashMap<Prefix, Arc<Semaphore>>,
}

/// An address that may have a key checked; its place is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Check {
    checks: Checks,
    held: Option<(Prefix, Arc<Semaphore>)>,
    peer: Option<IpAddr>,
}

impl Checks {
    /// A place in the line of `peer`'s checks; none when the line is full, or bad keys have shut `peer` out.
    pub(super) fn enter(&self, peer: Option<IpAddr>, now: Instant) -> Option<Check> {
        let limited = peer.filter(|peer| !peer.to_canonical().is_loopback());
        let Some(address) = limited else {
            return Some(Check { checks: self.clone(), held: None, peer });
        };
        let mut asking = self.lock();
        if asking.backoff.wait(address, now).is_some() {
            return None;
        }
        let prefix = Prefix::of(address);
        let line = asking.under_way.entry(prefix);
        let line = line.or_insert_with(|| Arc::new(Semaphore::new(CHECKS_MAX)));
        // The map holds one count, each check another.
        if Arc::strong_count(line) > CHECKS_MAX + CHECKS_WAITING_MAX {
            return None;
        }
        let held = Some((prefix, Arc::clone(line)));
        drop(asking);
        Some(Check { checks: self.clone(), held, peer })
    }

    /// A key of `peer` opened nothing.
    pub(super) fn failed(&self, peer: Option<IpAddr>, now: Instant) {
        if let Some(peer) = peer {
            self.lock().backoff.fail(peer, now);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Asking> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Check {
    /// Waits for its turn and runs `check` unless bad keys have shut the address out meanwhile.
    pub(super) async fn run<T>(&self, check: impl Future<Output = T>) -> Option<T> {
        // A line is never closed; the permit goes with this call.
        let _turn = match &self.held {
            Some((_, line)) => line.acquire().await.ok(),
            None => None,
        };
        let waits = |peer| self.checks.lock().backoff.wait(peer, Instant::now()).is_some();
        if self.peer.is_some_and(waits) {
            return None;
        }
        Some(check.await)
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        let Some((prefix, line)) = self.held.take() else { return };
        let mut asking = self.checks.lock();
        // The map's and this one.
        if Arc::strong_count(&line) == 2 {
            asking.under_way.remove(&prefix);
        }
    }
}

/// Connections of one shard that have not published yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Rc<RefCell<HashMap<Prefix, usize>>>);

/// One connection of a stranger; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    prefix: Prefix,
}

impl Places {
    /// A place for one more connection of `peer`, unless it has all it may have. This machine itself is not limited.
    pub(super) fn enter(&self, peer: IpAddr) -> Result<Option<Place>, Full> {
        if peer.to_canonical().is_loopback() {
            return Ok(None);
        }
        let prefix = Prefix::of(peer);
        let mut held = self.0.borrow_mut();
        let count = held.entry(prefix).or_default();
        if *count >= CONNECTIONS_MAX {
            return Err(Full);
        }
        *count += 1;
        drop(held);
        Ok(Some(Place { places: self.clone(), prefix }))
    }
}

/// An address has all the connections it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.0.borrow_mut();
        if let Some(count) = held.get_mut(&self.prefix) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.prefix);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_refusal_is_logged_once_for_an_address_and_a_minute_and_a_flood_of_addresses_is_cut_off() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let bad = ip("192.0.2.9");
        assert!(refusals.is_news(bad, start));
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            assert!(!refusals.is_news(bad, now), "after {second} s");
            // The same house in IPv6, whatever its last 64 bits are.
            let neighbour = ip(&format!("2001:db8::{second:x}"));
            assert_eq!(refusals.is_news(neighbour, now), second == 0);
        }
        let minute = start + Duration::from_mins(1);
        assert!(refusals.is_news(bad, minute));
        let flood = (0..100_000_u32).map(|n| IpAddr::from((n + (10 << 24)).to_be_bytes()));
        let logged = flood.filter(|peer| refusals.is_news(*peer, minute)).count();
        assert!(logged <= REFUSALS_MAX, "{logged} lines");
        assert!(refusals.0.lock().expect("not poisoned").len() <= REFUSALS_MAX);
        assert!(refusals.is_news(ip("192.0.2.77"), minute + REFUSAL_INTERVAL), "room again");
    }

    #[test]
    fn strangers_of_one_address_leave_places_to_others_and_give_theirs_back() {
        let places = Places::default();
        let mut held: Vec<_> =
            (0..CONNECTIONS_MAX).map(|_| places.enter(ip("192.0.2.9")).expect("a place")).collect();
        assert_eq!(places.enter(ip("::ffff:192.0.2.9")).err(), Some(Full), "the same, mapped");
        assert!(places.enter(ip("192.0.2.10")).is_ok());
        held.pop();
        assert!(places.enter(ip("192.0.2.9")).is_ok());
        held.clear();
        assert!(places.0.borrow().is_empty(), "nothing is left");
        let local: Vec<_> = (0..1_000).map(|_| places.enter(ip("127.0.0.1"))).collect();
        assert!(local.iter().all(Result::is_ok), "this machine may be a proxy");
    }
}
