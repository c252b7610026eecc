//! How fast viewers are sent to, compared on the same stories in virtual time: the laws by which a window grows, and the
//! window it begins with. The comparisons print tables and take a minute, so they run when they are asked for
//! (`make compare-congestion`); what follows from them is held by the tests that run always.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a story uses a part of the world, a failing test panics, and virtual time begins somewhere"
)]

mod sim;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sim::{Setup, World};
use weir::quic::{Law, Limits};
use weir_moqt::Draft;
use weir_xdp::virt::Link;

const DAY: Duration = Duration::from_hours(24);

/// Payload of the broadcast, sound and pictures, with 4,000 bytes of filler a picture.
const BITS_PER_SECOND: u64 = 1_250_000;

/// What is made this long before the end need not have come, and what is made this soon after joining is not counted.
const EDGE: Duration = Duration::from_secs(4);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A path and what is sent on it.
#[derive(Clone, Copy)]
struct Story {
    name: &'static str,
    rtt: Duration,
    loss: f64,
    bits_per_second: u64,
    /// How long the queue before the narrow link is.
    queue: Duration,
    filler: usize,
    key_filler: usize,
    /// Another viewer joins behind the same link after so long.
    beside: Option<Duration>,
}

impl Story {
    fn new(name: &'static str, rtt: u64, bits_per_second: u64, queue: u64) -> Self {
        Self {
            name,
            rtt: millis(rtt),
            loss: 0.0,
            bits_per_second,
            queue: millis(queue),
            filler: 4_000,
            key_filler: 4_000,
            beside: None,
        }
    }

    fn down(&self) -> Link {
        let queue_bytes = (self.bits_per_second * self.queue.as_millis() as u64 / 8_000) as usize;
        Link {
            loss: self.loss,
            bits_per_second: Some(self.bits_per_second),
            queue_bytes,
            ..Link::with_delay(self.rtt / 2)
        }
    }
}

/// What became of a viewer.
struct Outcome {
    /// From dialling, in round trips: the catalog, the first sound, the first picture.
    firsts: [f64; 3],
    /// Of all groups of sound and of pictures, in percent.
    whole: [f64; 2],
    /// How late 99 % of all sounds and pictures came at most, beyond the way itself.
    late: [Duration; 2],
    queue: Duration,
    dropped: u64,
}

/// The p-th part of some times.
fn part(mut times: Vec<Duration>, p: f64) -> Duration {
    times.sort_unstable();
    let at = ((times.len() as f64 - 1.0) * p).max(0.0) as usize;
    // Nothing came at all: later than everything.
    times.get(at).copied().unwrap_or(Duration::from_mins(1))
}

fn tell(story: &Story, law: Law, initial_window_bytes: u64, draft: Draft) -> Outcome {
    let quic = Limits { law, initial_window_bytes, ..Limits::default() };
    let network = Link { loss: story.loss, ..Link::with_delay(story.rtt / 2) };
    let Story { filler, key_filler, .. } = *story;
    let mut world = World::new(&Setup {
        network,
        quic,
        filler,
        key_filler: Some(key_filler),
        ..Setup::default()
    });
    world.publish();
    // In the middle of a group.
    world.run(millis(3_700));
    let joined = world.now;
    let viewer = world.watch(0, draft, DAY);
    world.set_downlink(viewer, story.down());
    let (server, own) = world.between(viewer);
    let mut waits = Vec::new();
    let mut other = story.beside;
    for _ in 0..2_400 {
        world.run(millis(10));
        waits.push(world.net.wait(server, own));
        if other.is_some_and(|after| world.now >= joined + after) {
            other = None;
            world.watch_beside(viewer, draft);
        }
    }
    let watcher = &world.watchers[viewer];
    assert!(watcher.ended.is_none(), "{}: {:?}", story.name, watcher.ended);
    let tracks = ["audio", "video"].map(|kind| -> Arc<str> {
        let found = world.truth.media().find(|name| name.starts_with(kind));
        Arc::clone(found.expect("sound and pictures"))
    });
    let trips = |at: Instant| (at - joined).as_secs_f64() / story.rtt.as_secs_f64();
    let catalog = watcher.catalog_at.expect("a catalog");
    let first = |track: &Arc<str>| trips(watcher.seen(track).first().expect("it came").at);
    let begun = joined + EDGE;
    let counted = |made: Instant| begun <= made && made + EDGE < world.now;
    let late = |track: &Arc<str>| {
        let truth = world.truth.track(track);
        let seen = watcher.seen(track).iter().filter_map(|seen| {
            let made = truth.get(&(seen.group, seen.object))?.at;
            counted(made).then(|| (seen.at - made).saturating_sub(story.rtt / 2))
        });
        part(seen.collect(), 0.99)
    };
    let whole = |track: &Arc<str>| {
        let seen = watcher.seen(track).iter().map(|seen| (seen.group, seen.object));
        let seen: std::collections::BTreeSet<_> = seen.collect();
        let mut groups: BTreeMap<u64, bool> = BTreeMap::new();
        for (place, made) in world.truth.track(track) {
            if counted(made.at) {
                *groups.entry(place.0).or_insert(true) &= seen.contains(place);
            }
        }
        groups.values().filter(|whole| **whole).count() as f64 * 100.0 / groups.len() as f64
    };
    Outcome {
        firsts: [trips(catalog), first(&tracks[0]), first(&tracks[1])],
        whole: [whole(&tracks[0]), whole(&tracks[1])],
        late: [late(&tracks[0]), late(&tracks[1])],
        queue: part(waits, 0.99),
        dropped: world.net.tally().dropped_queue_full,
    }
}

fn print(story: &Story, what: &str, outcome: &Outcome) {
    let Outcome { firsts, whole, late, queue, dropped } = outcome;
    eprintln!(
        "| {} | {what} | {:.2} / {:.2} / {:.2} | {:.0} / {:.0} | {} / {} | {} | {dropped} |",
        story.name,
        firsts[0],
        firsts[1],
        firsts[2],
        whole[0],
        whole[1],
        late[0].as_millis(),
        late[1].as_millis(),
        queue.as_millis(),
    );
}

fn print_head(what: &str) {
    eprintln!(
        "| path | {what} | catalog / sound / picture after, round trips | groups of sound / pictures whole, % | \
         sound / pictures late p99, ms | queue p99, ms | dropped by the queue |"
    );
    eprintln!("| --- | --- | --- | --- | --- | --- | --- |");
}

fn stories() -> Vec<Story> {
    let narrow = BITS_PER_SECOND * 3 / 2;
    let too_narrow = BITS_PER_SECOND * 2 / 5;
    let wide = 20_000_000;
    let lossy = |name, rtt, loss| Story { loss, ..Story::new(name, rtt, wide, 100) };
    let burst =
        Story { filler: 300, key_filler: 100_000, ..Story::new("burst", 80, 10_000_000, 100) };
    let beside = Some(Duration::from_secs(8));
    vec![
        Story::new("narrow, queue 30 ms, 150 ms away", 150, narrow, 30),
        Story::new("narrow, queue 30 ms", 40, narrow, 30),
        Story::new("narrow, queue 50 ms", 40, narrow, 50),
        Story::new("narrow, queue 200 ms", 40, narrow, 200),
        Story::new("narrow, queue 1 s", 40, narrow, 1_000),
        Story::new("0.7 of it, queue 60 ms, 150 ms away", 150, BITS_PER_SECOND * 7 / 10, 60),
        Story::new("0.7 of it, queue 100 ms", 40, BITS_PER_SECOND * 7 / 10, 100),
        Story::new("0.4 of it, queue 300 ms", 40, too_narrow, 300),
        Story {
            beside,
            ..Story::new(
                "two behind one link of 2.5, queue 40 ms, 150 ms away",
                150,
                BITS_PER_SECOND * 5 / 2,
                40,
            )
        },
        Story { loss: 0.01, ..Story::new("narrow, 50 ms, 1 % lost", 40, narrow, 50) },
        lossy("1 % lost, 40 ms", 40, 0.01),
        lossy("5 % lost, 40 ms", 40, 0.05),
        lossy("1 % lost, 150 ms", 150, 0.01),
        lossy("5 % lost, 150 ms", 150, 0.05),
        Story { name: "key pictures of 100 KB, else idle", ..burst },
        Story {
            beside,
            ..Story::new("two behind one link of 2.5", 40, BITS_PER_SECOND * 5 / 2, 200)
        },
        Story {
            beside,
            ..Story::new("two behind one link of 1.8", 40, BITS_PER_SECOND * 9 / 5, 200)
        },
    ]
}

#[test]
#[ignore = "prints a table; make compare-congestion"]
fn laws_compared() {
    let initial = Limits::default().initial_window_bytes;
    print_head("law");
    for story in stories() {
        for law in [Law::Patient, Law::Cubic, Law::NewReno, Law::Bbr] {
            let outcome = tell(&story, law, initial, Draft::D22);
            print(&story, &format!("{law:?}"), &outcome);
        }
    }
}

#[test]
#[ignore = "prints a table; make compare-congestion"]
fn first_windows_compared() {
    let narrow = BITS_PER_SECOND * 3 / 2;
    let beside = Some(Duration::from_secs(8));
    let keys = |story: Story| Story { key_filler: 60_000, ..story };
    let stories = [
        keys(Story::new("wide, 200 ms", 200, 20_000_000, 100)),
        keys(Story::new("wide, 40 ms", 40, 20_000_000, 100)),
        keys(Story::new("narrow, queue 50 ms", 40, narrow, 50)),
        keys(Story::new("narrow, queue 200 ms", 40, narrow, 200)),
        Story { beside, ..keys(Story::new("another joins, queue 50 ms", 40, narrow * 2, 50)) },
        Story { beside, ..keys(Story::new("another joins, queue 200 ms", 40, narrow * 2, 200)) },
    ];
    print_head("first window, packets");
    for story in stories {
        for packets in [10, 16, 24, 32] {
            let outcome = tell(&story, Law::Cubic, packets * 1_200, Draft::D22);
            print(&story, &packets.to_string(), &outcome);
        }
    }
}

#[test]
fn a_late_joiner_hears_as_soon_as_its_requests_are_there_and_sees_soon_after() {
    for draft in [Draft::D22, Draft::D18, Draft::D16] {
        let keys = Story { key_filler: 60_000, ..Story::new("late", 200, 20_000_000, 100) };
        let outcome = tell(&keys, Law::default(), Limits::default().initial_window_bytes, draft);
        print(&keys, &format!("draft {}", draft.number()), &outcome);
        // The handshake, the catalog, the tracks; drafts up to 16 wait for leave to ask at all.
        let asked = if draft == Draft::D16 { 4.0 } else { 3.0 };
        let [catalog, sound, picture] = outcome.firsts;
        assert!((catalog - (asked - 1.0)).abs() < 0.1, "{draft:?}: the catalog after {catalog}");
        assert!((sound - asked).abs() < 0.1, "{draft:?}: sound after {sound}");
        assert!(picture < asked + PICTURE_BEHIND, "{draft:?}: a picture after {picture}");
        assert!(outcome.whole.iter().all(|whole| *whole > 99.9), "{draft:?}: {:?}", outcome.whole);
    }
}

#[test]
fn who_watches_over_a_link_that_carries_less_than_the_broadcast_hears_all_of_it_soon() {
    let too_narrow = |name, part, queue| Story::new(name, 40, BITS_PER_SECOND * part / 10, queue);
    let stories = [too_narrow("0.7 of it", 7, 100), too_narrow("0.4 of it", 4, 300)];
    for story in stories {
        for draft in [Draft::D22, Draft::D18, Draft::D16] {
            let outcome =
                tell(&story, Law::default(), Limits::default().initial_window_bytes, draft);
            print(&story, &format!("draft {}", draft.number()), &outcome);
            let heard = outcome.whole[0] > 90.0 && outcome.late[0] < SOUND_LATE;
            assert!(heard, "{} {draft:?}: {:?}", story.name, (outcome.whole, outcome.late));
        }
    }
}

/// How late sound may be where pictures have to be given up: two groups of them, and their repair.
const SOUND_LATE: Duration = Duration::from_millis(4_500);

/// Round trips between a joiner's first sound and its first picture: a key picture of 60 KB, behind the sound of the group.
const PICTURE_BEHIND: f64 = 3.1;
