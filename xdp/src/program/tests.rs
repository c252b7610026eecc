//! The program against its rule, on handcrafted packets and on any bytes: interpreted everywhere,
//! and run by the kernel where bpf(2) is permitted.

use std::io::Write;

use proptest::prelude::*;

use super::{
    assemble::{self, XDP_DROP, XDP_PASS, XDP_REDIRECT},
    interpret::{Answer, Host, NUMBERS},
    *,
};
use crate::steer::{self, Key};

const PORT: u16 = 4_433;
const V4: [u8; 4] = [192, 0, 2, 1];
const V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// A 1-RTT packet and an Initial of version 1.
const SHORT: &[u8] = &[0x40; 40];
const INITIAL: &[u8] = &[0xc0, 0, 0, 0, 1, 8, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0];

/// MTU 1,500 behind an Ethernet header with a tag.
const FRAME_MAX: u16 = 1_518;

fn shape(queues: u32) -> Shape {
    Shape::new(queues, FRAME_MAX)
}

fn open(ip: impl Into<IpAddr>, vlan: Option<u16>) -> Place {
    Place { ip: ip.into(), port: PORT, vlan }
}

fn ethernet(tags: &[(u16, u16)], kind: u16, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![2; 12];
    for (protocol, tag) in tags {
        packet.extend(protocol.to_be_bytes());
        packet.extend(tag.to_be_bytes());
    }
    packet.extend(kind.to_be_bytes());
    packet.extend(rest);
    packet
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut segment = 9_999_u16.to_be_bytes().to_vec();
    segment.extend(port.to_be_bytes());
    segment.extend((8 + payload.len() as u16).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(payload);
    segment
}

fn ipv4_from(source: [u8; 4], first: u8, fragment: u16, protocol: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![first, 0, 0, 0, 0, 0];
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source);
    packet.extend(V4);
    packet.extend(rest);
    packet
}

fn ipv4(rest: &[u8]) -> Vec<u8> {
    ipv4_from([198, 51, 100, 7], 0x45, 0x4000, 17, rest)
}

fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    packet.extend([0xfd; 16]);
    packet.extend(V6);
    packet.extend(rest);
    packet
}

/// What arrives, what becomes of it, and why.
fn stories() -> Vec<(&'static str, Vec<u8>, Tally)> {
    let ours = udp(PORT, SHORT);
    let (v4, v6) = (ipv4(&ours), ipv6(17, &ours));
    let v4_with = |first, fragment, protocol| ipv4_from([1; 4], first, fragment, protocol, &ours);
    let mut elsewhere = v4.clone();
    elsewhere[19] = 77;
    let tag = (0x8100, 7);
    vec![
        ("UDP over IPv4", ethernet(&[], 0x0800, &v4), Tally::Taken),
        ("UDP over IPv6", ethernet(&[], 0x86dd, &v6), Tally::Taken),
        ("empty datagram", ethernet(&[], 0x0800, &ipv4(&udp(PORT, &[]))), Tally::Taken),
        ("Initial", ethernet(&[], 0x86dd, &ipv6(17, &udp(PORT, INITIAL))), Tally::Taken),
        ("tagged IPv4", ethernet(&[tag], 0x0800, &v4), Tally::Taken),
        ("tagged IPv6", ethernet(&[tag], 0x86dd, &v6), Tally::Taken),
        ("priority tag only", ethernet(&[(0x8100, 0xe000)], 0x0800, &v4), Tally::Taken),
        ("tag with priority", ethernet(&[(0x8100, 0xe007)], 0x0800, &v4), Tally::Taken),
        ("tag of a network not ours", ethernet(&[(0x8100, 8)], 0x0800, &v4), Tally::NotOurs),
        ("two tags", ethernet(&[tag, tag], 0x0800, &v4), Tally::StackedVlan),
        ("provider tag", ethernet(&[(0x88a8, 7)], 0x0800, &v4), Tally::StackedVlan),
        ("ARP", ethernet(&[], 0x0806, &[0; 46]), Tally::NotOurs),
        ("TCP", ethernet(&[], 0x0800, &v4_with(0x45, 0, 6)), Tally::NotOurs),
        ("ICMP", ethernet(&[], 0x0800, &v4_with(0x45, 0, 1)), Tally::NotOurs),
        ("ICMPv6", ethernet(&[], 0x86dd, &ipv6(58, &ours)), Tally::NotOurs),
        ("first fragment", ethernet(&[], 0x0800, &v4_with(0x45, 0x2000, 17)), Tally::Fragment),
        ("last fragment", ethernet(&[], 0x0800, &v4_with(0x45, 0x00b9, 17)), Tally::Fragment),
        ("IPv6 fragment", ethernet(&[], 0x86dd, &ipv6(44, &ours)), Tally::Fragment),
        ("IPv4 options", ethernet(&[], 0x0800, &v4_with(0x46, 0, 17)), Tally::Options),
        ("IPv6 hop-by-hop", ethernet(&[], 0x86dd, &ipv6(0, &ours)), Tally::Options),
        ("IPv6 routing", ethernet(&[], 0x86dd, &ipv6(43, &ours)), Tally::Options),
        ("IPv6 destination options", ethernet(&[], 0x86dd, &ipv6(60, &ours)), Tally::Options),
        ("another port", ethernet(&[], 0x0800, &ipv4(&udp(53, SHORT))), Tally::NotOurs),
        ("another address", ethernet(&[], 0x0800, &elsewhere), Tally::NotOurs),
        ("largest packet", ethernet(&[tag], 0x0800, &ipv4(&udp(PORT, &[0; 1_472]))), Tally::Taken),
        (
            "joined datagrams",
            ethernet(&[tag], 0x0800, &ipv4(&udp(PORT, &[0; 1_473]))),
            Tally::Oversized,
        ),
        ("runt", ethernet(&[], 0x0800, &v4[..20]), Tally::NotOurs),
        ("tagged runt", ethernet(&[tag], 0x0800, &v4[..27]), Tally::NotOurs),
        ("IPv6 runt", ethernet(&[], 0x86dd, &v6[..47]), Tally::NotOurs),
    ]
}

fn places() -> Vec<Place> {
    vec![open(V4, None), open(V6, None), open(V4, Some(7)), open(V6, Some(7))]
}

fn host(slots: &[u32]) -> Host {
    let mut host = Host::default();
    host.places.extend(places().into_iter().map(Place::key));
    host.slots.extend(slots);
    host
}

#[test]
fn only_whole_plain_datagrams_to_open_places_are_taken() {
    let program = assemble::program(&NUMBERS, shape(2), Budget::default());
    for (story, packet, tally) in stories() {
        let mut host = host(&[0, 1]);
        let answer = host.run(&program, &packet, 1);
        let expected = match tally {
            Tally::Taken => Answer { verdict: XDP_REDIRECT, slot: Some(1) },
            _ => Answer { verdict: XDP_PASS, slot: None },
        };
        assert_eq!(answer, expected, "{story}");
        assert_eq!(host.count(tally), 1, "{story}");
    }
}

#[test]
fn empty_slot_passes_and_other_queues_are_taken() {
    let program = assemble::program(&NUMBERS, shape(3), Budget::default());
    let packet = ethernet(&[], 0x0800, &ipv4(&udp(PORT, SHORT)));
    let mut host = host(&[0, 2]);
    let verdicts = [0, 1, 2].map(|queue| host.run(&program, &packet, queue).verdict);
    assert_eq!(verdicts, [XDP_REDIRECT, XDP_PASS, XDP_REDIRECT]);
    assert_eq!((host.count(Tally::Taken), host.count(Tally::EmptySlot)), (2, 1));
}

#[test]
fn connection_id_names_the_slot_among_those_of_the_queue() {
    let key = Key::new(0x5eed_cafe);
    let shape = Shape { queues: 2, frame_bytes_max: FRAME_MAX, shards: Some((4, key)) };
    let program = assemble::program(&NUMBERS, shape, Budget::default());
    let slots: Vec<_> = (0..8).collect();
    let mut host = host(&slots);
    for shard in 0..4_u16 {
        let id = steer::cid_first_byte(shard, 4, key, 200);
        for datagram in [&[0x40, id][..], &[0xe0, 0, 0, 0, 1, 8, id]] {
            let packet = ethernet(&[], 0x86dd, &ipv6(17, &udp(PORT, datagram)));
            let slot = host.run(&program, &packet, 1).slot;
            assert_eq!(slot, Some(4 + u32::from(shard)), "{datagram:?}");
        }
    }
}

fn initial_from(source: [u8; 4]) -> Vec<u8> {
    ethernet(&[], 0x0800, &ipv4_from(source, 0x45, 0, 17, &udp(PORT, INITIAL)))
}

#[test]
fn source_beyond_its_budget_is_shed_until_the_next_window_and_others_are_not() {
    let budget = Budget { source: 5, total: 100 };
    let program = assemble::program(&NUMBERS, shape(1), budget);
    let mut host = host(&[0]);
    let (flood, viewer) = ([203, 0, 113, 9], [198, 51, 100, 1]);
    for window in 1..4_u64 {
        host.now_ns = window << 30;
        let shed = (0..20)
            .filter(|_| host.run(&program, &initial_from(flood), 0).verdict == XDP_DROP)
            .count();
        assert_eq!(shed, 15, "window {window}");
        assert_eq!(host.run(&program, &initial_from(viewer), 0).verdict, XDP_REDIRECT);
        // Those that have a connection are not touched.
        let established = ethernet(&[], 0x0800, &ipv4_from(flood, 0x45, 0, 17, &udp(PORT, SHORT)));
        assert_eq!(host.run(&program, &established, 0).verdict, XDP_REDIRECT);
    }
    assert_eq!(host.count(Tally::ShedSource), 45);
}

#[test]
fn flood_from_forged_sources_is_shed_as_a_whole() {
    let budget = Budget { source: 5, total: 100 };
    let program = assemble::program(&NUMBERS, shape(1), budget);
    let mut host = host(&[0]);
    host.now_ns = 7 << 30;
    for forged in 0..1_000_u32 {
        host.run(&program, &initial_from((0xcb00_0000 | forged).to_be_bytes()), 0);
    }
    assert_eq!((host.count(Tally::Taken), host.count(Tally::ShedTotal)), (100, 900));
    // The next window begins with a full budget.
    host.now_ns = 8 << 30;
    assert_eq!(host.run(&program, &initial_from([1, 2, 3, 4]), 0).verdict, XDP_REDIRECT);
}

#[test]
fn addresses_of_one_ipv6_network_share_a_budget() {
    let program = assemble::program(&NUMBERS, shape(1), Budget { source: 3, total: 100 });
    let mut host = host(&[0]);
    let verdicts = [0, 1, 2, 3, 4].map(|last| {
        let mut packet = ethernet(&[], 0x86dd, &ipv6(17, &udp(PORT, INITIAL)));
        packet[14 + 8 + 15] = last;
        host.run(&program, &packet, 0).verdict
    });
    let expected = [XDP_REDIRECT, XDP_REDIRECT, XDP_REDIRECT, XDP_DROP, XDP_DROP];
    assert_eq!(verdicts, expected);
}

#[test]
fn what_may_begin_a_connection_is_told_apart() {
    let program = assemble::program(&NUMBERS, shape(1), Budget { source: 1, total: 100 });
    let long = |flags: u8, version: u8| [flags, 0, 0, 0, version, 8, 1, 2, 3];
    for (datagram, counts) in [
        (&long(0xc0, 1)[..], true),
        (&long(0xd0, 1), false),
        (&long(0xe0, 1), false),
        (&long(0xf0, 1), false),
        // A version that is not ours is answered, whatever its type.
        (&long(0xe0, 2), true),
        (&long(0x80, 0), true),
        (SHORT, false),
        (&[0xc0, 0, 0, 0], false),
    ] {
        let mut host = host(&[0]);
        let packet = ethernet(&[], 0x0800, &ipv4(&udp(PORT, datagram)));
        host.run(&program, &packet, 0);
        let second = host.run(&program, &packet, 0).verdict;
        assert_eq!(second == XDP_DROP, counts, "{datagram:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn program_agrees_with_the_rule_on_any_bytes(input in prop::collection::vec(any::<u8>(), 0..120)) {
        fuzz_program(&input);
    }

    #[test]
    fn program_agrees_with_the_rule_on_damaged_packets(
        story in 0..29_usize,
        seed: [u8; 4],
        damage in prop::collection::vec((12..60_usize, any::<u8>()), 0..4),
        cut in 0..120_usize,
    ) {
        let mut packet = stories().swap_remove(story).1;
        for (at, byte) in damage {
            if let Some(place) = packet.get_mut(at) {
                *place = byte;
            }
        }
        packet.truncate(cut);
        fuzz_program(&[&seed[..], &packet].concat());
    }
}

/// Past the capture of the test runner, which hides what passing tests print.
fn say(text: &str) {
    writeln!(io::stderr(), "{text}").expect("standard error is open");
}

fn loaded(shape: Shape, budget: Budget) -> Option<Program> {
    match Program::load(shape, budget) {
        Ok(program) => {
            for place in places() {
                program.open(place).expect("there is room");
            }
            Some(program)
        }
        Err(Error::NotPermitted { what, source }) => {
            say(&format!("NOT TESTED in the kernel, which refuses {what}: {source}"));
            None
        }
        Err(error) => unreachable!("the verifier accepts the program: {error}"),
    }
}

#[test]
fn kernel_agrees_with_the_interpreter_on_every_story() {
    let Some(program) = loaded(shape(2), Budget::default()) else { return };
    for (story, packet, tally) in stories() {
        // No socket is in a slot, so what would be taken passes.
        let tally = if tally == Tally::Taken { Tally::EmptySlot } else { tally };
        let before = program.count(tally).expect("counters are readable");
        let verdict = bpf::test_run(program.fd.as_fd(), &packet).expect("test runs are permitted");
        assert_eq!(verdict, XDP_PASS as u32, "{story}");
        assert_eq!(program.count(tally).expect("readable"), before + 1, "{story}");
    }
}

#[test]
fn kernel_accepts_the_program_for_every_number_of_shards() {
    for n in [2, 3, 4, 16, 128] {
        let shape = Shape {
            queues: 2,
            frame_bytes_max: FRAME_MAX,
            shards: Some((n, Key::new(0x5eed_cafe))),
        };
        if loaded(shape, Budget { source: u32::MAX, total: u32::MAX }).is_none() {
            return;
        }
    }
}

#[test]
fn kernel_sheds_what_is_beyond_the_budget() {
    let budget = Budget { source: 5, total: 1_000_000 };
    let Some(program) = loaded(shape(1), budget) else { return };
    let packet = initial_from([203, 0, 113, 9]);
    let verdicts: Vec<_> = (0..40)
        .map(|_| bpf::test_run(program.fd.as_fd(), &packet).expect("test runs are permitted"))
        .collect();
    // A window may end on the way, and another processor keeps its own total.
    let shed = verdicts.iter().filter(|verdict| **verdict == XDP_DROP as u32).count();
    assert!(shed > 0, "{verdicts:?}");
    assert_eq!(program.count(Tally::ShedSource).expect("readable"), shed as u64);
    let other = bpf::test_run(program.fd.as_fd(), &initial_from([1, 2, 3, 4]));
    assert_eq!(other.expect("test runs are permitted"), XDP_PASS as u32);
}

#[test]
fn closed_place_is_left_to_the_kernel() {
    let Some(program) = loaded(shape(1), Budget::default()) else { return };
    let packet = ethernet(&[], 0x0800, &ipv4(&udp(PORT, SHORT)));
    for place in places() {
        program.close(place).expect("it was open");
        program.close(place).expect("closing twice is fine");
    }
    bpf::test_run(program.fd.as_fd(), &packet).expect("test runs are permitted");
    let count = |tally| program.count(tally).expect("readable");
    assert_eq!((count(Tally::EmptySlot), count(Tally::NotOurs)), (0, 1));
}

#[test]
fn slots_outside_the_shape_are_refused() {
    let Some(program) = loaded(shape(2), Budget::default()) else { return };
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    for (queue, shard) in [(2, 0), (0, 1)] {
        let refused = program.put(queue, shard, socket.as_fd()).expect_err("no such slot");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
    // A socket that is not AF_XDP has no place in the map.
    program.put(0, 0, socket.as_fd()).expect_err("not an AF_XDP socket");
}
