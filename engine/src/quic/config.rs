//! QUIC and TLS settings of a shard: transport limits with their sums, ALPN lists, connection ids
//! that carry the shard. Everything here is built once at start; nothing is looked up per packet.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, ServerConfig,
    TransportConfig, VarInt,
};
use weir_moqt::Draft;
use weir_xdp::steer::ID_BYTES;

use super::congestion::{self, Law};

/// ALPN token of HTTP/3 (RFC 9114 §3.1): WebTransport sessions arrive under it.
pub(super) const ALPN_H3: &[u8] = b"h3";

/// Most bytes of datagrams that wait in one connection, each way. Past it they are dropped, and counted
/// on the way out.
const DATAGRAM_BUFFER_BYTES: usize = 48 * 1024;

/// The largest UDP payload we take, as our transport parameters say (RFC 9000 §18.2): an Ethernet frame's. What is larger
/// was meant for nobody, and a stateless reset as long as that is not worth its bytes.
pub(super) const DATAGRAM_BYTES_MAX: u16 = 1_500 - 28;

/// Streams of each kind between two relays of ours: as many tracks as a shard holds, twice.
pub(super) const NODE_STREAMS_MAX: u32 = 16_384;

/// Bytes buffered towards a relay below: 20 broadcasts of 8 Mb/s over 400 ms of round trip.
pub(super) const NODE_SEND_WINDOW_BYTES: u64 = 8 << 20;

/// Bytes a relay above may have in flight towards us: the same, and room for larger windows.
const NODE_RECEIVE_WINDOW_BYTES: u32 = 64 << 20;

/// The largest object at once, so that one stream never waits for its own window.
const NODE_STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// Silence after which a relay above counts as gone: three lost signs of life, one a second. A
/// viewer's gap after a kill is this and the next group.
const NODE_IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// The round trip assumed of a path nobody has measured. RFC 9002 section 6.2.2 recommends 333 ms, with which a lost first
/// flight costs a second; and since its late acknowledgement then passes for a round trip of a second, a second loss in
/// the same handshake costs seven, which no viewer waits for. Most paths are shorter than 100 ms; one that is longer
/// than three times that sends its first flight twice.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Limits of one QUIC endpoint. Each has a counter in [`super::Counters`] when it refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections one shard holds. 20,000 x 64 KB active = 1.3 GB a shard.
    pub connections_max: usize,
    /// Connections from one IPv4 address or one IPv6 /64.
    pub connections_per_prefix_max: u32,
    /// New connections from one such prefix within a second: a key exchange costs some 0.5 ms, so
    /// one address takes at most half a core. Beyond it a stranger first proves its address by a
    /// Retry, then it is refused.
    pub connections_per_prefix_per_second_max: u32,
    /// Connections that have not finished their handshake. Past it, strangers must first prove
    /// their address by a Retry (RFC 9000 §8.1.2).
    pub half_open_max: usize,
    /// From the first Initial to an open MoQT session.
    pub handshake_timeout: Duration,
    /// Times a peer may turn up at another address within a minute: a phone between two networks, a NAT that forgets.
    /// Each costs whoever is at that address one datagram of 1,200 bytes, whether it wants it or not (H17).
    pub moves_per_minute_max: u32,
    /// Silence after which a connection is gone (RFC 9000 §10.1).
    pub idle_timeout: Duration,
    /// Most bytes buffered in QUIC towards one subscriber, when its path takes them: 1 MiB carries 20 Mb/s over 400 ms of round
    /// trip. What does not fit waits in the group cache, where the relay can still drop it whole.
    pub send_window_bytes: u64,
    /// Bytes in flight towards a peer before anything is known of its path: ten packets, as RFC 9002 section 7.2 says.
    pub initial_window_bytes: u64,
    /// How that window grows and shrinks afterwards.
    pub law: Law,
    /// Bytes one peer may have in flight towards us on one stream, and on all of them.
    pub stream_receive_window_bytes: u32,
    /// See `stream_receive_window_bytes`.
    pub receive_window_bytes: u32,
    /// Request streams a peer may hold open once it is known to publish or to relay.
    pub bidi_streams_max: u32,
    /// Data streams a peer may hold open once it is known to publish or to relay.
    pub uni_streams_max: u32,
    /// Request streams anybody may hold open. Each costs 64 bytes from the handshake on, used or
    /// not: 32 are ten tracks, joins and updates.
    pub stranger_bidi_streams_max: u32,
    /// Unidirectional streams anybody may hold open: three of HTTP/3, one for control, and grease.
    pub stranger_uni_streams_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            connections_per_prefix_max: 4_096,
            connections_per_prefix_per_second_max: 1_000,
            half_open_max: 1_000,
            handshake_timeout: Duration::from_secs(5),
            moves_per_minute_max: 8,
            idle_timeout: Duration::from_secs(30),
            send_window_bytes: 1 << 20,
            initial_window_bytes: 12_000,
            law: Law::Patient,
            stream_receive_window_bytes: 1_250_000,
            receive_window_bytes: 8 << 20,
            bidi_streams_max: 64,
            uni_streams_max: 100,
            stranger_bidi_streams_max: 32,
            stranger_uni_streams_max: 12,
        }
    }
}

/// How connection ids of this shard begin, so that the kernel's selector brings every packet of a
/// connection to the socket of the shard that owns it, from wherever it comes.
#[derive(Clone, Copy)]
pub struct Steering {
    /// This shard.
    pub shard: u16,
    /// How many there are.
    pub shards: u16,
    /// Secret of the process: without it an outsider cannot aim at a shard.
    pub key: weir_xdp::steer::Key,
}

impl Steering {
    /// The shard whose connection a packet belongs to: that of its id, if the id is one of ours. A client's
    /// first Initials have an id of its own choice and belong to whoever receives them.
    pub(crate) fn owner(self, datagram: &[u8]) -> Option<u16> {
        if datagram.first()? & 0x80 != 0 {
            return weir_xdp::steer::issuer_of(datagram, self.shards, self.key);
        }
        weir_xdp::steer::shard_of(datagram, self.shards, self.key)
    }
}

/// Where an endpoint's connection ids, reset tokens and quinn's own dice come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chance {
    /// The system's generator: the only choice where strangers are.
    #[default]
    System,
    /// A seed, so that a simulated run can be repeated packet by packet.
    Seeded(u64),
}

struct ShardCids {
    steering: Steering,
    /// `None` asks the system.
    dice: Option<fastrand::Rng>,
}

impl ConnectionIdGenerator for ShardCids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; ID_BYTES];
        match &mut self.dice {
            Some(dice) => dice.fill(&mut bytes),
            None => random(&mut bytes),
        }
        let Steering { shard, shards, key } = self.steering;
        ConnectionId::new(&weir_xdp::steer::id(shard, shards, key, bytes))
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Fills `bytes` from the system's generator.
fn random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("the system's random generator answers");
}

pub(super) fn endpoint(steering: Steering, chance: Chance) -> Arc<EndpointConfig> {
    let mut config = EndpointConfig::default();
    let mut dice = match chance {
        Chance::System => None,
        Chance::Seeded(seed) => Some(fastrand::Rng::with_seed(seed)),
    };
    if let Some(dice) = &mut dice {
        let (mut seed, mut reset) = ([0; 32], [0; 64]);
        dice.fill(&mut seed);
        dice.fill(&mut reset);
        config.rng_seed(Some(seed));
        config.reset_key(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &reset)));
    }
    config.cid_generator(move || Box::new(ShardCids { steering, dice: dice.clone() }));
    // Unknown short headers draw a stateless reset at most this often (H5).
    config.min_reset_interval(Duration::from_millis(20));
    config.max_udp_payload_size(DATAGRAM_BYTES_MAX).expect("at least 1200");
    Arc::new(config)
}

fn transport(limits: &Limits, bidi_streams: u32, uni_streams: u32, node: bool) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(bidi_streams))
        .max_concurrent_uni_streams(VarInt::from_u32(uni_streams))
        .stream_receive_window(VarInt::from_u32(limits.stream_receive_window_bytes))
        .receive_window(VarInt::from_u32(limits.receive_window_bytes))
        .send_window(limits.send_window_bytes)
        .initial_rtt(INITIAL_RTT)
        .congestion_controller_factory(Arc::new(congestion::Factory {
            node,
            law: limits.law,
            initial_window: limits.initial_window_bytes,
        }))
        // One group after the other, not byte by byte in turn: the older one is wanted first.
        .send_fairness(false)
        .keep_alive_interval(Some(limits.idle_timeout / 3))
        .max_idle_timeout(IdleTimeout::try_from(limits.idle_timeout).ok())
        // Objects by datagram do not wait: room for a burst of 40 packets each way, 10 ms at 40 Mb/s.
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES);
    config
}

/// The ALPN list of a server: the tokens of `drafts` in order of preference, then HTTP/3.
pub fn alpn(drafts: &[Draft]) -> Vec<&'static [u8]> {
    drafts.iter().map(|draft| draft.token().as_bytes()).chain([ALPN_H3]).collect()
}

/// Server side over `tls`, which is TLS 1.3 with [`alpn`]. Early data is never taken: a replayed
/// SUBSCRIBE must not change state (H18).
pub fn server(
    mut tls: rustls::ServerConfig,
    limits: &Limits,
) -> Result<Arc<ServerConfig>, NoInitialCipherSuite> {
    tls.max_early_data_size = 0;
    let crypto = QuicServerConfig::try_from(Arc::new(tls))?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    let (bidi, uni) = (limits.stranger_bidi_streams_max, limits.stranger_uni_streams_max);
    config.transport_config(Arc::new(transport(limits, bidi, uni, false)));
    Ok(Arc::new(config))
}

/// Client side for load tools and the simulation: raw QUIC, one draft, the given verifier.
pub fn client(
    mut tls: rustls::ClientConfig,
    draft: Draft,
    limits: &Limits,
) -> Result<quinn_proto::ClientConfig, NoInitialCipherSuite> {
    tls.alpn_protocols = vec![draft.token().as_bytes().to_vec()];
    let crypto = QuicClientConfig::try_from(Arc::new(tls))?;
    let mut config = quinn_proto::ClientConfig::new(Arc::new(crypto));
    let (bidi, uni) = (limits.bidi_streams_max, limits.uni_streams_max);
    config.transport_config(Arc::new(transport(limits, bidi, uni, false)));
    Ok(config)
}

/// Client side of an edge: raw QUIC towards a relay above, the newest draft both speak.
pub fn uplink(
    mut tls: rustls::ClientConfig,
    drafts: &[Draft],
) -> Result<Arc<quinn_proto::ClientConfig>, NoInitialCipherSuite> {
    tls.alpn_protocols = drafts.iter().map(|draft| draft.token().as_bytes().to_vec()).collect();
    let crypto = QuicClientConfig::try_from(Arc::new(tls))?;
    let limits = Limits {
        idle_timeout: NODE_IDLE_TIMEOUT,
        receive_window_bytes: NODE_RECEIVE_WINDOW_BYTES,
        stream_receive_window_bytes: NODE_STREAM_WINDOW_BYTES,
        ..Limits::default()
    };
    let mut config = quinn_proto::ClientConfig::new(Arc::new(crypto));
    let streams = NODE_STREAMS_MAX;
    config.transport_config(Arc::new(transport(&limits, streams, streams, true)));
    Ok(Arc::new(config))
}
