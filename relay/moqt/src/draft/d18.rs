//! Drafts 18 and later: vi64, a unidirectional control stream from each side, every request on a
//! bidirectional stream of its own, typed parameters. One codec reads and writes them all; what differs
//! is a [`Family`] of tables, that of 18 here and those of its successors in `d20`. Section numbers are
//! those of draft-ietf-moq-transport-18.

use bytes::{Bytes, BytesMut};

use super::pairs::{self, SetupRules};
use super::params::{self, FilterForm, Form, Table};
use super::{Codec, Control, Ending, Feature, Rules, lookup, number};
use crate::error::{
    CommandError, DoneCode, Redirect, RequestCode, RequestError, ResetCode, SessionCode,
    SessionError,
};
use crate::message::{Aside, Decoded, Kind, Message, Want};
use crate::model::{FetchTarget, Filter, Location, Params, RequestId, RequestKind, Role};
use crate::name::{FullTrackName, Namespace};
use crate::varint::Ints;
use crate::wire::{REASON_BYTES_MAX, Reader, URI_BYTES_MAX, Writer, frame};

/// A draft of this layout, as far as it differs from the others.
pub(super) struct Family {
    pub(super) rules: &'static Rules,
    pub(super) params: &'static Table,
    pub(super) setup: SetupRules,
    pub(super) kinds: &'static [(u64, Kind)],
    pub(super) request_codes: &'static [(u64, RequestCode)],
    pub(super) done_codes: &'static [(u64, DoneCode)],
    /// GOAWAY may name a request (draft 18).
    pub(super) goaway_names_request: bool,
    /// FETCH takes its range from a location filter, and the end of FETCH_OK is inclusive (20 and later).
    pub(super) fetch_by_filter: bool,
    /// Stream count of a publisher that does not know it.
    pub(super) streams_unknown: u64,
}

pub(super) static D18: Family = Family {
    rules: &RULES,
    params: &PARAMS,
    setup: SetupRules { request_ids: false, limits: false, deltas: true },
    kinds: &KINDS,
    request_codes: &REQUEST_CODES,
    done_codes: &DONE_CODES,
    goaway_names_request: true,
    fetch_by_filter: false,
    streams_unknown: (1 << 62) - 1,
};

static RULES: Rules = Rules {
    features: &[
        Feature::SubscribeTracks,
        Feature::PublishBlocked,
        Feature::JoiningFetch,
        Feature::UnknownRanges,
        Feature::RequestGoAway,
        Feature::Redirect,
        Feature::Rendezvous,
    ],
    ..LAYOUT
};

/// Streams and objects as all of these drafts have them.
pub(super) const LAYOUT: Rules = Rules {
    ints: Ints::Moq,
    control: Control::UniPair,
    own_stream: |_| true,
    request_ids: false,
    in_full: false,
    pair_deltas: true,
    first_object_bit: true,
    fetch_deltas: true,
    padding: Some((0x132B_3E28, 0x132B_3E29)),
    gap_timed_out: false,
    publish_ok_params: true,
    fin_ends_namespace: true,
    features: &[],
};

static PARAMS: Table = Table {
    // Section 10.2, the value encoding of each parameter.
    form: |key| match key {
        0x02 | 0x04 | 0x06 | 0x08 | 0x0A | 0x32 => Some(Form::Int),
        0x10 | 0x20 | 0x22 => Some(Form::Byte),
        0x09 => Some(Form::Location),
        0x34 => Some(Form::Namespace),
        0x03 | 0x21 => Some(Form::Prefixed),
        _ => None,
    },
    // A REQUEST_OK may be a PUBLISH_OK (section 10.5); only the session could tell.
    in_scope: |key, kind| {
        params::in_scope(key, kind)
            || (kind == Kind::RequestOk && params::in_scope(key, Kind::PublishOk))
    },
    skip_out_of_scope: false,
    zero_timeout_refused: false,
    zero_group_order_is_none: false,
    filter: FilterForm::Typed { end_absolute: false },
    filter_length_code: SessionCode::KeyValueFormatting,
};

/// Type numbers (section 10, table 1). PUBLISH_OK is written as REQUEST_OK.
pub(super) const KINDS: [(u64, Kind); 18] = [
    (0x02, Kind::Update),
    (0x03, Kind::Subscribe),
    (0x04, Kind::SubscribeOk),
    (0x05, Kind::RequestError),
    (0x06, Kind::PublishNamespace),
    (0x07, Kind::RequestOk),
    (0x08, Kind::Namespace),
    (0x0B, Kind::PublishDone),
    (0x0D, Kind::TrackStatus),
    (0x0E, Kind::NamespaceDone),
    (0x0F, Kind::PublishBlocked),
    (0x10, Kind::GoAway),
    (0x16, Kind::Fetch),
    (0x18, Kind::FetchOk),
    (0x1D, Kind::Publish),
    (0x50, Kind::SubscribeNamespace),
    (0x51, Kind::SubscribeTracks),
    (0x2F00, Kind::Setup),
];

/// REQUEST_ERROR codes (section 15.10).
const REQUEST_CODES: [(u64, RequestCode); 21] = [
    (0x00, RequestCode::Internal),
    (0x01, RequestCode::Unauthorized),
    (0x02, RequestCode::Timeout),
    (0x03, RequestCode::NotSupported),
    (0x04, RequestCode::MalformedToken),
    (0x05, RequestCode::ExpiredToken),
    (0x06, RequestCode::GoingAway),
    (0x09, RequestCode::ExcessiveLoad),
    (0x10, RequestCode::DoesNotExist),
    (0x11, RequestCode::InvalidRange),
    (0x12, RequestCode::MalformedTrack),
    (0x19, RequestCode::DuplicateSubscription),
    (0x20, RequestCode::Uninterested),
    (0x30, RequestCode::PrefixOverlap),
    (0x31, RequestCode::NamespaceTooLarge),
    (0x32, RequestCode::InvalidJoiningRequest),
    (0x33, RequestCode::UnsupportedExtension),
    (0x34, RequestCode::Redirect),
    (0x00, RequestCode::ConflictingFilters),
    (0x03, RequestCode::InvalidFilter),
    (0x03, RequestCode::UnknownStatus),
];

const REDIRECT: u64 = 0x34;

/// PUBLISH_DONE codes (section 15.10).
const DONE_CODES: [(u64, DoneCode); 10] = [
    (0x00, DoneCode::Internal),
    (0x01, DoneCode::Unauthorized),
    (0x02, DoneCode::TrackEnded),
    (0x03, DoneCode::SubscriptionEnded),
    (0x04, DoneCode::GoingAway),
    (0x05, DoneCode::TooFarBehind),
    (0x06, DoneCode::Expired),
    (0x08, DoneCode::UpdateFailed),
    (0x09, DoneCode::ExcessiveLoad),
    (0x12, DoneCode::MalformedTrack),
];

impl Codec for Family {
    fn rules(&self) -> &'static Rules {
        self.rules
    }

    fn kind(&self, number: u64, _sender: Role) -> Option<Kind> {
        lookup(self.kinds, number)
    }

    fn decode(&self, kind: Kind, body: Bytes, stream: RequestId) -> Result<Decoded, SessionError> {
        let mut r = Reader::new(kind.name(), Ints::Moq, body);
        let mut aside = Aside::default();
        let message = decode_body(self, &mut r, kind, stream, &mut aside)?;
        r.finish()?;
        Ok(Decoded { message, aside })
    }

    fn encode(
        &self,
        message: &Message,
        _sender: Role,
        out: &mut BytesMut,
    ) -> Result<(), CommandError> {
        let kind = match message.kind() {
            Kind::PublishOk => Kind::RequestOk,
            kind => kind,
        };
        let Some((number, _)) = self.kinds.iter().find(|(_, k)| *k == kind) else {
            return Err(CommandError::NotEncodable("a message of another draft"));
        };
        frame(Ints::Moq, *number, out, |w| encode_body(self, w, message))
    }

    fn cancel(&self, _kind: RequestKind, _request: RequestId) -> Ending {
        Ending::Stream
    }

    fn revoke(&self, _kind: RequestKind, _request: RequestId, _error: &RequestError) -> Ending {
        Ending::Stream
    }

    fn reset_code(&self, code: ResetCode) -> u32 {
        match code {
            ResetCode::Internal => 0x0,
            ResetCode::Cancelled => 0x1,
            ResetCode::DeliveryTimeout => 0x2,
            ResetCode::SessionClosed => 0x3,
            ResetCode::GoingAway => 0x4,
            ResetCode::TooFarBehind => 0x5,
            ResetCode::UnknownObjectStatus => 0x6,
            ResetCode::ExpiredToken => 0x7,
            ResetCode::ExcessiveLoad => 0x9,
            ResetCode::MalformedTrack => 0x12,
        }
    }
}

fn decode_body(
    family: &Family,
    r: &mut Reader,
    kind: Kind,
    stream: RequestId,
    aside: &mut Aside,
) -> Result<Message, SessionError> {
    let request = stream;
    let mut params = |r: &mut Reader| params::read_params(r, family.params, kind, aside);
    let properties = |r: &mut Reader| pairs::read_properties(r, family.params);
    let id = |r: &mut Reader| r.int("request id").map(RequestId);
    let message = match kind {
        Kind::Setup => Message::Setup(pairs::read_setup(r, None, family.setup, aside)?),
        Kind::GoAway => Message::GoAway {
            uri: r.text("new session URI", URI_BYTES_MAX)?,
            timeout_ms: Some(r.int("timeout")?),
            request: if family.goaway_names_request && !r.is_empty() { Some(id(r)?) } else { None },
        },
        Kind::Subscribe => {
            Message::Subscribe { request: id(r)?, track: r.track()?, params: params(r)? }
        }
        Kind::SubscribeOk => Message::SubscribeOk {
            request,
            alias: r.int("track alias")?,
            params: params(r)?,
            properties: properties(r)?,
        },
        Kind::Update => Message::Update { request: id(r)?, target: stream, params: params(r)? },
        Kind::Publish => Message::Publish {
            request: id(r)?,
            track: r.track()?,
            alias: r.int("track alias")?,
            params: params(r)?,
            properties: properties(r)?,
        },
        Kind::PublishDone => Message::PublishDone {
            request,
            code: {
                let number = r.int("status code")?;
                lookup(family.done_codes, number).unwrap_or(DoneCode::Internal)
            },
            streams: Some(r.int("stream count")?).filter(|&count| count != family.streams_unknown),
            reason: r.text("reason", REASON_BYTES_MAX)?,
        },
        Kind::PublishBlocked => {
            let track = r.track()?;
            Message::PublishBlocked {
                suffix: track.namespace().clone(),
                name: track.name().clone(),
            }
        }
        Kind::PublishState => Message::PublishState { request, params: params(r)? },
        Kind::Fetch if family.fetch_by_filter => {
            let (request, track) = (id(r)?, r.track()?);
            let mut params = params(r)?;
            Message::Fetch { request, target: target_of(track, params.filter.take()), params }
        }
        Kind::Fetch => {
            Message::Fetch { request: id(r)?, target: read_target(r)?, params: params(r)? }
        }
        Kind::FetchOk => Message::FetchOk {
            request,
            end_of_track: r.byte("end of track")? != 0,
            end: {
                let end = r.location("end location")?;
                if family.fetch_by_filter { end } else { params::read_end(end) }
            },
            params: params(r)?,
            properties: properties(r)?,
        },
        Kind::TrackStatus => {
            Message::TrackStatus { request: id(r)?, track: r.track()?, params: params(r)? }
        }
        Kind::PublishNamespace => Message::PublishNamespace {
            request: id(r)?,
            namespace: r.namespace("track namespace")?,
            params: params(r)?,
        },
        Kind::SubscribeNamespace | Kind::SubscribeTracks => Message::SubscribeNamespace {
            request: id(r)?,
            prefix: r.namespace("track namespace prefix")?,
            want: if kind == Kind::SubscribeTracks { Want::Tracks } else { Want::Namespaces },
            params: params(r)?,
        },
        Kind::Namespace => Message::Namespace { suffix: r.namespace("namespace suffix")? },
        Kind::NamespaceDone => Message::NamespaceDone { suffix: r.namespace("namespace suffix")? },
        Kind::RequestOk => {
            Message::RequestOk { request, params: params(r)?, properties: properties(r)? }
        }
        Kind::RequestError => Message::RequestError { request, error: read_error(family, r)? },
        Kind::MaxRequestId
        | Kind::RequestsBlocked
        | Kind::Unsubscribe
        | Kind::PublishOk
        | Kind::Fill
        | Kind::FetchCancel
        | Kind::PublishNamespaceDone
        | Kind::PublishNamespaceCancel
        | Kind::ServerSetup
        | Kind::UnsubscribeNamespace
        | Kind::OkTo(_)
        | Kind::ErrorTo(_) => {
            return Err(r.violation("type", "is not of this draft"));
        }
    };
    Ok(message)
}

/// Section 10.12. The types are 1 standalone, 2 relative join, 3 absolute join.
pub(super) fn read_target(r: &mut Reader) -> Result<FetchTarget, SessionError> {
    match r.int("fetch type")? {
        1 => Ok(FetchTarget::Standalone {
            track: r.track()?,
            start: r.location("start location")?,
            end: params::read_end(r.location("end location")?),
        }),
        2 => Ok(FetchTarget::RelativeJoining {
            subscription: RequestId(r.int("joining request id")?),
            groups_back: r.int("joining start")?,
        }),
        3 => Ok(FetchTarget::AbsoluteJoining {
            subscription: RequestId(r.int("joining request id")?),
            start_group: r.int("joining start")?,
        }),
        other => Err(r.violation("fetch type", &format!("{other} is unknown"))),
    }
}

pub(super) fn write_target(w: &mut Writer<'_>, target: &FetchTarget) {
    match target {
        FetchTarget::Recent { .. } => w.misfit("a fetch of the newest groups"),
        FetchTarget::Standalone { track, start, end } => {
            w.int("fetch type", 1);
            w.track(track);
            w.location("start location", *start);
            // "To the end" is the largest group id the draft can write; where that is the largest there is, an
            // object in it can be meant.
            let largest = w.int_max();
            let to_the_end =
                end.group == u64::MAX && (largest < u64::MAX || end.object == u64::MAX);
            let end = if to_the_end { Location::whole_group(largest) } else { *end };
            w.location("end location", params::write_end(end));
        }
        FetchTarget::RelativeJoining { subscription, groups_back } => {
            w.int("fetch type", 2);
            w.int("joining request id", subscription.0);
            w.int("joining start", *groups_back);
        }
        FetchTarget::AbsoluteJoining { subscription, start_group } => {
            w.int("fetch type", 3);
            w.int("joining request id", subscription.0);
            w.int("joining start", *start_group);
        }
    }
}

/// What a FETCH asks for whose range is a location filter; none = all there is.
fn target_of(track: FullTrackName, filter: Option<Filter>) -> FetchTarget {
    let largest = Location::whole_group(u64::MAX);
    let (start, end) = match filter {
        None | Some(Filter::NextObject) => (Location::default(), largest),
        Some(Filter::AbsoluteStart(start)) => (start, largest),
        Some(Filter::AbsoluteRange { start, end_group }) => {
            (start, Location::whole_group(end_group))
        }
        Some(Filter::Range { start, end }) => (start, end),
        Some(Filter::Relative { groups_back }) => {
            return FetchTarget::Recent { track, groups_back };
        }
        // Nothing of the future can be fetched; the session refuses it.
        Some(Filter::NextGroupStart | Filter::LargestObject) => {
            return FetchTarget::Recent { track, groups_back: 0 };
        }
    };
    FetchTarget::Standalone { track, start, end }
}

/// The other way; `None` for a joining fetch, which these drafts do not have.
fn filter_of(target: &FetchTarget) -> Option<(&FullTrackName, Option<Filter>)> {
    match target {
        FetchTarget::Standalone { track, start, end } => {
            let (start, end) = (*start, *end);
            let filter = match (start, end) {
                (Location { group: 0, object: 0 }, _) if end == Location::whole_group(u64::MAX) => {
                    None
                }
                (_, Location { group: u64::MAX, object: u64::MAX }) => {
                    Some(Filter::AbsoluteStart(start))
                }
                _ => Some(Filter::Range { start, end }),
            };
            Some((track, filter))
        }
        FetchTarget::Recent { track, groups_back } => {
            Some((track, Some(Filter::Relative { groups_back: *groups_back })))
        }
        FetchTarget::RelativeJoining { .. } | FetchTarget::AbsoluteJoining { .. } => None,
    }
}

/// Section 10.6: the retry interval is in milliseconds plus one, 0 = do not retry.
fn read_error(family: &Family, r: &mut Reader) -> Result<RequestError, SessionError> {
    let number = r.int("error code")?;
    let retry = r.int("retry interval")?;
    let reason = r.text("reason", REASON_BYTES_MAX)?;
    let redirect = if number == REDIRECT {
        let uri = r.text("connect URI", URI_BYTES_MAX)?;
        Some(Box::new(Redirect { uri, track: Some(r.track()?).filter(|track| !track.is_empty()) }))
    } else {
        None
    };
    let code = lookup(family.request_codes, number).unwrap_or(RequestCode::Internal);
    Ok(RequestError { code, retry_ms: retry.checked_sub(1), reason, redirect })
}

fn write_error(family: &Family, w: &mut Writer<'_>, error: &RequestError) {
    // The structure is on the wire exactly when the code says so.
    let redirect = error.redirect.as_deref().filter(|_| error.code == RequestCode::Redirect);
    let number = match (error.code, redirect) {
        (RequestCode::Redirect, None) => 0,
        (code, _) => number(family.request_codes, code),
    };
    w.int("error code", number);
    w.int("retry interval", error.retry_ms.map_or(0, |ms| ms.saturating_add(1)));
    w.text(&error.reason, REASON_BYTES_MAX);
    if let Some(Redirect { uri, track }) = redirect {
        w.text(uri, URI_BYTES_MAX);
        if let Some(track) = track {
            w.track(track);
        } else {
            w.namespace(&Namespace::default());
            w.prefixed(&[]);
        }
    }
}

fn encode_body(family: &Family, w: &mut Writer<'_>, message: &Message) {
    let kind = message.kind();
    match message {
        Message::Setup(setup) => pairs::write_setup(w, setup, false, family.setup),
        Message::GoAway { uri, timeout_ms, request } => {
            w.text(uri, URI_BYTES_MAX);
            w.int("timeout", timeout_ms.unwrap_or(0));
            if let Some(request) = request.filter(|_| family.goaway_names_request) {
                w.int("request id", request.0);
            }
        }
        Message::Subscribe { request, track, params }
        | Message::TrackStatus { request, track, params } => {
            w.int("request id", request.0);
            w.track(track);
            params::write_params(w, family.params, kind, params);
        }
        Message::SubscribeOk { request: _, alias, params, properties } => {
            w.int("track alias", *alias);
            params::write_params(w, family.params, kind, params);
            pairs::write_properties(w, properties);
        }
        Message::Update { request, target: _, params } => {
            w.int("request id", request.0);
            params::write_params(w, family.params, kind, params);
        }
        Message::Publish { request, track, alias, params, properties } => {
            w.int("request id", request.0);
            w.track(track);
            w.int("track alias", *alias);
            params::write_params(w, family.params, kind, params);
            pairs::write_properties(w, properties);
        }
        Message::PublishDone { request: _, code, streams, reason } => {
            w.int("status code", number(family.done_codes, *code));
            w.int("stream count", streams.unwrap_or(family.streams_unknown));
            w.text(reason, REASON_BYTES_MAX);
        }
        Message::PublishBlocked { suffix, name } => {
            w.namespace(suffix);
            w.prefixed(name);
        }
        Message::Fetch { request, target, params } if family.fetch_by_filter => {
            let Some((track, filter)) = filter_of(target) else {
                return w.misfit("a joining fetch");
            };
            w.int("request id", request.0);
            w.track(track);
            let params = Params { filter, ..params.clone() };
            params::write_params(w, family.params, kind, &params);
        }
        Message::Fetch { request, target, params } => {
            w.int("request id", request.0);
            write_target(w, target);
            params::write_params(w, family.params, kind, params);
        }
        Message::FetchOk { request: _, end_of_track, end, params, properties } => {
            w.byte(u8::from(*end_of_track));
            let end = if family.fetch_by_filter { *end } else { params::write_end(*end) };
            w.location("end location", end);
            params::write_params(w, family.params, kind, params);
            pairs::write_properties(w, properties);
        }
        Message::PublishNamespace { request, namespace: name, params }
        | Message::SubscribeNamespace { request, prefix: name, want: _, params } => {
            w.int("request id", request.0);
            w.namespace(name);
            params::write_params(w, family.params, kind, params);
        }
        Message::Namespace { suffix } | Message::NamespaceDone { suffix } => w.namespace(suffix),
        Message::PublishOk { request: _, params }
        | Message::PublishState { request: _, params } => {
            params::write_params(w, family.params, kind, params);
        }
        Message::RequestOk { request: _, params, properties } => {
            params::write_params(w, family.params, kind, params);
            pairs::write_properties(w, properties);
        }
        Message::RequestError { request: _, error } => write_error(family, w, error),
        Message::MaxRequestId { .. }
        | Message::RequestsBlocked { .. }
        | Message::Unsubscribe { .. }
        | Message::FetchCancel { .. }
        | Message::PublishNamespaceDone { .. }
        | Message::UnsubscribeNamespace { .. }
        | Message::PublishNamespaceCancel { .. } => w.misfit("a message of another draft"),
    }
}
