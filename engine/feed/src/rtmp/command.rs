//! RTMP commands (RTMP 1.0 section 7): their reading from AMF0, and the replies we give. Owns the
//! texts a client sees; holds no state.

use bytes::{BufMut, BytesMut};

use super::amf::{self, Value};
use super::chunk::{self, CHUNK_BYTES_OUT};
use super::{Error, Limits};

/// Message type ids (sections 5.4, 6.2 and 7.1).
pub(super) mod kind {
    pub(in crate::rtmp) const SET_CHUNK_SIZE: u8 = 1;
    pub(in crate::rtmp) const ABORT: u8 = 2;
    pub(in crate::rtmp) const ACKNOWLEDGEMENT: u8 = 3;
    pub(in crate::rtmp) const USER_CONTROL: u8 = 4;
    pub(in crate::rtmp) const WINDOW_ACKNOWLEDGEMENT_SIZE: u8 = 5;
    pub(in crate::rtmp) const SET_PEER_BANDWIDTH: u8 = 6;
    pub(in crate::rtmp) const AUDIO: u8 = 8;
    pub(in crate::rtmp) const VIDEO: u8 = 9;
    pub(in crate::rtmp) const DATA_AMF3: u8 = 15;
    pub(in crate::rtmp) const COMMAND_AMF3: u8 = 17;
    pub(in crate::rtmp) const DATA_AMF0: u8 = 18;
    pub(in crate::rtmp) const COMMAND_AMF0: u8 = 20;
    pub(in crate::rtmp) const AGGREGATE: u8 = 22;
}

/// User control event types (section 7.1.7).
pub(super) mod control {
    pub(in crate::rtmp) const STREAM_BEGIN: u16 = 0;
    pub(in crate::rtmp) const PING_REQUEST: u16 = 6;
    pub(in crate::rtmp) const PING_RESPONSE: u16 = 7;
}

/// Chunk stream of protocol control messages (section 5.4); must be 2.
const CHUNK_STREAM_CONTROL: u8 = 2;
const CHUNK_STREAM_COMMAND: u8 = 3;
const CHUNK_STREAM_STATUS: u8 = 5;

/// How often we ask to be acknowledged, and at most how often we do it ourselves unasked: twice a
/// second at 40 Mbit/s. We send so little that the first never happens.
pub(super) const WINDOW_BYTES: u32 = 2_500_000;

const VIDEO_FOUR_CCS: [&str; 4] = ["avc1", "hvc1", "av01", "vp09"];
const AUDIO_FOUR_CCS: [&str; 5] = ["mp4a", "Opus", "fLaC", "ac-3", "ec-3"];
/// Of a codec's bits: we neither decode nor encode it.
const CAN_FORWARD: u8 = 4;

/// Bits of `capsEx`: reconnect request 1, multitrack 2, modifiers 4, nanosecond offsets 8.
pub(super) mod caps_ex {
    pub(in crate::rtmp) const RECONNECT: u8 = 1;
    pub(in crate::rtmp) const ALL: u8 = 15;
}

/// A command message, read.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: String,
    pub(super) transaction: f64,
    /// What follows: the command object, then arguments.
    arguments: Vec<Value>,
}

impl Command {
    pub(super) fn parse(kind: u8, payload: &[u8], limits: &Limits) -> Result<Self, Error> {
        if payload.len() > limits.command_bytes_max {
            let max = limits.command_bytes_max;
            return Err(Error::CommandTooLong { bytes: payload.len(), max });
        }
        let mut values = amf::decode_all(strip_amf3(kind, payload), limits)?.into_iter();
        let name = values.next();
        let Some(name) = name.as_ref().and_then(Value::as_str) else {
            return Err(Error::AmfMalformed { offset: 0 });
        };
        let transaction = values.next().and_then(|value| value.as_number()).unwrap_or(0.0);
        Ok(Self { name: name.to_owned(), transaction, arguments: values.collect() })
    }

    /// The command object.
    pub(super) fn object(&self) -> Option<&Value> {
        self.arguments.first()
    }

    /// Argument `index`, counted after the command object.
    pub(super) fn argument(&self, index: usize) -> Option<&Value> {
        self.arguments.get(index + 1)
    }
}

/// A message of an AMF3 type starts with a format byte; 0 says that AMF0 follows, which is what
/// every encoder in use sends.
pub(super) fn strip_amf3(kind: u8, payload: &[u8]) -> &[u8] {
    match (kind, payload) {
        (kind::COMMAND_AMF3 | kind::DATA_AMF3, [0, rest @ ..]) => rest,
        _ => payload,
    }
}

/// Answers `connect` (section 7.2.1.1), with the protocol control messages that go before it.
pub(super) fn put_connected(transaction: f64, enhanced: bool, out: &mut BytesMut) {
    put_control(kind::WINDOW_ACKNOWLEDGEMENT_SIZE, &WINDOW_BYTES.to_be_bytes(), out);
    let mut bandwidth = BytesMut::with_capacity(5);
    bandwidth.put_u32(WINDOW_BYTES);
    bandwidth.put_u8(2); // dynamic
    put_control(kind::SET_PEER_BANDWIDTH, &bandwidth, out);
    put_control(kind::SET_CHUNK_SIZE, &(CHUNK_BYTES_OUT as u32).to_be_bytes(), out);
    let mut properties = vec![
        // Old encoders want to see the name they were tested with; the number is theirs too.
        ("fmsVer".to_owned(), Value::from("FMS/3,5,7,7009")),
        ("capabilities".to_owned(), Value::from(31.0)),
    ];
    let mut status = status("status", "NetConnection.Connect.Success", "Connection succeeded.");
    if enhanced {
        // The specification's examples have these in one object, its table in the other.
        properties.extend(capabilities());
        status.extend(capabilities());
    }
    // Whatever was asked for: we write AMF0, and an AMF3 client that is told so follows.
    status.push(("objectEncoding".to_owned(), Value::from(0.0)));
    put_result(transaction, &[Value::Object(properties), Value::Object(status)], out);
}

/// What we take by `FourCC` (enhanced RTMP v2, "Enhancing `NetConnection` connect Command"): the list
/// of its first version, and the maps of its second with what can be done with each.
fn capabilities() -> [(String, Value); 4] {
    let list = VIDEO_FOUR_CCS.iter().chain(&AUDIO_FOUR_CCS).map(|code| Value::from(*code));
    let map = |codes: &[&str]| {
        let can = Value::from(f64::from(CAN_FORWARD));
        Value::Object(codes.iter().map(|code| ((*code).to_owned(), can.clone())).collect())
    };
    [
        ("fourCcList".to_owned(), Value::Array(list.collect())),
        ("videoFourCcInfoMap".to_owned(), map(&VIDEO_FOUR_CCS)),
        ("audioFourCcInfoMap".to_owned(), map(&AUDIO_FOUR_CCS)),
        ("capsEx".to_owned(), Value::from(f64::from(caps_ex::ALL))),
    ]
}

/// `NetConnection.Connect.ReconnectRequest` (enhanced RTMP v2): go on sending, connect again, to
/// `tc_url` or to where you are, and only then leave here.
pub(super) fn put_reconnect_request(tc_url: Option<&str>, out: &mut BytesMut) {
    let code = "NetConnection.Connect.ReconnectRequest";
    let mut status = status("status", code, "The server is draining.");
    status.extend(tc_url.map(|url| ("tcUrl".to_owned(), Value::from(url))));
    let values = [Value::Null, Value::Object(status)];
    put_command(CHUNK_STREAM_COMMAND, 0, "onStatus", 0.0, &values, out);
}

/// `_result` with its values; the first is the command object.
pub(super) fn put_result(transaction: f64, values: &[Value], out: &mut BytesMut) {
    put_command(CHUNK_STREAM_COMMAND, 0, "_result", transaction, values, out);
}

/// `_error` for a call we do not know.
pub(super) fn put_unknown_call(transaction: f64, out: &mut BytesMut) {
    let status = status("error", "NetConnection.Call.Failed", "No such method.");
    let values = [Value::Null, Value::Object(status)];
    put_command(CHUNK_STREAM_COMMAND, 0, "_error", transaction, &values, out);
}

/// `onStatus` (section 7.2.2).
pub(super) fn put_status(
    message_stream: u32,
    level: &str,
    code: &str,
    description: &str,
    out: &mut BytesMut,
) {
    let values = [Value::Null, Value::Object(status(level, code, description))];
    put_command(CHUNK_STREAM_STATUS, message_stream, "onStatus", 0.0, &values, out);
}

/// A protocol control message.
pub(super) fn put_control(kind: u8, payload: &[u8], out: &mut BytesMut) {
    chunk::encode(CHUNK_STREAM_CONTROL, kind, 0, payload, CHUNK_BYTES_OUT, out);
}

/// A user control message with one number.
pub(super) fn put_user_control(event: u16, number: u32, out: &mut BytesMut) {
    let mut payload = BytesMut::with_capacity(6);
    payload.put_u16(event);
    payload.put_u32(number);
    put_control(kind::USER_CONTROL, &payload, out);
}

fn put_command(
    chunk_stream: u8,
    message_stream: u32,
    name: &str,
    transaction: f64,
    values: &[Value],
    out: &mut BytesMut,
) {
    let mut payload = BytesMut::with_capacity(256);
    Value::from(name).encode(&mut payload);
    Value::from(transaction).encode(&mut payload);
    for value in values {
        value.encode(&mut payload);
    }
    let kind = kind::COMMAND_AMF0;
    chunk::encode(chunk_stream, kind, message_stream, &payload, CHUNK_BYTES_OUT, out);
}

fn status(level: &str, code: &str, description: &str) -> Vec<(String, Value)> {
    [("level", level), ("code", code), ("description", description)]
        .map(|(key, text)| (key.to_owned(), Value::from(text)))
        .into()
}
