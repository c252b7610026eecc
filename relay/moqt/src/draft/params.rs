//! Message parameters, setup options and track properties: delta-coded lists whose shape all drafts
//! from 16 on share. Which keys exist, how they are written and where they belong is a [`Table`] of
//! each draft.

use bytes::Bytes;

use crate::error::{SessionCode, SessionError};
use crate::message::{Aside, Kind, Setup};
use crate::model::{Filter, GroupOrder, Location, Params, Property, PropertyValue};
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
    /// AbsoluteRange ends with a group id (draft 16), not with a delta.
    pub(super) filter_end_absolute: bool,
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
const NEW_GROUP: u64 = 0x32;
const PREFIX: u64 = 0x34;

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
fn next_key(r: &mut Reader, previous: u64, field: &str) -> Result<u64, SessionError> {
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
        if previous == Some(key) && key != TOKEN {
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
        read_param(r, table, key, form, params, aside)?;
    }
    Ok(params)
}

fn read_param(
    r: &mut Reader,
    table: &Table,
    key: u64,
    form: Form,
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
        Form::Prefixed => {
            let value = r.prefixed("parameter value", VALUE_BYTES_MAX)?;
            let mut inner = r.inside(value);
            match key {
                TOKEN => aside.tokens.push(read_token(&mut inner)?),
                FILTER => params.filter = Some(read_filter(&mut inner, table)?),
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

fn read_filter(r: &mut Reader, table: &Table) -> Result<Filter, SessionError> {
    let short = |e: SessionError| SessionError { code: table.filter_length_code, ..e };
    let filter = match r.int("filter type").map_err(short)? {
        1 => Filter::NextGroupStart,
        2 => Filter::LargestObject,
        3 => Filter::AbsoluteStart(r.location("filter start").map_err(short)?),
        4 => {
            let start = r.location("filter start").map_err(short)?;
            let end = r.int("filter end group").map_err(short)?;
            let end_group =
                if table.filter_end_absolute { Some(end) } else { start.group.checked_add(end) };
            let Some(end_group) = end_group else {
                return Err(r.violation("filter end group", "overflows"));
            };
            Filter::AbsoluteRange { start, end_group }
        }
        other => return Err(r.violation("filter type", &format!("{other} is unknown"))),
    };
    r.finish().map_err(short)?;
    Ok(filter)
}

/// Reads a Token structure; any flaw is KEY_VALUE_FORMATTING_ERROR (section 10.2.2).
fn read_token(r: &mut Reader) -> Result<TokenAction, SessionError> {
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

fn write_token(w: &mut Writer<'_>, token: &Token) {
    w.nested(|w| {
        w.int("token", USE_VALUE);
        w.int("token type", token.kind);
        w.raw(&token.value);
    });
}

/// Writes a counted parameter list, leaving out what the draft or the message does not have.
pub(super) fn write_params(w: &mut Writer<'_>, table: &Table, kind: Kind, params: &Params) {
    let form = |key| (table.form)(key).filter(|_| (table.in_scope)(key, kind));
    let byte = |value: Option<u8>| value.map(u64::from);
    // In ascending order of keys, as the delta coding wants it.
    let ints = [
        (
            OBJECT_TIMEOUT,
            params.object_timeout_ms.filter(|&ms| ms > 0 || !table.zero_timeout_refused),
        ),
        (RENDEZVOUS_TIMEOUT, params.rendezvous_timeout_ms),
        (SUBGROUP_TIMEOUT, params.subgroup_timeout_ms),
        (EXPIRES, params.expires_ms),
        (FILL_TIMEOUT, params.fill_timeout_ms),
        (FORWARD, params.forward.map(u64::from)),
        (PRIORITY, byte(params.priority)),
        (
            GROUP_ORDER,
            params.group_order.map(|order| match order {
                GroupOrder::Ascending => 1,
                GroupOrder::Descending => 2,
            }),
        ),
        (NEW_GROUP, params.new_group),
    ];
    let filter = params.filter.filter(|filter| *filter != Filter::NextObject);
    let wanted = |key| {
        form(key).is_some()
            && match key {
                LARGEST => params.largest.is_some(),
                FILTER => filter.is_some(),
                PREFIX => params.prefix.is_some(),
                _ => ints.iter().any(|(k, value)| *k == key && value.is_some()),
            }
    };
    let token_count = if form(TOKEN).is_some() { params.tokens.len() } else { 0 };
    let count = token_count + KEYS.into_iter().filter(|&key| wanted(key)).count();
    w.int("parameter count", count as u64);

    let mut previous = 0;
    for key in KEYS {
        if key == TOKEN {
            for token in params.tokens.iter().take(token_count) {
                w.int("parameter type", TOKEN - previous);
                previous = TOKEN;
                write_token(w, token);
            }
            continue;
        }
        if !wanted(key) {
            continue;
        }
        w.int("parameter type", key - previous);
        previous = key;
        let int = ints.iter().find(|(k, _)| *k == key).and_then(|(_, value)| *value);
        match (form(key), int, filter) {
            (Some(Form::Int), Some(value), _) => w.int("parameter value", value),
            (Some(Form::Byte), Some(value), _) => w.byte(value as u8),
            (Some(Form::Location), ..) => {
                w.location("LARGEST_OBJECT", params.largest.unwrap_or_default());
            }
            (Some(Form::Namespace), ..) => {
                w.namespace(params.prefix.as_ref().unwrap_or(&crate::Namespace::default()));
            }
            (Some(Form::Prefixed), _, Some(filter)) if key == FILTER => {
                w.nested(|w| write_filter(w, table, filter));
            }
            _ => w.nested(|w| w.location("LARGEST_OBJECT", params.largest.unwrap_or_default())),
        }
    }
}

/// All keys in ascending order.
const KEYS: [u64; 13] = [
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
    NEW_GROUP,
    PREFIX,
];

fn write_filter(w: &mut Writer<'_>, table: &Table, filter: Filter) {
    match filter {
        Filter::NextObject | Filter::LargestObject => w.int("filter", 2),
        Filter::NextGroupStart | Filter::Relative { groups_back: 0 } => w.int("filter", 1),
        // Of what is published from now on, all that is of the current group or an older one.
        Filter::Relative { .. } => w.int("filter", 2),
        Filter::AbsoluteStart(start) => {
            w.int("filter", 3);
            w.location("filter start", start);
        }
        Filter::AbsoluteRange { start, end_group }
        | Filter::Range { start, end: Location { group: end_group, .. } } => {
            w.int("filter", 4);
            w.location("filter start", start);
            match end_group.checked_sub(start.group) {
                Some(_) if table.filter_end_absolute => w.int("filter end group", end_group),
                Some(delta) => w.int("filter end group", delta),
                None => w.misfit("a filter that ends before it starts"),
            }
        }
    }
}

/// A key-value pair: even types hold an integer, odd ones bytes (section 1.4.3).
fn read_pair(r: &mut Reader, previous: &mut u64, field: &str) -> Result<Property, SessionError> {
    let kind = next_key(r, *previous, field)?;
    *previous = kind;
    let value = if kind % 2 == 0 {
        PropertyValue::Int(r.int(field)?)
    } else {
        PropertyValue::Bytes(r.prefixed(field, VALUE_BYTES_MAX)?)
    };
    Ok(Property { kind, value })
}

const IMMUTABLE: u64 = 0x0B;

/// Reads track properties to the end of the message and checks the ranges section 12 closes over.
pub(super) fn read_properties(
    r: &mut Reader,
    table: &Table,
) -> Result<Vec<Property>, SessionError> {
    let mut properties = Vec::new();
    let mut previous = 0;
    while !r.is_empty() {
        let property = read_pair(r, &mut previous, "track property")?;
        check_property(r, table, &property, true)?;
        properties.push(property);
    }
    Ok(properties)
}

fn check_property(
    r: &Reader,
    table: &Table,
    property: &Property,
    outermost: bool,
) -> Result<(), SessionError> {
    let in_range = match (property.kind, &property.value) {
        (0x02, PropertyValue::Int(0)) => !table.zero_timeout_refused,
        (0x22, PropertyValue::Int(order)) => matches!(order, 1 | 2),
        (0x30, PropertyValue::Int(dynamic)) => *dynamic <= 1,
        (IMMUTABLE, PropertyValue::Bytes(block)) if outermost => {
            return check_immutable(r, table, block);
        }
        _ => true,
    };
    if in_range {
        return Ok(());
    }
    Err(r.violation("track property", &format!("{:#x} is out of range", property.kind)))
}

/// Looks inside immutable properties. A block that is no list of pairs is carried as it is: reading it
/// is a permission, not a duty (section 12.7).
fn check_immutable(r: &Reader, table: &Table, block: &Bytes) -> Result<(), SessionError> {
    let mut inner = r.inside(block.clone());
    let mut previous = 0;
    let mut pairs = Vec::new();
    while !inner.is_empty() {
        match read_pair(&mut inner, &mut previous, "immutable property") {
            Ok(pair) => pairs.push(pair),
            Err(_) => return Ok(()),
        }
    }
    pairs.iter().try_for_each(|pair| check_property(r, table, pair, false))
}

/// Writes track properties. They must be in ascending order of type.
pub(super) fn write_properties(w: &mut Writer<'_>, properties: &[Property]) {
    let mut previous = 0;
    for property in properties {
        let Some(delta) = property.kind.checked_sub(previous) else {
            return w.misfit("track properties out of order");
        };
        previous = property.kind;
        w.int("track property type", delta);
        match (&property.value, property.kind % 2) {
            (PropertyValue::Int(value), 0) => w.int("track property", *value),
            (PropertyValue::Bytes(value), 1) if value.len() <= VALUE_BYTES_MAX => w.prefixed(value),
            _ => w.misfit("a track property whose value does not suit its type"),
        }
    }
}

const SETUP_PATH: u64 = 0x01;
const SETUP_MAX_REQUEST_ID: u64 = 0x02;
const SETUP_TOKEN: u64 = 0x03;
const SETUP_TOKEN_CACHE: u64 = 0x04;
const SETUP_AUTHORITY: u64 = 0x05;
const SETUP_IMPLEMENTATION: u64 = 0x07;

/// Reads `count` setup options, or all there are. Unknown ones are skipped, even when repeated
/// (section 10.3); `request_ids` tells whether the draft has MAX_REQUEST_ID.
pub(super) fn read_setup(
    r: &mut Reader,
    count: Option<u64>,
    request_ids: bool,
    aside: &mut Aside,
) -> Result<Setup, SessionError> {
    let mut setup = Setup::default();
    let mut previous = 0;
    let mut seen = 0u8;
    let mut left = count;
    while left.map_or(!r.is_empty(), |left| left > 0) {
        left = left.map(|left| left - 1);
        let Property { kind, value } = read_pair(r, &mut previous, "setup option")?;
        let known = match kind {
            SETUP_MAX_REQUEST_ID => request_ids,
            SETUP_TOKEN => false,
            kind => kind <= SETUP_IMPLEMENTATION && kind != 0x06,
        };
        if known {
            let bit = 1u8 << kind;
            if seen & bit != 0 {
                return Err(r.violation("setup option", &format!("{kind:#x} is repeated")));
            }
            seen |= bit;
        }
        let options = &mut setup.options;
        match (kind, value) {
            (SETUP_PATH, PropertyValue::Bytes(value)) => {
                options.path = Some(utf8(r, &value, "PATH", SessionCode::MalformedPath)?);
            }
            (SETUP_AUTHORITY, PropertyValue::Bytes(value)) => {
                let code = SessionCode::MalformedAuthority;
                options.authority = Some(utf8(r, &value, "AUTHORITY", code)?);
            }
            (SETUP_IMPLEMENTATION, PropertyValue::Bytes(value)) => {
                options.implementation = Some(String::from_utf8_lossy(&value).into_owned());
            }
            (SETUP_TOKEN, PropertyValue::Bytes(value)) => {
                aside.tokens.push(read_token(&mut r.inside(value))?);
            }
            (SETUP_TOKEN_CACHE, PropertyValue::Int(value)) => setup.token_cache_bytes = Some(value),
            (SETUP_MAX_REQUEST_ID, PropertyValue::Int(value)) if request_ids => {
                setup.max_request_id = Some(value);
            }
            _ => {}
        }
    }
    Ok(setup)
}

fn utf8(r: &Reader, value: &Bytes, field: &str, code: SessionCode) -> Result<String, SessionError> {
    match std::str::from_utf8(value) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(r.fail(code, field, "is not UTF-8")),
    }
}

/// Writes setup options; `counted` puts their number first.
pub(super) fn write_setup(w: &mut Writer<'_>, setup: &Setup, counted: bool, request_ids: bool) {
    let options = &setup.options;
    let max_request_id = setup.max_request_id.filter(|_| request_ids);
    let count = usize::from(options.path.is_some())
        + usize::from(max_request_id.is_some())
        + options.tokens.len()
        + usize::from(setup.token_cache_bytes.is_some())
        + usize::from(options.authority.is_some())
        + usize::from(options.implementation.is_some());
    if counted {
        w.int("setup option count", count as u64);
    }
    let mut previous = 0;
    let mut key = |w: &mut Writer<'_>, key: u64| {
        w.int("setup option", key - previous);
        previous = key;
    };
    if let Some(path) = &options.path {
        key(w, SETUP_PATH);
        w.prefixed(path.as_bytes());
    }
    if let Some(max) = max_request_id {
        key(w, SETUP_MAX_REQUEST_ID);
        w.int("MAX_REQUEST_ID", max);
    }
    for token in &options.tokens {
        key(w, SETUP_TOKEN);
        write_token(w, token);
    }
    if let Some(bytes) = setup.token_cache_bytes {
        key(w, SETUP_TOKEN_CACHE);
        w.int("MAX_AUTH_TOKEN_CACHE_SIZE", bytes);
    }
    if let Some(authority) = &options.authority {
        key(w, SETUP_AUTHORITY);
        w.prefixed(authority.as_bytes());
    }
    if let Some(implementation) = &options.implementation {
        key(w, SETUP_IMPLEMENTATION);
        w.prefixed(implementation.as_bytes());
    }
}

/// The end of a fetch as drafts up to 19 write it: object id plus one, 0 for the whole group.
pub(super) fn read_end(location: Location) -> Location {
    Location { object: location.object.checked_sub(1).unwrap_or(u64::MAX), ..location }
}

/// The other way.
pub(super) fn write_end(end: Location) -> Location {
    Location { object: end.object.checked_add(1).unwrap_or(0), ..end }
}
