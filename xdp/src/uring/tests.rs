//! What only a port over `io_uring` can get wrong: losing its rings, sleeping beside a datagram,
//! forgetting what the socket had no room for. A seccomp filter on the test's own thread plays the
//! administrator who takes `io_uring` away.

use std::net::UdpSocket;

use super::*;
use crate::{
    ladder::{Choice, Ladder, Rung},
    program::{Attach, Budget},
    sys::forbid::{self, Call},
    xdp_port::Options,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn port() -> UringPort {
    let kernel = UdpPort::bind("127.0.0.1:0".parse().expect("an address")).expect("free");
    UringPort::new(kernel).expect("shards run on io_uring")
}

fn send(port: &mut UringPort, to: SocketAddr, contents: &[u8], segment_size: Option<usize>) {
    let transmit = Transmit { destination: to, src_ip: None, ecn: None, contents, segment_size };
    assert_eq!(port.send(&transmit).expect("the socket works"), Outcome::Sent);
}

/// Takes in until `count` datagrams came.
fn take(port: &mut UringPort, count: usize) -> Vec<Vec<u8>> {
    let mut taken = Vec::new();
    while taken.len() < count {
        assert!(port.wait_readable(PATIENCE).expect("poll works"), "{} came", taken.len());
        port.recv(&mut |datagram| taken.push(datagram.data.to_vec())).expect("the socket works");
    }
    taken
}

/// Runs in a thread of its own, which a filter may be put on.
fn alone(inside: impl FnOnce() + Send) {
    std::thread::scope(|scope| match scope.spawn(inside).join() {
        Ok(()) => {}
        Err(panic) => std::panic::resume_unwind(panic),
    });
}

fn ladder(choice: Choice) -> Ladder {
    let listen = "127.0.0.1:4433".parse().expect("an address");
    let (attach, budget) = (Attach::Either, Budget::default());
    Ladder::new(choice, &Options { listen, interface: None, attach, budget, vlan: None })
}

#[test]
fn host_that_forbids_io_uring_serves_by_udp_and_says_so_in_one_line() {
    alone(|| {
        forbid::call(Call::Setup, libc::EPERM);
        for choice in [Choice::Uring, Choice::Auto] {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            let mut got = ladder(choice).climb(socket, 0, 1).expect("a socket");
            assert_eq!(got.rung, Rung::Udp);
            let last = got.refused.last().expect("it says why");
            assert_eq!(last.rung, Rung::Uring);
            assert!(last.why.starts_with("io_uring is forbidden to this process"), "{last:?}");
            assert!(!last.why.contains('\n'));
            assert_eq!(got.port.recv(&mut drop).expect("it works"), 0);
        }
    });
}

#[test]
fn kernel_without_io_uring_serves_by_udp_and_says_so_in_one_line() {
    alone(|| {
        forbid::call(Call::Setup, libc::ENOSYS);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let got = ladder(Choice::Uring).climb(socket, 0, 1).expect("a socket");
        assert_eq!((got.rung, got.refused.len()), (Rung::Udp, 1));
        assert_eq!(got.refused[0].why, "this kernel has no io_uring");
    });
}

#[test]
fn kernel_too_old_for_one_of_the_calls_is_named_as_such() {
    for error in [libc::EINVAL, libc::EOPNOTSUPP] {
        let refused = Refused::from(io::Error::from_raw_os_error(error));
        assert!(refused.to_string().contains("Linux 6.1"), "{refused}");
    }
    let refused = Refused::from(io::Error::from_raw_os_error(libc::ENOMEM));
    assert!(refused.to_string().contains("ulimit -l"), "{refused}");
}

#[test]
fn rings_taken_away_while_peers_send_are_replaced_by_the_socket_and_nothing_is_lost() {
    alone(|| {
        let (mut one, mut other) = (port(), port());
        let (here, there) = (one.local_addr(), other.local_addr());
        for number in 0..10 {
            send(&mut one, there, &[number], None);
        }
        send(&mut one, there, &[77; 3_000], Some(1_000));
        forbid::call(Call::Enter, libc::EPERM);
        // Ten wait in the outbox, three more too; now nothing can be handed to the rings.
        one.flush().expect("the socket works");
        assert_eq!(one.report().and_then(|report| report.lost), Some(SENDING_FAILED));
        let mut taken = take(&mut other, 13);
        let rest = taken.split_off(10);
        assert_eq!(taken, (0..10).map(|number| vec![number]).collect::<Vec<_>>());
        assert!(rest.iter().all(|datagram| datagram == &[77; 1_000]));
        // Both ends go on at the same address.
        for size in [1, 1_200, 40_000] {
            send(&mut one, there, &vec![5; size], Some(1_200));
            take(&mut other, size.div_ceil(1_200));
            send(&mut other, here, &vec![6; size], Some(1_200));
            other.flush().expect("the socket works");
            take(&mut one, size.div_ceil(1_200));
        }
        let (one, other) = (one.report().expect("one"), other.report().expect("one"));
        assert_eq!((one.lost_times, other.lost_times), (1, 1));
        assert!(other.lost.is_some());
    });
}

#[test]
fn rings_come_back_after_a_loss_and_numbers_never_fall() {
    let (mut one, mut other) = (port(), port());
    let there = other.local_addr();
    send(&mut one, there, b"before", None);
    one.flush().expect("the socket works");
    take(&mut other, 1);
    let before = (other.counters(), other.report().expect("one").ring);
    other.lose(RECEIVING_FAILED);
    send(&mut one, there, b"between", None);
    one.flush().expect("the socket works");
    assert_eq!(take(&mut other, 1), [b"between".to_vec()]);
    let until = Instant::now() + PATIENCE;
    while other.report().expect("one").lost.is_some() {
        assert!(Instant::now() < until, "nobody climbs");
        other.recv(&mut drop).expect("the socket works");
        std::thread::sleep(Duration::from_millis(10));
    }
    send(&mut one, there, b"after", None);
    one.flush().expect("the socket works");
    assert_eq!(take(&mut other, 1), [b"after".to_vec()]);
    let after = (other.counters(), other.report().expect("one"));
    assert_eq!(after.0.received, before.0.received + 2);
    assert!(after.1.ring.enters > before.1.enters, "{after:?}");
    assert_eq!((after.1.lost_times, after.1.returns), (1, 1));
}

#[test]
fn what_arrived_before_the_loss_is_handed_out_after_it() {
    let (mut one, mut other) = (port(), port());
    let there = other.local_addr();
    send(&mut one, there, b"arrived", None);
    one.flush().expect("the socket works");
    assert!(other.wait_readable(PATIENCE).expect("poll works"));
    other.lose(SENDING_FAILED);
    assert_eq!(take(&mut other, 1), [b"arrived".to_vec()]);
}

#[test]
fn flood_beyond_the_buffers_waits_in_the_socket_and_all_of_it_arrives() {
    let (mut one, mut other) = (port(), port());
    let there = other.local_addr();
    // Nobody takes in: 64 buffers fill, and receiving ends for want of them.
    for number in 0..400_u16 {
        send(&mut one, there, &number.to_be_bytes(), None);
    }
    one.flush().expect("the socket works");
    let taken = take(&mut other, 400);
    let expected: Vec<_> = (0..400_u16).map(|number| number.to_be_bytes().to_vec()).collect();
    assert_eq!(taken, expected);
    let ring = other.report().expect("one").ring;
    assert!(ring.no_buffer > 0 && ring.rearmed > 0, "{ring:?}");
    assert_eq!(other.recv(&mut drop).expect("the socket works"), 0);
    // The request is armed again, or this would be slept through.
    send(&mut one, there, b"after the flood", None);
    one.flush().expect("the socket works");
    assert_eq!(take(&mut other, 1), [b"after the flood".to_vec()]);
}

#[test]
fn sends_gather_until_the_turn_ends_and_leave_in_one_call() {
    let (mut one, mut other) = (port(), port());
    let there = other.local_addr();
    let before = one.report().expect("one").ring.enters;
    for number in 0..50 {
        send(&mut one, there, &[number; 100], None);
    }
    assert_eq!(one.report().expect("one").ring.enters, before);
    one.flush().expect("the socket works");
    assert_eq!(one.report().expect("one").ring.enters, before + 1);
    assert_eq!(take(&mut other, 50), (0..50).map(|n| vec![n; 100]).collect::<Vec<_>>());
    // Small and large ones keep their order.
    send(&mut one, there, &[1; 10], None);
    send(&mut one, there, &vec![2; 36_000], Some(1_200));
    send(&mut one, there, &[3; 10], None);
    one.flush().expect("the socket works");
    let firsts: Vec<_> = take(&mut other, 32).iter().map(|datagram| datagram[0]).collect();
    assert_eq!(firsts, [vec![1], vec![2; 30], vec![3]].concat());
}

#[test]
fn sends_without_a_copy_arrive_whole_and_their_memory_is_used_again() {
    let kernel = || UdpPort::bind("127.0.0.1:0".parse().expect("an address")).expect("free");
    let mut one = UringPort::with_zero_copy(kernel(), 2_000).expect("shards run on io_uring");
    let mut other = port();
    let there = other.local_addr();
    for round in 0..100_u8 {
        let train: Vec<u8> = (0..36_000).map(|at| (at % 251) as u8 ^ round).collect();
        send(&mut one, there, &train, Some(1_200));
        send(&mut one, there, &[round], None);
        one.flush().expect("the socket works");
        let taken = take(&mut other, 31);
        assert_eq!(taken.concat(), [train, vec![round]].concat(), "round {round}");
    }
    let ring = one.report().expect("one").ring;
    assert!(ring.zero_copies + ring.zero_copies_copied > 0, "{ring:?}");
}

#[test]
fn address_is_free_as_soon_as_the_port_is_gone() {
    let address = port().local_addr();
    for _ in 0..20 {
        let kernel = UdpPort::bind(address).expect("the one before is gone");
        drop(UringPort::new(kernel).expect("shards run on io_uring"));
    }
}
