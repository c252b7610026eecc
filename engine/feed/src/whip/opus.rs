//! Opus as far as a feed must understand it: how long a packet lasts and whether it is stereo (RFC 6716
//! §3.1), and silence to put where none came. It never decodes.

use bytes::Bytes;

/// Samples per second that every Opus packet is counted in, whatever it was sampled at (RFC 7587 §4.1).
pub(super) const RATE: u32 = 48_000;

/// Longest packet: 120 ms (RFC 6716 §3.2.5, R5).
const SAMPLES_MAX: u32 = RATE / 1000 * 120;

/// The first byte of a packet and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Toc {
    /// Length of the packet in samples at 48 kHz.
    pub(super) samples: u32,
    pub(super) stereo: bool,
}

impl Toc {
    /// Reads the head of a packet; none when it cannot be one.
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let (&toc, rest) = packet.split_first()?;
        let config = toc >> 3;
        let frame = match config {
            // SILK only: 10, 20, 40, 60 ms.
            0..=11 => [480, 960, 1920, 2880].get(usize::from(config & 3)),
            // Hybrid: 10, 20 ms.
            12..=15 => [480, 960].get(usize::from(config & 1)),
            // CELT only: 2.5, 5, 10, 20 ms.
            _ => [120, 240, 480, 960].get(usize::from(config & 3)),
        };
        let frames = match toc & 3 {
            0 => 1,
            1 | 2 => 2,
            _ => u32::from(rest.first()? & 0x3f),
        };
        let samples = frame? * frames;
        (1..=SAMPLES_MAX).contains(&samples).then_some(Self { samples, stereo: toc & 4 != 0 })
    }
}

/// A silent packet for as much of `samples` as one packet holds, and its length. Less than 2.5 ms
/// cannot be filled.
pub(super) fn silence(samples: u32) -> Option<(Bytes, u32)> {
    // CELT, mono, one frame; the two bytes behind are what encoders write for digital silence.
    const PACKETS: [(u32, [u8; 3]); 4] = [
        (960, [0xf8, 0xff, 0xfe]),
        (480, [0xf0, 0xff, 0xfe]),
        (240, [0xe8, 0xff, 0xfe]),
        (120, [0xe0, 0xff, 0xfe]),
    ];
    PACKETS
        .iter()
        .find(|(length, _)| *length <= samples)
        .map(|(length, packet)| (Bytes::copy_from_slice(packet), *length))
}

/// The body of a `dOps` box (Opus in ISOBMFF §4.3.2): version 0, nothing to skip since we join a
/// stream under way, 48 kHz, no gain, mapping family 0.
pub(super) fn head(channels: u8) -> Bytes {
    let mut head = vec![0, channels, 0, 0];
    head.extend_from_slice(&RATE.to_be_bytes());
    head.extend_from_slice(&[0, 0, 0]);
    Bytes::from(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_says_how_long_it_is() {
        let samples = |packet: &[u8]| Toc::read(packet).map(|toc| toc.samples);
        assert_eq!(samples(&[0x78, 1]), Some(960), "hybrid 20 ms, as browsers send");
        assert_eq!(samples(&[0xfc, 1]), Some(960), "CELT 20 ms stereo, as ffmpeg sends");
        assert_eq!(samples(&[0x18, 1]), Some(2880), "SILK 60 ms");
        assert_eq!(samples(&[0x79, 1]), Some(1920), "two frames");
        assert_eq!(samples(&[0xfb, 0x06]), Some(5760), "six frames of 20 ms");
        assert_eq!(samples(&[0xfb, 0x07]), None, "longer than a packet may be");
        assert_eq!(samples(&[0xfb, 0x00]), None, "no frame at all");
        assert_eq!(samples(&[0xfb]), None);
        assert_eq!(samples(&[]), None);
        assert!(Toc::read(&[0xfc]).is_some_and(|toc| toc.stereo));
        assert!(!Toc::read(&[0xf8]).is_some_and(|toc| toc.stereo));
    }

    #[test]
    fn silence_lasts_as_long_as_it_says() {
        for wanted in [120, 239, 240, 480, 700, 960, 48_000] {
            let (packet, length) = silence(wanted).expect("long enough");
            assert!(length <= wanted && wanted < 2 * length.max(480) + 48_000);
            assert_eq!(Toc::read(&packet).map(|toc| toc.samples), Some(length));
        }
        assert_eq!(silence(119), None);
    }
}
