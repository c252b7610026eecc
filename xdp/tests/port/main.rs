//! What every port promises, checked on each: a UDP socket on loopback, plain and by `io_uring`, IPv4 and
//! IPv6, the virtual network, frames over a veth pair and, in a virtual machine, over network cards
//! without a copy.

mod cards;
mod veth;

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use weir_xdp::{
    Datagram, Ecn, Outcome, Port, Transmit,
    udp::{BindError, SEGMENTS_MAX, UdpPort},
    uring::UringPort,
    virt::{Interface, Link, Network},
};

/// Two ports that reach each other, and how to wait until what one sent is before the other.
trait Net {
    type Port: Port;

    fn ports(&mut self) -> (&mut Self::Port, &mut Self::Port);

    /// Waits until something waits at the second port. Says false if nothing comes.
    fn wait(&mut self) -> bool;

    /// Bytes of the largest datagram that the net carries.
    fn datagram_bytes_max(&self) -> usize {
        65_000
    }

    /// Sends from the first port to the second, and ends the turn.
    fn send(&mut self, contents: &[u8], segment_size: Option<usize>, ecn: Option<Ecn>) -> Outcome {
        let (one, other) = self.ports();
        let destination = other.local_addr();
        let sent = one.send(&Transmit { destination, src_ip: None, ecn, contents, segment_size });
        one.flush().expect("the socket works");
        sent.expect("the socket works")
    }

    /// Takes in until `count` datagrams have come that are not empty.
    fn take(&mut self, count: usize) -> Vec<Datagram> {
        let mut taken = Vec::new();
        while taken.len() < count {
            assert!(self.wait(), "{} of {count} datagrams came", taken.len());
            let (_, other) = self.ports();
            other.recv(&mut |datagram| taken.push(datagram)).expect("the socket works");
        }
        taken
    }
}

/// A port on a socket of its own.
trait OnSocket: Port + Sized {
    fn bind(address: SocketAddr) -> Result<Self, BindError>;

    fn wait_readable(&self, timeout: Duration) -> std::io::Result<bool>;
}

impl OnSocket for UdpPort {
    fn bind(address: SocketAddr) -> Result<Self, BindError> {
        Self::bind(address)
    }

    fn wait_readable(&self, timeout: Duration) -> std::io::Result<bool> {
        self.wait_readable(timeout)
    }
}

impl OnSocket for UringPort {
    fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let port = Self::new(UdpPort::bind(address)?);
        Ok(port.expect("shards run on io_uring"))
    }

    fn wait_readable(&self, timeout: Duration) -> std::io::Result<bool> {
        self.wait_readable(timeout)
    }
}

struct Loopback<P>(P, P);

impl<P: OnSocket> Loopback<P> {
    fn on(host: IpAddr) -> Option<Self> {
        let bind = || P::bind(SocketAddr::new(host, 0));
        match (bind(), bind()) {
            (Ok(one), Ok(other)) => Some(Self(one, other)),
            (one, other) => {
                let refused = one.err().or(other.err()).expect("one of them failed");
                assert!(host.is_ipv6(), "loopback always has IPv4: {refused}");
                say(&format!("NOT TESTED on IPv6: {refused}"));
                None
            }
        }
    }

    /// On IPv4, which loopback always has.
    fn new() -> Self {
        Self::on(Ipv4Addr::LOCALHOST.into()).expect("loopback has IPv4")
    }
}

/// Past the capture of the test runner, which hides what passing tests print.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("standard error is open");
}

impl<P: OnSocket> Net for Loopback<P> {
    type Port = P;

    fn ports(&mut self) -> (&mut P, &mut P) {
        (&mut self.0, &mut self.1)
    }

    fn wait(&mut self) -> bool {
        // Loopback delivers at once; the limit only ends a test that has already failed.
        self.1.wait_readable(Duration::from_secs(2)).expect("poll works")
    }
}

struct Virtual {
    network: Network,
    one: weir_xdp::virt::VirtPort,
    other: weir_xdp::virt::VirtPort,
}

impl Virtual {
    fn new() -> Self {
        let network = Network::new(7, Instant::now());
        // Large enough for every size that loopback takes.
        let link =
            Link { datagram_bytes_max: 65_507, ..Link::with_delay(Duration::from_millis(5)) };
        network.set_default_link(link);
        let bind = |host| network.port(SocketAddr::from(([10, 0, 0, host], 4_433)));
        let (one, other) = (bind(1).expect("free"), bind(2).expect("free"));
        Self { network, one, other }
    }
}

impl Net for Virtual {
    type Port = weir_xdp::virt::VirtPort;

    fn ports(&mut self) -> (&mut Self::Port, &mut Self::Port) {
        (&mut self.one, &mut self.other)
    }

    fn wait(&mut self) -> bool {
        let Some(at) = self.other.next_wake() else { return false };
        self.network.advance(at);
        true
    }
}

/// Runs a story on every port.
macro_rules! on_every_port {
    ($($story:ident,)*) => {
        mod udp_on_ipv4 {
            $(#[test] fn $story() {
                super::$story(&mut super::Loopback::<super::UdpPort>::new());
            })*
        }
        mod udp_on_ipv6 {
            $(#[test] fn $story() {
                super::Loopback::<super::UdpPort>::on(super::Ipv6Addr::LOCALHOST.into())
                    .iter_mut()
                    .for_each(super::$story);
            })*
        }
        mod uring_on_ipv4 {
            $(#[test] fn $story() {
                super::$story(&mut super::Loopback::<super::UringPort>::new());
            })*
        }
        mod uring_on_ipv6 {
            $(#[test] fn $story() {
                super::Loopback::<super::UringPort>::on(super::Ipv6Addr::LOCALHOST.into())
                    .iter_mut()
                    .for_each(super::$story);
            })*
        }
        mod uring_over_veth {
            $(#[test] fn $story() { super::veth::run_rings(super::$story); })*
        }
        mod virtual_network {
            $(#[test] fn $story() {
                super::$story(&mut super::Virtual::new());
            })*
        }
        mod xdp_in_the_driver {
            $(#[test] fn $story() { super::veth::run(super::veth::DRIVER, super::$story); })*
        }
        mod xdp_generic {
            $(#[test] fn $story() { super::veth::run(super::veth::GENERIC, super::$story); })*
        }
        mod xdp_on_ipv6_with_mtu_1280 {
            $(#[test] fn $story() { super::veth::run(super::veth::IPV6_1280, super::$story); })*
        }
        mod xdp_tagged {
            $(#[test] fn $story() { super::veth::run(super::veth::TAGGED, super::$story); })*
        }
        mod xdp_zero_copy {
            $(
                #[test]
                #[ignore = "needs two network cards of its own: make test-zero-copy"]
                fn $story() { super::cards::run(super::$story); }
            )*
        }
    };
}

on_every_port! {
    datagrams_of_all_sizes_arrive_whole,
    train_arrives_as_its_datagrams,
    train_longer_than_the_port_takes_is_cut,
    congestion_marks_arrive,
    answer_leaves_from_the_address_that_was_asked,
    idle_port_takes_in_nothing,
    empty_datagrams_use_up_the_budget_and_stay_unseen,
    batches_are_bounded,
    counters_agree_on_both_sides,
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

fn datagrams_of_all_sizes_arrive_whole<N: Net>(net: &mut N) {
    let sizes = [1, 2, 40, 1_199, 1_200, 1_232, 1_472, 9_000, 65_000];
    let max = net.datagram_bytes_max();
    for size in sizes.into_iter().filter(|size| *size <= max) {
        assert_eq!(net.send(&pattern(size), None, None), Outcome::Sent);
        let datagram = net.take(1).remove(0);
        assert_eq!(datagram.data, pattern(size), "size {size}");
        let (one, _) = net.ports();
        assert_eq!(datagram.from, one.local_addr());
    }
}

fn train_arrives_as_its_datagrams<N: Net>(net: &mut N) {
    for (size, segment) in [(1_200, 1_200), (1_201, 1_200), (2_400, 1_200), (40_000, 1_200), (7, 3)]
    {
        let train = pattern(size);
        assert_eq!(net.send(&train, Some(segment), None), Outcome::Sent);
        let datagrams = net.take(size.div_ceil(segment));
        let lengths: Vec<_> = datagrams.iter().map(|datagram| datagram.data.len()).collect();
        let expected: Vec<_> = train.chunks(segment).map(<[u8]>::len).collect();
        assert_eq!(lengths, expected, "{size} in {segment}");
        let bytes: Vec<u8> = datagrams.iter().flat_map(|datagram| datagram.data.to_vec()).collect();
        assert_eq!(bytes, train, "{size} in {segment}");
    }
}

fn train_longer_than_the_port_takes_is_cut<N: Net>(net: &mut N) {
    let (one, _) = net.ports();
    assert_eq!(one.max_segments(), SEGMENTS_MAX, "this host segments");
    let train = pattern(150 * 1_200 + 5);
    assert_eq!(net.send(&train, Some(1_200), None), Outcome::Sent);
    let datagrams = net.take(151);
    let bytes: Vec<u8> = datagrams.iter().flat_map(|datagram| datagram.data.to_vec()).collect();
    assert_eq!(bytes, train);
}

fn congestion_marks_arrive<N: Net>(net: &mut N) {
    for ecn in [None, Some(Ecn::Ect0), Some(Ecn::Ect1), Some(Ecn::Ce)] {
        assert_eq!(net.send(b"marked", None, ecn), Outcome::Sent);
        assert_eq!(net.take(1)[0].ecn, ecn);
        assert_eq!(net.send(&[0; 3_000], Some(1_000), ecn), Outcome::Sent);
        assert!(net.take(3).iter().all(|datagram| datagram.ecn == ecn), "{ecn:?}");
    }
}

fn answer_leaves_from_the_address_that_was_asked<N: Net>(net: &mut N) {
    assert_eq!(net.send(b"question", None, None), Outcome::Sent);
    let question = net.take(1).remove(0);
    let (one, other) = net.ports();
    assert_eq!(question.to, Some(other.local_addr().ip()));
    let answer = Transmit {
        destination: one.local_addr(),
        src_ip: question.to,
        ecn: None,
        contents: b"answer",
        segment_size: None,
    };
    assert_eq!(other.send(&answer).expect("the socket works"), Outcome::Sent);
    other.flush().expect("the socket works");
    assert_eq!(other.counters().sent, 1);
}

fn idle_port_takes_in_nothing<N: Net>(net: &mut N) {
    let (one, other) = net.ports();
    for port in [one, other] {
        let mut seen = 0;
        let taken = port.recv(&mut |_| seen += 1).expect("the socket works");
        assert_eq!((taken, seen), (0, 0));
        port.flush().expect("nothing to flush");
    }
}

fn empty_datagrams_use_up_the_budget_and_stay_unseen<N: Net>(net: &mut N) {
    for _ in 0..10 {
        assert_eq!(net.send(&[], None, None), Outcome::Sent);
    }
    assert_eq!(net.send(b"seen", None, None), Outcome::Sent);
    let (mut taken, mut seen) = (0, Vec::new());
    while taken < 11 {
        assert!(net.wait(), "{taken} datagrams came");
        let (_, other) = net.ports();
        let count = other.recv(&mut |datagram| seen.push(datagram)).expect("the socket works");
        assert!(count > 0, "an empty datagram looks like nothing, and the caller would spin");
        taken += count;
    }
    assert_eq!(seen.len(), 1);
    let (_, other) = net.ports();
    assert_eq!(other.counters().received_empty, 10);
}

fn batches_are_bounded<N: Net>(net: &mut N) {
    for _ in 0..100 {
        assert_eq!(net.send(b"one of many", None, None), Outcome::Sent);
    }
    let mut taken = 0;
    while taken < 100 {
        assert!(net.wait(), "{taken} of 100 came");
        let (_, other) = net.ports();
        let mut seen = 0;
        let count = other.recv(&mut |_| seen += 1).expect("the socket works");
        assert_eq!(count, seen);
        assert!(count <= 32, "{count} in one batch");
        taken += count;
    }
    assert_eq!(taken, 100);
}

fn counters_agree_on_both_sides<N: Net>(net: &mut N) {
    let (one, other) = net.ports();
    let before = (one.counters(), other.counters());
    assert_eq!(net.send(&[1; 5_000], Some(1_200), None), Outcome::Sent);
    assert_eq!(net.send(&[2; 300], None, None), Outcome::Sent);
    net.take(6);
    let (one, other) = net.ports();
    let (sent, received) = (one.counters(), other.counters());
    assert_eq!(sent.sent - before.0.sent, 6);
    assert_eq!(sent.sent_bytes - before.0.sent_bytes, 5_300);
    assert_eq!(sent.send_batches - before.0.send_batches, 2);
    assert_eq!(received.received - before.1.received, 6);
    assert_eq!(received.received_bytes - before.1.received_bytes, 5_300);
    assert_eq!(sent.full + sent.dropped_too_large + sent.dropped_unreachable, 0);
}

#[test]
fn full_virtual_port_takes_the_same_transmit_later() {
    let mut net = Virtual::new();
    net.one.set_interface(Some(Interface { bits_per_second: 8_000_000, buffer_bytes: 3_000 }));
    assert_eq!(net.send(&[1; 2_400], Some(1_200), None), Outcome::Sent);
    assert_eq!(net.send(&[2; 1_200], None, None), Outcome::Full);
    net.network.advance(net.one.next_wake().expect("room comes"));
    assert_eq!(net.send(&[2; 1_200], None, None), Outcome::Sent);
    let firsts: Vec<_> = net.take(3).iter().map(|datagram| datagram.data[0]).collect();
    assert_eq!(firsts, [1, 1, 2]);
}

/// Runs a story on every kind of socket.
macro_rules! on_every_socket {
    ($($story:ident,)*) => {
        mod udp_socket {
            $(#[test] fn $story() { super::$story::<super::UdpPort>(); })*
        }
        mod uring_socket {
            $(#[test] fn $story() { super::$story::<super::UringPort>(); })*
        }
    };
}

on_every_socket! {
    largest_train_that_the_kernel_coalesces_is_split_and_counted,
    forged_port_zero_does_not_end_segmentation,
    refused_source_address_does_not_end_segmentation,
    unreachable_peer_is_counted_and_the_next_one_served,
    wildcard_socket_says_which_of_its_addresses_was_used,
}

fn largest_train_that_the_kernel_coalesces_is_split_and_counted<P: OnSocket>() {
    // Each datagram of 1,000 bytes counts although all 65 come as one train of nearly 64 KiB.
    let mut net = Loopback::<P>::new();
    for (size, segment) in [(40_000, 1_000), (64_999, 64_999), (39_001, 1_000), (40, 1)] {
        assert_eq!(net.send(&pattern(size), Some(segment), None), Outcome::Sent);
        assert!(net.wait());
        let mut seen = 0;
        let taken = net.1.recv(&mut |_| seen += 1).expect("the socket works");
        assert_eq!((taken, seen), (size.div_ceil(segment), size.div_ceil(segment)), "{size}");
        assert_eq!(net.1.recv(&mut |_| seen += 1).expect("the socket works"), 0);
    }
}

fn forged_port_zero_does_not_end_segmentation<P: OnSocket>() {
    let mut net = Loopback::<P>::new();
    let nowhere = Transmit {
        destination: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        src_ip: None,
        ecn: None,
        contents: &[0; 2_400],
        segment_size: Some(1_200),
    };
    assert_eq!(net.0.send(&nowhere).expect("the socket works"), Outcome::Sent);
    assert_eq!(net.0.counters().dropped_unreachable, 2);
    assert_eq!(net.0.max_segments(), SEGMENTS_MAX);
}

fn refused_source_address_does_not_end_segmentation<P: OnSocket>() {
    let mut net = Loopback::<P>::new();
    // A multicast address is never a source; the kernel answers EINVAL.
    let refused = Some(IpAddr::from([224, 0, 0, 1]));
    for segment_size in [None, Some(1_200)] {
        let transmit = Transmit {
            destination: net.1.local_addr(),
            src_ip: refused,
            ecn: None,
            contents: &[0; 2_400],
            segment_size,
        };
        assert_eq!(net.0.send(&transmit).expect("the socket works"), Outcome::Sent);
        net.0.flush().expect("the socket works");
        assert_eq!(net.0.max_segments(), SEGMENTS_MAX, "segments {segment_size:?}");
    }
    assert_eq!(net.0.counters().dropped_other + net.0.counters().dropped_unreachable, 3);
    congestion_marks_arrive(&mut net);
}

fn unreachable_peer_is_counted_and_the_next_one_served<P: OnSocket>() {
    let mut net = Loopback::<P>::new();
    let closed = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let transmit = Transmit {
        destination: closed.expect("a free port"),
        src_ip: None,
        ecn: None,
        contents: b"anybody there?",
        segment_size: None,
    };
    for _ in 0..3 {
        assert_eq!(net.0.send(&transmit).expect("the socket works"), Outcome::Sent);
        net.0.flush().expect("the socket works");
    }
    assert_eq!(net.0.recv(&mut |_| unreachable!("nobody answers")).expect("no error stays"), 0);
    assert_eq!(net.send(b"still here", None, None), Outcome::Sent);
    assert_eq!(net.take(1)[0].data, b"still here"[..]);
}

fn wildcard_socket_says_which_of_its_addresses_was_used<P: OnSocket>() {
    let asked = Ipv4Addr::new(127, 0, 0, 77);
    expect_answer_from::<P>(asked, Ipv4Addr::UNSPECIFIED.into());
    if Loopback::<P>::on(Ipv6Addr::LOCALHOST.into()).is_some() {
        expect_answer_from::<P>(asked, Ipv6Addr::UNSPECIFIED.into());
    }
}

/// Asks a socket bound to `wildcard` at one of its IPv4 addresses, with marks and as a train, and
/// expects the same back from there.
fn expect_answer_from<P: OnSocket>(asked: Ipv4Addr, wildcard: IpAddr) {
    let bind = |host| P::bind(SocketAddr::new(host, 0)).expect("free");
    let mut net = Loopback(bind(Ipv4Addr::LOCALHOST.into()), bind(wildcard));
    let port = net.1.local_addr().port();
    let ecn = Some(Ecn::Ect0);
    let question = Transmit {
        destination: SocketAddr::from((asked, port)),
        src_ip: None,
        ecn,
        contents: &pattern(2_500),
        segment_size: Some(1_200),
    };
    assert_eq!(net.0.send(&question).expect("the socket works"), Outcome::Sent);
    net.0.flush().expect("the socket works");
    let got = net.take(3).remove(0);
    assert_eq!(got.to.map(|to| to.to_canonical()), Some(asked.into()), "{wildcard}");
    assert_eq!(got.ecn, ecn, "{wildcard}");
    let answer = Transmit { destination: got.from, src_ip: got.to, ..question };
    assert_eq!(net.1.send(&answer).expect("the socket works"), Outcome::Sent);
    net.1.flush().expect("the socket works");
    let mut back = Loopback(net.1, net.0);
    for datagram in back.take(3) {
        assert_eq!(datagram.from, SocketAddr::from((asked, port)), "{wildcard}");
        assert_eq!(datagram.ecn, ecn, "{wildcard}");
    }
}
