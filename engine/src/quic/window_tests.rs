//! What the window of a connection does while its sender has little to say, told by two endpoints over the virtual network.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_moqt::{Dir, Draft};
use weir_relay::Transport as _;
use weir_xdp::Port as _;
use weir_xdp::steer::Key;
use weir_xdp::virt::{Link, Network, VirtPort};

use super::tests::{address, server};
use super::{ConnId, Endpoint, Event, Limits, Steering, config};

/// A node and a viewer, 40 ms apart.
struct Way {
    net: Network,
    now: Instant,
    ends: [(Endpoint, VirtPort); 2],
    /// The node's side of the connection.
    conn: Option<ConnId>,
}

impl Way {
    fn new() -> Self {
        let now = Instant::now();
        let net = Network::new(7, now);
        net.set_default_link(Link::with_delay(Duration::from_millis(20)));
        let (here, there): (SocketAddr, SocketAddr) =
            (address("192.0.2.1:443"), address("192.0.2.2:5000"));
        let (node, _) = server(Limits::default(), now);
        let steering = Steering { shard: 0, shards: 1, key: Key::new(1) };
        let mut viewer = Endpoint::new(steering, None, &[], Limits::default(), now);
        let any = crate::client::trust::any_certificate();
        let config = config::client(any, Draft::D18, &Limits::default()).expect("TLS");
        viewer.connect(config, here, "weir.test", now).expect("a connection");
        let ports = [here, there].map(|own| net.port(own).expect("a free port"));
        let [first, second] = ports;
        let mut way = Self { net, now, ends: [(node, first), (viewer, second)], conn: None };
        way.run(Duration::from_secs(1));
        way
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            let now = self.now;
            self.net.advance(now);
            for (at, (endpoint, port)) in self.ends.iter_mut().enumerate() {
                while port.recv(&mut |it| endpoint.handle_datagram(it, now)).expect("a port") > 0 {}
                endpoint.handle_timeout(now);
                while let Some((conn, event)) = endpoint.poll_event(now) {
                    if at == 0 && matches!(event, Event::Opened { .. }) {
                        self.conn = Some(conn);
                    }
                }
                endpoint.flush(port, now).expect("a virtual port");
            }
            let timers = self.ends.iter().filter_map(|(endpoint, _)| endpoint.poll_timeout());
            let next = timers.chain(self.net.next_event()).min().unwrap_or(end);
            self.now = next.clamp(now + Duration::from_micros(100), end);
        }
    }

    /// The node sends an object on a stream of its own.
    fn send(&mut self, bytes: usize) {
        let conn = self.conn.expect("an open connection");
        let mut link = self.ends[0].0.link(conn, self.now).expect("it lives");
        let stream = link.open(Dir::Uni).expect("room for a stream");
        let taken = link.write(stream, &mut [Bytes::from(vec![0; bytes])]);
        assert_eq!(taken, Ok(bytes), "the buffer takes an object");
        link.finish(stream);
    }

    fn window(&self) -> u64 {
        self.ends[0].0.window(self.conn.expect("an open connection")).expect("it lives")
    }
}

#[test]
fn a_window_that_nothing_fills_neither_grows_nor_shrinks_and_one_that_is_full_grows() {
    let mut way = Way::new();
    let first = Limits::default().initial_window_bytes;
    let opened = way.window();
    assert!((first..first * 2).contains(&opened), "{opened}");
    // A broadcast that needs a third of it for 30 seconds, then nothing for ten.
    for _ in 0..300 {
        way.send(first as usize / 3);
        way.run(Duration::from_millis(100));
    }
    way.run(Duration::from_secs(10));
    assert_eq!(way.window(), opened, "what is sent says nothing of what the path carries");
    // Then a key picture that does not fit.
    way.send(first as usize * 2);
    way.run(Duration::from_millis(500));
    assert!(way.window() >= opened + first / 2, "{} of {opened}", way.window());
}
