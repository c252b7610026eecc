//! The relays that have one broadcast, and which of them a viewer turns to when the one it watches from says nothing any
//! more. It owns the verdict "silent", the order in which the others are tried and the pauses between tries; it dials
//! nothing, and what is shown of whom is [`super::Splice`]'s decision.
//!
//! A dead relay sends nothing, and QUIC calls that loss only after seconds of it. A viewer hears its relay all the time,
//! and when it does not, asks for a sign of life. Being wrong costs a handshake: the silent connection stays open, and
//! is believed again if it is heard before another one has brought media. A whole audience falls silent at one moment,
//! so each viewer has its own order and its own pauses.

use std::time::{Duration, Instant};

use super::PlaybackUrl;
use crate::mesh::Backoff;
use crate::quic::pulse::{PROBE_EVERY, Pulse};

/// Addresses of one broadcast that a viewer keeps; more than anybody tries before a person has given up.
pub const ADDRESSES_MAX: usize = 8;

/// How often it listens.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A relay is silent after this, or after what [`ROUND_TRIPS`] need if that is longer: a burst of loss of half a second is
/// none, and a second and two round trips is all there is until media comes from elsewhere.
const SILENCE: Duration = Duration::from_millis(600);

/// After [`PROBE_EVERY`] without a packet one is asked for: its answer takes one, a repeat comes after three.
const ROUND_TRIPS: u32 = 3;

/// Spread of an audience that has lost its relay at one moment: 5,000 handshakes in it cost a core half of its time.
const SPREAD: Duration = Duration::from_millis(100);

/// How long an address may take to answer: a handshake whose first two flights are lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How long a relay that has answered may take to bring media: it may have to fetch the broadcast itself.
const MEDIA_WITHIN: Duration = Duration::from_secs(5);

/// After this long without any relay a viewer whose connection is closed has nothing to wait for: edges hold a broadcast
/// without an upstream as long.
const HOLD: Duration = Duration::from_secs(30);

/// What is to be done.
#[derive(Debug)]
pub enum Step {
    /// Make the current relay answer, if the connection does not do that by itself.
    Probe,
    /// The current relay is silent: what it still owes is not waited for.
    Doubt,
    /// It is heard again: a try under way is to be given up.
    Believe,
    /// Try this one, and report by [`Fleet::answered`], [`Fleet::failed`] or [`Fleet::moved`].
    Dial(Box<PlaybackUrl>),
    /// The try under way takes too long; reported by [`Fleet::failed`].
    Abandon,
    /// No relay is left to hope for.
    Over,
}

/// The addresses of one broadcast, as one viewer uses them.
#[derive(Debug)]
pub struct Fleet {
    /// In the order of trying, in a ring.
    urls: Vec<PlaybackUrl>,
    /// The place in the ring that is tried next.
    next: usize,
    pulse: Pulse,
    look_at: Instant,
    phase: Phase,
    /// The current connection is closed.
    lost: bool,
    /// Failures since the last relay that was heard.
    failures: usize,
    backoff: Backoff,
    chance: fastrand::Rng,
}

#[derive(Debug)]
enum Phase {
    Watching,
    Pausing { since: Instant, until: Instant },
    Trying { since: Instant, until: Instant },
}

impl Fleet {
    /// The first address is where it begins; the others are tried in an order of its own. Duplicates and what exceeds
    /// [`ADDRESSES_MAX`] are left out.
    pub fn new(urls: impl IntoIterator<Item = PlaybackUrl>, seed: u64, now: Instant) -> Self {
        let mut kept: Vec<PlaybackUrl> = Vec::new();
        for url in urls {
            let known = kept.iter().any(|kept| kept.authority() == url.authority());
            if !known && kept.len() < ADDRESSES_MAX {
                kept.push(url);
            }
        }
        let mut chance = fastrand::Rng::with_seed(seed);
        if let Some((_, others)) = kept.split_first_mut() {
            chance.shuffle(others);
        }
        Self {
            urls: kept,
            next: 1,
            pulse: Pulse::new(now),
            look_at: now + LOOK_EVERY,
            phase: Phase::Watching,
            lost: false,
            failures: 0,
            backoff: Backoff::new(chance.u64(..)),
            chance,
        }
    }

    /// Whether there is anywhere else to go.
    pub fn has_others(&self) -> bool {
        self.urls.len() > 1
    }

    /// When [`Fleet::poll_step`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.has_others().then_some(self.look_at)
    }

    /// Listens, if it is time: `heard` is what came on the current connection so far, in whatever only grows. Call it
    /// until it says nothing more.
    pub fn poll_step(&mut self, heard: u64, rtt: Duration, now: Instant) -> Option<Step> {
        if !self.has_others() || now < self.look_at {
            return None;
        }
        self.look_at = now + LOOK_EVERY;
        let quiet = self.pulse.look(heard, now);
        match self.phase {
            Phase::Watching if quiet > SILENCE.max(PROBE_EVERY + rtt * ROUND_TRIPS) => {
                self.pause(now);
                Some(Step::Doubt)
            }
            Phase::Watching => (quiet >= PROBE_EVERY).then_some(Step::Probe),
            _ if !self.lost && quiet.is_zero() => {
                self.phase = Phase::Watching;
                self.failures = 0;
                Some(Step::Believe)
            }
            Phase::Pausing { since, .. } | Phase::Trying { since, .. }
                if self.lost && now.saturating_duration_since(since) > HOLD =>
            {
                Some(Step::Over)
            }
            Phase::Pausing { since, until } if until <= now => {
                self.phase = Phase::Trying { since, until: now + ANSWER_WITHIN };
                let url = self.urls.get(self.next % self.urls.len())?.clone();
                self.next += 1;
                Some(Step::Dial(Box::new(url)))
            }
            Phase::Trying { until, .. } if until <= now => Some(Step::Abandon),
            Phase::Pausing { .. } | Phase::Trying { .. } => None,
        }
    }

    /// The current connection was lost without a word from the relay.
    pub fn lost(&mut self, now: Instant) {
        self.lost = true;
        if matches!(self.phase, Phase::Watching) {
            self.pause(now);
        }
    }

    /// Whether nothing is heard from the current relay.
    pub fn is_silent(&self) -> bool {
        !matches!(self.phase, Phase::Watching)
    }

    /// The address that is tried has answered.
    pub fn answered(&mut self, now: Instant) {
        if let Phase::Trying { until, .. } = &mut self.phase {
            *until = now + MEDIA_WITHIN;
        }
    }

    /// It did not, or has not got the broadcast, or is full: the next one's turn. After each of them had one, the pauses
    /// grow.
    pub fn failed(&mut self, now: Instant) {
        let Phase::Trying { since, .. } = self.phase else { return };
        self.failures += 1;
        let others = self.urls.len() - 1;
        let pause = if self.failures.is_multiple_of(others.max(1)) {
            self.backoff.failed()
        } else {
            self.spread()
        };
        self.phase = Phase::Pausing { since, until: now + pause };
    }

    /// There is another current connection, whoever wanted it.
    pub fn moved(&mut self, to: &PlaybackUrl, now: Instant) {
        if let Some(at) = self.urls.iter().position(|url| url.authority() == to.authority()) {
            self.next = at + 1;
        }
        self.pulse = Pulse::new(now);
        self.phase = Phase::Watching;
        self.lost = false;
        self.failures = 0;
        self.backoff.succeeded();
    }

    fn pause(&mut self, now: Instant) {
        let spread = self.spread();
        self.look_at = now + spread;
        self.phase = Phase::Pausing { since: now, until: now + spread };
    }

    fn spread(&mut self) -> Duration {
        SPREAD.mul_f64(self.chance.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(20);

    fn url(host: &str) -> PlaybackUrl {
        PlaybackUrl::parse(&format!("moqt://{host}:4433/playback/lv_1")).expect("a URL")
    }

    fn fleet(hosts: &[&str], seed: u64, now: Instant) -> Fleet {
        Fleet::new(hosts.iter().map(|host| url(host)), seed, now)
    }

    /// Steps until something other than a probe is wanted; `heard` grows while `speaks`.
    fn until_step(fleet: &mut Fleet, now: &mut Instant, heard: u64) -> Step {
        loop {
            *now = fleet.poll_timeout().expect("somewhere else to go").max(*now);
            match fleet.poll_step(heard, RTT, *now) {
                None | Some(Step::Probe) => {}
                Some(step) => return step,
            }
        }
    }

    fn dialled(fleet: &mut Fleet, now: &mut Instant) -> String {
        match until_step(fleet, now, 0) {
            Step::Dial(url) => url.host,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_silent_relay_is_left_for_another_within_its_second_and_a_burst_of_loss_is_no_silence() {
        let begun = Instant::now();
        let mut now = begun;
        let mut fleet = fleet(&["a", "b"], 1, now);
        let mut heard = 0;
        // Half a second without a packet every second.
        while now < begun + Duration::from_secs(10) {
            let ms = (now - begun).as_millis() % 1000;
            heard += u64::from(ms >= 500);
            assert!(!matches!(fleet.poll_step(heard, RTT, now), Some(Step::Doubt)));
            now += Duration::from_millis(10);
        }
        let silent = now;
        assert!(matches!(until_step(&mut fleet, &mut now, heard), Step::Doubt));
        assert!(fleet.is_silent() && now - silent + LOOK_EVERY > SILENCE, "{:?}", now - silent);
        let Step::Dial(to) = until_step(&mut fleet, &mut now, heard) else { panic!("a dial") };
        assert_eq!(to.host, "b");
        assert!(now - silent <= SILENCE + LOOK_EVERY * 2 + SPREAD, "{:?}", now - silent);
        fleet.moved(&to, now);
        assert!(!fleet.is_silent());
    }

    #[test]
    fn a_long_way_is_given_the_time_of_its_round_trips() {
        let mut now = Instant::now();
        let mut fleet = fleet(&["a", "b"], 1, now);
        let begun = now;
        let rtt = Duration::from_millis(400);
        while !fleet.is_silent() {
            now += LOOK_EVERY;
            fleet.poll_step(0, rtt, now);
        }
        assert!(now - begun > PROBE_EVERY + rtt * ROUND_TRIPS);
    }

    #[test]
    fn who_is_heard_again_is_believed_again_unless_the_connection_is_closed() {
        let mut now = Instant::now();
        let mut fleet = fleet(&["a", "b"], 1, now);
        assert!(matches!(until_step(&mut fleet, &mut now, 0), Step::Doubt));
        assert!(matches!(until_step(&mut fleet, &mut now, 1), Step::Believe));
        assert!(matches!(until_step(&mut fleet, &mut now, 1), Step::Doubt));
        fleet.lost(now);
        assert!(matches!(until_step(&mut fleet, &mut now, 2), Step::Dial(_)));
    }

    #[test]
    fn every_other_address_has_its_turn_and_the_first_one_too_when_none_answers() {
        let mut now = Instant::now();
        let begun = now;
        let mut fleet = fleet(&["a", "b", "c", "d", "b"], 3, now);
        fleet.lost(now);
        let mut tried = Vec::new();
        for _ in 0..4 {
            tried.push(dialled(&mut fleet, &mut now));
            assert!(matches!(until_step(&mut fleet, &mut now, 0), Step::Abandon));
            fleet.failed(now);
        }
        assert_eq!(tried[3], "a");
        tried.sort();
        assert_eq!(tried, ["a", "b", "c", "d"]);
        // In the end there is nothing to hope for.
        let over = loop {
            match until_step(&mut fleet, &mut now, 0) {
                Step::Dial(_) => {}
                Step::Abandon => fleet.failed(now),
                other => break other,
            }
        };
        assert!(matches!(over, Step::Over) && now - begun > HOLD, "{over:?}");
    }

    #[test]
    fn an_audience_that_loses_its_relay_at_one_moment_spreads_over_the_others_and_over_time() {
        let start = Instant::now();
        let mut first: Vec<(String, Duration)> = (0..1_000)
            .map(|seed| {
                let mut now = start;
                let mut fleet = fleet(&["a", "b", "c"], seed, now);
                fleet.lost(now);
                (dialled(&mut fleet, &mut now), now - start)
            })
            .collect();
        let at_b = first.iter().filter(|(host, _)| host == "b").count();
        assert!((400..=600).contains(&at_b), "{at_b} of 1,000 went to b");
        first.sort_by_key(|(_, after)| *after);
        assert!(first[999].1 <= SPREAD && first[500].1 > SPREAD / 3, "{:?}", first[500]);
    }

    #[test]
    fn a_single_address_is_never_left() {
        let now = Instant::now();
        let mut fleet = fleet(&["a", "a"], 1, now);
        assert_eq!(fleet.poll_timeout(), None);
        assert!(fleet.poll_step(0, RTT, now + HOLD).is_none() && !fleet.has_others());
    }
}
