//! What links do to datagrams, told as stories between two hosts.

use super::*;
use crate::{Datagram, Ecn, Outcome, Port, Transmit};

const SEED: u64 = 42;

struct Pair {
    network: Network,
    start: Instant,
    sender: VirtPort,
    receiver: VirtPort,
}

fn address(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], port))
}

fn pair_over(link: Link) -> Pair {
    pair_with(SEED, link)
}

fn pair_with(seed: u64, link: Link) -> Pair {
    // Any moment will do: the run depends on what is added to it.
    let start = Instant::now();
    let network = Network::new(seed, start);
    let sender = network.port(address(1, 1_000)).expect("free");
    let receiver = network.port(address(2, 2_000)).expect("free");
    network.set_link(address(1, 0).ip(), address(2, 0).ip(), link);
    Pair { network, start, sender, receiver }
}

impl Pair {
    fn send(&mut self, contents: &[u8]) {
        self.send_marked(contents, None);
    }

    fn send_marked(&mut self, contents: &[u8], ecn: Option<Ecn>) {
        assert_eq!(self.try_send(contents, ecn, None), Outcome::Sent);
    }

    fn try_send(
        &mut self,
        contents: &[u8],
        ecn: Option<Ecn>,
        segment_size: Option<usize>,
    ) -> Outcome {
        let destination = self.receiver.local_addr();
        self.sender
            .send(&Transmit { destination, src_ip: None, ecn, contents, segment_size })
            .expect("the virtual network has no errors")
    }

    fn advance_ms(&mut self, after_start: u64) {
        self.network.advance(self.start + Duration::from_millis(after_start));
    }

    fn received(&mut self) -> Vec<Datagram> {
        let mut all = Vec::new();
        while self.receiver.recv(&mut |datagram| all.push(datagram)).expect("no errors") > 0 {}
        all
    }

    /// Runs until nothing is under way; gives when each datagram arrived, and its first byte.
    fn arrivals(&mut self) -> Vec<(Duration, u8)> {
        assert!(self.received().is_empty(), "read what has arrived before");
        let mut arrivals = Vec::new();
        while let Some(at) = self.network.next_event() {
            self.network.advance(at);
            let bytes = self.received().into_iter().map(|datagram| datagram.data[0]);
            arrivals.extend(bytes.map(|byte| (at - self.start, byte)));
        }
        arrivals
    }

    fn tally(&self) -> Tally {
        let tally = self.network.tally();
        let ended = tally.delivered
            + tally.dropped_lost
            + tally.dropped_queue_full
            + tally.dropped_too_large
            + tally.dropped_cut
            + tally.dropped_no_port
            + tally.dropped_inbox_full;
        assert_eq!(tally.sent + tally.duplicated, ended, "no datagram vanished: {tally:?}");
        tally
    }
}

#[test]
fn datagram_arrives_after_the_delay_and_not_before() {
    let mut pair = pair_over(Link::with_delay(Duration::from_millis(20)));
    pair.send(b"hello");
    assert_eq!(pair.network.next_event(), Some(pair.start + Duration::from_millis(20)));
    assert_eq!(pair.receiver.next_wake(), pair.network.next_event());
    assert_eq!(pair.sender.next_wake(), None);
    pair.advance_ms(19);
    assert!(pair.received().is_empty());
    pair.advance_ms(20);
    let [datagram] = &pair.received()[..] else { panic!("one datagram") };
    assert_eq!(datagram.data, b"hello"[..]);
    assert_eq!(datagram.from, pair.sender.local_addr());
    assert_eq!(datagram.to, Some(pair.receiver.local_addr().ip()));
}

#[test]
fn time_does_not_run_backwards() {
    let mut pair = pair_over(Link::with_delay(Duration::from_millis(20)));
    pair.advance_ms(100);
    pair.advance_ms(10);
    pair.send(b"x");
    assert_eq!(pair.network.next_event(), Some(pair.start + Duration::from_millis(120)));
}

#[test]
fn same_seed_gives_the_same_run_and_another_seed_another() {
    let rough = Link {
        delay: Duration::from_millis(10),
        jitter: Duration::from_millis(8),
        loss: 0.2,
        reorder: 0.1,
        duplicate: 0.1,
        ..Link::default()
    };
    let run = |seed| {
        let mut pair = pair_with(seed, rough);
        for byte in 0..200 {
            pair.send(&[byte]);
        }
        (pair.arrivals(), pair.tally())
    };
    let (first, tally) = run(SEED);
    assert_eq!((first.clone(), tally), run(SEED));
    assert_ne!(first, run(SEED + 1).0);
    assert!(tally.dropped_lost > 20 && tally.dropped_lost < 60, "a fifth of 200: {tally:?}");
    assert!(tally.duplicated > 5 && tally.reordered > 5, "a tenth of 200: {tally:?}");
}

#[test]
fn traffic_between_others_changes_nothing() {
    let run = |others: bool| {
        let mut pair = pair_with(SEED, Link { loss: 0.5, ..Link::default() });
        let mut third = pair.network.port(address(3, 1)).expect("free");
        for byte in 0..100 {
            pair.send(&[byte]);
            if others {
                let destination = address(1, 1_000);
                let transmit = Transmit {
                    destination,
                    src_ip: None,
                    ecn: None,
                    contents: &[byte],
                    segment_size: None,
                };
                assert_eq!(third.send(&transmit).expect("no errors"), Outcome::Sent);
            }
        }
        pair.arrivals()
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn jitter_alone_keeps_the_order() {
    let jitter = Duration::from_millis(50);
    let mut pair = pair_over(Link { jitter, ..Link::default() });
    (0..100).for_each(|byte| pair.send(&[byte]));
    let bytes: Vec<u8> = pair.arrivals().into_iter().map(|(_, byte)| byte).collect();
    assert!(bytes.is_sorted(), "{bytes:?}");
}

#[test]
fn overtaken_datagram_arrives_behind_its_successors() {
    let mut pair = pair_over(Link { reorder: 0.2, ..Link::default() });
    for byte in 0..100 {
        pair.send(&[byte]);
        pair.network.advance(pair.network.now() + Duration::from_millis(1));
    }
    pair.advance_ms(1_000);
    let mut bytes: Vec<u8> = pair.received().iter().map(|datagram| datagram.data[0]).collect();
    assert!(!bytes.is_sorted(), "{bytes:?}");
    bytes.sort_unstable();
    assert_eq!(bytes, (0..100).collect::<Vec<_>>());
    assert!(pair.tally().reordered > 5);
}

#[test]
fn capacity_spaces_datagrams_and_a_full_queue_drops_the_tail() {
    // With its headers each datagram has 1,000 bytes: 8 ms at 1 Mb/s. Four may wait.
    let capacity = Link { bits_per_second: Some(1_000_000), queue_bytes: 4_000, ..Link::default() };
    let mut pair = pair_over(capacity);
    (0..10).for_each(|byte| pair.send(&[byte; 972]));
    let expected: Vec<_> =
        (0..4).map(|at| (Duration::from_millis(8 * (at + 1)), at as u8)).collect();
    assert_eq!(pair.arrivals(), expected);
    assert_eq!(pair.tally().dropped_queue_full, 6);
}

#[test]
fn growing_queue_marks_those_that_can_be_marked() {
    let capacity = Link {
        bits_per_second: Some(1_000_000),
        queue_bytes: 100_000,
        mark_bytes: Some(2_500),
        ..Link::default()
    };
    let mut pair = pair_over(capacity);
    for ecn in [Some(Ecn::Ect0), None] {
        for _ in 0..3 {
            pair.send_marked(&[0; 972], ecn);
        }
    }
    pair.send_marked(&[0; 972], Some(Ecn::Ect1));
    pair.advance_ms(1_000);
    let marks: Vec<_> = pair.received().into_iter().map(|datagram| datagram.ecn).collect();
    let (ect0, ce) = (Some(Ecn::Ect0), Some(Ecn::Ce));
    assert_eq!(marks, [ect0, ect0, ect0, None, None, None, ce]);
    assert_eq!(pair.tally().marked, 1);
}

#[test]
fn path_with_a_small_packet_size_drops_what_is_larger() {
    let mut pair = pair_over(Link { datagram_bytes_max: 1_232, ..Link::default() });
    pair.send(&[1; 1_232]);
    pair.send(&[2; 1_233]);
    assert_eq!(pair.arrivals(), [(Duration::ZERO, 1)]);
    assert_eq!(pair.tally().dropped_too_large, 1);
}

#[test]
fn cut_loses_what_is_under_way_and_healing_lets_pass_again() {
    let mut pair = pair_over(Link::with_delay(Duration::from_millis(10)));
    let (one, other) = (pair.sender.local_addr().ip(), pair.receiver.local_addr().ip());
    pair.send(b"1");
    pair.network.cut(one, other);
    pair.send(b"2");
    pair.advance_ms(10);
    pair.network.heal(one, other);
    pair.send(b"3");
    pair.network.cut_one_way(other, one);
    assert_eq!(pair.arrivals(), [(Duration::from_millis(20), b'3')]);
    assert_eq!(pair.tally().dropped_cut, 2);
}

#[test]
fn datagram_to_a_closed_port_is_counted_and_its_address_is_free_again() {
    let mut pair = pair_over(Link::with_delay(Duration::from_millis(10)));
    let taken = pair.receiver.local_addr();
    assert!(pair.network.port(taken).is_err());
    pair.send(b"late");
    let other = pair.network.port(address(2, 0)).expect("a free port");
    pair.receiver = other;
    pair.advance_ms(10);
    assert_eq!(pair.tally().dropped_no_port, 1);
    assert!(pair.network.port(taken).is_ok());
}

#[test]
fn reader_that_sleeps_loses_what_its_inbox_cannot_hold() {
    let mut pair = pair_over(Link::default());
    (0..1_000).for_each(|_| pair.send(&[0; 1_472]));
    pair.advance_ms(0);
    let held = pair.received().len();
    assert_eq!(held, 1024 * 1024 / 1_500);
    assert_eq!(pair.tally().dropped_inbox_full as usize, 1_000 - held);
}

#[test]
fn full_port_wakes_its_owner_when_half_of_the_buffer_is_free() {
    let mut pair = pair_over(Link::default());
    // 8 ms for each 1,000 bytes.
    let interface = Interface { bits_per_second: 1_000_000, buffer_bytes: 4_000 };
    pair.sender.set_interface(Some(interface));
    let train = [7; 4_000];
    assert_eq!(pair.try_send(&train, None, Some(1_000)), Outcome::Sent);
    assert_eq!(pair.try_send(&train[..1_000], None, None), Outcome::Full);
    assert_eq!(pair.sender.counters().full, 1);
    let room_at = pair.start + Duration::from_millis(16);
    assert_eq!(pair.sender.next_wake(), Some(room_at));
    pair.network.advance(room_at);
    assert_eq!(pair.sender.next_wake(), None);
    assert_eq!(pair.try_send(&train[..2_000], None, Some(1_000)), Outcome::Sent);
    assert_eq!(pair.try_send(&train[..1_000], None, None), Outcome::Full);
    pair.advance_ms(1_000);
    assert_eq!(pair.received().len(), 6);
    assert_eq!(pair.tally().sent, 6);
}

#[test]
fn shards_of_one_address_get_the_datagrams_that_name_them() {
    let mut pair = pair_over(Link::default());
    let key = Key::new(99);
    let shared = address(2, 443);
    let mut shards = pair.network.port_group(shared, 3, key).expect("free");
    for shard in 0..3 {
        for random in 0..40 {
            let id = crate::steer::cid_first_byte(shard, 3, key, random * 6);
            let contents = &[0x40, id];
            let transmit = Transmit {
                destination: shared,
                src_ip: None,
                ecn: None,
                contents,
                segment_size: None,
            };
            assert_eq!(pair.sender.send(&transmit).expect("no errors"), Outcome::Sent);
        }
    }
    pair.advance_ms(0);
    for shard in &mut shards {
        let mut count = 0;
        while shard.recv(&mut |_| count += 1).expect("no errors") > 0 {}
        assert_eq!(count, 40);
    }
}

#[test]
fn queues_of_one_address_get_the_datagrams_of_their_senders() {
    let mut pair = pair_over(Link::default());
    let shared = address(2, 443);
    let mut queues = pair.network.port_group(shared, 2, Key::new(99)).expect("free");
    pair.network.spread_by_sender(shared);
    let mut neighbour = pair.sender.local_addr();
    neighbour.set_port(neighbour.port() + 1);
    let mut neighbour = pair.network.port(neighbour).expect("free");
    for random in 0..40 {
        for sender in [&mut pair.sender, &mut neighbour] {
            let contents = &[0x40, random * 6];
            let (segment_size, ecn, src_ip) = (None, None, None);
            let transmit = Transmit { destination: shared, src_ip, ecn, contents, segment_size };
            assert_eq!(sender.send(&transmit).expect("no errors"), Outcome::Sent);
        }
    }
    pair.advance_ms(0);
    for queue in &mut queues {
        let mut senders = Vec::new();
        while queue.recv(&mut |datagram| senders.push(datagram.from)).expect("no errors") > 0 {}
        assert_eq!(senders.len(), 40);
        assert!(senders.iter().all(|sender| *sender == senders[0]), "one sender each");
    }
}
