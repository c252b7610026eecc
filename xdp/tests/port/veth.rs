//! Two network namespaces that belong to one thread, with a veth pair between them: made for a test
//! and gone with its thread, whatever happens. The interfaces of the machine are never touched.

#![expect(unsafe_code, reason = "unshare(2) and setns(2) have no safe wrapper")]

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use weir_xdp::{
    Datagram, Ecn, Mode, Outcome, Port, Transmit,
    frame::Refusal,
    ladder::{Choice, Ladder, Rung},
    program::{Attach, Budget, Error, Tally},
    udp::{self, UdpPort},
    uring::UringPort,
    xdp_port::{Frames, Gate, Options, Refused, Report, XdpPort},
};

use super::{Net, say};

/// How a pair is set up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    attach: Attach,
    ipv6: bool,
    mtu: usize,
    vlan: Option<u16>,
}

pub(super) const DRIVER: Layout =
    Layout { attach: Attach::Driver, ipv6: false, mtu: 1_500, vlan: None };
pub(super) const GENERIC: Layout = Layout { attach: Attach::Generic, ..DRIVER };
pub(super) const IPV6_1280: Layout = Layout { ipv6: true, mtu: 1_280, ..DRIVER };
pub(super) const TAGGED: Layout = Layout { vlan: Some(7), ..DRIVER };

const PORT: u16 = 4_433;
/// Ends a test that has already failed; a loaded machine needs a fraction of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A port at each end, or at least the namespaces for one.
pub(super) struct Veth {
    layout: Layout,
    ends: [File; 2],
}

impl Veth {
    /// Nothing if this process may not make namespaces.
    fn new(layout: Layout) -> Option<Self> {
        let namespace = || {
            // SAFETY: the call takes flags and touches no memory; it moves this thread alone.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net")
        };
        let ends = match (namespace(), namespace()) {
            (Ok(one), Ok(other)) => [one, other],
            (Err(refused), _) | (_, Err(refused)) => {
                say(&format!("NOT TESTED over veth: no network namespace ({refused})"));
                return None;
            }
        };
        let veth = Self { layout, ends };
        veth.plug();
        Some(veth)
    }

    /// Makes the pair.
    fn plug(&self) {
        let (veth, layout) = (self, self.layout);
        let other = format!("/proc/{}/fd/{}", std::process::id(), veth.ends[1].as_raw_fd());
        let mtu = layout.mtu;
        veth.ip(
            0,
            &format!(
                "link add v0 mtu {mtu} numrxqueues 2 numtxqueues 2 type veth \
             peer name v1 mtu {mtu} numrxqueues 2 numtxqueues 2 netns {other}"
            ),
        );
        for end in [0, 1] {
            let v6 = address(end, true);
            let v4 = address(end, false);
            veth.ip(end, &format!("address add {v4}/24 dev v{end}"));
            veth.ip(end, &format!("address add {v6}/64 dev v{end} nodad"));
            veth.ip(end, &format!("link set v{end} up"));
        }
        for end in [0, 1] {
            veth.wait_until(end, "state UP");
        }
    }

    fn enter(&self, end: usize) {
        // SAFETY: the call takes a descriptor that is open and touches no memory.
        let entered = unsafe { libc::setns(self.ends[end].as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(entered, 0, "{}", io::Error::last_os_error());
    }

    /// Runs ip(8) at an end and returns what it prints.
    fn ip(&self, end: usize, arguments: &str) -> String {
        self.enter(end);
        let run = Command::new("ip").args(arguments.split_whitespace()).output();
        let run = run.expect("iproute2 is installed (scripts/setup test)");
        assert!(run.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8_lossy(&run.stdout).into_owned()
    }

    /// Waits until the kernel says something of the interface at an end.
    fn wait_until(&self, end: usize, said: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.ip(end, &format!("link show v{end}")).contains(said) {
            assert!(Instant::now() < until, "v{end} never was in {said}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn listen(&self, end: usize) -> SocketAddr {
        SocketAddr::new(address(end, self.layout.ipv6), PORT)
    }

    /// A program at an end; nothing if the kernel refuses it for want of a privilege.
    fn gate(&self, end: usize) -> Option<Arc<Gate>> {
        self.enter(end);
        let opened = Gate::open(&Options {
            listen: self.listen(end),
            interface: None,
            attach: self.layout.attach,
            budget: Budget::default(),
            vlan: self.layout.vlan,
        });
        match opened {
            Ok(gate) => Some(Arc::new(gate)),
            Err(Refused::Program(Error::NotPermitted { what, source })) => {
                say(&format!("NOT TESTED over veth: the kernel refuses {what} ({source})"));
                None
            }
            Err(refused) => unreachable!("{refused}"),
        }
    }

    /// A port at an end, on both queues.
    fn port(&self, end: usize) -> Option<XdpPort> {
        let gate = self.gate(end)?;
        assert_eq!(gate.queues_of(0, 1), [0, 1]);
        let frames = Frames::open(gate, &[0, 1], Mode::Copy).expect("veth has copy mode");
        let kernel = UdpPort::bind(self.listen(end)).expect("the namespace is ours");
        Some(XdpPort::new(kernel, frames).expect("epoll works"))
    }
}

fn address(end: usize, ipv6: bool) -> IpAddr {
    let host = end as u16 + 1;
    if ipv6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host).into()
    } else {
        Ipv4Addr::new(10, 9, 0, host as u8).into()
    }
}

/// Both ends with a port.
pub(super) struct Pair {
    veth: Veth,
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
        self.veth.layout.mtu - if self.veth.layout.ipv6 { 48 } else { 28 }
    }
}

impl Pair {
    /// Lets both ends find each other, so that from now on nothing needs the kernel's socket.
    fn meet(&mut self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let before = self.one.kernel().counters().sent;
            assert_eq!(self.send(b"hello", None, None), Outcome::Sent);
            self.take(1);
            if self.one.kernel().counters().sent == before {
                return;
            }
            assert!(Instant::now() < until, "the neighbour is never known");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Runs `inside` in a thread of its own, whose namespaces end with it.
fn in_namespaces(layout: Layout, inside: impl FnOnce(Veth) + Send) {
    let inside = || {
        if let Some(veth) = Veth::new(layout) {
            inside(veth);
        }
    };
    std::thread::scope(|scope| match scope.spawn(inside).join() {
        Ok(()) => {}
        Err(panic) => std::panic::resume_unwind(panic),
    });
}

/// Runs a story of every port over a pair.
pub(super) fn run(layout: Layout, story: impl FnOnce(&mut Pair) + Send) {
    in_namespaces(layout, |veth| {
        if let (Some(one), Some(other)) = (veth.port(0), veth.port(1)) {
            let mut pair = Pair { veth, one, other };
            if layout.attach == Attach::Generic {
                // A train of the kernel's crosses veth in one piece, and a generic program cannot
                // tell it from a datagram. Devices with wires never show one.
                pair.meet();
            }
            story(&mut pair);
        }
    });
}

/// Both ends with rings.
pub(super) struct Rings {
    one: UringPort,
    other: UringPort,
}

impl Net for Rings {
    type Port = UringPort;

    fn ports(&mut self) -> (&mut UringPort, &mut UringPort) {
        (&mut self.one, &mut self.other)
    }

    fn wait(&mut self) -> bool {
        self.other.wait_readable(PATIENCE).expect("poll works")
    }

    /// Larger ones are not cut into fragments.
    fn datagram_bytes_max(&self) -> usize {
        1_472
    }
}

/// Runs a story of every port over a pair of ports on sockets and `io_uring`.
pub(super) fn run_rings(story: impl FnOnce(&mut Rings) + Send) {
    in_namespaces(DRIVER, |veth| {
        let port = |end| {
            veth.enter(end);
            let kernel = UdpPort::bind(veth.listen(end)).expect("the namespace is ours");
            UringPort::new(kernel).expect("shards run on io_uring")
        };
        story(&mut Rings { one: port(0), other: port(1) });
    });
}

fn on_every_layout(story: fn(&mut Pair)) {
    for layout in [DRIVER, GENERIC, IPV6_1280, TAGGED] {
        run(layout, story);
    }
}

#[test]
fn frames_go_past_the_kernel_once_neighbours_are_known() {
    on_every_layout(|pair| {
        pair.meet();
        let (sent, received) = (pair.one.kernel().counters(), pair.other.kernel().counters());
        for ecn in [None, Some(Ecn::Ect0), Some(Ecn::Ce)] {
            assert_eq!(pair.send(&[7; 6_000], Some(1_200), ecn), Outcome::Sent);
            assert!(pair.take(5).iter().all(|datagram| datagram.ecn == ecn));
        }
        let layout = pair.veth.layout;
        assert_eq!(pair.one.kernel().counters(), sent, "{layout:?}");
        assert_eq!(pair.other.kernel().counters(), received, "{layout:?}");
        let report = report(&pair.other);
        let refused: u64 = Refusal::ALL.map(|refusal| report.refusals.count(refusal)).iter().sum();
        assert_eq!((report.mode, report.lost, refused), (Some(Mode::Copy), None, 0));
        assert_eq!((report.losses.invalid, report.losses.no_chunk), (0, 0));
    });
}

#[test]
fn datagram_beyond_the_packet_size_is_counted_and_lost() {
    on_every_layout(|pair| {
        pair.meet();
        let max = pair.datagram_bytes_max();
        assert_eq!(pair.send(&vec![1; max + 1], None, None), Outcome::Sent);
        assert_eq!(pair.send(&vec![2; max], None, None), Outcome::Sent);
        assert_eq!(pair.take(1)[0].data, vec![2; max]);
        assert_eq!(pair.one.counters().dropped_too_large, 1);
    });
}

#[test]
fn burst_beyond_the_rings_arrives_or_is_full_and_nothing_else() {
    run(DRIVER, |pair| {
        pair.meet();
        let mut sent = 0;
        let train = vec![3; 40 * 1_200];
        for _ in 0..40 {
            // 1,600 frames a time, while the other end takes in what came.
            for _ in 0..40 {
                match pair.send(&train, Some(1_200), None) {
                    Outcome::Sent => sent += 40,
                    Outcome::Full => break,
                }
            }
            while pair.other.recv(&mut drop).expect("the socket works") > 0 {}
        }
        let counters = pair.one.counters();
        assert!(sent > 0 && counters.sent >= sent, "{counters:?}");
        assert_eq!(pair.send(b"after the flood", None, None), Outcome::Sent);
        while pair.take(1)[0].data != b"after the flood"[..] {}
    });
}

#[test]
fn ordinary_hosts_and_other_ports_notice_nothing() {
    for layout in [DRIVER, GENERIC, IPV6_1280] {
        in_namespaces(layout, |veth| {
            let Some(mut port) = veth.port(1) else { return };
            let beside = UdpSocket::bind(SocketAddr::new(veth.listen(1).ip(), 5_353));
            let beside = beside.expect("free");
            veth.enter(0);
            // Many sockets, so that their datagrams come by both queues.
            let from = SocketAddr::new(veth.listen(0).ip(), 0);
            let hosts: Vec<_> =
                (0..32).map(|_| UdpSocket::bind(from).expect("a free port")).collect();
            for host in &hosts {
                host.set_read_timeout(Some(PATIENCE)).expect("settable");
                host.send_to(b"question", veth.listen(1)).expect("there is a route");
                let question = receive(&mut port);
                assert_eq!(question.from, host.local_addr().expect("bound"));
                assert_eq!(question.to, Some(veth.listen(1).ip()));
                answer(&mut port, &question);
                let mut bytes = [0; 16];
                let (size, by) = host.recv_from(&mut bytes).expect("the answer comes");
                assert_eq!((&bytes[..size], by), (&b"answer"[..], veth.listen(1)));
            }
            // Its checksum is right in the eyes of the kernel, or it would not have come.
            assert!(port.counters().sent >= 32);
            beside.set_read_timeout(Some(PATIENCE)).expect("settable");
            let to = beside.local_addr().expect("bound");
            hosts[0].send_to(b"not for the port", to).expect("there is a route");
            let mut bytes = [0; 32];
            let size = beside.recv(&mut bytes).expect("it passes");
            assert_eq!(&bytes[..size], b"not for the port");
        });
    }
}

fn report(port: &XdpPort) -> Report {
    port.report().expect("a port over frames has one")
}

fn receive(port: &mut XdpPort) -> Datagram {
    let mut taken = Vec::new();
    while taken.is_empty() {
        assert!(port.wait_readable(PATIENCE).expect("poll works"), "nothing comes");
        port.recv(&mut |datagram| taken.push(datagram)).expect("the socket works");
    }
    taken.remove(0)
}

fn answer(port: &mut XdpPort, question: &Datagram) {
    let answer = Transmit {
        destination: question.from,
        src_ip: question.to,
        ecn: question.ecn,
        contents: b"answer",
        segment_size: None,
    };
    assert_eq!(port.send(&answer).expect("the socket works"), Outcome::Sent);
    port.flush().expect("the socket works");
}

#[test]
fn fragments_reach_the_port_through_the_kernel() {
    in_namespaces(DRIVER, |veth| {
        let Some(mut port) = veth.port(1) else { return };
        veth.enter(0);
        let host = UdpSocket::bind((veth.listen(0).ip(), 0)).expect("free");
        host.send_to(&[9; 4_000], veth.listen(1)).expect("the kernel cuts it");
        assert_eq!(receive(&mut port).data, vec![9; 4_000]);
        assert_eq!(port.kernel().counters().received, 1);
    });
}

#[test]
fn lost_link_leaves_the_port_to_its_socket_and_peers_stay() {
    run(DRIVER, |pair| {
        pair.meet();
        pair.veth.ip(0, "link set v0 down");
        pair.veth.wait_until(1, "NO-CARRIER");
        let until = Instant::now() + PATIENCE;
        while report(&pair.other).lost.is_none() {
            assert!(Instant::now() < until, "nobody looks after the link");
            pair.other.recv(&mut drop).expect("the socket works");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(report(&pair.other).lost, Some("the link is down"));
        pair.veth.ip(0, "link set v0 up");
        pair.veth.wait_until(1, "state UP");
        // The same address and port still answer: a session would not have ended.
        let before = pair.other.kernel().counters().received;
        let destination = pair.other.local_addr();
        let until = Instant::now() + PATIENCE;
        let question = Transmit {
            destination,
            src_ip: None,
            ecn: None,
            contents: b"still there?",
            segment_size: None,
        };
        while !pair.other.wait_readable(Duration::from_millis(50)).expect("poll works") {
            assert!(Instant::now() < until, "the socket took over");
            assert_eq!(pair.one.send(&question).expect("works"), Outcome::Sent);
            pair.one.flush().expect("works");
        }
        assert_eq!(receive(&mut pair.other).data, b"still there?"[..]);
        assert!(pair.other.kernel().counters().received > before);
    });
}

#[test]
fn restarted_port_has_its_queues_again_at_once() {
    in_namespaces(DRIVER, |veth| {
        for _ in 0..3 {
            let Some(port) = veth.port(1) else { return };
            assert_eq!(report(&port).mode, Some(Mode::Copy));
        }
    });
}

#[test]
fn second_program_on_an_interface_is_refused_and_says_so() {
    in_namespaces(DRIVER, |veth| {
        let Some(first) = veth.gate(1) else { return };
        let second = Gate::open(&Options {
            listen: veth.listen(1),
            interface: Some(first.interface().into()),
            attach: Attach::Driver,
            budget: Budget::default(),
            vlan: None,
        });
        let refused = second.expect_err("the first is still there");
        assert!(matches!(refused, Refused::Program(Error::Occupied { .. })), "{refused}");
    });
}

#[test]
fn driver_without_zero_copy_refuses_it() {
    in_namespaces(DRIVER, |veth| {
        let Some(gate) = veth.gate(1) else { return };
        let refused = Frames::open(Arc::clone(&gate), &[0], Mode::ZeroCopy).expect_err("veth");
        assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP));
        // The next rung is free.
        Frames::open(gate, &[0], Mode::Copy).expect("veth has copy mode");
    });
}

#[test]
fn shards_share_the_queues_and_one_too_many_has_its_socket() {
    in_namespaces(DRIVER, |veth| {
        veth.enter(1);
        let options = Options {
            listen: veth.listen(1),
            interface: None,
            attach: Attach::Either,
            budget: Budget::default(),
            vlan: None,
        };
        let ladder = Ladder::new(Choice::Auto, &options);
        if ladder.gate().is_none() {
            say("NOT TESTED over veth: no program, so no ladder");
            return;
        }
        let group = udp::bind_group(veth.listen(1), 3).expect("the namespace is ours");
        let got: Vec<_> = (0..)
            .zip(group)
            .map(|(shard, socket)| ladder.climb(socket, shard, 3).expect("a socket"))
            .collect();
        let rungs: Vec<_> = got.iter().map(|got| got.rung).collect();
        assert_eq!(rungs, [Rung::Copy, Rung::Copy, Rung::Uring]);
        // What veth lacks, and what the third shard lacks.
        let refused = |at: usize| got[at].refused.iter().map(|it| it.rung).collect::<Vec<_>>();
        assert_eq!((refused(0), refused(1)), (vec![Rung::ZeroCopy], vec![Rung::ZeroCopy]));
        assert_eq!(refused(2), [Rung::ZeroCopy, Rung::Copy]);
        assert!(got[2].refused[1].why.contains("none for shard 2"), "{:?}", got[2].refused);
    });
}

#[test]
fn queue_that_does_not_exist_ends_the_list() {
    in_namespaces(DRIVER, |veth| {
        let Some(gate) = veth.gate(1) else { return };
        assert!(Frames::open(Arc::clone(&gate), &[5], Mode::Copy).is_err());
        Frames::open(gate, &[0, 1], Mode::Copy).expect("two queues");
    });
}

#[test]
fn program_counts_what_it_takes() {
    run(DRIVER, |pair| {
        pair.meet();
        let program = report(&pair.other).program.expect("it has the first queue");
        assert!(program[Tally::Taken as usize] > 0, "{program:?}");
    });
}

#[test]
fn socket_without_room_holds_sends_back_and_wakes_its_owner_when_there_is_some() {
    in_namespaces(DRIVER, |veth| {
        // Nobody answers for the address, so that datagrams wait for their neighbour and fill the
        // send buffer; the kernel would give up after three questions.
        veth.ip(1, "link set v1 arp off");
        veth.enter(0);
        std::fs::write("/proc/sys/net/ipv4/neigh/v0/mcast_solicit", "1000").expect("our namespace");
        let mut kernel = UdpPort::bind(veth.listen(0)).expect("the namespace is ours");
        kernel.resize_buffers(8 * 1024).expect("settable");
        let mut one = UringPort::new(kernel).expect("shards run on io_uring");
        veth.enter(1);
        let mut other = UdpPort::bind(veth.listen(1)).expect("the namespace is ours");
        let send = |one: &mut UringPort, number: u32| {
            let mut contents = [0; 1_000];
            contents[..4].copy_from_slice(&number.to_be_bytes());
            let (destination, contents) = (veth.listen(1), &contents[..]);
            one.send(&Transmit {
                destination,
                src_ip: None,
                ecn: None,
                contents,
                segment_size: None,
            })
            .expect("the socket works")
        };
        let mut accepted = 0;
        while send(&mut one, accepted) == Outcome::Sent {
            accepted += 1;
            assert!(accepted < 100, "8 KiB hold no more than that");
            // Twos, so that more than one may have to wait.
            if accepted % 2 == 0 {
                one.flush().expect("the socket works");
            }
        }
        let ring = one.report().expect("one").ring;
        assert!(ring.no_room > 0, "{ring:?}");
        assert_eq!(one.counters().full, 1);
        one.flush().expect("the socket works");
        let link = veth.ip(1, "link show v1");
        let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
        let mac = mac.expect("veth has an Ethernet address");
        veth.ip(0, &format!("neighbour replace 10.9.0.2 lladdr {mac} dev v0 nud permanent"));
        let mut numbers = Vec::new();
        while numbers.len() < accepted as usize {
            // The owner sleeps on the descriptor, and has nothing else to send.
            if !other.wait_readable(Duration::ZERO).expect("poll works") {
                assert!(one.wait_readable(PATIENCE).expect("poll works"), "{numbers:?}");
                one.recv(&mut drop).expect("the socket works");
                one.flush().expect("the socket works");
            }
            let mut take = |datagram: Datagram| {
                let number = datagram.data.first_chunk().expect("ours");
                numbers.push(u32::from_be_bytes(*number));
            };
            other.recv(&mut take).expect("the socket works");
        }
        assert_eq!(numbers, (0..accepted).collect::<Vec<_>>());
        assert_eq!(send(&mut one, accepted), Outcome::Sent);
    });
}

#[test]
fn interface_that_comes_back_carries_frames_again_and_numbers_never_fall() {
    in_namespaces(DRIVER, |veth| {
        veth.enter(1);
        let listen = veth.listen(1);
        let (attach, budget) = (Attach::Either, Budget::default());
        let options = Options { listen, interface: None, attach, budget, vlan: None };
        let ladder = Ladder::new(Choice::Xdp, &options);
        if ladder.gate().is_none() {
            return say("NOT TESTED over veth: no program, so nothing to lose");
        }
        let socket = udp::bind_group(listen, 1).expect("the namespace is ours").remove(0);
        let mut port = ladder.climb(socket, 0, 1).expect("a socket").port;
        let report = |port: &dyn Port| port.report().expect("a port over frames has one");
        let wait = |port: &mut dyn Port, is_there: bool| {
            let until = Instant::now() + PATIENCE;
            while report(port).mode.is_some() != is_there {
                assert!(Instant::now() < until, "there: {is_there}, {:?}", report(port));
                veth.enter(1);
                port.recv(&mut drop).expect("the socket works");
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        let exchange = |port: &mut dyn Port| {
            veth.enter(0);
            let host = UdpSocket::bind((veth.listen(0).ip(), 0)).expect("free");
            host.set_read_timeout(Some(PATIENCE)).expect("settable");
            host.send_to(b"question", listen).expect("there is a route");
            veth.enter(1);
            let until = Instant::now() + PATIENCE;
            let mut taken = Vec::new();
            while taken.is_empty() {
                assert!(Instant::now() < until, "nothing comes");
                port.recv(&mut |datagram| taken.push(datagram)).expect("the socket works");
            }
            assert_eq!(taken[0].data, b"question"[..]);
        };
        let count =
            |port: &dyn Port| report(port).program.expect("first queue")[Tally::Taken as usize];
        exchange(&mut *port);
        let mut before = count(&*port);
        assert!(before > 0);
        for (round, new_interface) in [(1, false), (2, true)] {
            if new_interface {
                veth.ip(0, "link delete v0");
            } else {
                veth.ip(0, "link set v0 down");
            }
            wait(&mut *port, false);
            assert!(count(&*port) >= before, "while it is lost");
            if new_interface {
                veth.plug();
            } else {
                veth.ip(0, "link set v0 up");
            }
            wait(&mut *port, true);
            assert!(count(&*port) >= before, "when it is back");
            exchange(&mut *port);
            let after = count(&*port);
            assert!(after > before, "{after} taken after {before}");
            before = after;
            let report = report(&*port);
            assert_eq!((report.lost_times, report.returns, report.lost), (round, round, None));
        }
    });
}
