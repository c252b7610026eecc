//! Crowds from one place (H16): ten thousand who come from one prefix and stay idle, and one who drips its handshake.
//! Counts what they hold and what they draw; how long anything takes is nobody's business here.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use quinn_proto::{ClientConfig, Connection, DatagramEvent, EndpointConfig};

use super::Limits;
use super::hostile::{INITIAL_BYTES_MIN, Initial, Target};
use super::tests::{address, raw_client, server};

/// Clients that are real until their session is open, and silent from then on.
struct Crowd {
    target: Target,
    client: quinn_proto::Endpoint,
    config: ClientConfig,
}

impl Crowd {
    fn new(limits: Limits) -> Self {
        let now = std::time::Instant::now();
        let (endpoint, der) = server(limits, now);
        let client =
            quinn_proto::Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        Self { target: Target::of(endpoint, now), client, config: raw_client(der) }
    }

    /// One more; whether it got in.
    fn join(&mut self, from: &str) -> bool {
        let (now, config) = (self.target.now, self.config.clone());
        let connected = self.client.connect(now, config, address("192.0.2.1:443"), "weir.test");
        let (_, mut conn) = connected.expect("a connection");
        for _ in 0..8 {
            self.turn(from, &mut conn);
        }
        !conn.is_handshaking() && !conn.is_closed()
    }

    /// What it has to say is heard, and what that draws reaches it.
    fn turn(&mut self, from: &str, conn: &mut Connection) {
        let mut buffer = Vec::new();
        let mut drawn = Vec::new();
        while let Some(transmit) = conn.poll_transmit(self.target.now, 1, &mut buffer) {
            drawn.extend(self.target.hear(from, &buffer[..transmit.size]));
            buffer.clear();
        }
        // Longer than an acknowledgement may wait.
        self.target.now += Duration::from_millis(30);
        drawn.extend(self.target.hear("203.0.113.9:53", b""));
        for datagram in drawn {
            let (now, from) = (self.target.now, address("192.0.2.1:443"));
            let data = BytesMut::from(&datagram[..]);
            let event = self.client.handle(now, from, None, None, data, &mut buffer);
            if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                conn.handle_event(event);
            }
        }
        while conn.poll_endpoint_events().is_some() || conn.poll().is_some() {}
    }

    fn held(&self) -> usize {
        self.target.endpoint.connections()
    }
}

#[test]
fn h16_ten_thousand_of_one_prefix_hold_what_a_prefix_may_and_a_bystander_joins() {
    const PLACES: u32 = 64;
    const COMERS: u32 = 10_000;
    let limits = Limits {
        connections_per_prefix_max: PLACES,
        connections_per_prefix_per_second_max: COMERS,
        ..Limits::default()
    };
    let mut crowd = Crowd::new(limits.clone());
    for at in 0..PLACES {
        assert!(crowd.join(&format!("[2001:db8:0:1::{at:x}]:4433")), "number {at}");
    }
    // The rest knocks. Each is refused before anything is computed for it but the refusal.
    let (mut sent, mut drawn) = (0, 0);
    for at in PLACES..COMERS {
        let dcid = u64::from(at).to_be_bytes();
        let initial = Initial { dcid: &dcid, frames: &[0x06, 0, 1, 1], ..Initial::default() };
        let knock = initial.protect(INITIAL_BYTES_MIN);
        sent += knock.len();
        let answers = crowd.target.hear(&format!("[2001:db8:0:1::{at:x}]:4433"), &knock);
        drawn += answers.iter().map(Vec::len).sum::<usize>();
    }
    assert_eq!(crowd.held(), PLACES as usize);
    let counters = crowd.target.endpoint.counters();
    assert_eq!(counters.refused_prefix, u64::from(COMERS - PLACES));
    assert_eq!((counters.refused_rate, counters.retries_sent), (0, 0));
    assert!(drawn < sent, "{drawn} bytes for {sent}");
    assert!(crowd.join("[2001:db8:0:2::1]:4433"), "who lives next door gets in");
    assert!(!crowd.join("[2001:db8:0:1:ffff::1]:4433"), "nobody else of the prefix does");
    assert_eq!(crowd.held(), PLACES as usize + 1);
    // They are silent, and the places are free again when their time is up. The bystander is as silent here.
    for _ in 0..2 * limits.idle_timeout.as_secs() {
        crowd.target.now += Duration::from_secs(1);
        crowd.target.hear("203.0.113.9:53", b"");
    }
    assert_eq!(crowd.held(), 0);
    assert!(crowd.join("[2001:db8:0:1::1]:4433"));
}

#[test]
fn h16_one_prefix_can_take_no_more_than_a_quarter_of_a_shard() {
    let limits = Limits::default();
    assert!(4 * limits.connections_per_prefix_max as usize <= limits.connections_max);
    assert!(limits.connections_per_prefix_per_second_max as usize <= limits.half_open_max);
}

#[test]
fn h16_a_handshake_that_drips_is_over_at_its_deadline() {
    let limits = Limits::default();
    let mut target = Target::new(limits.clone());
    let start = target.now;
    let mut number = 0;
    while target.now < start + limits.handshake_timeout {
        // A byte each second of a ClientHello of 200: its handshake begins once and never again.
        let byte = [1, 0, 0, 200].get(number as usize).copied().unwrap_or(3);
        let frames = [0x06, number as u8, 1, byte];
        let initial = Initial { frames: &frames, number, ..Initial::default() };
        target.hear("198.51.100.7:999", &initial.protect(INITIAL_BYTES_MIN));
        assert_eq!(target.endpoint.connections(), 1);
        number += 1;
        target.now += Duration::from_secs(1);
    }
    target.now += Duration::from_secs(1);
    target.hear("203.0.113.9:53", b"");
    assert_eq!(target.endpoint.counters().handshake_timeouts, 1);
    // Its farewell has had its time.
    target.now += Duration::from_secs(30);
    target.hear("203.0.113.9:53", b"");
    assert_eq!(target.endpoint.connections(), 0);
}
