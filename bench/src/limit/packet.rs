//! QUIC packets of the limit program: short headers, STREAM frames one way and ACK frames the other, sealed with the keys
//! any connection has (RFC 9001 §5). Owns sealing and opening of one packet; knows neither sockets nor schedules.

use anyhow::{Context, Result, anyhow, ensure};
use rustls::quic::{DirectionalKeys, Keys, Version};
use rustls::{CipherSuite, Side};

/// Bytes of a connection id, as the engine's.
const CID_BYTES: usize = 8;

/// First byte, connection id, and a packet number of two bytes (RFC 9000 §17.3.1).
pub(super) const HEADER_BYTES: usize = 1 + CID_BYTES + NUMBER_BYTES;

const NUMBER_BYTES: usize = 2;

/// Fixed bit, and the length of the packet number less one.
const FIRST_BYTE: u8 = 0x40 | (NUMBER_BYTES as u8 - 1);

/// Of AES-128-GCM, and of the sample that header protection takes (RFC 9001 §5.4.2).
pub(super) const TAG_BYTES: usize = 16;

/// A UDP payload on an Ethernet path, as path-MTU discovery of the engine finds it.
pub(super) const DATAGRAM_BYTES: usize = 1_452;

/// STREAM with an offset and without a length: to the end of the packet (RFC 9000 §19.8).
const STREAM: u8 = 0x0c;

/// ACK without ECN counts (RFC 9000 §19.3).
const ACK: u8 = 0x02;

/// Keys of one connection, as its sender and its receiver have them.
pub(super) struct Lane {
    seal: DirectionalKeys,
    open: DirectionalKeys,
}

impl Lane {
    /// Keys that both ends can work out from a number: those of the Initial packets of that connection id (RFC 9001
    /// §5.2), which are AES-128-GCM like all others here.
    pub(super) fn new(peer: u64, side: Side) -> Result<Self> {
        let suite = rustls::crypto::aws_lc_rs::default_provider()
            .cipher_suites
            .into_iter()
            .find(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256)
            .and_then(|suite| suite.tls13())
            .ok_or_else(|| anyhow!("the provider has no AES-128-GCM"))?;
        let quic = suite.quic.ok_or_else(|| anyhow!("the suite is not for QUIC"))?;
        let keys = Keys::initial(Version::V1, suite, quic, &peer.to_be_bytes(), side);
        Ok(Self { seal: keys.local, open: keys.remote })
    }

    /// Encrypts `packet`, whose last 16 bytes are room for the tag, and hides its number.
    pub(super) fn seal(&self, number: u64, packet: &mut [u8]) -> Result<()> {
        let (header, rest) =
            packet.split_at_mut_checked(HEADER_BYTES).context("a packet without a header")?;
        let body_bytes = rest.len().checked_sub(TAG_BYTES).context("no room for a tag")?;
        let (body, tag) =
            rest.split_at_mut_checked(body_bytes).context("a packet without a body")?;
        let sealed = self.seal.packet.encrypt_in_place(number, header, body)?;
        tag.copy_from_slice(sealed.as_ref());
        self.mask(packet, true)
    }

    /// The packet number, once the header is bare; `expected` is the one after the largest so far.
    pub(super) fn unmask(&self, packet: &mut [u8], expected: u64) -> Result<u64> {
        self.mask(packet, false)?;
        let number = packet.get(HEADER_BYTES - NUMBER_BYTES..HEADER_BYTES).context("a runt")?;
        let low = u64::from(u16::from_be_bytes(number.try_into()?));
        Ok(widen(low, expected))
    }

    /// The frames of a packet whose header is bare.
    pub(super) fn open<'a>(&self, number: u64, packet: &'a mut [u8]) -> Result<&'a [u8]> {
        let (header, body) = packet.split_at_mut_checked(HEADER_BYTES).context("a runt")?;
        Ok(self.open.packet.decrypt_in_place(number, header, body)?)
    }

    /// RFC 9001 §5.4.2: the sample begins four bytes after the start of the packet number, whatever its length.
    fn mask(&self, packet: &mut [u8], on: bool) -> Result<()> {
        let number_at = HEADER_BYTES - NUMBER_BYTES;
        let (head, rest) = packet.split_at_mut_checked(number_at + 4).context("a runt")?;
        let sample = rest.get(..TAG_BYTES).context("a runt")?;
        let (first, others) = head.split_first_mut().context("a runt")?;
        let number = others.get_mut(CID_BYTES..CID_BYTES + NUMBER_BYTES).context("a runt")?;
        if on {
            self.seal.header.encrypt_in_place(sample, first, number)?;
        } else {
            self.open.header.decrypt_in_place(sample, first, number)?;
        }
        Ok(())
    }
}

/// Writes the header of a packet.
pub(super) fn header(peer: u64, number: u64, out: &mut Vec<u8>) {
    out.push(FIRST_BYTE);
    out.extend_from_slice(&peer.to_be_bytes());
    out.extend_from_slice(&(number as u16).to_be_bytes());
}

/// Whose packet it is.
pub(super) fn peer(packet: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(packet.get(1..=CID_BYTES)?.try_into().ok()?))
}

/// Writes the head of a STREAM frame; the data goes to the end of the packet.
pub(super) fn stream(id: u64, offset: u64, out: &mut Vec<u8>) {
    out.push(STREAM);
    varint(id, out);
    varint(offset, out);
}

/// Writes an ACK of everything from `first` to `largest`.
pub(super) fn ack(first: u64, largest: u64, out: &mut Vec<u8>) {
    out.push(ACK);
    varint(largest, out);
    varint(0, out);
    varint(0, out);
    varint(largest.saturating_sub(first), out);
}

/// The range an ACK of this program acknowledges.
pub(super) fn read_ack(mut frames: &[u8]) -> Result<(u64, u64)> {
    let (kind, rest) = frames.split_first().context("an empty packet")?;
    ensure!(*kind == ACK, "a packet that is no ACK");
    frames = rest;
    let largest = read_varint(&mut frames)?;
    let _delay = read_varint(&mut frames)?;
    let _ranges = read_varint(&mut frames)?;
    let length = read_varint(&mut frames)?;
    Ok((largest.checked_sub(length).context("an ACK below zero")?, largest))
}

/// RFC 9000 §A.3: the number nearest to the expected one that ends in these bits.
fn widen(low: u64, expected: u64) -> u64 {
    let window = 1 << (8 * NUMBER_BYTES);
    let candidate = (expected & !(window - 1)) | low;
    if candidate + window / 2 <= expected {
        candidate + window
    } else if candidate > expected + window / 2 && candidate >= window {
        candidate - window
    } else {
        candidate
    }
}

/// RFC 9000 §16, in the shortest of the four forms.
fn varint(value: u64, out: &mut Vec<u8>) {
    match value {
        0..0x40 => out.push(value as u8),
        0x40..0x4000 => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..0x4000_0000 => {
            out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes());
        }
        _ => out.extend_from_slice(&(value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

fn read_varint(bytes: &mut &[u8]) -> Result<u64> {
    let first = *bytes.first().context("a number is missing")?;
    let length = 1 << (first >> 6);
    let (number, rest) = bytes.split_at_checked(length).context("half a number")?;
    *bytes = rest;
    let whole = number.iter().fold(0, |whole, byte| whole << 8 | u64::from(*byte));
    Ok(whole & !(0b11 << (8 * length - 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(peer: u64, number: u64, body: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        header(peer, number, &mut packet);
        packet.extend_from_slice(body);
        packet.resize(packet.len() + TAG_BYTES, 0);
        packet
    }

    #[test]
    fn what_one_end_seals_the_other_opens() {
        let (server, client) =
            (Lane::new(7, Side::Server).expect("keys"), Lane::new(7, Side::Client).expect("keys"));
        for number in [0, 1, 0xffff, 0x1_0000, 0x12_3456] {
            let mut sealed = packet(7, number, b"forty-two objects of a group");
            let plain = sealed.clone();
            server.seal(number, &mut sealed).expect("seals");
            assert_ne!(sealed, plain);
            assert_eq!(sealed.len(), plain.len());
            assert_eq!(peer(&sealed), Some(7), "the connection id stays readable");
            assert_eq!(client.unmask(&mut sealed, number).expect("a number"), number);
            assert_eq!(sealed[..HEADER_BYTES], plain[..HEADER_BYTES]);
            let opened = client.open(number, &mut sealed).expect("opens");
            assert_eq!(opened, b"forty-two objects of a group");
        }
    }

    #[test]
    fn a_changed_bit_or_another_connections_key_does_not_open() {
        let server = Lane::new(7, Side::Server).expect("keys");
        let mut sealed = packet(7, 3, b"forty-two objects of a group");
        server.seal(3, &mut sealed).expect("seals");
        for at in 0..sealed.len() {
            let client = Lane::new(7, Side::Client).expect("keys");
            let mut wrong = sealed.clone();
            wrong[at] ^= 1;
            let number = client.unmask(&mut wrong, 3).expect("a number");
            assert!(client.open(number, &mut wrong).is_err(), "byte {at}");
        }
        let stranger = Lane::new(8, Side::Client).expect("keys");
        let number = stranger.unmask(&mut sealed, 3).expect("a number");
        assert!(stranger.open(number, &mut sealed).is_err());
    }

    #[test]
    fn a_runt_is_refused_and_never_indexed() {
        let client = Lane::new(1, Side::Client).expect("keys");
        for length in 0..HEADER_BYTES + TAG_BYTES + 2 {
            let mut runt = vec![0x41; length];
            assert!(client.unmask(&mut runt, 0).is_err() || client.open(0, &mut runt).is_err());
            assert!(
                client.seal(0, &mut vec![0; length]).is_err() || length >= HEADER_BYTES + TAG_BYTES
            );
        }
    }

    #[test]
    fn an_ack_says_which_packets_came() {
        for (first, largest) in [(0, 0), (5, 70), (16_384, 1 << 40)] {
            let mut frames = Vec::new();
            ack(first, largest, &mut frames);
            assert_eq!(read_ack(&frames).expect("an ACK"), (first, largest));
            for end in 0..frames.len() {
                assert!(read_ack(&frames[..end]).is_err(), "cut at {end}");
            }
        }
    }

    #[test]
    fn packet_numbers_widen_around_the_expected_one() {
        assert_eq!(widen(0xffff, 0x1_0000), 0xffff);
        assert_eq!(widen(2, 0xffff), 0x1_0002);
        assert_eq!(widen(3, 3), 3);
        assert_eq!(widen(0xfff0, 5), 0xfff0, "nothing lies below zero");
    }
}
