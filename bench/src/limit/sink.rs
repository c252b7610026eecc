//! The receiving end: takes every datagram, counts it, and acknowledges as QUIC does, the second packet at the latest or
//! after 25 ms (RFC 9000 §13.2). The first receiver opens everything it gets; the others only uncover the packet number,
//! so that one core answers for many.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustls::Side;
use serde::{Deserialize, Serialize};
use weir_xdp::udp::UdpPort;
use weir_xdp::{Outcome, Port, Transmit};

use super::Level;
use super::packet::{self, HEADER_BYTES, Lane, TAG_BYTES};

/// As the engine's receivers have it.
const ACK_DELAY_MAX: Duration = Duration::from_millis(25);

/// One socket stands for all receivers.
const SOCKET_BUFFER_BYTES: usize = 64 << 20;

/// What a sink saw.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Sink {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// ACKs it sent.
    pub acks: u64,
    /// Packets it opened and found whole.
    pub opened: u64,
}

struct Peer {
    lane: Lane,
    /// Not acknowledged yet: the first, the last, and when the first of them came.
    pending: Option<(u64, u64, Instant)>,
    expected: u64,
    next_number: u64,
}

/// Serves `peers` receivers until nothing has come for `silence`, counted from the first datagram; gives up when none
/// comes for `patience`.
pub fn sink(
    listen: SocketAddr,
    level: Level,
    peers: u32,
    silence: Duration,
    patience: Duration,
) -> Result<Sink> {
    let mut port = UdpPort::bind(listen)?;
    port.resize_buffers(SOCKET_BUFFER_BYTES)?;
    let mut lanes = (0..u64::from(peers))
        .map(|peer| {
            let lane = Lane::new(peer, Side::Client)?;
            Ok(Peer { lane, pending: None, expected: 0, next_number: 0 })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut seen = Sink::default();
    let mut owing: Vec<usize> = Vec::new();
    let mut last = Instant::now();
    let mut from = None;
    let mut packet = Vec::with_capacity(64);
    loop {
        let now = Instant::now();
        let mut failed = None;
        let taken = port.recv(&mut |mut datagram| {
            seen.datagrams += 1;
            seen.bytes += datagram.data.len() as u64;
            from = Some(datagram.from);
            if level < Level::Acknowledge {
                return;
            }
            let Some(at) = packet::peer(&datagram.data).and_then(|peer| usize::try_from(peer).ok())
            else {
                return;
            };
            let Some(peer) = lanes.get_mut(at) else { return };
            match take(peer, at == 0, &mut datagram.data, now) {
                Ok(opened) => seen.opened += u64::from(opened),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
            if !owing.contains(&at) {
                owing.push(at);
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if taken > 0 {
            last = now;
        }
        let Some(to) = from else {
            ensure!(now - last < patience, "nobody sent anything");
            port.wait_readable(ACK_DELAY_MAX)?;
            continue;
        };
        let mut still = Vec::new();
        for at in owing.drain(..) {
            let peer = &mut lanes[at];
            let Some((first, largest, since)) = peer.pending else { continue };
            if largest == first && now - since < ACK_DELAY_MAX {
                still.push(at);
                continue;
            }
            peer.pending = None;
            packet.clear();
            packet::header(at as u64, peer.next_number, &mut packet);
            packet::ack(first, largest, &mut packet);
            packet.resize(packet.len().max(HEADER_BYTES + 4) + TAG_BYTES, 0);
            peer.lane.seal(peer.next_number, &mut packet)?;
            peer.next_number += 1;
            let contents = &packet[..];
            let transmit =
                Transmit { destination: to, src_ip: None, ecn: None, contents, segment_size: None };
            // A full socket loses an ACK as a network would; the sender counts what is missing.
            if port.send(&transmit)? == Outcome::Sent {
                seen.acks += 1;
            }
        }
        owing = still;
        port.flush()?;
        if taken == 0 {
            if now - last > silence {
                return Ok(seen);
            }
            port.wait_readable(ACK_DELAY_MAX)?;
        }
    }
}

/// Notes one packet; true if it was opened and found whole.
fn take(peer: &mut Peer, open: bool, packet: &mut [u8], now: Instant) -> Result<bool> {
    let number = peer.lane.unmask(packet, peer.expected)?;
    if open {
        peer.lane.open(number, packet)?;
    }
    peer.expected = peer.expected.max(number + 1);
    peer.pending = Some(match peer.pending {
        // One range is enough here: what is lost on the way shows as a packet that nobody acknowledged.
        Some((first, largest, since)) if number == largest + 1 => (first, number, since),
        _ => (number, number, now),
    });
    Ok(open)
}
