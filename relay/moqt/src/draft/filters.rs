//! Filters and fills as drafts write them: which objects of a track a request wants, by location, by
//! ranges of values, and from the past. The model is one; its forms on the wire are three.

use super::params::{self, FilterForm, Table};
use crate::error::{RequestCode, RequestError, SessionCode, SessionError};
use crate::message::{Aside, Kind};
use crate::model::{Fill, Filter, Location, Params, RangeFilter, RangeSubject, ValueRange};
use crate::wire::{Reader, Writer};

/// Most range filters of a message. Each is at most 48 bytes beside its ranges.
const RANGE_FILTERS_MAX: usize = 64;
/// Most ranges of one filter: 64 filters x 64 ranges x 24 bytes = 96 KiB while a message is judged.
const RANGES_MAX: usize = 64;

/// Messages that change a filter, where "no filter" must be said.
fn says_no_filter(kind: Kind) -> bool {
    matches!(kind, Kind::Update | Kind::PublishState)
}

/// The filter to write into a message, if any.
pub(super) fn written(params: &Params, kind: Kind) -> Option<Filter> {
    params.filter.filter(|filter| {
        *filter != Filter::NextObject || says_no_filter(kind) || kind == Kind::Fill
    })
}

/// Reads a location filter. Prefixed forms end with the reader.
pub(super) fn read_filter(
    r: &mut Reader,
    table: &Table,
    kind: Kind,
) -> Result<Option<Filter>, SessionError> {
    let short = |e: SessionError| SessionError { code: table.filter_length_code, ..e };
    let mut fields = [0; 4];
    let mut count = 0;
    let filter = match table.filter {
        FilterForm::Typed { end_absolute } => {
            let filter = read_typed(r, end_absolute, short)?;
            r.finish().map_err(short)?;
            filter
        }
        FilterForm::Fields => {
            while !r.is_empty() {
                let Some(field) = fields.get_mut(count) else {
                    return Err(r.fail(
                        table.filter_length_code,
                        "LOCATION_FILTER",
                        "has more than four fields",
                    ));
                };
                *field = r.int("LOCATION_FILTER").map_err(short)?;
                count += 1;
            }
            let fields = fields.get(..count).unwrap_or_default();
            if fields == [0, 0] { Filter::LargestObject } else { from_fields(r, fields)? }
        }
        FilterForm::TypeLed => {
            let form = r.int("location filter type")?;
            let wanted = match form {
                0..=4 => form as usize,
                NEXT_OBJECT => 0,
                other => {
                    return Err(r.violation("location filter type", &format!("{other} is unknown")));
                }
            };
            for field in fields.iter_mut().take(wanted) {
                *field = r.int("LOCATION_FILTER")?;
            }
            let fields = fields.get(..wanted).unwrap_or_default();
            if form == NEXT_OBJECT { Filter::LargestObject } else { from_fields(r, fields)? }
        }
    };
    Ok(match (filter, kind) {
        // Of the past, no filter is all of it.
        (Filter::NextObject, Kind::Fill) => Some(Filter::AbsoluteStart(Location::new(0, 0))),
        (Filter::NextObject, kind) if !says_no_filter(kind) => None,
        (filter, _) => Some(filter),
    })
}

/// Location filter type of draft 22 for "just after the largest object".
const NEXT_OBJECT: u64 = 5;

/// Up to draft 19: a type that says what follows.
pub(super) fn read_typed(
    r: &mut Reader,
    end_absolute: bool,
    short: impl Fn(SessionError) -> SessionError,
) -> Result<Filter, SessionError> {
    Ok(match r.int("filter type").map_err(&short)? {
        1 => Filter::NextGroupStart,
        2 => Filter::LargestObject,
        3 => Filter::AbsoluteStart(r.location("filter start").map_err(&short)?),
        4 => {
            let start = r.location("filter start").map_err(&short)?;
            let end = r.int("filter end group").map_err(&short)?;
            let end_group = if end_absolute { Some(end) } else { start.group.checked_add(end) };
            let Some(end_group) = end_group else {
                return Err(r.violation("filter end group", "overflows"));
            };
            Filter::AbsoluteRange { start, end_group }
        }
        other => return Err(r.violation("filter type", &format!("{other} is unknown"))),
    })
}

/// From draft 20 on, what a filter means follows from how many fields it has.
fn from_fields(r: &Reader, fields: &[u64]) -> Result<Filter, SessionError> {
    let end_group = |start: u64, delta: u64| {
        let sum = start.checked_add(delta);
        sum.ok_or_else(|| r.violation("filter end group", "overflows"))
    };
    Ok(match *fields {
        [0] => Filter::NextGroupStart,
        [groups_back] => Filter::Relative { groups_back },
        [group, object] => Filter::AbsoluteStart(Location { group, object }),
        [group, object, delta] | [group, object, delta, u64::MAX] => Filter::AbsoluteRange {
            start: Location { group, object },
            end_group: end_group(group, delta)?,
        },
        [group, object, delta, end] => Filter::Range {
            start: Location { group, object },
            end: Location { group: end_group(group, delta)?, object: end },
        },
        _ => Filter::NextObject,
    })
}

/// Writes a location filter with what precedes it in its form.
pub(super) fn write_filter(w: &mut Writer<'_>, table: &Table, kind: Kind, filter: Filter) {
    let filter = match filter {
        Filter::Relative { groups_back: 0 } => Filter::NextGroupStart,
        Filter::Range { start, end: Location { group, object: u64::MAX } } => {
            Filter::AbsoluteRange { start, end_group: group }
        }
        Filter::NextObject if kind == Kind::Fill => return w.misfit("a fill without a past"),
        filter => filter,
    };
    match table.filter {
        FilterForm::Typed { end_absolute } => {
            w.nested(|w| write_typed(w, end_absolute, filter));
        }
        FilterForm::Fields => w.nested(|w| match filter {
            Filter::LargestObject => write_fields(w, &[0, 0]),
            // Two zeros would mean the next object; from the beginning on is no filter at all.
            Filter::AbsoluteStart(Location { group: 0, object: 0 }) => {}
            filter => with_fields(w, filter, write_fields),
        }),
        FilterForm::TypeLed => match filter {
            Filter::LargestObject => w.int("LOCATION_FILTER", NEXT_OBJECT),
            filter => with_fields(w, filter, |w, fields| {
                w.int("LOCATION_FILTER", fields.len() as u64);
                write_fields(w, fields);
            }),
        },
    }
}

fn write_fields(w: &mut Writer<'_>, fields: &[u64]) {
    for field in fields {
        w.int("LOCATION_FILTER", *field);
    }
}

fn with_fields(w: &mut Writer<'_>, filter: Filter, write: impl FnOnce(&mut Writer<'_>, &[u64])) {
    let delta = |start: Location, end_group: u64| end_group.checked_sub(start.group);
    match filter {
        Filter::NextObject | Filter::LargestObject => write(w, &[]),
        Filter::NextGroupStart => write(w, &[0]),
        Filter::Relative { groups_back } => write(w, &[groups_back]),
        Filter::AbsoluteStart(start) => write(w, &[start.group, start.object]),
        Filter::AbsoluteRange { start, end_group } => match delta(start, end_group) {
            Some(delta) => write(w, &[start.group, start.object, delta]),
            None => w.misfit("a filter that ends before it starts"),
        },
        Filter::Range { start, end } => match delta(start, end.group) {
            Some(delta) => write(w, &[start.group, start.object, delta, end.object]),
            None => w.misfit("a filter that ends before it starts"),
        },
    }
}

pub(super) fn write_typed(w: &mut Writer<'_>, end_absolute: bool, filter: Filter) {
    match filter {
        Filter::NextGroupStart => w.int("filter", 1),
        // Of what is published from now on, all that is of the current group or an older one.
        Filter::NextObject | Filter::LargestObject | Filter::Relative { .. } => w.int("filter", 2),
        Filter::AbsoluteStart(start) => {
            w.int("filter", 3);
            w.location("filter start", start);
        }
        Filter::AbsoluteRange { start, end_group }
        | Filter::Range { start, end: Location { group: end_group, .. } } => {
            w.int("filter", 4);
            w.location("filter start", start);
            match end_group.checked_sub(start.group) {
                Some(_) if end_absolute => w.int("filter end group", end_group),
                Some(delta) => w.int("filter end group", delta),
                None => w.misfit("a filter that ends before it starts"),
            }
        }
    }
}

/// FILL_PARAMETERS: a counted parameter list of its own scope.
pub(super) fn read_fill(
    r: &mut Reader,
    table: &Table,
    aside: &mut Aside,
) -> Result<Box<Fill>, SessionError> {
    let inner = params::read_params(r, table, Kind::Fill, aside)?;
    let format = |e: SessionError| SessionError { code: SessionCode::KeyValueFormatting, ..e };
    r.finish().map_err(format)?;
    let Params { filter, priority, group_order, fill_timeout_ms, ranges, .. } = inner;
    Ok(Box::new(Fill { filter, priority, group_order, fill_timeout_ms, ranges }))
}

/// The other way.
pub(super) fn write_fill(w: &mut Writer<'_>, table: &Table, fill: &Fill) {
    let Fill { filter, priority, group_order, fill_timeout_ms, ranges } = fill.clone();
    let inner =
        Params { fill_timeout_ms, priority, filter, group_order, ranges, ..Params::default() };
    w.nested(|w| params::write_params(w, table, Kind::Fill, &inner));
}

const SUBJECTS: [(u64, RangeSubject); 5] = [
    (0x25, RangeSubject::Subgroup),
    (0x26, RangeSubject::Object),
    (0x27, RangeSubject::Priority),
    (0x28, RangeSubject::ObjectProperty),
    (0x29, RangeSubject::TrackProperty),
];

/// What a range filter parameter is about; `None` for any other key.
pub(super) fn subject(key: u64) -> Option<RangeSubject> {
    super::lookup(&SUBJECTS, key)
}

/// Reads a range filter into `ranges`. One that cannot be followed refuses the request, not the session.
pub(super) fn read_ranges(
    r: &mut Reader,
    kind: Kind,
    subject: RangeSubject,
    ranges: &mut Vec<RangeFilter>,
    aside: &mut Aside,
) {
    if r.is_empty() && kind != Kind::Update {
        return;
    }
    let flaw = match parse_ranges(r, subject) {
        Ok(filter) => {
            let same = |other: &RangeFilter| {
                (other.subject, other.set, other.property) == (subject, filter.set, filter.property)
            };
            if ranges.len() >= RANGE_FILTERS_MAX {
                "too many filters"
            } else if ranges.iter().any(same) {
                "a filter is repeated"
            } else {
                ranges.push(filter);
                return;
            }
        }
        Err(flaw) => flaw,
    };
    if aside.refusal.is_none() {
        aside.refusal = Some(RequestError::new(RequestCode::InvalidFilter, flaw));
    }
}

fn is_property(subject: RangeSubject) -> bool {
    matches!(subject, RangeSubject::ObjectProperty | RangeSubject::TrackProperty)
}

fn parse_ranges(r: &mut Reader, subject: RangeSubject) -> Result<RangeFilter, &'static str> {
    let mut filter = RangeFilter { subject, set: 0, property: None, ranges: Vec::new() };
    if r.is_empty() {
        return Ok(filter);
    }
    filter.set = r.byte("SetID").map_err(|_| "the filter has no set")?;
    if is_property(subject) {
        let property = r.int("property type").map_err(|_| "the filter names no property")?;
        if property % 2 != 0 {
            return Err("the property is no integer");
        }
        filter.property = Some(property);
    }
    let mut previous = 0u64;
    let mut bound = |r: &mut Reader| {
        let delta = r.int("range").map_err(|_| "a range is cut off")?;
        previous = previous.checked_add(delta).ok_or("a range overflows")?;
        if subject == RangeSubject::Priority && previous > u64::from(u8::MAX) {
            return Err("a priority is above 255");
        }
        Ok(previous)
    };
    while !r.is_empty() {
        if filter.ranges.len() >= RANGES_MAX {
            return Err("too many ranges");
        }
        let start = bound(r)?;
        let end = if r.is_empty() { None } else { Some(bound(r)?) };
        filter.ranges.push(ValueRange { start, end });
    }
    if filter.ranges.is_empty() { Err("the filter has no ranges") } else { Ok(filter) }
}

/// The value of a range filter parameter.
pub(super) fn write_ranges(w: &mut Writer<'_>, filter: &RangeFilter) {
    w.nested(|w| {
        if filter.ranges.is_empty() {
            return;
        }
        w.byte(filter.set);
        match (is_property(filter.subject), filter.property) {
            (true, Some(property)) => w.int("property type", property),
            (false, None) => {}
            _ => w.misfit("a range filter whose property does not suit its subject"),
        }
        let mut previous = Some(0u64);
        for range in &filter.ranges {
            let start = previous.and_then(|previous| range.start.checked_sub(previous));
            let end = range.end.map(|end| end.checked_sub(range.start));
            match (start, end) {
                (Some(start), None) => w.int("range", start),
                (Some(start), Some(Some(end))) => {
                    w.int("range", start);
                    w.int("range", end);
                }
                _ => w.misfit("ranges out of order"),
            }
            previous = range.end;
        }
    });
}
