//! Message parameters: delta-coded lists whose shape all drafts from 16 on share. Which keys exist, how
//! they are written and where they belong is a [`Table`] of each draft.

use super::filters;
use crate::error::{SessionCode, SessionError};
use crate::message::{Aside, Kind};
use crate::model::{GroupOrder, Location, Params};
use crate::token::{Token, TokenAction};
use crate::wire::{Reader, VALUE_BYTES_MAX, Writer};

/// How the value of a parameter is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Int,
    Byte,
    Location,
    Namespace,
    Prefixed,
    /// A location filter that says itself where it ends.
    Filter,
}

/// How a draft writes location filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FilterForm {
    /// Up to draft 19: length, type, what the type has. The end group is an id (draft 16) or a delta.
    Typed { end_absolute: bool },
    /// Drafts 20 and 21: length, then up to four fields that mean what their number says.
    Fields,
    /// Draft 22: a type that says how many fields follow.
    TypeLed,
}

/// How a draft writes message parameters.
pub(super) struct Table {
    /// Form of a key; `None` = the draft does not have it.
    pub(super) form: fn(u64) -> Option<Form>,
    /// Whether a key belongs into a message.
    pub(super) in_scope: fn(u64, Kind) -> bool,
    /// A parameter out of scope is skipped (draft 16), not a violation (17 and later).
    pub(super) skip_out_of_scope: bool,
    /// A delivery timeout of 0 is a violation (draft 16).
    pub(super) zero_timeout_refused: bool,
    /// A group order of 0 is taken for none given (draft 16). Draft 14 had it as "the publisher's",
    /// and clients that grew from there, Shaka 5.2 among them, send it on under 16.
    pub(super) zero_group_order_is_none: bool,
    /// Form of location filters.
    pub(super) filter: FilterForm,
    /// Code for a filter whose length is wrong.
    pub(super) filter_length_code: SessionCode,
}

const OBJECT_TIMEOUT: u64 = 0x02;
const TOKEN: u64 = 0x03;
const RENDEZVOUS_TIMEOUT: u64 = 0x04;
const SUBGROUP_TIMEOUT: u64 = 0x06;
const EXPIRES: u64 = 0x08;
const LARGEST: u64 = 0x09;
const FILL_TIMEOUT: u64 = 0x0A;
const FORWARD: u64 = 0x10;
const PRIORITY: u64 = 0x20;
const FILTER: u64 = 0x21;
const GROUP_ORDER: u64 = 0x22;
const FILL: u64 = 0x23;
const NEW_GROUP: u64 = 0x32;
const PREFIX: u64 = 0x34;
const INCLUDE_PROPERTIES: u64 = 0x35;

/// Whether a parameter belongs into a message. Drafts 16 and 18 agree, as far as they have it; the
/// names are those of section 10.2 of draft 18, where PUBLISH_OK is written as REQUEST_OK.
pub(super) fn in_scope(key: u64, kind: Kind) -> bool {
    use Kind as K;
    match key {
        OBJECT_TIMEOUT | SUBGROUP_TIMEOUT | NEW_GROUP => {
            matches!(kind, K::Subscribe | K::Update | K::PublishOk)
        }
        TOKEN => matches!(
            kind,
            K::Publish
                | K::Subscribe
                | K::Update
                | K::SubscribeNamespace
                | K::SubscribeTracks
                | K::PublishNamespace
                | K::TrackStatus
                | K::Fetch
        ),
        RENDEZVOUS_TIMEOUT => matches!(kind, K::Subscribe),
        EXPIRES => matches!(kind, K::SubscribeOk | K::Publish | K::PublishOk | K::RequestOk),
        LARGEST => matches!(kind, K::SubscribeOk | K::Publish | K::RequestOk),
        FILL_TIMEOUT => matches!(kind, K::Fetch),
        FORWARD => matches!(
            kind,
            K::Subscribe | K::Update | K::Publish | K::PublishOk | K::SubscribeTracks
        ),
        PRIORITY => matches!(kind, K::Subscribe | K::Fetch | K::Update | K::PublishOk),
        FILTER => matches!(kind, K::Subscribe | K::Update | K::PublishOk),
        GROUP_ORDER => matches!(kind, K::Subscribe | K::Fetch | K::PublishOk),
        PREFIX => matches!(kind, K::Update),
        _ => false,
    }
}

/// The sum of a key and a delta; past 2^64-1 is a violation (section 1.4.3).
pub(super) fn next_key(r: &mut Reader, previous: u64, field: &str) -> Result<u64, SessionError> {
    let delta = r.int(field)?;
    previous.checked_add(delta).ok_or_else(|| r.violation(field, "type delta overflows"))
}

/// Reads a counted parameter list.
pub(super) fn read_params(
    r: &mut Reader,
    table: &Table,
    kind: Kind,
    aside: &mut Aside,
) -> Result<Params, SessionError> {
    let count = r.int("parameter count")?;
    let mut params = Params::default();
    let mut previous = None;
    for _ in 0..count {
        let key = next_key(r, previous.unwrap_or(0), "parameter type")?;
        let may_repeat = key == TOKEN || filters::subject(key).is_some();
        if previous == Some(key) && !may_repeat {
            return Err(r.violation("parameter type", &format!("{key:#x} is repeated")));
        }
        previous = Some(key);
        let Some(form) = (table.form)(key) else {
            return Err(r.violation("parameter type", &format!("{key:#x} is unknown")));
        };
        let keep = (table.in_scope)(key, kind);
        if !keep && !table.skip_out_of_scope {
            return Err(r.violation("parameter type", &format!("{key:#x} does not belong here")));
        }
        let mut skipped = (Params::default(), Aside::default());
        let (params, aside) =
            if keep { (&mut params, &mut *aside) } else { (&mut skipped.0, &mut skipped.1) };
        read_param(r, table, (key, form, kind), params, aside)?;
    }
    Ok(params)
}

fn read_param(
    r: &mut Reader,
    table: &Table,
    (key, form, kind): (u64, Form, Kind),
    params: &mut Params,
    aside: &mut Aside,
) -> Result<(), SessionError> {
    match form {
        Form::Int => {
            let value = r.int("parameter value")?;
            set_int(r, table, key, value, params)
        }
        Form::Byte => {
            let value = r.byte("parameter value")?;
            set_int(r, table, key, u64::from(value), params)
        }
        Form::Location => {
            params.largest = Some(r.location("LARGEST_OBJECT")?);
            Ok(())
        }
        Form::Namespace => {
            params.prefix = Some(r.namespace("TRACK_NAMESPACE_PREFIX")?);
            Ok(())
        }
        Form::Filter => {
            params.filter = filters::read_filter(r, table, kind)?;
            Ok(())
        }
        Form::Prefixed => {
            let value = r.prefixed("parameter value", VALUE_BYTES_MAX)?;
            let mut inner = r.inside(value);
            if let Some(subject) = filters::subject(key) {
                filters::read_ranges(&mut inner, kind, subject, &mut params.ranges, aside);
                return Ok(());
            }
            match key {
                TOKEN => aside.tokens.push(read_token(&mut inner)?),
                FILTER => params.filter = filters::read_filter(&mut inner, table, kind)?,
                FILL => params.fill = Some(filters::read_fill(&mut inner, table, aside)?),
                _ => {
                    params.largest = Some(inner.location("LARGEST_OBJECT")?);
                    inner.finish()?;
                }
            }
            Ok(())
        }
    }
}

fn set_int(
    r: &Reader,
    table: &Table,
    key: u64,
    value: u64,
    params: &mut Params,
) -> Result<(), SessionError> {
    let refuse = |name| Err(r.violation(name, &format!("{value} is out of range")));
    match key {
        OBJECT_TIMEOUT if value == 0 && table.zero_timeout_refused => {
            return refuse("DELIVERY_TIMEOUT");
        }
        OBJECT_TIMEOUT => params.object_timeout_ms = Some(value),
        SUBGROUP_TIMEOUT => params.subgroup_timeout_ms = Some(value),
        RENDEZVOUS_TIMEOUT => params.rendezvous_timeout_ms = Some(value),
        FILL_TIMEOUT => params.fill_timeout_ms = Some(value),
        EXPIRES => params.expires_ms = Some(value),
        FORWARD if value > 1 => return refuse("FORWARD"),
        FORWARD => params.forward = Some(value == 1),
        PRIORITY => match u8::try_from(value) {
            Ok(priority) => params.priority = Some(priority),
            Err(_) => return refuse("SUBSCRIBER_PRIORITY"),
        },
        GROUP_ORDER if value == 0 && table.zero_group_order_is_none => {}
        GROUP_ORDER => match group_order(value) {
            Some(order) => params.group_order = Some(order),
            None => return refuse("GROUP_ORDER"),
        },
        INCLUDE_PROPERTIES if value > 1 => return refuse("INCLUDE_PROPERTIES"),
        INCLUDE_PROPERTIES => params.include_properties = Some(value == 1),
        _ => params.new_group = Some(value),
    }
    Ok(())
}

fn group_order(value: u64) -> Option<GroupOrder> {
    match value {
        1 => Some(GroupOrder::Ascending),
        2 => Some(GroupOrder::Descending),
        _ => None,
    }
}

/// Reads a Token structure; any flaw is KEY_VALUE_FORMATTING_ERROR (section 10.2.2).
pub(super) fn read_token(r: &mut Reader) -> Result<TokenAction, SessionError> {
    let format = |e: SessionError| SessionError { code: SessionCode::KeyValueFormatting, ..e };
    let action = r.int("token alias type").map_err(format)?;
    let mut alias = 0;
    if action != USE_VALUE {
        alias = r.int("token alias").map_err(format)?;
    }
    let read = match action {
        DELETE => TokenAction::Delete { alias },
        USE_ALIAS => TokenAction::UseAlias { alias },
        REGISTER | USE_VALUE => {
            let kind = r.int("token type").map_err(format)?;
            let token = Token { kind, value: r.rest() };
            if action == REGISTER {
                TokenAction::Register { alias, token }
            } else {
                TokenAction::UseValue(token)
            }
        }
        _ => return Err(format(r.violation("token alias type", "is unknown"))),
    };
    r.finish().map_err(format)?;
    Ok(read)
}

const DELETE: u64 = 0;
const REGISTER: u64 = 1;
const USE_ALIAS: u64 = 2;
const USE_VALUE: u64 = 3;

pub(super) fn write_token(w: &mut Writer<'_>, token: &Token) {
    w.nested(|w| {
        w.int("token", USE_VALUE);
        w.int("token type", token.kind);
        w.raw(&token.value);
    });
}

/// Writes a counted parameter list, leaving out what the draft or the message does not have.
pub(super) fn write_params(w: &mut Writer<'_>, table: &Table, kind: Kind, params: &Params) {
    let form = |key| (table.form)(key).filter(|_| (table.in_scope)(key, kind));
    let count: usize = KEYS
        .into_iter()
        .filter(|&key| form(key).is_some())
        .map(|key| instances(table, kind, key, params))
        .sum();
    w.int("parameter count", count as u64);
    let mut previous = 0;
    for key in KEYS {
        let Some(form) = form(key) else { continue };
        for instance in 0..instances(table, kind, key, params) {
            w.int("parameter type", key - previous);
            previous = key;
            write_param(w, table, (key, form, kind), params, instance);
        }
    }
}

/// How often a parameter is written.
fn instances(table: &Table, kind: Kind, key: u64, params: &Params) -> usize {
    if let Some(subject) = filters::subject(key) {
        return params.ranges.iter().filter(|filter| filter.subject == subject).count();
    }
    usize::from(match key {
        TOKEN => return params.tokens.len(),
        LARGEST => params.largest.is_some(),
        FILTER => filters::written(params, kind).is_some(),
        FILL => params.fill.is_some(),
        PREFIX => params.prefix.is_some(),
        _ => int_of(table, key, params).is_some(),
    })
}

fn int_of(table: &Table, key: u64, params: &Params) -> Option<u64> {
    match key {
        OBJECT_TIMEOUT => {
            params.object_timeout_ms.filter(|&ms| ms > 0 || !table.zero_timeout_refused)
        }
        RENDEZVOUS_TIMEOUT => params.rendezvous_timeout_ms,
        SUBGROUP_TIMEOUT => params.subgroup_timeout_ms,
        EXPIRES => params.expires_ms,
        FILL_TIMEOUT => params.fill_timeout_ms,
        FORWARD => params.forward.map(u64::from),
        PRIORITY => params.priority.map(u64::from),
        GROUP_ORDER => params.group_order.map(|order| match order {
            GroupOrder::Ascending => 1,
            GroupOrder::Descending => 2,
        }),
        NEW_GROUP => params.new_group,
        INCLUDE_PROPERTIES => params.include_properties.map(u64::from),
        _ => None,
    }
}

fn write_param(
    w: &mut Writer<'_>,
    table: &Table,
    (key, form, kind): (u64, Form, Kind),
    params: &Params,
    instance: usize,
) {
    let largest = params.largest.unwrap_or_default();
    match (form, key) {
        (Form::Int, _) => {
            w.int("parameter value", int_of(table, key, params).unwrap_or_default());
        }
        (Form::Byte, _) => w.byte(int_of(table, key, params).unwrap_or_default() as u8),
        (Form::Location, _) => w.location("LARGEST_OBJECT", largest),
        (Form::Namespace, _) => {
            w.namespace(params.prefix.as_ref().unwrap_or(&crate::Namespace::default()));
        }
        (Form::Filter, _) | (Form::Prefixed, FILTER) => {
            if let Some(filter) = filters::written(params, kind) {
                filters::write_filter(w, table, kind, filter);
            }
        }
        (Form::Prefixed, TOKEN) => {
            if let Some(token) = params.tokens.get(instance) {
                write_token(w, token);
            }
        }
        (Form::Prefixed, FILL) => {
            if let Some(fill) = &params.fill {
                filters::write_fill(w, table, fill);
            }
        }
        (Form::Prefixed, LARGEST) => w.nested(|w| w.location("LARGEST_OBJECT", largest)),
        (Form::Prefixed, _) => {
            let subject = filters::subject(key);
            let mut of_key = params.ranges.iter().filter(|f| Some(f.subject) == subject);
            if let Some(filter) = of_key.nth(instance) {
                filters::write_ranges(w, filter);
            }
        }
    }
}

/// All keys in ascending order, as the delta coding wants it.
const KEYS: [u64; 20] = [
    OBJECT_TIMEOUT,
    TOKEN,
    RENDEZVOUS_TIMEOUT,
    SUBGROUP_TIMEOUT,
    EXPIRES,
    LARGEST,
    FILL_TIMEOUT,
    FORWARD,
    PRIORITY,
    FILTER,
    GROUP_ORDER,
    FILL,
    0x25,
    0x26,
    0x27,
    0x28,
    0x29,
    NEW_GROUP,
    PREFIX,
    INCLUDE_PROPERTIES,
];

/// The end of a fetch as drafts up to 19 write it: object id plus one, 0 for the whole group.
pub(super) fn read_end(location: Location) -> Location {
    Location { object: location.object.checked_sub(1).unwrap_or(u64::MAX), ..location }
}

/// The other way.
pub(super) fn write_end(end: Location) -> Location {
    Location { object: end.object.checked_add(1).unwrap_or(0), ..end }
}
