//! What sends and receipts cost on a plain socket and by `io_uring`, in processor time of this thread, side by side. Not a
//! test of anything but the machine it runs on, so it runs by hand alone:
//! `cargo test --release -p weir-xdp --test cost -- --ignored --nocapture`

#![expect(unsafe_code, reason = "the time of a thread and epoll(7) have no safe wrapper")]

use std::{
    io::Write as _,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::Barrier,
};

use weir_xdp::{
    Outcome, Port, Transmit,
    udp::UdpPort,
    uring::{UringPort, ZERO_COPY_FROM},
};

/// Pairs of ABBA; their medians are what is said.
const PAIRS: usize = 9;

/// Turns of one measurement, 64 sends each.
const TURNS: usize = 300;
const SENDS: usize = 64;

/// Peers of a turn: each send goes to another one, as in a fan-out.
const PEERS: usize = 64;

fn thread_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to one timespec, which outlives the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "every Linux has this clock");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// With somebody who waits for it to be readable, as a shard does: the kernel looks there at each send.
fn udp() -> Box<dyn Port> {
    let port = UdpPort::bind(any()).expect("free");
    let fd = port.fd().expect("a socket").as_raw_fd();
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    // SAFETY: the call takes a number.
    let waiter = unsafe { libc::epoll_create1(0) };
    // SAFETY: the pointer is to one event, which outlives the call. The waiter is never closed.
    let added = unsafe { libc::epoll_ctl(waiter, libc::EPOLL_CTL_ADD, fd, &raw mut event) };
    assert_eq!(added, 0, "{}", std::io::Error::last_os_error());
    Box::new(port)
}

fn uring(zero_copy_from: usize) -> Box<dyn Port> {
    let kernel = UdpPort::bind(any()).expect("free");
    Box::new(UringPort::with_zero_copy(kernel, zero_copy_from).expect("io_uring is there"))
}

/// Seconds per send of trains of `segments` datagrams.
fn send_cost(port: &mut dyn Port, peers: &[SocketAddr], segments: usize) -> f64 {
    let contents = vec![7; segments * 1_200];
    let start = thread_seconds();
    for _ in 0..TURNS {
        for at in 0..SENDS {
            let outcome = port.send(&Transmit {
                destination: peers[at % peers.len()],
                src_ip: None,
                ecn: None,
                contents: &contents,
                segment_size: Some(1_200),
            });
            assert_eq!(outcome.expect("the socket works"), Outcome::Sent);
        }
        port.flush().expect("the socket works");
    }
    (thread_seconds() - start) / (TURNS * SENDS) as f64
}

/// Seconds per datagram of 60 bytes, such as an acknowledgement, sent by another thread. What the kernel does for a ring
/// while this thread waits counts too.
fn receive_cost(port: &mut dyn Port, sender: &UdpSocket) -> f64 {
    const BURST: usize = 32;
    let to = port.local_addr();
    let gate = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..TURNS {
                gate.wait();
                (0..BURST).for_each(|_| drop(sender.send_to(&[1; 60], to)));
                gate.wait();
            }
        });
        let start = thread_seconds();
        for _ in 0..TURNS {
            gate.wait();
            gate.wait();
            let mut taken = 0;
            while taken < BURST {
                taken += port.recv(&mut drop).expect("the socket works");
            }
        }
        (thread_seconds() - start) / (TURNS * BURST) as f64
    })
}

/// Medians of both and of their paired ratios, with the range of the middle half.
fn compare(name: &str, mut one: impl FnMut() -> f64, mut other: impl FnMut() -> f64) {
    let mut rows: [Vec<f64>; 3] = Default::default();
    one();
    other();
    for _ in 0..PAIRS {
        let [a, b, c, d] = [one(), other(), other(), one()];
        let (first, second) = (f64::midpoint(a, d), f64::midpoint(b, c));
        for (row, value) in rows.iter_mut().zip([first, second, first / second]) {
            row.push(value);
        }
    }
    for row in &mut rows {
        row.sort_by(f64::total_cmp);
    }
    let at = |row: usize, quarter: usize| rows[row][PAIRS * quarter / 4];
    let line = format!(
        "{name:<28} {:>9.0} ns {:>9.0} ns   {:.3} ({:.3} to {:.3})",
        at(0, 2) * 1e9,
        at(1, 2) * 1e9,
        at(2, 2),
        at(2, 1),
        at(2, 3)
    );
    writeln!(std::io::stderr(), "{line}").expect("standard error is open");
}

#[test]
#[ignore = "a measurement, for a quiet machine"]
fn sends_per_cpu_second_of_a_plain_socket_and_of_io_uring() {
    // Peers that nobody reads: their buffers fill, and what a send costs is left.
    let sockets: Vec<_> = (0..PEERS).map(|_| UdpSocket::bind(any()).expect("free")).collect();
    let peers: Vec<_> = sockets.iter().map(|peer| peer.local_addr().expect("bound")).collect();
    writeln!(
        std::io::stderr(),
        "what                              first      second   ratio (middle half)"
    )
    .expect("standard error is open");
    let pair = |name: &str, segments: usize, mut one: Box<dyn Port>, mut other: Box<dyn Port>| {
        compare(
            &format!("{name}, {segments} x 1,200"),
            || send_cost(&mut *one, &peers, segments),
            || send_cost(&mut *other, &peers, segments),
        );
    };
    pair("udp, udp (A/A)", 3, udp(), udp());
    for segments in [1, 2, 3, 4, 8, 14, 40] {
        pair("udp, uring", segments, udp(), uring(ZERO_COPY_FROM));
    }
    for segments in [14, 40] {
        pair("uring, zero copy", segments, uring(ZERO_COPY_FROM), uring(1));
    }
    let sender = UdpSocket::bind(any()).expect("free");
    let (mut one, mut other) = (udp(), uring(ZERO_COPY_FROM));
    compare(
        "receive 60 bytes",
        || receive_cost(&mut *one, &sender),
        || receive_cost(&mut *other, &sender),
    );
}
