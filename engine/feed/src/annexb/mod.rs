//! H.264 and HEVC byte streams (ITU-T H.264 and H.265 annex B) made into what samples carry: length-prefixed
//! access units beside a decoder configuration record. Owns the parameter sets of one track and the question
//! where decoding can start; copies every coded slice unchanged and knows neither time nor container.

mod sets;

use bytes::{BufMut, Bytes, BytesMut};
use sets::Sets;
use weir_packager::Codec;

/// Which of the two byte streams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// ITU-T H.264.
    H264,
    /// ITU-T H.265.
    Hevc,
}

/// What an [`Assembler`] did not pass on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Counters {
    /// Parameter sets that do not parse, are too long or are one too many.
    pub bad_parameter_sets: u64,
    /// Pictures that came before the parameter sets they need.
    pub without_configuration: u64,
    /// Access units with no coded picture, such as parameter sets alone.
    pub without_picture: u64,
}

/// Access units of one video track in, samples out.
#[derive(Debug)]
pub struct Assembler {
    format: Format,
    sets: Sets,
    record: Option<Bytes>,
    /// The sets changed since `record` was made.
    stale: bool,
    counters: Counters,
}

impl Assembler {
    /// Knows nothing of the track yet.
    pub fn new(format: Format) -> Self {
        let counters = Counters::default();
        Self { format, sets: Sets::default(), record: None, stale: false, counters }
    }

    /// Reads one whole access unit. The configuration is given when it is new, and always before
    /// or with the first picture that needs it; the picture is length-prefixed (four bytes) and
    /// marked where decoding can start. Access unit delimiters are dropped, nothing else is.
    pub fn handle_access_unit(&mut self, bytes: &[u8]) -> (Option<Codec>, Option<(Bytes, bool)>) {
        let mut found = Sets::default();
        let mut picture = None;
        let mut data = BytesMut::with_capacity(bytes.len() + 64);
        for unit in Units::new(bytes) {
            match Kind::of(self.format, unit) {
                Kind::Delimiter => continue,
                Kind::Set(set) => {
                    if !found.insert(self.format, set, unit) {
                        self.counters.bad_parameter_sets += 1;
                    }
                }
                Kind::Slice { keyframe } => picture = Some(picture.unwrap_or(true) && keyframe),
                Kind::Other => {}
            }
            // A unit is a part of `bytes`, so only more than 4 GiB could not be counted.
            data.put_u32(u32::try_from(unit.len()).unwrap_or(u32::MAX));
            data.put_slice(unit);
        }
        self.stale |= self.sets.take_in(found);
        let codec = self.reconfigure(picture == Some(true));
        let picture = match picture {
            None => {
                self.counters.without_picture += 1;
                None
            }
            Some(_) if self.record.is_none() => {
                self.counters.without_configuration += 1;
                None
            }
            Some(keyframe) => Some((data.freeze(), keyframe)),
        };
        (codec, picture)
    }

    /// What was not passed on so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// A new record when there is one to tell: the first as soon as it is complete, later ones
    /// with the keyframe that uses them.
    fn reconfigure(&mut self, keyframe: bool) -> Option<Codec> {
        if !self.stale || (self.record.is_some() && !keyframe) {
            return None;
        }
        let record = self.sets.record(self.format)?;
        self.stale = false;
        if self.record.as_ref() == Some(&record) {
            return None;
        }
        self.record = Some(record.clone());
        Some(match self.format {
            Format::H264 => Codec::H264 { record },
            Format::Hevc => Codec::Hevc { record },
        })
    }
}

/// Whether a NAL unit is the first slice of a picture: `first_mb_in_slice` is 0 (H.264 §7.4.3), or
/// `first_slice_segment_in_pic_flag` is set (H.265 §7.4.7.1). Both are one set bit behind the header.
pub fn is_first_slice(format: Format, unit: &[u8]) -> bool {
    let header_bytes = match format {
        Format::H264 => 1,
        Format::Hevc => 2,
    };
    matches!(Kind::of(format, unit), Kind::Slice { .. })
        && unit.get(header_bytes).is_some_and(|byte| byte & 0x80 != 0)
}

/// What a NAL unit is to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Delimiter,
    Set(Set),
    Slice { keyframe: bool },
    Other,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Set {
    Video,
    Sequence,
    Picture,
}

impl Kind {
    fn of(format: Format, unit: &[u8]) -> Self {
        let Some(header) = unit.first() else { return Self::Other };
        match format {
            // H.264 table 7-1.
            Format::H264 => match header & 0x1f {
                5 => Self::Slice { keyframe: true },
                1..=4 => Self::Slice { keyframe: false },
                7 => Self::Set(Set::Sequence),
                8 => Self::Set(Set::Picture),
                9 => Self::Delimiter,
                _ => Self::Other,
            },
            // H.265 table 7-1; types 16 to 23 are random access points (§3, IRAP picture).
            Format::Hevc => match header >> 1 & 0x3f {
                16..=23 => Self::Slice { keyframe: true },
                0..=31 => Self::Slice { keyframe: false },
                32 => Self::Set(Set::Video),
                33 => Self::Set(Set::Sequence),
                34 => Self::Set(Set::Picture),
                35 => Self::Delimiter,
                _ => Self::Other,
            },
        }
    }
}

/// Walks the NAL units of a byte stream (H.264 §B.1): what lies between start codes, without the
/// zero bytes that may pad it. Bytes before the first start code are not a unit.
#[derive(Clone, Debug)]
pub struct Units<'a> {
    rest: &'a [u8],
}

impl<'a> Units<'a> {
    /// Over all of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        let rest = match start_code(bytes) {
            Some(at) => bytes.get(at + 3..).unwrap_or_default(),
            None => &[],
        };
        Self { rest }
    }
}

impl<'a> Iterator for Units<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let end = start_code(self.rest);
            let (unit, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
            self.rest = rest.get(3..).unwrap_or_default();
            // A unit never ends in a zero byte (H.264 §7.4.1), so these belong to the padding.
            let length = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if let Some(unit @ [_, ..]) = unit.get(..length) {
                return Some(unit);
            }
        }
        None
    }
}

/// Where the next `00 00 01` begins.
fn start_code(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        // The one is the rarest of the three bytes.
        let one = from + bytes.get(from..)?.iter().position(|byte| *byte == 1)?;
        if one >= 2 && bytes.get(one - 2..one) == Some(&[0, 0]) {
            return Some(one - 2);
        }
        from = one + 1;
    }
}

#[cfg(test)]
mod tests;
