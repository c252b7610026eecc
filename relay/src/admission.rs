//! Who may come in how often: sessions per token, per viewer and per broadcast over all shards of a
//! node, and the backoff of addresses that keep showing keys or tokens that open nothing. It counts
//! and says no; it verifies nothing, closes nothing and reads no clock.
//!
//! Counts are kept under a keyed hash, so that nobody can aim at a bucket, and cost 16 bytes each
//! whatever the peer calls itself. Each shard tells the others of places taken and given back
//! ([`crate::Event::Place`]) and counts theirs as its own. Two shards may give away the last place
//! in the same moment: a limit is kept to within one session per further shard.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::Grant;
use crate::{Limits, SessionCode};

/// Which limit stands against a request or a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Full {
    /// [`Limits::grants_per_session_max`].
    GrantsPerSession,
    /// [`Limits::sessions_per_token_max`].
    SessionsPerToken,
    /// [`Limits::sessions_per_viewer_max`].
    SessionsPerViewer,
    /// [`Limits::tokens_per_request_max`].
    TokensPerRequest,
    /// [`Limits::viewers_per_broadcast_max`].
    ViewersPerBroadcast,
}

impl Full {
    /// Every one, in the order of [`Full::index`].
    pub const ALL: [Self; 5] = [
        Self::GrantsPerSession,
        Self::SessionsPerToken,
        Self::SessionsPerViewer,
        Self::TokensPerRequest,
        Self::ViewersPerBroadcast,
    ];

    /// Position in [`crate::Metrics::limit_admission`].
    pub fn index(self) -> usize {
        Self::ALL.iter().position(|full| *full == self).unwrap_or_default()
    }

    /// The name of the limit, for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::GrantsPerSession => "grants_per_session_max",
            Self::SessionsPerToken => "sessions_per_token_max",
            Self::SessionsPerViewer => "sessions_per_viewer_max",
            Self::TokensPerRequest => "tokens_per_request_max",
            Self::ViewersPerBroadcast => "viewers_per_broadcast_max",
        }
    }

    /// What a session is closed with. A full broadcast is worth another try later; a token that is
    /// in use too often is not, so players are told as of a token that opens nothing.
    pub(crate) fn session_code(self) -> SessionCode {
        match self {
            Self::ViewersPerBroadcast => SessionCode::Internal,
            _ => SessionCode::Unauthorized,
        }
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GrantsPerSession => "too many grants in one session",
            Self::SessionsPerToken => "too many sessions with this token",
            Self::SessionsPerViewer => "too many sessions of this viewer",
            Self::TokensPerRequest => "too many tokens in one request",
            Self::ViewersPerBroadcast => "capacity",
        })
    }
}

/// Something of which there may be only so many at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    of: Full,
    org: Arc<str>,
    id: Arc<str>,
}

/// The counts of one shard, those of the others included.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    hash: RandomState,
    taken: HashMap<u64, u32>,
}

impl Admission {
    /// Brings what a session holds in line with its grants: gives back what it no longer needs, then
    /// takes what it lacks. What was taken or given back is reported through `changed`.
    pub(crate) fn settle<'g>(
        &mut self,
        held: &mut Vec<Place>,
        grants: impl Iterator<Item = &'g Grant>,
        limits: &Limits,
        mut changed: impl FnMut(Place, bool),
    ) -> Result<(), Full> {
        let mut wanted: Vec<Place> = Vec::new();
        for place in grants.flat_map(places) {
            if !wanted.contains(&place) {
                wanted.push(place);
            }
        }
        held.retain(|place| {
            let kept = wanted.contains(place);
            if !kept {
                self.count(place, false);
                changed(place.clone(), false);
            }
            kept
        });
        let mut full = None;
        for place in wanted {
            if held.contains(&place) {
                continue;
            }
            if self.taken(&place) >= place.most(limits) {
                full = full.or(Some(place.of));
                continue;
            }
            self.count(&place, true);
            changed(place.clone(), true);
            held.push(place);
        }
        full.map_or(Ok(()), Err)
    }

    /// A place was taken or given back, here or on another shard.
    pub(crate) fn count(&mut self, place: &Place, taken: bool) {
        let key = self.hash.hash_one(place);
        let count = self.taken.entry(key).or_default();
        *count = if taken { count.saturating_add(1) } else { count.saturating_sub(1) };
        if *count == 0 {
            self.taken.remove(&key);
        }
    }

    fn taken(&self, place: &Place) -> u32 {
        self.taken.get(&self.hash.hash_one(place)).copied().unwrap_or(0)
    }
}

impl Place {
    fn most(&self, limits: &Limits) -> u32 {
        match self.of {
            Full::SessionsPerToken => limits.sessions_per_token_max,
            Full::SessionsPerViewer => limits.sessions_per_viewer_max,
            Full::ViewersPerBroadcast => limits.viewers_per_broadcast_max,
            Full::GrantsPerSession | Full::TokensPerRequest => u32::MAX,
        }
    }
}

/// The places a grant needs.
fn places(grant: &Grant) -> impl Iterator<Item = Place> + '_ {
    let place = |of, id: &Arc<str>| Place { of, org: Arc::clone(&grant.org), id: Arc::clone(id) };
    let token = grant.jti.iter().map(move |jti| place(Full::SessionsPerToken, jti));
    let viewer = grant.vid.iter().map(move |vid| place(Full::SessionsPerViewer, vid));
    token.chain(viewer).chain([place(Full::ViewersPerBroadcast, &grant.sub)])
}

/// How addresses that fail are held off.
#[derive(Clone, Debug)]
pub struct BackoffLimits {
    /// Failures of one address within `forget` that cost nothing: a household that mistypes, an
    /// office whose link has expired.
    pub free: u32,
    /// The wait after the first failure beyond; it doubles with each further one.
    pub first: Duration,
    /// The longest wait: at 32 free tries a minute and one every 30 s, a stream key of 128 bits or
    /// more is out of reach for ever, and an office is back after half a minute.
    pub most: Duration,
    /// An address without failure for this long starts anew.
    pub forget: Duration,
    /// Addresses remembered: 10 000 x 48 bytes = 0.5 MB. With more, the one that failed longest ago
    /// is forgotten.
    pub addresses_max: usize,
}

impl Default for BackoffLimits {
    fn default() -> Self {
        Self {
            free: 32,
            first: Duration::from_secs(1),
            most: Duration::from_secs(30),
            forget: Duration::from_mins(1),
            addresses_max: 10_000,
        }
    }
}

/// Addresses that showed keys or tokens that open nothing, and until when they are not heard. This
/// machine itself is exempt, as behind a proxy it would be everybody.
#[derive(Debug, Default)]
pub struct Backoff {
    limits: BackoffLimits,
    failed: HashMap<Prefix, Failures>,
}

#[derive(Debug)]
struct Failures {
    count: u32,
    last: Instant,
    until: Instant,
}

impl Backoff {
    /// Nobody has failed yet.
    pub fn new(limits: BackoffLimits) -> Self {
        Self { limits, failed: HashMap::new() }
    }

    /// How long `address` must wait still; `None`: it may try.
    pub fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let failures = self.failed.get(&Prefix::of(address))?;
        failures.until.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// `address` failed once more.
    pub fn fail(&mut self, address: IpAddr, now: Instant) {
        if address.to_canonical().is_loopback() {
            return;
        }
        let BackoffLimits { free, first, most, forget, addresses_max } = self.limits.clone();
        let prefix = Prefix::of(address);
        if self.failed.len() >= addresses_max && !self.failed.contains_key(&prefix) {
            self.make_room(now);
        }
        let fresh = Failures { count: 0, last: now, until: now };
        let failures = self.failed.entry(prefix).or_insert(fresh);
        if now.saturating_duration_since(failures.last) >= forget {
            failures.count = 0;
        }
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
        if let Some(beyond) = failures.count.checked_sub(free.saturating_add(1)) {
            let wait = first.saturating_mul(1 << beyond.min(16)).min(most);
            failures.until = now + wait;
        }
    }

    /// Addresses remembered.
    pub fn len(&self) -> usize {
        self.failed.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty()
    }

    /// Forgets what is long over; if nothing is, whoever failed longest ago.
    fn make_room(&mut self, now: Instant) {
        let forget = self.limits.forget;
        self.failed.retain(|_, failures| now.saturating_duration_since(failures.last) < forget);
        if self.failed.len() >= self.limits.addresses_max {
            let oldest = self.failed.iter().min_by_key(|(_, failures)| failures.last);
            if let Some(oldest) = oldest.map(|(prefix, _)| *prefix) {
                self.failed.remove(&oldest);
            }
        }
    }
}

/// What counts as one visitor: an IPv4 address, also when it comes mapped into IPv6, or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prefix {
    /// An IPv4 address.
    V4(u32),
    /// The first 64 bits of an IPv6 address.
    V6(u64),
}

impl Prefix {
    /// The prefix `address` lies in.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "virtual time has to start somewhere")]
    fn start() -> Instant {
        Instant::now()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn grant(sub: &str, jti: &str, vid: &str) -> Grant {
        Grant {
            org: "org_a".into(),
            sub: sub.into(),
            kid: "k".into(),
            jti: Some(jti.into()),
            vid: Some(vid.into()),
            version: 0,
            issued_at: Duration::ZERO,
            expires_at: Duration::ZERO,
        }
    }

    #[test]
    fn a_renewal_takes_the_new_tokens_place_and_gives_the_old_one_back() {
        let limits = Limits { sessions_per_token_max: 1, ..Limits::default() };
        let mut admission = Admission::default();
        let (mut one, mut other) = (Vec::new(), Vec::new());
        let (old, new) = (grant("lv_1", "j1", "anna"), grant("lv_1", "j2", "anna"));
        let quiet = |_, _| {};
        assert_eq!(admission.settle(&mut one, [&old].into_iter(), &limits, quiet), Ok(()));
        let twice = admission.settle(&mut other, [&old].into_iter(), &limits, quiet);
        assert_eq!(twice, Err(Full::SessionsPerToken));
        assert_eq!(admission.settle(&mut other, [].into_iter(), &limits, quiet), Ok(()));
        let both = admission.settle(&mut one, [&old, &new].into_iter(), &limits, quiet);
        assert_eq!(both, Ok(()));
        let mut changes = Vec::new();
        let note = |place: Place, taken| changes.push((place.id.to_string(), taken));
        assert_eq!(admission.settle(&mut one, [&new].into_iter(), &limits, note), Ok(()));
        assert_eq!(changes, [("j1".to_owned(), false)]);
        assert_eq!(admission.settle(&mut other, [&old].into_iter(), &limits, quiet), Ok(()));
        for held in [&mut one, &mut other] {
            assert_eq!(admission.settle(held, [].into_iter(), &limits, quiet), Ok(()));
        }
        assert!(admission.taken.is_empty(), "what was taken is given back");
    }

    #[test]
    fn a_place_taken_on_another_shard_counts_here() {
        let limits = Limits { viewers_per_broadcast_max: 2, ..Limits::default() };
        let (mut here, mut there) = (Admission::default(), Admission::default());
        let mut far = Vec::new();
        for (at, expected) in [(1, Ok(())), (2, Ok(())), (3, Err(Full::ViewersPerBroadcast))] {
            let grant = grant("lv_1", &format!("j{at}"), "anna");
            let mut near = Vec::new();
            let tell = |place: Place, taken| far.push((place, taken));
            assert_eq!(here.settle(&mut near, [&grant].into_iter(), &limits, tell), expected);
        }
        for (place, taken) in far {
            there.count(&place, taken);
        }
        let grant = grant("lv_1", "j4", "bert");
        let refused = there.settle(&mut Vec::new(), [&grant].into_iter(), &limits, |_, _| {});
        assert_eq!(refused, Err(Full::ViewersPerBroadcast));
    }

    #[test]
    fn h16_an_address_that_keeps_failing_waits_longer_and_longer_and_is_forgiven() {
        let mut now = start();
        let mut backoff = Backoff::default();
        let bad = ip("192.0.2.7");
        let limits = BackoffLimits::default();
        for _ in 0..limits.free {
            backoff.fail(bad, now);
            assert_eq!(backoff.wait(bad, now), None);
        }
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            backoff.fail(bad, now);
            let wait = Duration::from_secs(seconds);
            assert_eq!(backoff.wait(bad, now), Some(wait));
            assert_eq!(backoff.wait(ip("::ffff:192.0.2.7"), now), Some(wait), "mapped");
            assert_eq!(backoff.wait(ip("192.0.2.8"), now), None, "a neighbour");
            now += wait;
            assert_eq!(backoff.wait(bad, now), None);
        }
        now += limits.forget;
        backoff.fail(bad, now);
        assert_eq!(backoff.wait(bad, now), None, "a minute later it starts anew");
    }

    #[test]
    fn an_ipv6_network_is_one_address_and_this_machine_is_none() {
        let now = start();
        let limits = BackoffLimits { free: 0, addresses_max: 3, ..BackoffLimits::default() };
        let mut backoff = Backoff::new(limits);
        backoff.fail(ip("2001:db8:0:1::1"), now);
        assert!(backoff.wait(ip("2001:db8:0:1:ffff::2"), now).is_some());
        assert_eq!(backoff.wait(ip("2001:db8:0:2::1"), now), None);
        for this in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            backoff.fail(ip(this), now);
            assert_eq!(backoff.wait(ip(this), now), None, "{this}");
        }
        for last in 0..20 {
            backoff.fail(ip(&format!("198.51.100.{last}")), now + Duration::from_millis(last));
            assert!(backoff.len() <= 3);
        }
    }

    #[test]
    fn every_limit_has_its_own_name_and_counter() {
        for (position, full) in Full::ALL.iter().enumerate() {
            assert_eq!(full.index(), position);
        }
        let mut labels: Vec<_> = Full::ALL.iter().map(|full| full.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Full::ALL.len());
    }
}
