//! Tables of a transport stream: sections put together from packets, the programme association and one programme map
//! (ISO/IEC 13818-1 §2.4.4). Owns the check sum and what a stream type and its descriptors mean.

/// Bytes of a section of the two tables we read: three, and a length of at most 1021 (§2.4.4.3, §2.4.4.8).
const SECTION_BYTES_MAX: usize = 1024;

/// Thirteen bits that name what a packet belongs to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct PacketId(pub(super) u16);

impl PacketId {
    /// Where the programme association is.
    pub(super) const PAT: Self = Self(0);

    fn read(bytes: [u8; 2]) -> Self {
        Self(u16::from_be_bytes(bytes) & 0x1fff)
    }
}

/// Puts sections together.
#[derive(Debug, Default)]
pub(super) struct Sections {
    held: Vec<u8>,
    /// The beginning of the section under way was seen.
    started: bool,
}

impl Sections {
    /// Reads the payload of one packet; `emit` gets whole sections, checked or not.
    pub(super) fn handle_payload(
        &mut self,
        starts: bool,
        payload: &[u8],
        emit: &mut impl FnMut(&[u8]),
    ) {
        if !starts {
            if self.started {
                self.extend(payload, emit);
            }
            return;
        }
        let Some((pointer, payload)) = payload.split_first() else { return };
        let Some((end, begin)) = payload.split_at_checked(usize::from(*pointer)) else {
            self.started = false;
            return;
        };
        if self.started {
            self.extend(end, emit);
        }
        self.held.clear();
        self.started = true;
        self.extend(begin, emit);
    }

    fn extend(&mut self, bytes: &[u8], emit: &mut impl FnMut(&[u8])) {
        self.held.extend_from_slice(bytes);
        loop {
            // Stuffing follows the last section.
            if self.held.first().is_none_or(|table| *table == 0xff) {
                self.held.clear();
                self.started = false;
                return;
            }
            let Some(head) = self.held.first_chunk::<3>() else { return };
            let length = 3 + (usize::from(head[1] & 0x0f) << 8 | usize::from(head[2]));
            if length > SECTION_BYTES_MAX {
                self.held.clear();
                self.started = false;
                return;
            }
            let Some(section) = self.held.get(..length) else { return };
            emit(section);
            self.held.drain(..length);
        }
    }
}

/// The first programme of a programme association.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Pat {
    pub(super) first: Option<(u16, PacketId)>,
}

impl Pat {
    pub(super) fn parse(section: &[u8]) -> Option<Self> {
        let body = checked(section, 0)?.get(8..)?;
        let first = body.chunks_exact(4).find_map(|entry| {
            let [a, b, c, d] = *entry.first_chunk::<4>()?;
            // Number 0 is the network's own table.
            let number = u16::from_be_bytes([a, b]);
            (number != 0).then(|| (number, PacketId::read([c, d])))
        });
        Some(Self { first })
    }
}

/// What an elementary stream holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    H264,
    Hevc,
    /// AAC in ADTS frames.
    Adts,
    /// AAC in LATM with its own synchronisation (LOAS).
    Latm,
    /// With the channel configuration of its descriptor.
    Opus(u8),
    Ac3,
    Eac3,
    /// Not media: sections, cues, metadata.
    Silent,
    /// Media that is not carried; the stream type.
    Other(u8),
}

/// A programme map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Pmt {
    pub(super) number: u16,
    /// Which packets carry the clock.
    pub(super) clock: PacketId,
    pub(super) streams: Vec<(PacketId, Kind)>,
}

impl Pmt {
    pub(super) fn parse(section: &[u8]) -> Option<Self> {
        let table = checked(section, 2)?;
        let number = u16::from_be_bytes(*table.get(3..)?.first_chunk()?);
        let clock = PacketId::read(*table.get(8..)?.first_chunk()?);
        let skip = length12(table.get(10..)?)?;
        let mut rest = table.get(12 + skip..)?;
        let mut streams = Vec::new();
        while let Some((head, after)) = rest.split_first_chunk::<5>() {
            let [stream_type, id_high, id_low, ..] = *head;
            let (descriptors, after) = after.split_at_checked(length12(head.get(3..)?)?)?;
            let kind = kind(stream_type, descriptors);
            streams.push((PacketId::read([id_high, id_low]), kind));
            rest = after;
        }
        Some(Self { number, clock, streams })
    }
}

fn length12(bytes: &[u8]) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(*bytes.first_chunk()?) & 0x0fff))
}

/// Table 2-34 and the registrations that follow it in practice.
fn kind(stream_type: u8, descriptors: &[u8]) -> Kind {
    match stream_type {
        0x1b => Kind::H264,
        0x24 => Kind::Hevc,
        0x0f => Kind::Adts,
        0x11 => Kind::Latm,
        0x81 => Kind::Ac3,
        0x87 => Kind::Eac3,
        0x06 => private(descriptors),
        0x05 | 0x0b..=0x0d | 0x15 | 0x86 => Kind::Silent,
        other => Kind::Other(other),
    }
}

/// Private data says by descriptors what it is.
fn private(mut rest: &[u8]) -> Kind {
    let (mut registration, mut opus_channels, mut dvb) = (None, None, None);
    while let Some(([tag, length], after)) = rest.split_first_chunk::<2>() {
        let Some((body, after)) = after.split_at_checked(usize::from(*length)) else { break };
        match tag {
            0x05 => registration = body.first_chunk::<4>(),
            0x6a => dvb = Some(Kind::Ac3),
            0x7a => dvb = Some(Kind::Eac3),
            // Extension descriptor; 0x80 is the audio descriptor of Opus in TS.
            0x7f if body.first() == Some(&0x80) => opus_channels = body.get(1).copied(),
            _ => {}
        }
        rest = after;
    }
    match registration {
        Some(b"Opus") => Kind::Opus(opus_channels.unwrap_or(2)),
        Some(b"AC-3") => Kind::Ac3,
        Some(b"EAC3") => Kind::Eac3,
        Some(b"HEVC") => Kind::Hevc,
        Some(b"AV01" | b"VP09") => Kind::Other(0x06),
        _ => dvb.unwrap_or(Kind::Silent),
    }
}

/// The section without its check sum, if it is the table asked for, whole and current.
fn checked(section: &[u8], table: u8) -> Option<&[u8]> {
    let is_current = section.get(5)? & 1 == 1;
    let right = section.first() == Some(&table) && is_current && crc32(section) == 0;
    right.then(|| section.get(..section.len() - 4)).flatten()
}

/// The check sum of annex A; over a section with its own check sum it is 0.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |mut crc, byte| {
        crc ^= u32::from(*byte) << 24;
        for _ in 0..8 {
            crc = if crc >> 31 == 1 { crc << 1 ^ 0x04c1_1db7 } else { crc << 1 };
        }
        crc
    })
}
