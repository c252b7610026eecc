//! Bodies of draft 14 into messages. What the draft leaves to context goes aside for the session.

use super::super::d18::read_target;
use super::super::filters::read_typed;
use super::super::lookup;
use super::super::pairs::{self};
use super::super::params::{self, read_token};
use super::{
    DELIVERY_TIMEOUT, DONE_CODES, GROUP_ORDER, MAX_CACHE_DURATION, SETUP, STREAMS_UNKNOWN, TOKEN,
    VERSION, codes_of,
};
use crate::error::{DoneCode, RequestCode, RequestError, SessionCode, SessionError};
use crate::message::{Aside, Kind, Message, NO_REQUEST, Want};
use crate::model::{
    FetchTarget, Filter, GroupOrder, Location, Params, Property, PropertyValue, RequestId,
    RequestKind,
};
use crate::name::{FullTrackName, Namespace};
use crate::wire::{REASON_BYTES_MAX, Reader, URI_BYTES_MAX};

pub(super) fn decode_body(
    r: &mut Reader,
    kind: Kind,
    aside: &mut Aside,
) -> Result<Message, SessionError> {
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
