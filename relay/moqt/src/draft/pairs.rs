//! Key-value pairs: track properties and setup options, delta-coded lists that all drafts from 16 on
//! share, and setup options of draft 14. Which of them a relay acts on is not decided here.

use bytes::Bytes;

use super::params::{Table, next_key, read_token, write_token};
use crate::error::{SessionCode, SessionError};
use crate::message::{Aside, Setup};
use crate::model::{Property, PropertyValue};
use crate::wire::{Reader, VALUE_BYTES_MAX, Writer};

/// A key-value pair: even types hold an integer, odd ones bytes (section 1.4.3).
pub(super) fn read_pair(
    r: &mut Reader,
    previous: &mut u64,
    field: &str,
) -> Result<Property, SessionError> {
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
const SETUP_FILTER_RANGES: u64 = 0x06;
const SETUP_IMPLEMENTATION: u64 = 0x07;
const SETUP_REQUEST_UPDATES: u64 = 0x08;

/// Which options of a SETUP a draft has beside those all have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SetupRules {
    /// MAX_REQUEST_ID.
    pub(super) request_ids: bool,
    /// MAX_FILTER_RANGES and MAX_REQUEST_UPDATES.
    pub(super) limits: bool,
    /// Types are deltas; otherwise they stand as they are (draft 14).
    pub(super) deltas: bool,
}

/// Reads `count` setup options, or all there are. Unknown ones are skipped, even when repeated
/// (section 10.3).
pub(super) fn read_setup(
    r: &mut Reader,
    count: Option<u64>,
    rules: SetupRules,
    aside: &mut Aside,
) -> Result<Setup, SessionError> {
    let mut setup = Setup::default();
    let mut previous = 0;
    let mut seen = 0u16;
    let mut left = count;
    while left.map_or(!r.is_empty(), |left| left > 0) {
        left = left.map(|left| left - 1);
        if !rules.deltas {
            previous = 0;
        }
        let Property { kind, value } = read_pair(r, &mut previous, "setup option")?;
        let known = match kind {
            SETUP_MAX_REQUEST_ID => rules.request_ids,
            SETUP_FILTER_RANGES | SETUP_REQUEST_UPDATES => rules.limits,
            SETUP_TOKEN => false,
            kind => kind <= SETUP_IMPLEMENTATION,
        };
        if known {
            let bit = 1u16 << kind;
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
            (SETUP_MAX_REQUEST_ID, PropertyValue::Int(value)) if rules.request_ids => {
                setup.max_request_id = Some(value);
            }
            (SETUP_FILTER_RANGES, PropertyValue::Int(value)) if rules.limits => {
                setup.filter_ranges = Some(value);
            }
            (SETUP_REQUEST_UPDATES, PropertyValue::Int(value)) if rules.limits => {
                setup.request_updates = Some(value);
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
pub(super) fn write_setup(w: &mut Writer<'_>, setup: &Setup, counted: bool, rules: SetupRules) {
    let options = &setup.options;
    let max_request_id = setup.max_request_id.filter(|_| rules.request_ids);
    let filter_ranges = setup.filter_ranges.filter(|_| rules.limits);
    let request_updates = setup.request_updates.filter(|_| rules.limits);
    let count = usize::from(options.path.is_some())
        + usize::from(max_request_id.is_some())
        + options.tokens.len()
        + usize::from(setup.token_cache_bytes.is_some())
        + usize::from(options.authority.is_some())
        + usize::from(filter_ranges.is_some())
        + usize::from(request_updates.is_some())
        + usize::from(options.implementation.is_some());
    if counted {
        w.int("setup option count", count as u64);
    }
    let mut previous = 0;
    let mut key = |w: &mut Writer<'_>, key: u64| {
        w.int("setup option", key - previous);
        if rules.deltas {
            previous = key;
        }
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
    if let Some(ranges) = filter_ranges {
        key(w, SETUP_FILTER_RANGES);
        w.int("MAX_FILTER_RANGES", ranges);
    }
    if let Some(implementation) = &options.implementation {
        key(w, SETUP_IMPLEMENTATION);
        w.prefixed(implementation.as_bytes());
    }
    if let Some(updates) = request_updates {
        key(w, SETUP_REQUEST_UPDATES);
        w.int("MAX_REQUEST_UPDATES", updates);
    }
}
