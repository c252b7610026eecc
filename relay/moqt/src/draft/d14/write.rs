//! Messages into bodies of draft 14. What the draft cannot say is left out, as everywhere.

use super::super::d18::write_target;
use super::super::filters::write_typed;
use super::super::number;
use super::super::params::{self, write_token};
use super::{
    DELIVERY_TIMEOUT, DONE_CODES, GROUP_ORDER, MAX_CACHE_DURATION, PUBLISH_NAMESPACE_CODES,
    STREAMS_UNKNOWN, SUBSCRIBE_CODES, TOKEN, codes_of,
};
use crate::message::{About, Message, Want};
use crate::model::{
    FetchTarget, Filter, GroupOrder, Location, Params, Property, PropertyValue, RequestKind,
};
use crate::name::{FullTrackName, Namespace};
use crate::wire::{REASON_BYTES_MAX, URI_BYTES_MAX, Writer};

pub(super) fn encode_body(w: &mut Writer<'_>, message: &Message, about: &About) {
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
