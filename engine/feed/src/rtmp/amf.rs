//! AMF0, the value encoding of RTMP commands and metadata. Decodes into a small tree under depth
//! and count limits, and writes replies; knows no command. AMF3 values inside AMF0 end the
//! reading quietly: no encoder that publishes sends one where we look.

use bytes::{BufMut, BytesMut};

use super::{Error, Limits};

/// One value. Object keys keep their order and may repeat; the first one counts.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Array(Vec<Value>),
    Boolean(bool),
    Null,
    Number(f64),
    Object(Vec<(String, Value)>),
    String(String),
    /// A kind we carry no meaning for: date, XML, reference, undefined, AMF3.
    Other,
}

impl Value {
    pub(super) fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    pub(super) fn as_number(&self) -> Option<f64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    /// The member called `key` of an object.
    pub(super) fn member(&self, key: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Number(number) => {
                out.put_u8(NUMBER);
                out.put_f64(*number);
            }
            Self::Boolean(value) => out.put_slice(&[BOOLEAN, u8::from(*value)]),
            Self::String(text) => {
                out.put_u8(STRING);
                put_short_string(text, out);
            }
            Self::Object(members) => {
                out.put_u8(OBJECT);
                for (key, value) in members {
                    put_short_string(key, out);
                    value.encode(out);
                }
                out.put_slice(&[0, 0, OBJECT_END]);
            }
            Self::Array(values) => {
                out.put_u8(STRICT_ARRAY);
                out.put_u32(values.len() as u32);
                for value in values {
                    value.encode(out);
                }
            }
            Self::Null => out.put_u8(NULL),
            Self::Other => out.put_u8(UNDEFINED),
        }
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

const NUMBER: u8 = 0x00;
const BOOLEAN: u8 = 0x01;
const STRING: u8 = 0x02;
const OBJECT: u8 = 0x03;
const NULL: u8 = 0x05;
const UNDEFINED: u8 = 0x06;
const REFERENCE: u8 = 0x07;
const ECMA_ARRAY: u8 = 0x08;
const OBJECT_END: u8 = 0x09;
const STRICT_ARRAY: u8 = 0x0a;
const DATE: u8 = 0x0b;
const LONG_STRING: u8 = 0x0c;
const UNSUPPORTED: u8 = 0x0d;
const XML: u8 = 0x0f;
const TYPED_OBJECT: u8 = 0x10;
const AMF3: u8 = 0x11;

/// Reads all values of a message body.
pub(super) fn decode_all(bytes: &[u8], limits: &Limits) -> Result<Vec<Value>, Error> {
    let mut reader = Reader { bytes, offset: 0, values: 0, limits, amf3: false };
    let mut values = Vec::new();
    while reader.offset < bytes.len() && !reader.amf3 {
        values.push(reader.value(0)?);
    }
    Ok(values)
}

/// Entry for fuzzing: decodes, and what decodes must encode and decode to itself.
pub(crate) fn fuzz(bytes: &[u8]) {
    let limits = Limits::default();
    let Ok(values) = decode_all(bytes, &limits) else { return };
    assert!(values.len() <= limits.amf_values_max, "the value limit holds");
    let mut out = BytesMut::new();
    for value in &values {
        value.encode(&mut out);
    }
    let again = decode_all(&out, &limits).expect("what we encode, we decode");
    // NaN is not equal to itself; the printed tree is.
    assert_eq!(format!("{values:?}"), format!("{again:?}"), "AMF0 round trip");
}

/// Strings past 65 535 bytes are cut: we write none, and decoded long strings only in fuzzing.
fn put_short_string(text: &str, out: &mut BytesMut) {
    let mut end = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = text.get(..end).unwrap_or_default();
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}

struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
    values: usize,
    limits: &'a Limits,
    amf3: bool,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        if depth > self.limits.amf_depth_max {
            return Err(Error::AmfDepth { max: self.limits.amf_depth_max });
        }
        self.values += 1;
        if self.values > self.limits.amf_values_max {
            return Err(Error::AmfValues { max: self.limits.amf_values_max });
        }
        let [marker] = self.take_array()?;
        match marker {
            NUMBER => Ok(Value::Number(f64::from_be_bytes(self.take_array()?))),
            BOOLEAN => {
                let [byte] = self.take_array()?;
                Ok(Value::Boolean(byte != 0))
            }
            STRING => self.short_string().map(Value::String),
            LONG_STRING => self.long_string().map(Value::String),
            XML => self.long_string().map(|_| Value::Other),
            OBJECT => self.members(depth),
            TYPED_OBJECT => {
                self.short_string()?;
                self.members(depth)
            }
            ECMA_ARRAY => {
                // The count is a hint, often 0 or wrong; the end marker is the truth.
                let _: [u8; 4] = self.take_array()?;
                self.members(depth)
            }
            STRICT_ARRAY => {
                let count = u32::from_be_bytes(self.take_array()?);
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(depth + 1)?);
                    if self.amf3 {
                        break;
                    }
                }
                Ok(Value::Array(values))
            }
            NULL => Ok(Value::Null),
            UNDEFINED | UNSUPPORTED => Ok(Value::Other),
            REFERENCE => self.take(2).map(|_| Value::Other),
            DATE => self.take(10).map(|_| Value::Other),
            AMF3 => {
                self.amf3 = true;
                Ok(Value::Other)
            }
            _ => Err(self.malformed()),
        }
    }

    /// Members up to the end marker, or up to the end of the message: some encoders leave the
    /// marker out at the very end of `onMetaData`.
    fn members(&mut self, depth: usize) -> Result<Value, Error> {
        let mut members = Vec::new();
        while self.offset < self.bytes.len() && !self.amf3 {
            let key = self.short_string()?;
            if key.is_empty() && self.bytes.get(self.offset) == Some(&OBJECT_END) {
                self.offset += 1;
                break;
            }
            members.push((key, self.value(depth + 1)?));
        }
        Ok(Value::Object(members))
    }

    fn short_string(&mut self) -> Result<String, Error> {
        let length = u16::from_be_bytes(self.take_array()?);
        self.text(usize::from(length))
    }

    fn long_string(&mut self) -> Result<String, Error> {
        let length = u32::from_be_bytes(self.take_array()?);
        self.text(length as usize)
    }

    /// Lossy: a Latin-1 title in metadata is no reason to lose a broadcast. The message's own
    /// length limit bounds this.
    fn text(&mut self, length: usize) -> Result<String, Error> {
        self.take(length).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.malformed())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let end = self.offset.checked_add(count).ok_or_else(|| self.malformed())?;
        let taken = self.bytes.get(self.offset..end).ok_or_else(|| self.malformed())?;
        self.offset = end;
        Ok(taken)
    }

    fn malformed(&self) -> Error {
        Error::AmfMalformed { offset: self.offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<Vec<Value>, Error> {
        decode_all(bytes, &Limits::default())
    }

    #[test]
    fn a_command_round_trips() {
        let values = vec![
            Value::from("connect"),
            Value::from(1.0),
            Value::Object(vec![
                ("app".to_owned(), Value::from("live")),
                ("fpad".to_owned(), Value::Boolean(false)),
                ("list".to_owned(), Value::Array(vec![Value::Null, Value::Other])),
            ]),
        ];
        let mut out = BytesMut::new();
        for value in &values {
            value.encode(&mut out);
        }
        assert_eq!(decode(&out), Ok(values));
    }

    #[test]
    fn an_ecma_array_with_a_false_count_and_no_end_marker() {
        let bytes = [ECMA_ARRAY, 0xff, 0xff, 0xff, 0xff, 0, 1, b'a', NULL];
        assert_eq!(decode(&bytes), Ok(vec![Value::Object(vec![("a".to_owned(), Value::Null)])]));
    }

    #[test]
    fn a_strict_array_claiming_four_billion_values_costs_nothing() {
        let bytes = [STRICT_ARRAY, 0xff, 0xff, 0xff, 0xff, NULL];
        assert_eq!(decode(&bytes), Err(Error::AmfMalformed { offset: 6 }));
    }

    #[test]
    fn a_depth_bomb_stops_at_the_limit() {
        let bomb = [STRICT_ARRAY, 0, 0, 0, 1].repeat(10_000);
        assert_eq!(decode(&bomb), Err(Error::AmfDepth { max: 16 }));
        let bomb = [OBJECT, 0, 1, b'a'].repeat(10_000);
        assert_eq!(decode(&bomb), Err(Error::AmfDepth { max: 16 }));
    }

    #[test]
    fn a_flood_of_nulls_stops_at_the_limit() {
        assert_eq!(decode(&vec![NULL; 60_000]), Err(Error::AmfValues { max: 1024 }));
    }

    #[test]
    fn an_amf3_value_ends_the_reading() {
        assert_eq!(decode(&[NULL, AMF3, 0x0a, 0x0b]), Ok(vec![Value::Null, Value::Other]));
    }

    #[test]
    fn a_latin_1_title_is_read_lossily() {
        assert_eq!(decode(&[STRING, 0, 2, b'a', 0xe9]), Ok(vec![Value::from("a\u{fffd}")]));
    }
}
