//! Two network cards whose drivers work on the memory of the port, each in a namespace of its own: what veth
//! cannot show. They exist in the virtual machine of `make test-zero-copy`, which names them in
//! `WEIR_CARDS` and the namespace of the second in `WEIR_CARDS_PEER`. Nothing less than zero-copy
//! passes here.

#![expect(unsafe_code, reason = "setns(2) has no safe wrapper")]

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use weir_xdp::{
    Datagram, Mode, Outcome, Port, Transmit,
    frame::Refusal,
    ladder::{Choice, Ladder, Rung},
    program::{Attach, Budget, Tally},
    udp::{self, UdpPort},
    xdp_port::{Frames, Gate, Options, Report, XdpPort},
};

use super::{Net, pattern, say};

const PORT: u16 = 4_433;
const MTU: usize = 1_500;
/// Ends a test that has already failed. The machine is emulated, and slow.
const PATIENCE: Duration = Duration::from_mins(1);

/// The cards by their ends: name and namespace.
struct Cards {
    names: [String; 2],
    namespaces: [File; 2],
}

impl Cards {
    fn of_this_machine() -> Self {
        let names = std::env::var("WEIR_CARDS").expect("make test-zero-copy names the cards");
        let peer = std::env::var("WEIR_CARDS_PEER").expect("make test-zero-copy names the place");
        let (one, other) = names.split_once(' ').expect("two cards");
        let open = |path: &str| File::open(path).expect("a namespace");
        Self {
            names: [one.to_owned(), other.to_owned()],
            namespaces: [open("/proc/self/ns/net"), open(&peer)],
        }
    }

    fn enter(&self, end: usize) {
        // SAFETY: the call takes a descriptor that is open and touches no memory.
        let entered = unsafe { libc::setns(self.namespaces[end].as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(entered, 0, "{}", io::Error::last_os_error());
    }

    fn options(&self, end: usize) -> Options {
        Options {
            listen: listen(end),
            interface: Some(self.names[end].clone()),
            attach: Attach::Driver,
            budget: Budget::default(),
            vlan: None,
        }
    }

    fn gate(&self, end: usize) -> Arc<Gate> {
        self.enter(end);
        let opened = Gate::open(&self.options(end));
        Arc::new(opened.unwrap_or_else(|refused| unreachable!("{}: {refused}", self.names[end])))
    }

    /// A port at an end, on every queue that the card uses.
    fn port(&self, end: usize) -> XdpPort {
        let gate = self.gate(end);
        let queues = gate.queues_of(0, 1);
        let frames = Frames::open(gate, &queues, Mode::ZeroCopy);
        let frames = frames.unwrap_or_else(|error| unreachable!("{}: {error}", self.names[end]));
        assert_eq!(frames.mode(), Mode::ZeroCopy, "{} copies", self.names[end]);
        let kernel = UdpPort::bind(listen(end)).expect("the namespace is ours");
        XdpPort::new(kernel, frames).expect("epoll works")
    }
}

fn listen(end: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 9, 0, end as u8 + 1), PORT))
}

/// A port on each card.
pub(super) struct Pair {
    one: XdpPort,
    other: XdpPort,
}

impl Net for Pair {
    type Port = XdpPort;

    fn ports(&mut self) -> (&mut XdpPort, &mut XdpPort) {
        (&mut self.one, &mut self.other)
    }

    fn wait(&mut self) -> bool {
        self.other.wait_readable(PATIENCE).expect("poll works")
    }

    fn datagram_bytes_max(&self) -> usize {
        MTU - 28
    }
}

impl Pair {
    /// Lets both ends find each other, so that from now on nothing needs the kernel's socket.
    fn meet(&mut self) {
        let until = Instant::now() + PATIENCE;
        let hello = Transmit {
            destination: self.other.local_addr(),
            src_ip: None,
            ecn: None,
            contents: b"hello",
            segment_size: None,
        };
        let mut quiet = 0;
        while quiet < 3 {
            assert!(Instant::now() < until, "the neighbour is never known");
            let before = self.one.kernel().counters().sent;
            assert_eq!(self.one.send(&hello).expect("works"), Outcome::Sent);
            self.one.flush().expect("works");
            let came = self.other.wait_readable(Duration::from_millis(100)).expect("poll works");
            while self.other.recv(&mut drop).expect("works") > 0 {}
            quiet = if came && self.one.kernel().counters().sent == before { quiet + 1 } else { 0 };
        }
    }
}

fn report(port: &XdpPort) -> Report {
    port.report().expect("a port over frames has one")
}

/// Runs `inside` in a thread of its own, since it moves between the namespaces.
fn on_cards(inside: impl FnOnce(&Cards) + Send) {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| inside(&Cards::of_this_machine())).join();
        run.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Runs a story of every port over the two cards, and looks afterwards whether they still are what
/// they were.
pub(super) fn run(story: impl FnOnce(&mut Pair) + Send) {
    on_cards(|cards| {
        let mut pair = Pair { one: cards.port(0), other: cards.port(1) };
        pair.meet();
        story(&mut pair);
        for port in [&pair.one, &pair.other] {
            let report = report(port);
            assert_eq!((report.mode, report.lost), (Some(Mode::ZeroCopy), None));
        }
    });
}

#[test]
#[ignore = "needs two network cards of its own: make test-zero-copy"]
fn frames_pass_between_the_cards_and_never_the_kernel() {
    run(|pair| {
        let (sent, received) = (pair.one.kernel().counters(), pair.other.kernel().counters());
        for size in [1, 60, 1_000, 1_024, 1_025, 1_200, 1_472] {
            assert_eq!(pair.send(&pattern(size), None, None), Outcome::Sent);
            assert_eq!(pair.take(1)[0].data, pattern(size), "size {size}");
        }
        for _ in 0..20 {
            assert_eq!(pair.send(&pattern(48_000), Some(1_200), None), Outcome::Sent);
            let bytes: Vec<u8> = pair.take(40).iter().flat_map(|it| it.data.to_vec()).collect();
            assert_eq!(bytes, pattern(48_000));
        }
        assert_eq!(pair.one.kernel().counters(), sent);
        assert_eq!(pair.other.kernel().counters(), received);
        let report = report(&pair.other);
        let refused: u64 = Refusal::ALL.map(|refusal| report.refusals.count(refusal)).iter().sum();
        assert_eq!((refused, report.losses.invalid), (0, 0));
        let program = report.program.expect("it has the first queue");
        assert!(program[Tally::Taken as usize] >= 807, "{program:?}");
    });
}

#[test]
#[ignore = "needs two network cards of its own: make test-zero-copy"]
fn burst_beyond_the_rings_arrives_or_is_full_and_the_port_goes_on() {
    run(|pair| {
        let train = vec![3; 40 * 1_200];
        let mut sent = 0;
        for _ in 0..100 {
            match pair.send(&train, Some(1_200), None) {
                Outcome::Sent => sent += 40,
                Outcome::Full => while pair.other.recv(&mut drop).expect("works") > 0 {},
            }
        }
        assert!(sent > 0);
        // Every chunk comes back in time, or nothing could be sent any more. What the flood still fills
        // may cost one more datagram, so it is said until it is heard.
        let until = Instant::now() + PATIENCE;
        let mut heard = false;
        while !heard {
            assert!(Instant::now() < until, "{:?}, {:?}", report(&pair.one), report(&pair.other));
            let _ = pair.send(b"after the flood", None, None);
            let _ = pair.other.wait_readable(Duration::from_millis(100)).expect("poll works");
            let mut look = |datagram: Datagram| heard |= datagram.data == b"after the flood"[..];
            while pair.other.recv(&mut look).expect("works") > 0 {}
        }
    });
}

#[test]
#[ignore = "needs two network cards of its own: make test-zero-copy"]
fn restarted_port_has_its_queues_and_its_mode_again() {
    for round in 0..3 {
        run(|pair| {
            assert_eq!(pair.send(&[round; 1_200], None, None), Outcome::Sent);
            assert_eq!(pair.take(1)[0].data, [round; 1_200][..]);
        });
    }
}

#[test]
#[ignore = "needs two network cards of its own: make test-zero-copy"]
fn ladder_ends_at_its_first_rung() {
    on_cards(|cards| {
        for end in [0, 1] {
            cards.enter(end);
            let ladder = Ladder::new(Choice::Auto, &cards.options(end));
            let socket = udp::bind_group(listen(end), 1).expect("the namespace is ours").remove(0);
            let got = ladder.climb(socket, 0, 1).expect("a socket");
            assert_eq!((got.rung, &got.refused[..]), (Rung::ZeroCopy, &[][..]));
            let gate = ladder.gate().expect("it has one");
            say(&format!(
                "{}: XDP program in the driver, {} receive queues offered, bound with XDP_ZEROCOPY; \
                 getsockopt(XDP_OPTIONS) says {:?}",
                cards.names[end],
                gate.queues(),
                got.port.report().and_then(|report| report.mode),
            ));
        }
    });
}
