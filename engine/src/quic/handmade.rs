//! A client written by hand: it finishes a handshake with rustls alone and then sends whatever frames a test likes, as
//! no QUIC stack would. It owns the protection of packets; what is sent is the tests' business.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustls::Side;
use rustls::pki_types::ServerName;
use rustls::quic::{
    ClientConnection, DirectionalKeys, KeyChange, Keys, PacketKey, PacketKeySet, Secrets, Version,
};
use weir_xdp::Datagram;

use super::tests::{Wire, address, server};
use super::{ConnId, Endpoint, Event, Limits};

/// RFC 9000 §14.1.
pub(super) const INITIAL_BYTES_MIN: usize = 1200;

const FROM: &str = "198.51.100.7:999";
const DCID: &[u8] = b"8-octets";
const SCID: &[u8] = b"stranger";

/// One packet number space of the client.
#[derive(Default)]
struct Space {
    keys: Option<Keys>,
    next: u64,
    /// CRYPTO bytes sent and received.
    sent: u64,
    heard: u64,
    /// Largest packet number heard.
    largest: Option<u64>,
}

/// A server and one client whose handshake is done.
pub(super) struct Handmade {
    pub(super) now: Instant,
    pub(super) endpoint: Endpoint,
    wire: Wire,
    tls: ClientConnection,
    spaces: [Space; 3],
    /// What the keys of the next phase are made of (RFC 9001 §6).
    secrets: Option<Secrets>,
    /// Those keys.
    next: Option<PacketKeySet>,
    /// The key phase bit, and the keys from which the server's packets of the phase before are read.
    phase: bool,
    earlier: Option<Box<dyn PacketKey>>,
    /// Times the server went on to the next keys.
    pub(super) key_updates_heard: usize,
    /// The server's connection id.
    peer: Vec<u8>,
    /// The server's name for the session.
    pub(super) id: Option<ConnId>,
    /// Code of the close it was told.
    pub(super) closed: Option<u64>,
    /// Why the server's session is over.
    pub(super) ended: Option<String>,
    /// Bytes of UDP payload sent.
    pub(super) sent_bytes: usize,
}

/// Transport parameters (RFC 9000 §18): room for whatever the server likes to send.
fn transport_parameters() -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |id: u8, value: &[u8]| {
        out.extend([id, value.len() as u8]);
        out.extend(value);
    };
    // initial_source_connection_id, initial_max_data, stream windows and counts, active_connection_id_limit.
    put(0x0f, SCID);
    let much = [0x80, 0x10, 0, 0];
    for id in [0x04, 0x05, 0x06, 0x07] {
        put(id, &much);
    }
    put(0x08, &[0x40, 100]);
    put(0x09, &[0x40, 100]);
    put(0x0e, &[8]);
    out
}

impl Handmade {
    pub(super) fn new(limits: Limits) -> Self {
        let now = Instant::now();
        let (endpoint, der) = server(limits, now);
        // One key share that fits one packet: X25519 alone.
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der).expect("a certificate");
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"moqt-18".to_vec()];
        let name = ServerName::try_from("weir.test").expect("a name");
        let parameters = transport_parameters();
        let tls = ClientConnection::new(Arc::new(config), Version::V1, name, parameters);
        let mut spaces = <[Space; 3]>::default();
        let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
        let suite = suite.tls13().and_then(rustls::Tls13CipherSuite::quic_suite).expect("for QUIC");
        spaces[0].keys = Some(suite.keys(DCID, Side::Client, Version::V1));
        let mut client = Self {
            now,
            endpoint,
            wire: Wire::default(),
            tls: tls.expect("TLS for QUIC"),
            spaces,
            secrets: None,
            next: None,
            phase: false,
            earlier: None,
            key_updates_heard: 0,
            peer: DCID.to_vec(),
            id: None,
            closed: None,
            ended: None,
            sent_bytes: 0,
        };
        client.shake_hands();
        client
    }

    fn shake_hands(&mut self) {
        for _ in 0..8 {
            self.say();
            if self.spaces[2].keys.is_some() && !self.tls.is_handshaking() {
                self.say();
                return;
            }
            self.pass(Duration::from_millis(1));
        }
        panic!("no handshake: {:?}", self.closed);
    }

    /// Sends what TLS has to say, with acknowledgements.
    fn say(&mut self) {
        loop {
            let level = usize::from(self.spaces[1].keys.is_some());
            let mut out = Vec::new();
            let change = self.tls.write_hs(&mut out);
            for at in 0..=level {
                let mut frames = Vec::new();
                if let Some(largest) = self.spaces[at].largest {
                    frames.push(0x02);
                    frames.extend(varint(largest));
                    frames.extend([0, 0]);
                    frames.extend(varint(largest));
                }
                if at == level && !out.is_empty() {
                    frames.push(0x06);
                    frames.extend(varint(self.spaces[at].sent));
                    frames.extend(varint(out.len() as u64));
                    frames.extend(&out);
                    self.spaces[at].sent += out.len() as u64;
                }
                if !frames.is_empty() {
                    self.send_in(at, &frames);
                }
            }
            match change {
                Some(KeyChange::Handshake { keys }) => self.spaces[1].keys = Some(keys),
                Some(KeyChange::OneRtt { keys, next: mut secrets }) => {
                    self.spaces[2].keys = Some(keys);
                    self.next = Some(secrets.next_packet_keys());
                    self.secrets = Some(secrets);
                }
                None => return,
            }
        }
    }

    /// Sends frames in a 1-RTT packet.
    pub(super) fn send(&mut self, frames: &[u8]) {
        self.send_in(2, frames);
    }

    /// Goes on to the next keys, asked or not: from the next packet on (RFC 9001 §6.1).
    pub(super) fn update_keys(&mut self) {
        let secrets = self.secrets.as_mut().expect("a handshake");
        let next = self.next.replace(secrets.next_packet_keys()).expect("a handshake");
        let keys = self.spaces[2].keys.as_mut().expect("a handshake");
        keys.local.packet = next.local;
        self.earlier = Some(std::mem::replace(&mut keys.remote.packet, next.remote));
        self.phase = !self.phase;
    }

    /// A packet of the next key phase that was protected with the keys of this one.
    pub(super) fn send_in_a_phase_of_which_it_has_no_keys(&mut self, frames: &[u8]) {
        self.phase = !self.phase;
        let packet = self.packet(2, frames);
        self.phase = !self.phase;
        self.deliver(FROM, &packet);
    }

    /// The same from another address.
    pub(super) fn send_from(&mut self, from: &str, frames: &[u8]) {
        let packet = self.packet(2, frames);
        self.deliver(from, &packet);
    }

    fn send_in(&mut self, space: usize, frames: &[u8]) {
        let packet = self.packet(space, frames);
        self.deliver(FROM, &packet);
    }

    fn packet(&mut self, at: usize, frames: &[u8]) -> Vec<u8> {
        let space = &mut self.spaces[at];
        let number = space.next;
        space.next += 1;
        let mut header = if at == 2 {
            let phase = u8::from(self.phase) << 2;
            [&[0x43 | phase][..], &self.peer].concat()
        } else {
            let mut header = vec![if at == 0 { 0xc3 } else { 0xe3 }, 0, 0, 0, 1];
            for id in [&self.peer[..], SCID] {
                header.push(id.len() as u8);
                header.extend(id);
            }
            if at == 0 {
                header.push(0);
            }
            header
        };
        let mut payload = frames.to_vec();
        let least = if at == 0 { INITIAL_BYTES_MIN - header.len() - 22 } else { 4 };
        payload.resize(payload.len().max(least), 0);
        if at < 2 {
            header.extend((0x4000 | (4 + payload.len() + 16) as u16).to_be_bytes());
        }
        let number_at = header.len();
        header.extend((number as u32).to_be_bytes());
        let keys: &DirectionalKeys = &space.keys.as_ref().expect("keys of this space").local;
        let tag = keys.packet.encrypt_in_place(number, &header, &mut payload).expect("encrypts");
        payload.extend(tag.as_ref());
        let sample = payload[..keys.header.sample_len()].to_vec();
        let (first, rest) = header.split_at_mut(1);
        let number = &mut rest[number_at - 1..];
        keys.header.encrypt_in_place(&sample, &mut first[0], number).expect("a sample");
        header.extend(payload);
        header
    }

    /// Lets the server hear one datagram, and hears what it says to it.
    pub(super) fn deliver(&mut self, from: &str, data: &[u8]) {
        self.sent_bytes += data.len();
        let (from, data) = (address(from), BytesMut::from(data));
        self.endpoint.handle_datagram(Datagram { from, to: None, ecn: None, data }, self.now);
        self.pass(Duration::from_micros(10));
    }

    /// Lets time pass for the server.
    pub(super) fn pass(&mut self, span: Duration) {
        self.now += span;
        self.endpoint.handle_timeout(self.now);
        while let Some((id, event)) = self.endpoint.poll_event(self.now) {
            self.id = Some(id);
            if let Event::Closed { reason, .. } = event {
                self.ended = Some(reason);
            }
        }
        self.endpoint.flush(&mut self.wire, self.now).expect("the wire takes all");
        while let Some(datagram) = self.wire.sent.pop_front() {
            self.hear(&datagram);
        }
    }

    /// Bytes the server sent so far, to one address or to all.
    pub(super) fn towards(&self, address: Option<SocketAddr>) -> usize {
        let all = self.wire.towards.iter();
        all.filter(|(to, _)| address.is_none_or(|only| only == *to)).map(|(_, bytes)| bytes).sum()
    }

    fn hear(&mut self, datagram: &[u8]) {
        let mut rest = datagram;
        while let Some(first) = rest.first().copied() {
            let long = first & 0x80 != 0;
            let (at, number_at, end) = if long {
                let at = usize::from(first & 0x30 != 0);
                let mut head = &rest[5..];
                head = &head[1 + usize::from(head[0])..];
                let id = head[1..=usize::from(head[0])].to_vec();
                head = &head[1 + id.len()..];
                self.peer = id;
                if at == 0 {
                    assert_eq!(take_varint(&mut head), 0, "servers send no token");
                }
                let length = take_varint(&mut head) as usize;
                let number_at = rest.len() - head.len();
                (at, number_at, number_at + length)
            } else {
                (2, 1 + SCID.len(), rest.len())
            };
            let (packet, after) = rest.split_at(end);
            rest = after;
            self.open(at, packet.to_vec(), number_at);
        }
    }

    fn open(&mut self, at: usize, mut packet: Vec<u8>, number_at: usize) {
        let Some(keys) = &self.spaces[at].keys else { return };
        let sample = packet[number_at + 4..number_at + 20].to_vec();
        let (first, rest) = packet.split_at_mut(1);
        let number = &mut rest[number_at - 1..number_at + 3];
        if keys.remote.header.decrypt_in_place(&sample, &mut first[0], number).is_err() {
            return;
        }
        let bytes = usize::from(packet[0] & 3) + 1;
        let (header, payload) = packet.split_at_mut(number_at + bytes);
        let number = header[number_at..].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let decrypt = |key: &dyn PacketKey| {
            let mut payload = payload.to_vec();
            key.decrypt_in_place(number, header, &mut payload).ok().map(<[u8]>::to_vec)
        };
        let same_phase = at < 2 || self.phase == (header[0] & 0x04 != 0);
        let mut frames = match &self.earlier {
            _ if same_phase => decrypt(&*keys.remote.packet),
            Some(earlier) => decrypt(&**earlier),
            None => None,
        };
        // What was meant for others, a stateless reset for one, has any phase and changes nothing.
        if frames.is_none()
            && !same_phase
            && let Some(next) = &self.next
        {
            frames = decrypt(&*next.remote);
            if frames.is_some() {
                self.update_keys();
                self.key_updates_heard += 1;
            }
        }
        let Some(frames) = frames else { return };
        self.spaces[at].largest = self.spaces[at].largest.max(Some(number));
        self.read(at, &frames);
    }

    /// CRYPTO goes to TLS and a close is noted.
    fn read(&mut self, at: usize, mut frames: &[u8]) {
        while let Some(kind) = frames.first().copied() {
            frames = &frames[1..];
            match kind {
                0x00 | 0x01 | 0x1e => {}
                0x02 | 0x03 => {
                    let (_, _) = (take_varint(&mut frames), take_varint(&mut frames));
                    let ranges = take_varint(&mut frames);
                    for _ in 0..=2 * ranges {
                        take_varint(&mut frames);
                    }
                    if kind == 3 {
                        (0..3).for_each(|_| _ = take_varint(&mut frames));
                    }
                }
                0x06 => {
                    let offset = take_varint(&mut frames);
                    let length = take_varint(&mut frames) as usize;
                    let (data, rest) = frames.split_at(length);
                    frames = rest;
                    // Resent bytes are known already.
                    if at < 2 && offset == self.spaces[at].heard {
                        self.spaces[at].heard += length as u64;
                        self.tls.read_hs(data).expect("the server's handshake");
                    }
                }
                0x1c | 0x1d => {
                    self.closed.get_or_insert(take_varint(&mut frames));
                    return;
                }
                // What else a server says is of no interest, and ends what can be read of a packet.
                _ => return,
            }
        }
    }
}

pub(super) fn varint(value: u64) -> Vec<u8> {
    match value {
        0..=63 => vec![value as u8],
        64..=16_383 => (0x4000 | value as u16).to_be_bytes().to_vec(),
        16_384..=0x3fff_ffff => (0x8000_0000 | value as u32).to_be_bytes().to_vec(),
        _ => (0xc000_0000_0000_0000 | value).to_be_bytes().to_vec(),
    }
}

/// Reads a varint from the front.
pub(super) fn take_varint(bytes: &mut &[u8]) -> u64 {
    let length = 1 << (bytes[0] >> 6);
    let mut value = u64::from(bytes[0] & 0x3f);
    for byte in &bytes[1..length] {
        value = value << 8 | u64::from(*byte);
    }
    *bytes = &bytes[length..];
    value
}
