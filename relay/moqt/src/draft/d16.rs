//! Draft 16: RFC 9000 varints, one bidirectional control stream opened by the client that carries all
//! requests but SUBSCRIBE_NAMESPACE, parameters as key-value pairs. Section numbers are those of
//! draft-ietf-moq-transport-16.

use bytes::{Bytes, BytesMut};

use super::d18::{read_target, write_target};
use super::pairs::{self, SetupRules};
use super::params::{self, FilterForm, Form, Table};
use super::{Codec, Control, Ending, Feature, Rules, lookup, number};
use crate::error::{
    CommandError, DoneCode, RequestCode, RequestError, ResetCode, SessionCode, SessionError,
};
use crate::message::{Aside, Decoded, Kind, Message, Want};
use crate::model::{RequestId, RequestKind, Role};
use crate::varint::Ints;
use crate::wire::{REASON_BYTES_MAX, Reader, URI_BYTES_MAX, Writer, frame};

pub(super) struct D16;

static RULES: Rules = Rules {
    ints: Ints::Quic,
    control: Control::ClientBidi,
    // Section 9.25: SUBSCRIBE_NAMESPACE is sent on a new bidirectional stream.
    own_stream: |kind| {
        matches!(kind, RequestKind::SubscribeNamespace | RequestKind::SubscribeTracks)
    },
    request_ids: true,
    in_full: false,
    pair_deltas: true,
    first_object_bit: false,
    fetch_deltas: false,
    padding: None,
    gap_timed_out: false,
    publish_ok_params: true,
    fin_ends_namespace: true,
    features: &[Feature::SubscribeTracks, Feature::JoiningFetch, Feature::UnknownRanges],
};

static PARAMS: Table = Table {
    // Section 9.2: odd types are length-prefixed, even ones integers.
    form: |key| match key {
        0x02 | 0x08 | 0x10 | 0x20 | 0x22 | 0x32 => Some(Form::Int),
        0x03 | 0x09 | 0x21 => Some(Form::Prefixed),
        _ => None,
    },
    in_scope: |key, kind| {
        // FORWARD of a SUBSCRIBE_NAMESPACE concerns the PUBLISHes it asks for (section 9.2.2.8).
        params::in_scope(key, kind) || (key == 0x10 && kind == Kind::SubscribeNamespace)
    },
    skip_out_of_scope: true,
    zero_timeout_refused: true,
    zero_group_order_is_none: true,
    filter: FilterForm::Typed { end_absolute: true },
    filter_length_code: SessionCode::ProtocolViolation,
};

/// Type numbers (section 9, table 1), without the two SETUPs.
const KINDS: [(u64, Kind); 22] = [
    (0x02, Kind::Update),
    (0x03, Kind::Subscribe),
    (0x04, Kind::SubscribeOk),
    (0x05, Kind::RequestError),
    (0x06, Kind::PublishNamespace),
    (0x07, Kind::RequestOk),
    (0x08, Kind::Namespace),
    (0x09, Kind::PublishNamespaceDone),
    (0x0A, Kind::Unsubscribe),
    (0x0B, Kind::PublishDone),
    (0x0C, Kind::PublishNamespaceCancel),
    (0x0D, Kind::TrackStatus),
    (0x0E, Kind::NamespaceDone),
    (0x10, Kind::GoAway),
    (0x11, Kind::SubscribeNamespace),
    (0x15, Kind::MaxRequestId),
    (0x16, Kind::Fetch),
    (0x17, Kind::FetchCancel),
    (0x18, Kind::FetchOk),
    (0x1A, Kind::RequestsBlocked),
    (0x1D, Kind::Publish),
    (0x1E, Kind::PublishOk),
];

const SETUP: SetupRules = SetupRules { request_ids: true, limits: false, deltas: true };

const CLIENT_SETUP: u64 = 0x20;
const SERVER_SETUP: u64 = 0x21;

/// REQUEST_ERROR codes (section 13.4.2). What the draft lacks falls back to the nearest it has: load and
/// going away are read as INTERNAL_ERROR, told apart by the retry interval and the reason only.
const REQUEST_CODES: [(u64, RequestCode); 21] = [
    (0x00, RequestCode::Internal),
    (0x01, RequestCode::Unauthorized),
    (0x02, RequestCode::Timeout),
    (0x03, RequestCode::NotSupported),
    (0x04, RequestCode::MalformedToken),
    (0x05, RequestCode::ExpiredToken),
    (0x10, RequestCode::DoesNotExist),
    (0x11, RequestCode::InvalidRange),
    (0x12, RequestCode::MalformedTrack),
    (0x19, RequestCode::DuplicateSubscription),
    (0x20, RequestCode::Uninterested),
    (0x30, RequestCode::PrefixOverlap),
    (0x32, RequestCode::InvalidJoiningRequest),
    (0x00, RequestCode::GoingAway),
    (0x00, RequestCode::ExcessiveLoad),
    (0x30, RequestCode::NamespaceTooLarge),
    (0x03, RequestCode::UnsupportedExtension),
    (0x03, RequestCode::Redirect),
    (0x00, RequestCode::ConflictingFilters),
    (0x03, RequestCode::InvalidFilter),
    (0x03, RequestCode::UnknownStatus),
];

/// PUBLISH_DONE codes (section 13.4.3); 5 and 6 changed places later.
const DONE_CODES: [(u64, DoneCode); 10] = [
    (0x00, DoneCode::Internal),
    (0x01, DoneCode::Unauthorized),
    (0x02, DoneCode::TrackEnded),
    (0x03, DoneCode::SubscriptionEnded),
    (0x04, DoneCode::GoingAway),
    (0x05, DoneCode::Expired),
    (0x06, DoneCode::TooFarBehind),
    (0x08, DoneCode::UpdateFailed),
    (0x12, DoneCode::MalformedTrack),
    (0x00, DoneCode::ExcessiveLoad),
];

/// Stream count of a publisher that does not know it.
const STREAMS_UNKNOWN: u64 = (1 << 62) - 1;

impl Codec for D16 {
    fn rules(&self) -> &'static Rules {
        &RULES
    }

    fn kind(&self, number: u64, sender: Role) -> Option<Kind> {
        match (number, sender) {
            (CLIENT_SETUP, Role::Client) | (SERVER_SETUP, Role::Server) => Some(Kind::Setup),
            _ => lookup(&KINDS, number),
        }
    }

    fn decode(&self, kind: Kind, body: Bytes, stream: RequestId) -> Result<Decoded, SessionError> {
        let mut r = Reader::new(kind.name(), Ints::Quic, body);
        let mut aside = Aside::default();
        let message = decode_body(&mut r, kind, stream, &mut aside)?;
        r.finish()?;
        Ok(Decoded { message, aside })
    }

    fn encode(
        &self,
        message: &Message,
        sender: Role,
        out: &mut BytesMut,
    ) -> Result<(), CommandError> {
        let kind = match (message, sender) {
            (Message::Setup(_), Role::Client) => Some(CLIENT_SETUP),
            (Message::Setup(_), Role::Server) => Some(SERVER_SETUP),
            // Both halves share one message with options.
            (Message::SubscribeNamespace { .. }, _) => Some(0x11),
            _ => KINDS.iter().find(|(_, k)| *k == message.kind()).map(|(n, _)| *n),
        };
        let Some(number) = kind else {
            return Err(CommandError::NotEncodable("a message of another draft"));
        };
        frame(Ints::Quic, number, out, |w| encode_body(w, message))
    }

    fn cancel(&self, kind: RequestKind, request: RequestId) -> Ending {
        match kind {
            RequestKind::Subscribe => message(Message::Unsubscribe { request }),
            RequestKind::Fetch => message(Message::FetchCancel { request }),
            RequestKind::PublishNamespace => message(Message::PublishNamespaceDone { request }),
            RequestKind::SubscribeNamespace | RequestKind::SubscribeTracks => Ending::Stream,
            // A publisher ends its own PUBLISH in no other way (section 9.15).
            RequestKind::Publish => message(Message::PublishDone {
                request,
                code: DoneCode::SubscriptionEnded,
                streams: None,
                reason: String::new(),
            }),
            RequestKind::TrackStatus | RequestKind::Update => Ending::Silent,
        }
    }

    fn revoke(&self, kind: RequestKind, request: RequestId, error: &RequestError) -> Ending {
        match kind {
            RequestKind::PublishNamespace => message(Message::PublishNamespaceCancel {
                request,
                code: error.code,
                reason: error.reason.clone(),
            }),
            // A subscriber drops an accepted PUBLISH with UNSUBSCRIBE (section 5.1.1).
            RequestKind::Publish => message(Message::Unsubscribe { request }),
            _ => Ending::Stream,
        }
    }

    fn reset_code(&self, code: ResetCode) -> u32 {
        match code {
            ResetCode::Cancelled => 0x1,
            ResetCode::DeliveryTimeout => 0x2,
            ResetCode::SessionClosed => 0x3,
            ResetCode::UnknownObjectStatus => 0x4,
            ResetCode::MalformedTrack => 0x12,
            ResetCode::Internal
            | ResetCode::GoingAway
            | ResetCode::TooFarBehind
            | ResetCode::ExpiredToken
            | ResetCode::ExcessiveLoad => 0x0,
        }
    }
}

fn decode_body(
    r: &mut Reader,
    kind: Kind,
    stream: RequestId,
    aside: &mut Aside,
) -> Result<Message, SessionError> {
    let mut params = |r: &mut Reader| params::read_params(r, &PARAMS, kind, aside);
    let properties = |r: &mut Reader| pairs::read_properties(r, &PARAMS);
    let id = |r: &mut Reader| r.int("request id").map(RequestId);
    let message = match kind {
        Kind::Setup => {
            let count = r.int("setup parameter count")?;
            Message::Setup(pairs::read_setup(r, Some(count), SETUP, aside)?)
        }
        Kind::GoAway => Message::GoAway {
            uri: r.text("new session URI", URI_BYTES_MAX)?,
            timeout_ms: None,
            request: None,
        },
        Kind::MaxRequestId => Message::MaxRequestId { max: r.int("maximum request id")? },
        Kind::RequestsBlocked => Message::RequestsBlocked { max: r.int("maximum request id")? },
        Kind::Subscribe => {
            Message::Subscribe { request: id(r)?, track: named(r)?, params: params(r)? }
        }
        Kind::SubscribeOk => Message::SubscribeOk {
            request: id(r)?,
            alias: r.int("track alias")?,
            params: params(r)?,
            properties: properties(r)?,
        },
        Kind::Update => Message::Update {
            request: id(r)?,
            target: r.int("existing request id").map(RequestId)?,
            params: params(r)?,
        },
        Kind::Unsubscribe => Message::Unsubscribe { request: id(r)? },
        Kind::Publish => Message::Publish {
            request: id(r)?,
            track: named(r)?,
            alias: r.int("track alias")?,
            params: params(r)?,
            properties: properties(r)?,
        },
        Kind::PublishOk => Message::PublishOk { request: id(r)?, params: params(r)? },
        Kind::PublishDone => Message::PublishDone {
            request: id(r)?,
            code: {
                let number = r.int("status code")?;
                lookup(&DONE_CODES, number).unwrap_or(DoneCode::Internal)
            },
            streams: Some(r.int("stream count")?).filter(|&count| count != STREAMS_UNKNOWN),
            reason: r.text("reason", REASON_BYTES_MAX)?,
        },
        Kind::Fetch => {
            let request = id(r)?;
            let target = read_target(r)?;
            if let crate::model::FetchTarget::Standalone { track, .. } = &target {
                not_empty(r, track.namespace())?;
            }
            Message::Fetch { request, target, params: params(r)? }
        }
        Kind::FetchOk => Message::FetchOk {
            request: id(r)?,
            end_of_track: r.byte("end of track")? != 0,
            end: params::read_end(r.location("end location")?),
            params: params(r)?,
            properties: properties(r)?,
        },
        Kind::FetchCancel => Message::FetchCancel { request: id(r)? },
        Kind::TrackStatus => {
            Message::TrackStatus { request: id(r)?, track: named(r)?, params: params(r)? }
        }
        Kind::PublishNamespace => {
            let request = id(r)?;
            let namespace = r.namespace("track namespace")?;
            not_empty(r, &namespace)?;
            Message::PublishNamespace { request, namespace, params: params(r)? }
        }
        Kind::PublishNamespaceDone => Message::PublishNamespaceDone { request: id(r)? },
        Kind::PublishNamespaceCancel => Message::PublishNamespaceCancel {
            request: id(r)?,
            code: read_code(r)?,
            reason: r.text("reason", REASON_BYTES_MAX)?,
        },
        Kind::SubscribeNamespace => Message::SubscribeNamespace {
            request: id(r)?,
            prefix: r.namespace("track namespace prefix")?,
            want: match r.int("subscribe options")? {
                0 => Want::Tracks,
                1 => Want::Namespaces,
                2 => Want::Both,
                other => {
                    return Err(r.violation("subscribe options", &format!("{other} is unknown")));
                }
            },
            params: params(r)?,
        },
        Kind::Namespace => Message::Namespace { suffix: r.namespace("namespace suffix")? },
        Kind::NamespaceDone => Message::NamespaceDone { suffix: r.namespace("namespace suffix")? },
        Kind::RequestOk => {
            Message::RequestOk { request: id(r)?, params: params(r)?, properties: Vec::new() }
        }
        Kind::RequestError => {
            let request = id(r)?;
            let code = read_code(r)?;
            let retry = r.int("retry interval")?;
            let reason = r.text("reason", REASON_BYTES_MAX)?;
            let retry_ms = retry.checked_sub(1);
            Message::RequestError {
                request,
                error: RequestError { code, retry_ms, reason, redirect: None },
            }
        }
        Kind::PublishBlocked
        | Kind::PublishState
        | Kind::SubscribeTracks
        | Kind::ServerSetup
        | Kind::UnsubscribeNamespace
        | Kind::OkTo(_)
        | Kind::ErrorTo(_)
        | Kind::Fill => {
            let _ = stream;
            return Err(r.violation("type", "is not of this draft"));
        }
    };
    Ok(message)
}

fn encode_body(w: &mut Writer<'_>, message: &Message) {
    let kind = message.kind();
    match message {
        Message::Setup(setup) => pairs::write_setup(w, setup, true, SETUP),
        Message::GoAway { uri, timeout_ms: _, request: _ } => w.text(uri, URI_BYTES_MAX),
        Message::MaxRequestId { max } | Message::RequestsBlocked { max } => {
            w.int("maximum request id", *max);
        }
        Message::Subscribe { request, track, params }
        | Message::TrackStatus { request, track, params } => {
            w.int("request id", request.0);
            w.track(track);
            params::write_params(w, &PARAMS, kind, params);
        }
        Message::SubscribeOk { request, alias, params, properties } => {
            w.int("request id", request.0);
            w.int("track alias", *alias);
            params::write_params(w, &PARAMS, kind, params);
            pairs::write_properties(w, properties);
        }
        Message::Update { request, target, params } => {
            w.int("request id", request.0);
            w.int("existing request id", target.0);
            params::write_params(w, &PARAMS, kind, params);
        }
        Message::Publish { request, track, alias, params, properties } => {
            w.int("request id", request.0);
            w.track(track);
            w.int("track alias", *alias);
            params::write_params(w, &PARAMS, kind, params);
            pairs::write_properties(w, properties);
        }
        Message::PublishOk { request, params } => {
            w.int("request id", request.0);
            params::write_params(w, &PARAMS, kind, params);
        }
        // Properties of a track status have no place in this draft.
        Message::RequestOk { request, params, properties: _ } => {
            w.int("request id", request.0);
            params::write_params(w, &PARAMS, kind, params);
        }
        Message::PublishDone { request, code, streams, reason } => {
            w.int("request id", request.0);
            w.int("status code", number(&DONE_CODES, *code));
            w.int("stream count", streams.unwrap_or(STREAMS_UNKNOWN));
            w.text(reason, REASON_BYTES_MAX);
        }
        Message::Fetch { request, target, params } => {
            w.int("request id", request.0);
            write_target(w, target);
            params::write_params(w, &PARAMS, kind, params);
        }
        Message::FetchOk { request, end_of_track, end, params, properties } => {
            w.int("request id", request.0);
            w.byte(u8::from(*end_of_track));
            w.location("end location", params::write_end(*end));
            params::write_params(w, &PARAMS, kind, params);
            pairs::write_properties(w, properties);
        }
        Message::Unsubscribe { request }
        | Message::FetchCancel { request }
        | Message::PublishNamespaceDone { request } => w.int("request id", request.0),
        Message::PublishNamespace { request, namespace, params } => {
            w.int("request id", request.0);
            w.namespace(namespace);
            params::write_params(w, &PARAMS, kind, params);
        }
        Message::PublishNamespaceCancel { request, code, reason } => {
            w.int("request id", request.0);
            w.int("error code", number(&REQUEST_CODES, *code));
            w.text(reason, REASON_BYTES_MAX);
        }
        Message::SubscribeNamespace { request, prefix, want, params } => {
            w.int("request id", request.0);
            w.namespace(prefix);
            w.int(
                "subscribe options",
                match want {
                    Want::Tracks => 0,
                    Want::Namespaces => 1,
                    Want::Both => 2,
                },
            );
            params::write_params(w, &PARAMS, Kind::SubscribeNamespace, params);
        }
        Message::Namespace { suffix } | Message::NamespaceDone { suffix } => w.namespace(suffix),
        Message::RequestError { request, error } => {
            w.int("request id", request.0);
            w.int("error code", number(&REQUEST_CODES, error.code));
            w.int("retry interval", error.retry_ms.map_or(0, |ms| ms.saturating_add(1)));
            w.text(&error.reason, REASON_BYTES_MAX);
        }
        Message::PublishBlocked { .. }
        | Message::PublishState { .. }
        | Message::UnsubscribeNamespace { .. } => {
            w.misfit("a message of another draft");
        }
    }
}

fn message(message: Message) -> Ending {
    Ending::Message(Box::new(message))
}

/// A track whose namespace has at least one field (section 2.4.1).
fn named(r: &mut Reader) -> Result<crate::FullTrackName, SessionError> {
    let track = r.track()?;
    not_empty(r, track.namespace())?;
    Ok(track)
}

fn not_empty(r: &Reader, namespace: &crate::Namespace) -> Result<(), SessionError> {
    if namespace.is_empty() {
        return Err(r.violation("track namespace", "has no fields"));
    }
    Ok(())
}

fn read_code(r: &mut Reader) -> Result<RequestCode, SessionError> {
    let number = r.int("error code")?;
    Ok(lookup(&REQUEST_CODES, number).unwrap_or(RequestCode::Internal))
}
