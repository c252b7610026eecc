//! Draft 14: RFC 9000 varints, one bidirectional control stream that carries everything, a version list
//! in SETUP, and what later became parameters as fixed fields. Answers have a type for each kind of
//! request. Section numbers are those of draft-ietf-moq-transport-14.

use bytes::{Bytes, BytesMut};

use super::d18::{read_target, write_target};
use super::filters::{read_typed, write_typed};
use super::pairs::{self, SetupRules};
use super::params::{self, read_token, write_token};
use super::{Codec, Control, Ending, Feature, Rules, lookup, number};
use crate::error::{
    CommandError, DoneCode, RequestCode, RequestError, ResetCode, SessionCode, SessionError,
};
use crate::message::{About, Aside, Decoded, Kind, Message, NO_REQUEST, Want};
use crate::model::{
    FetchTarget, Filter, GroupOrder, Location, Params, Property, PropertyValue, RequestId,
    RequestKind, Role,
};
use crate::name::{FullTrackName, Namespace};
use crate::varint::Ints;
use crate::wire::{REASON_BYTES_MAX, Reader, URI_BYTES_MAX, Writer, frame};

pub(super) struct D14;

static RULES: Rules = Rules {
    ints: Ints::Quic,
    control: Control::ClientBidi,
    own_stream: |_| false,
    request_ids: true,
    in_full: true,
    pair_deltas: false,
    first_object_bit: false,
    fetch_deltas: false,
    padding: None,
    gap_timed_out: false,
    publish_ok_params: true,
    fin_ends_namespace: false,
    // SUBSCRIBE_NAMESPACE asks for namespaces and tracks alike (section 9.28).
    features: &[Feature::JoiningFetch],
};

/// The only version of ours in the lists of SETUP.
const VERSION: u64 = 0xFF00_000E;

const SETUP: SetupRules = SetupRules { request_ids: true, limits: false, deltas: false };

const CLIENT_SETUP: u64 = 0x20;
const SERVER_SETUP: u64 = 0x21;

/// Type numbers (section 9, table 1), without the two SETUPs.
const KINDS: [(u64, Kind); 28] = [
    (0x02, Kind::Update),
    (0x03, Kind::Subscribe),
    (0x04, Kind::SubscribeOk),
    (0x05, Kind::ErrorTo(RequestKind::Subscribe)),
    (0x06, Kind::PublishNamespace),
    (0x07, Kind::OkTo(RequestKind::PublishNamespace)),
    (0x08, Kind::ErrorTo(RequestKind::PublishNamespace)),
    (0x09, Kind::PublishNamespaceDone),
    (0x0A, Kind::Unsubscribe),
    (0x0B, Kind::PublishDone),
    (0x0C, Kind::PublishNamespaceCancel),
    (0x0D, Kind::TrackStatus),
    (0x0E, Kind::OkTo(RequestKind::TrackStatus)),
    (0x0F, Kind::ErrorTo(RequestKind::TrackStatus)),
    (0x10, Kind::GoAway),
    (0x11, Kind::SubscribeNamespace),
    (0x12, Kind::OkTo(RequestKind::SubscribeNamespace)),
    (0x13, Kind::ErrorTo(RequestKind::SubscribeNamespace)),
    (0x14, Kind::UnsubscribeNamespace),
    (0x15, Kind::MaxRequestId),
    (0x16, Kind::Fetch),
    (0x17, Kind::FetchCancel),
    (0x18, Kind::FetchOk),
    (0x19, Kind::ErrorTo(RequestKind::Fetch)),
    (0x1A, Kind::RequestsBlocked),
    (0x1D, Kind::Publish),
    (0x1E, Kind::PublishOk),
    (0x1F, Kind::ErrorTo(RequestKind::Publish)),
];

/// Codes all error messages share (section 13.1). What a table lacks falls back to the nearest it has.
macro_rules! codes {
    ($($own:expr),* $(,)?) => {
        &[
            (0x00, RequestCode::Internal),
            (0x01, RequestCode::Unauthorized),
            (0x02, RequestCode::Timeout),
            (0x03, RequestCode::NotSupported),
            $($own,)*
            (0x03, RequestCode::UnsupportedExtension),
            (0x03, RequestCode::Redirect),
            (0x03, RequestCode::InvalidFilter),
            (0x03, RequestCode::UnknownStatus),
            (0x01, RequestCode::MalformedToken),
            (0x01, RequestCode::ExpiredToken),
        ]
    };
}

type Codes = &'static [(u64, RequestCode)];

/// SUBSCRIBE_ERROR and TRACK_STATUS_ERROR (section 13.1.2).
const SUBSCRIBE_CODES: Codes = codes![
    (0x04, RequestCode::DoesNotExist),
    (0x05, RequestCode::InvalidRange),
    (0x10, RequestCode::MalformedToken),
    (0x12, RequestCode::ExpiredToken),
];

/// PUBLISH_ERROR (section 13.1.4).
const PUBLISH_CODES: Codes = codes![(0x04, RequestCode::Uninterested)];

/// FETCH_ERROR (section 13.1.5). "No objects" is what an invalid range became.
const FETCH_CODES: Codes = codes![
    (0x04, RequestCode::DoesNotExist),
    (0x05, RequestCode::InvalidRange),
    (0x06, RequestCode::InvalidRange),
    (0x07, RequestCode::InvalidJoiningRequest),
    (0x08, RequestCode::UnknownStatus),
    (0x09, RequestCode::MalformedTrack),
    (0x10, RequestCode::MalformedToken),
    (0x12, RequestCode::ExpiredToken),
];

/// PUBLISH_NAMESPACE_ERROR and PUBLISH_NAMESPACE_CANCEL (section 13.1.6).
const PUBLISH_NAMESPACE_CODES: Codes = codes![
    (0x04, RequestCode::Uninterested),
    (0x10, RequestCode::MalformedToken),
    (0x12, RequestCode::ExpiredToken),
];

/// SUBSCRIBE_NAMESPACE_ERROR (section 13.1.7).
const SUBSCRIBE_NAMESPACE_CODES: Codes = codes![
    (0x04, RequestCode::DoesNotExist),
    (0x05, RequestCode::PrefixOverlap),
    (0x05, RequestCode::NamespaceTooLarge),
    (0x10, RequestCode::MalformedToken),
    (0x12, RequestCode::ExpiredToken),
];

fn codes_of(kind: RequestKind) -> Codes {
    match kind {
        RequestKind::Publish => PUBLISH_CODES,
        RequestKind::Fetch => FETCH_CODES,
        RequestKind::PublishNamespace => PUBLISH_NAMESPACE_CODES,
        RequestKind::SubscribeNamespace => SUBSCRIBE_NAMESPACE_CODES,
        _ => SUBSCRIBE_CODES,
    }
}

/// PUBLISH_DONE codes (section 13.1.3).
const DONE_CODES: [(u64, DoneCode); 10] = [
    (0x00, DoneCode::Internal),
    (0x01, DoneCode::Unauthorized),
    (0x02, DoneCode::TrackEnded),
    (0x03, DoneCode::SubscriptionEnded),
    (0x04, DoneCode::GoingAway),
    (0x05, DoneCode::Expired),
    (0x06, DoneCode::TooFarBehind),
    (0x07, DoneCode::MalformedTrack),
    (0x00, DoneCode::UpdateFailed),
    (0x00, DoneCode::ExcessiveLoad),
];

/// Stream count of a publisher that does not know it.
const STREAMS_UNKNOWN: u64 = (1 << 62) - 1;

impl Codec for D14 {
    fn rules(&self) -> &'static Rules {
        &RULES
    }

    fn kind(&self, number: u64, sender: Role) -> Option<Kind> {
        match (number, sender) {
            (CLIENT_SETUP, Role::Client) => Some(Kind::Setup),
            (SERVER_SETUP, Role::Server) => Some(Kind::ServerSetup),
            _ => lookup(&KINDS, number),
        }
    }

    fn decode(&self, kind: Kind, body: Bytes, _stream: RequestId) -> Result<Decoded, SessionError> {
        let name = match kind {
            Kind::Setup => "CLIENT_SETUP",
            Kind::Update => "SUBSCRIBE_UPDATE",
            kind => kind.name(),
        };
        let mut r = Reader::new(name, Ints::Quic, body);
        let mut aside = Aside::default();
        let message = decode_body(&mut r, kind, &mut aside)?;
        r.finish()?;
        Ok(Decoded { message, aside })
    }

    fn encode(
        &self,
        message: &Message,
        sender: Role,
        out: &mut BytesMut,
    ) -> Result<(), CommandError> {
        self.encode_about(message, &About::default(), sender, out)
    }

    fn encode_about(
        &self,
        message: &Message,
        about: &About,
        sender: Role,
        out: &mut BytesMut,
    ) -> Result<(), CommandError> {
        let kind = match (message, about.kind) {
            (Message::Setup(setup), _) => {
                let (number, client) = match sender {
                    Role::Client => (CLIENT_SETUP, true),
                    Role::Server => (SERVER_SETUP, false),
                };
                return frame(Ints::Quic, number, out, |w| {
                    // A list of one, or the one chosen (section 9.3).
                    if client {
                        w.int("number of versions", 1);
                    }
                    w.int("version", VERSION);
                    pairs::write_setup(w, setup, true, SETUP);
                });
            }
            (Message::RequestOk { .. }, Some(kind)) => Kind::OkTo(kind),
            (Message::RequestError { .. }, Some(kind)) => Kind::ErrorTo(kind),
            // Both halves are one message.
            (Message::SubscribeNamespace { .. }, _) => Kind::SubscribeNamespace,
            _ => message.kind(),
        };
        let Some((number, _)) = KINDS.iter().find(|(_, known)| *known == kind) else {
            return Err(CommandError::NotEncodable("a message of another draft"));
        };
        frame(Ints::Quic, *number, out, |w| encode_body(w, message, about))
    }

    fn cancel(&self, kind: RequestKind, request: RequestId) -> Ending {
        match kind {
            RequestKind::Subscribe => message(Message::Unsubscribe { request }),
            RequestKind::Fetch => message(Message::FetchCancel { request }),
            RequestKind::PublishNamespace => message(Message::PublishNamespaceDone { request }),
            RequestKind::SubscribeNamespace | RequestKind::SubscribeTracks => {
                message(Message::UnsubscribeNamespace { request })
            }
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
            RequestKind::Publish => message(Message::Unsubscribe { request }),
            _ => Ending::Silent,
        }
    }

    fn reset_code(&self, code: ResetCode) -> u32 {
        match code {
            ResetCode::Cancelled => 0x1,
            ResetCode::DeliveryTimeout => 0x2,
            ResetCode::SessionClosed => 0x3,
            _ => 0x0,
        }
    }
}

fn message(message: Message) -> Ending {
    Ending::Message(Box::new(message))
}

// Reading.

fn decode_body(r: &mut Reader, kind: Kind, aside: &mut Aside) -> Result<Message, SessionError> {
    let id = |r: &mut Reader| r.int("request id").map(RequestId);
    let message = match kind {
        Kind::Setup | Kind::ServerSetup => read_setup(r, kind, aside)?,
        Kind::GoAway => Message::GoAway {
            uri: r.text("new session URI", URI_BYTES_MAX)?,
            timeout_ms: None,
            request: None,
        },
        Kind::MaxRequestId => Message::MaxRequestId { max: r.int("maximum request id")? },
        Kind::RequestsBlocked => Message::RequestsBlocked { max: r.int("maximum request id")? },
        Kind::Subscribe => {
            let (request, track) = (id(r)?, named(r)?);
            let priority = r.byte("subscriber priority")?;
            let group_order = read_order(r, true)?;
            let forward = read_flag(r, "forward")?;
            let filter = read_filter(r)?;
            let params = Params {
                // The defaults of later drafts are what absent means in the model.
                priority: Some(priority).filter(|&priority| priority != 128),
                group_order,
                forward: Some(forward).filter(|&forward| !forward),
                filter: Some(filter),
                ..asked(r, aside)?
            };
            Message::Subscribe { request, track, params }
        }
        Kind::SubscribeOk => {
            let (request, alias) = (id(r)?, r.int("track alias")?);
            let (params, properties) = read_standing(r)?;
            Message::SubscribeOk { request, alias, params, properties }
        }
        Kind::Update => {
            let request = id(r)?;
            let target = r.int("subscription request id").map(RequestId)?;
            let start = r.location("start location")?;
            // The last group plus one, 0 for no end (section 9.10).
            let filter = match r.int("end group")?.checked_sub(1) {
                None => Filter::AbsoluteStart(start),
                Some(end_group) if end_group < start.group.saturating_sub(1) => {
                    return Err(r.violation("end group", "is before the start"));
                }
                Some(end_group) => Filter::AbsoluteRange { start, end_group },
            };
            let priority = Some(r.byte("subscriber priority")?);
            let forward = Some(read_flag(r, "forward")?);
            let filter = Some(filter);
            let params = Params { forward, priority, filter, ..asked(r, aside)? };
            Message::Update { request, target, params }
        }
        Kind::Unsubscribe => Message::Unsubscribe { request: id(r)? },
        Kind::Publish => {
            let (request, track) = (id(r)?, named(r)?);
            let alias = r.int("track alias")?;
            let order = read_order(r, false)?;
            let largest = read_largest(r)?;
            let forward = Some(read_flag(r, "forward")?).filter(|&forward| !forward);
            let (tokens, properties) = read_said(r, order)?;
            aside.tokens = tokens;
            let params = Params { largest, forward, ..Params::default() };
            Message::Publish { request, track, alias, params, properties }
        }
        Kind::PublishOk => {
            let request = id(r)?;
            let forward = Some(read_flag(r, "forward")?);
            let priority = Some(r.byte("subscriber priority")?);
            let group_order = read_order(r, false)?;
            let filter = Some(read_filter(r)?);
            let asked = asked(r, aside)?;
            aside.tokens.clear();
            let params = Params { forward, priority, filter, group_order, ..asked };
            Message::PublishOk { request, params }
        }
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
            let priority = Some(r.byte("subscriber priority")?).filter(|&priority| priority != 128);
            let group_order = read_order(r, true)?;
            let target = read_target(r)?;
            if let FetchTarget::Standalone { track, .. } = &target {
                not_empty(r, track.namespace())?;
            }
            let params = Params { priority, group_order, ..asked(r, aside)? };
            Message::Fetch { request, target, params }
        }
        Kind::FetchOk => {
            let request = id(r)?;
            let order = read_order(r, false)?;
            let end_of_track = r.byte("end of track")? != 0;
            let end = params::read_end(r.location("end location")?);
            let (_, properties) = read_said(r, order)?;
            Message::FetchOk { request, end_of_track, end, params: Params::default(), properties }
        }
        Kind::FetchCancel => Message::FetchCancel { request: id(r)? },
        Kind::TrackStatus => {
            let (request, track) = (id(r)?, named(r)?);
            // The fields of a SUBSCRIBE, none of which has a meaning here (section 9.20).
            r.byte("subscriber priority")?;
            read_order(r, true)?;
            read_flag(r, "forward")?;
            read_filter(r)?;
            asked(r, aside)?;
            Message::TrackStatus { request, track, params: Params::default() }
        }
        Kind::PublishNamespace => {
            let (request, namespace) = (id(r)?, some_namespace(r)?);
            let params = asked(r, aside)?;
            Message::PublishNamespace { request, namespace, params }
        }
        Kind::PublishNamespaceDone => {
            aside.about.namespace = Some(some_namespace(r)?);
            Message::PublishNamespaceDone { request: NO_REQUEST }
        }
        Kind::PublishNamespaceCancel => {
            aside.about.namespace = Some(some_namespace(r)?);
            let code = read_code(r, RequestKind::PublishNamespace)?;
            let reason = r.text("reason", REASON_BYTES_MAX)?;
            Message::PublishNamespaceCancel { request: NO_REQUEST, code, reason }
        }
        Kind::SubscribeNamespace => {
            let (request, prefix) = (id(r)?, some_namespace(r)?);
            let params = asked(r, aside)?;
            Message::SubscribeNamespace { request, prefix, want: Want::Both, params }
        }
        Kind::UnsubscribeNamespace => {
            aside.about.namespace = Some(some_namespace(r)?);
            Message::UnsubscribeNamespace { request: NO_REQUEST }
        }
        Kind::OkTo(of) => {
            aside.about.kind = Some(of);
            let request = id(r)?;
            let (params, properties) = if of == RequestKind::TrackStatus {
                // It has the form of SUBSCRIBE_OK; the alias means nothing (section 9.21).
                r.int("track alias")?;
                read_standing(r)?
            } else {
                (Params::default(), Vec::new())
            };
            Message::RequestOk { request, params, properties }
        }
        Kind::ErrorTo(of) => {
            aside.about.kind = Some(of);
            let request = id(r)?;
            let code = read_code(r, of)?;
            let reason = r.text("reason", REASON_BYTES_MAX)?;
            Message::RequestError { request, error: RequestError::new(code, reason) }
        }
        Kind::RequestOk
        | Kind::RequestError
        | Kind::Namespace
        | Kind::NamespaceDone
        | Kind::PublishBlocked
        | Kind::PublishState
        | Kind::SubscribeTracks
        | Kind::Fill => return Err(r.violation("type", "is not of this draft")),
    };
    Ok(message)
}

/// SETUP of either side (section 9.3): the client lists versions, the server names the one it chose.
fn read_setup(r: &mut Reader, kind: Kind, aside: &mut Aside) -> Result<Message, SessionError> {
    let mut ours = false;
    let field = if kind == Kind::Setup {
        let count = r.int("number of versions")?;
        for _ in 0..count {
            ours |= r.int("supported versions")? == VERSION;
        }
        "supported versions"
    } else {
        ours = r.int("selected version")? == VERSION;
        "selected version"
    };
    if !ours {
        let why = "draft 14 (0xff00000e) is not among them";
        return Err(r.fail(SessionCode::VersionNegotiationFailed, field, why));
    }
    let count = r.int("setup parameter count")?;
    let mut setup = pairs::read_setup(r, Some(count), SETUP, aside)?;
    // Section 9.3.2.6 gives MOQT_IMPLEMENTATION the number of AUTHORITY, which a server has not.
    if kind == Kind::ServerSetup
        && let Some(text) = setup.options.authority.take()
    {
        setup.options.implementation.get_or_insert(text);
    }
    Ok(Message::Setup(setup))
}

/// A track whose namespace has at least one field (section 2.4.1).
fn named(r: &mut Reader) -> Result<FullTrackName, SessionError> {
    let track = r.track()?;
    not_empty(r, track.namespace())?;
    Ok(track)
}

/// A namespace or prefix; neither may be empty (section 2.4.1).
fn some_namespace(r: &mut Reader) -> Result<Namespace, SessionError> {
    let namespace = r.namespace("track namespace")?;
    not_empty(r, &namespace)?;
    Ok(namespace)
}

fn not_empty(r: &Reader, namespace: &Namespace) -> Result<(), SessionError> {
    if namespace.is_empty() {
        return Err(r.violation("track namespace", "has no fields"));
    }
    Ok(())
}

fn read_flag(r: &mut Reader, field: &str) -> Result<bool, SessionError> {
    match r.byte(field)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(r.violation(field, &format!("{other} is neither 0 nor 1"))),
    }
}

/// A request may leave the order to the publisher, an answer may not.
fn read_order(r: &mut Reader, may_be_none: bool) -> Result<Option<GroupOrder>, SessionError> {
    match r.byte("group order")? {
        0 if may_be_none => Ok(None),
        1 => Ok(Some(GroupOrder::Ascending)),
        2 => Ok(Some(GroupOrder::Descending)),
        other => Err(r.violation("group order", &format!("{other} is out of range"))),
    }
}

fn read_filter(r: &mut Reader) -> Result<Filter, SessionError> {
    read_typed(r, true, |error| error)
}

fn read_largest(r: &mut Reader) -> Result<Option<Location>, SessionError> {
    if read_flag(r, "content exists")? {
        r.location("largest location").map(Some)
    } else {
        Ok(None)
    }
}

/// What SUBSCRIBE_OK and TRACK_STATUS_OK say of a track, behind its alias.
fn read_standing(r: &mut Reader) -> Result<(Params, Vec<Property>), SessionError> {
    let expires_ms = Some(r.int("expires")?).filter(|&ms| ms > 0);
    let order = read_order(r, false)?;
    let largest = read_largest(r)?;
    let (_, properties) = read_said(r, order)?;
    Ok((Params { expires_ms, largest, ..Params::default() }, properties))
}

const DELIVERY_TIMEOUT: u64 = 0x02;
const TOKEN: u64 = 0x03;
const MAX_CACHE_DURATION: u64 = 0x04;
/// The track property that the group order of an answer became.
const GROUP_ORDER: u64 = 0x22;

/// Parameters known here, in ascending order, and how often each came. Unknown ones are skipped, even
/// when repeated (section 9.2).
#[derive(Default)]
struct Known {
    timeout_ms: Option<u64>,
    cache_ms: Option<u64>,
    tokens: Vec<crate::token::TokenAction>,
}

fn read_known(r: &mut Reader) -> Result<Known, SessionError> {
    let mut known = Known::default();
    let count = r.int("parameter count")?;
    for _ in 0..count {
        let pair = pairs::read_pair(r, &mut 0, "parameter")?;
        let repeated = match (pair.kind, pair.value) {
            (DELIVERY_TIMEOUT, PropertyValue::Int(ms)) => known.timeout_ms.replace(ms).is_some(),
            (MAX_CACHE_DURATION, PropertyValue::Int(ms)) => known.cache_ms.replace(ms).is_some(),
            (TOKEN, PropertyValue::Bytes(value)) => {
                known.tokens.push(read_token(&mut r.inside(value))?);
                false
            }
            _ => false,
        };
        if repeated {
            return Err(r.violation("parameter type", &format!("{:#x} is repeated", pair.kind)));
        }
    }
    known.timeout_ms = known.timeout_ms.filter(|&ms| ms > 0);
    Ok(known)
}

/// Parameters of a subscriber. Its tokens go aside.
fn asked(r: &mut Reader, aside: &mut Aside) -> Result<Params, SessionError> {
    let known = read_known(r)?;
    aside.tokens = known.tokens;
    Ok(Params { object_timeout_ms: known.timeout_ms, ..Params::default() })
}

type Said = (Vec<crate::token::TokenAction>, Vec<Property>);

/// Parameters of a publisher, which later drafts write as properties of the track.
fn read_said(r: &mut Reader, order: Option<GroupOrder>) -> Result<Said, SessionError> {
    let known = read_known(r)?;
    let descending = (order == Some(GroupOrder::Descending)).then_some(2);
    let properties = [
        (DELIVERY_TIMEOUT, known.timeout_ms),
        (MAX_CACHE_DURATION, known.cache_ms),
        (GROUP_ORDER, descending),
    ];
    let properties = properties
        .into_iter()
        .filter_map(|(kind, value)| Some(Property { kind, value: PropertyValue::Int(value?) }))
        .collect();
    Ok((known.tokens, properties))
}

fn read_code(r: &mut Reader, of: RequestKind) -> Result<RequestCode, SessionError> {
    let number = r.int("error code")?;
    Ok(lookup(codes_of(of), number).unwrap_or(RequestCode::Internal))
}

// Writing.

fn encode_body(w: &mut Writer<'_>, message: &Message, about: &About) {
    match message {
        Message::GoAway { uri, timeout_ms: _, request: _ } => w.text(uri, URI_BYTES_MAX),
        Message::MaxRequestId { max } | Message::RequestsBlocked { max } => {
            w.int("maximum request id", *max);
        }
        Message::Subscribe { request, track, params } => {
            w.int("request id", request.0);
            write_name(w, track);
            write_wish(w, params);
            write_asked(w, params);
        }
        Message::TrackStatus { request, track, params } => {
            w.int("request id", request.0);
            write_name(w, track);
            write_wish(w, &Params::default());
            let tokens = params.tokens.clone();
            write_asked(w, &Params { tokens, ..Params::default() });
        }
        Message::SubscribeOk { request, alias, params, properties } => {
            w.int("request id", request.0);
            w.int("track alias", *alias);
            write_standing(w, params, properties);
        }
        Message::Update { request, target, params } => {
            w.int("request id", request.0);
            w.int("subscription request id", target.0);
            let (start, end) = match params.filter {
                Some(Filter::AbsoluteStart(start)) => (start, 0),
                Some(Filter::AbsoluteRange { start, end_group }) => {
                    (start, end_group.saturating_add(1))
                }
                _ => return w.misfit("an update without a start"),
            };
            w.location("start location", start);
            w.int("end group", end);
            w.byte(params.subscriber_priority());
            w.byte(u8::from(params.forwards()));
            write_asked(w, params);
        }
        Message::Publish { request, track, alias, params, properties } => {
            w.int("request id", request.0);
            write_name(w, track);
            w.int("track alias", *alias);
            w.byte(order_of(properties));
            write_largest(w, params.largest);
            w.byte(u8::from(params.forwards()));
            write_said(w, params, properties);
        }
        Message::PublishOk { request, params } => {
            w.int("request id", request.0);
            w.byte(u8::from(params.forwards()));
            w.byte(params.subscriber_priority());
            w.byte(wire_order(params.group_order).max(1));
            write_filter(w, params);
            write_asked(w, &Params { tokens: Vec::new(), ..params.clone() });
        }
        Message::PublishDone { request, code, streams, reason } => {
            w.int("request id", request.0);
            w.int("status code", number(&DONE_CODES, *code));
            w.int("stream count", streams.unwrap_or(STREAMS_UNKNOWN));
            w.text(reason, REASON_BYTES_MAX);
        }
        Message::Fetch { request, target, params } => {
            w.int("request id", request.0);
            w.byte(params.subscriber_priority());
            w.byte(wire_order(params.group_order));
            if let FetchTarget::Standalone { track, .. } = target {
                some_fields(w, track.namespace());
            }
            write_target(w, target);
            let tokens = params.tokens.clone();
            write_asked(w, &Params { tokens, ..Params::default() });
        }
        Message::FetchOk { request, end_of_track, end, params: _, properties } => {
            w.int("request id", request.0);
            w.byte(order_of(properties));
            w.byte(u8::from(*end_of_track));
            w.location("end location", params::write_end(*end));
            write_said(w, &Params::default(), properties);
        }
        Message::Unsubscribe { request } | Message::FetchCancel { request } => {
            w.int("request id", request.0);
        }
        Message::PublishNamespace { request, namespace, params } => {
            w.int("request id", request.0);
            some_fields(w, namespace);
            w.namespace(namespace);
            write_asked(w, params);
        }
        Message::PublishNamespaceDone { .. } | Message::UnsubscribeNamespace { .. } => {
            write_about(w, about);
        }
        Message::PublishNamespaceCancel { request: _, code, reason } => {
            write_about(w, about);
            w.int("error code", number(PUBLISH_NAMESPACE_CODES, *code));
            w.text(reason, REASON_BYTES_MAX);
        }
        Message::SubscribeNamespace { want: Want::Tracks, .. } => {
            w.misfit("a wish for tracks without namespaces");
        }
        Message::SubscribeNamespace { request, prefix, want: _, params } => {
            w.int("request id", request.0);
            some_fields(w, prefix);
            w.namespace(prefix);
            write_asked(w, params);
        }
        Message::RequestOk { request, params, properties } => {
            w.int("request id", request.0);
            if about.kind == Some(RequestKind::TrackStatus) {
                w.int("track alias", 0);
                write_standing(w, params, properties);
            }
        }
        Message::RequestError { request, error } => {
            w.int("request id", request.0);
            let codes = about.kind.map_or(SUBSCRIBE_CODES, codes_of);
            w.int("error code", number(codes, error.code));
            w.text(&error.reason, REASON_BYTES_MAX);
        }
        Message::Setup(_)
        | Message::Namespace { .. }
        | Message::NamespaceDone { .. }
        | Message::PublishBlocked { .. }
        | Message::PublishState { .. } => w.misfit("a message of another draft"),
    }
}

fn write_about(w: &mut Writer<'_>, about: &About) {
    match &about.namespace {
        Some(namespace) => w.namespace(namespace),
        None => w.misfit("a request without a namespace"),
    }
}

fn write_name(w: &mut Writer<'_>, track: &FullTrackName) {
    some_fields(w, track.namespace());
    w.track(track);
}

fn some_fields(w: &mut Writer<'_>, namespace: &Namespace) {
    if namespace.is_empty() {
        w.misfit("an empty namespace");
    }
}

fn wire_order(order: Option<GroupOrder>) -> u8 {
    match order {
        None => 0,
        Some(GroupOrder::Ascending) => 1,
        Some(GroupOrder::Descending) => 2,
    }
}

/// The fixed fields of SUBSCRIBE and TRACK_STATUS.
fn write_wish(w: &mut Writer<'_>, params: &Params) {
    w.byte(params.subscriber_priority());
    w.byte(wire_order(params.group_order));
    w.byte(u8::from(params.forwards()));
    write_filter(w, params);
}

/// "Largest object" is every object published from now on; the draft has no other word for it.
fn write_filter(w: &mut Writer<'_>, params: &Params) {
    let filter = match params.filter {
        None => Filter::LargestObject,
        Some(Filter::Relative { groups_back: 0 }) => Filter::NextGroupStart,
        Some(filter) => filter,
    };
    write_typed(w, true, filter);
}

fn write_largest(w: &mut Writer<'_>, largest: Option<Location>) {
    w.byte(u8::from(largest.is_some()));
    if let Some(largest) = largest {
        w.location("largest location", largest);
    }
}

fn write_standing(w: &mut Writer<'_>, params: &Params, properties: &[Property]) {
    w.int("expires", params.expires_ms.unwrap_or(0));
    w.byte(order_of(properties));
    write_largest(w, params.largest);
    write_said(w, &Params::default(), properties);
}

fn int_property(properties: &[Property], kind: u64) -> Option<u64> {
    properties.iter().find(|property| property.kind == kind).and_then(|property| {
        match property.value {
            PropertyValue::Int(value) => Some(value),
            PropertyValue::Bytes(_) => None,
        }
    })
}

fn order_of(properties: &[Property]) -> u8 {
    if int_property(properties, GROUP_ORDER) == Some(2) { 2 } else { 1 }
}

fn write_asked(w: &mut Writer<'_>, params: &Params) {
    write_known(w, params.object_timeout_ms, &params.tokens, None);
}

/// Of the properties of a track the draft has three; others have no place in it.
fn write_said(w: &mut Writer<'_>, params: &Params, properties: &[Property]) {
    let timeout = int_property(properties, DELIVERY_TIMEOUT);
    write_known(w, timeout, &params.tokens, int_property(properties, MAX_CACHE_DURATION));
}

fn write_known(
    w: &mut Writer<'_>,
    timeout_ms: Option<u64>,
    tokens: &[crate::token::Token],
    cache_ms: Option<u64>,
) {
    let timeout_ms = timeout_ms.filter(|&ms| ms > 0);
    let count = usize::from(timeout_ms.is_some()) + tokens.len() + usize::from(cache_ms.is_some());
    w.int("parameter count", count as u64);
    if let Some(ms) = timeout_ms {
        w.int("parameter type", DELIVERY_TIMEOUT);
        w.int("DELIVERY_TIMEOUT", ms);
    }
    for token in tokens {
        w.int("parameter type", TOKEN);
        write_token(w, token);
    }
    if let Some(ms) = cache_ms {
        w.int("parameter type", MAX_CACHE_DURATION);
        w.int("MAX_CACHE_DURATION", ms);
    }
}
