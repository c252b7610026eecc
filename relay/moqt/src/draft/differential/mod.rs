//! Every control message of every draft against `moqtap-codec`, an independent codec: what we write it
//! must read, what it writes we must read, and both must mean the same.
#![expect(clippy::needless_pass_by_value, reason = "each case of a table is used once")]

use bytes::{Bytes, BytesMut};
use moqtap_codec::auth_token::{AuthorizationToken, TokenAliasType};
use moqtap_codec::kvp::{KeyValuePair, KvpValue};
use moqtap_codec::types::TrackNamespace;
use moqtap_codec::varint::{Moqt18, VarInt};

mod d14;
mod d16;
mod d18;
mod later;
mod oracle;

use super::Draft;
use crate::error::{DoneCode, Redirect, RequestCode, RequestError};
use crate::message::{Message, Setup, Want};
use crate::model::{
    FetchTarget, Filter, GroupOrder, Location, Params, Property, PropertyValue, RequestId, Role,
};
use crate::name::{FullTrackName, Namespace};
use crate::session::SetupOptions;
use crate::token::{Token, TokenAction};

/// The request whose stream a message of draft 18 stands on.
const ON: RequestId = RequestId(6);

fn v(value: u64) -> VarInt {
    VarInt::from_u64_moqt(value)
}

fn int(key: u64, value: u64) -> KeyValuePair {
    KeyValuePair { key: v(key), value: KvpValue::Varint(v(value)) }
}

fn bytes(key: u64, value: &[u8]) -> KeyValuePair {
    KeyValuePair { key: v(key), value: KvpValue::Bytes(value.to_vec()) }
}

fn ints(draft: Draft, values: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        draft.codec().rules().ints.encode(*value, &mut out);
    }
    out
}

fn their_token(draft: Draft, token: &AuthorizationToken) -> KeyValuePair {
    let mut out = Vec::new();
    match draft {
        Draft::D14 | Draft::D16 => token.encode(&mut out).unwrap(),
        _ => token.encode_moqt::<Moqt18>(&mut out),
    }
    bytes(3, &out)
}

fn value_token(draft: Draft) -> KeyValuePair {
    their_token(
        draft,
        &AuthorizationToken {
            alias_type: TokenAliasType::UseValue,
            alias: None,
            token_type: Some(300),
            value: b"tok".to_vec(),
        },
    )
}

fn our_token() -> Token {
    Token { kind: 300, value: Bytes::from_static(b"tok") }
}

fn track() -> FullTrackName {
    FullTrackName::new(namespace(), "video").unwrap()
}

fn namespace() -> Namespace {
    Namespace::new(["stream", "acme"]).unwrap()
}

fn their_namespace() -> TrackNamespace {
    TrackNamespace(vec![b"stream".to_vec(), b"acme".to_vec()])
}

fn properties() -> (Vec<Property>, Vec<KeyValuePair>) {
    let ours = vec![
        Property { kind: 0x0E, value: PropertyValue::Int(9) },
        Property { kind: 0x22, value: PropertyValue::Int(2) },
        Property { kind: 0x79, value: PropertyValue::Bytes(Bytes::from_static(b"init")) },
    ];
    (ours, vec![int(0x0E, 9), int(0x22, 2), bytes(0x79, b"init")])
}

fn setup() -> Setup {
    Setup {
        options: SetupOptions {
            path: Some("/p?x=1".to_owned()),
            authority: Some("weir.example:443".to_owned()),
            tokens: vec![our_token()],
            implementation: Some("weir".to_owned()),
        },
        max_request_id: None,
        token_cache_bytes: Some(70_000),
        filter_ranges: None,
        request_updates: None,
    }
}

fn encode(draft: Draft, sender: Role, message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    draft.codec().encode(message, sender, &mut out).unwrap();
    out.freeze()
}

/// Reads one framed message; tokens sent by value are put in, others returned.
fn decode(draft: Draft, sender: Role, wire: &[u8]) -> (Message, Vec<TokenAction>) {
    let codec = draft.codec();
    let (number, head) = codec.rules().ints.decode(wire).unwrap();
    let kind = codec.kind(number, sender).unwrap();
    let length = usize::from(u16::from_be_bytes([wire[head], wire[head + 1]]));
    assert_eq!(wire.len(), head + 2 + length);
    let decoded = codec.decode(kind, Bytes::copy_from_slice(&wire[head + 2..]), ON).unwrap();
    let (mut message, mut actions) = (decoded.message, Vec::new());
    assert_eq!(decoded.aside.refusal, None);
    for action in decoded.aside.tokens {
        match (action, &mut message) {
            (TokenAction::UseValue(token), Message::Setup(setup)) => {
                setup.options.tokens.push(token);
            }
            (TokenAction::UseValue(token), message) => {
                message.params_mut().unwrap().tokens.push(token);
            }
            (action, _) => actions.push(action),
        }
    }
    (message, actions)
}

/// All parameters a SUBSCRIBE can have in `draft`, in both models.
fn subscribe_params(draft: Draft, filter: Filter) -> (Params, Vec<KeyValuePair>) {
    let d18 = draft != Draft::D16;
    let wire = match filter {
        Filter::NextGroupStart => ints(draft, &[1]),
        Filter::AbsoluteStart(start) => ints(draft, &[3, start.group, start.object]),
        Filter::AbsoluteRange { start, end_group } => {
            let end = if d18 { end_group - start.group } else { end_group };
            ints(draft, &[4, start.group, start.object, end])
        }
        _ => ints(draft, &[2]),
    };
    let ours = Params {
        tokens: vec![our_token()],
        object_timeout_ms: Some(2000),
        subgroup_timeout_ms: d18.then_some(3000),
        rendezvous_timeout_ms: d18.then_some(4000),
        forward: Some(false),
        priority: Some(200),
        filter: Some(filter),
        group_order: Some(GroupOrder::Descending),
        new_group: Some(77),
        ..Params::default()
    };
    let mut theirs = vec![int(2, 2000), value_token(draft)];
    if d18 {
        theirs.extend([int(4, 4000), int(6, 3000)]);
    }
    theirs.extend([int(0x10, 0), int(0x20, 200), bytes(0x21, &wire), int(0x22, 2), int(0x32, 77)]);
    (ours, theirs)
}

const FILTERS: [Filter; 4] = [
    Filter::NextGroupStart,
    Filter::LargestObject,
    Filter::AbsoluteStart(Location::new(70_000, 3)),
    Filter::AbsoluteRange { start: Location::new(5, 300), end_group: 9 },
];

fn ok_params(draft: Draft) -> (Params, Vec<KeyValuePair>) {
    let largest = Location::new(1000, 5);
    let ours = Params { expires_ms: Some(60_000), largest: Some(largest), ..Params::default() };
    (ours, vec![int(8, 60_000), bytes(9, &ints(draft, &[1000, 5]))])
}

fn token_params(draft: Draft) -> (Params, Vec<KeyValuePair>) {
    let ours = Params { tokens: vec![our_token()], ..Params::default() };
    (ours, vec![value_token(draft)])
}

fn fetch_params(draft: Draft) -> (Params, Vec<KeyValuePair>) {
    let d18 = draft != Draft::D16;
    let ours = Params {
        tokens: vec![our_token()],
        fill_timeout_ms: d18.then_some(900),
        priority: Some(1),
        group_order: Some(GroupOrder::Ascending),
        ..Params::default()
    };
    let mut theirs = vec![value_token(draft)];
    if d18 {
        theirs.push(int(0x0A, 900));
    }
    theirs.extend([int(0x20, 1), int(0x22, 1)]);
    (ours, theirs)
}

/// A request error with each code, as (ours, number).
const CODES: [(RequestCode, u64); 13] = [
    (RequestCode::Internal, 0x0),
    (RequestCode::Unauthorized, 0x1),
    (RequestCode::Timeout, 0x2),
    (RequestCode::NotSupported, 0x3),
    (RequestCode::MalformedToken, 0x4),
    (RequestCode::ExpiredToken, 0x5),
    (RequestCode::DoesNotExist, 0x10),
    (RequestCode::InvalidRange, 0x11),
    (RequestCode::MalformedTrack, 0x12),
    (RequestCode::DuplicateSubscription, 0x19),
    (RequestCode::Uninterested, 0x20),
    (RequestCode::PrefixOverlap, 0x30),
    (RequestCode::InvalidJoiningRequest, 0x32),
];
