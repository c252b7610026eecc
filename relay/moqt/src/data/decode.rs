//! The incremental decoder of data streams. It keeps at most one head (ids and a property block below
//! its limit); payload goes through as slices of what was pushed, as soon as it is there.

use bytes::{Buf, Bytes, BytesMut};

use super::codec::{STATUS_MISSING, datagram as dg, fetch, subgroup};
use super::{Datagram, FetchHeader, FetchObject, Gap, ObjectHeader, Status, SubgroupHeader};
use crate::draft::{Draft, Rules};
use crate::error::{ResetCode, SessionCode};
use crate::model::{GroupOrder, Location, RequestId};

/// What a data stream turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// Objects of one subgroup of the track with this alias.
    Subgroup {
        /// Track alias.
        alias: u64,
    },
    /// Answer to a FETCH.
    Fetch(FetchHeader),
    /// Discarded.
    Padding,
}

/// What a decoder found next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The stream's head; comes once, before any object.
    Subgroup(SubgroupHeader),
    /// The stream's head; comes once, before any object.
    Fetch(FetchHeader),
    /// An object begins; [`Item::Payload`] follows unless its payload is empty.
    Object(ObjectHeader),
    /// An object on a fetch stream begins.
    FetchObject(FetchObject),
    /// A range is missing from a fetch stream.
    FetchGap {
        /// Last missing location.
        end: Location,
        /// Why.
        gap: Gap,
    },
    /// Payload of the object begun last, as it arrived.
    Payload {
        /// A slice of what was pushed.
        data: Bytes,
        /// The object is complete.
        last: bool,
    },
}

/// Why a data stream cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The peer broke a rule: the session closes with this code.
    #[error("{reason}")]
    Session {
        /// Close code.
        code: SessionCode,
        /// Names the field and the offset.
        reason: String,
    },
    /// A limit was hit: stop the stream, keep the session.
    #[error("{reason}")]
    Stream {
        /// Stop code.
        code: ResetCode,
        /// Names the limit.
        reason: &'static str,
    },
}

/// Why a head was not read.
enum Stuck {
    /// More bytes are needed.
    Short,
    Error(DataError),
}

/// Reads fields off the front of a byte string that may still grow.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    rules: &'static Rules,
    what: &'static str,
    /// Where in the stream `bytes` begins.
    base: u64,
}

impl Cursor<'_> {
    /// A field that breaks a rule; the offset is where reading it ended.
    fn violation(&self, field: &str, why: &str) -> DataError {
        let at = self.base + self.at as u64;
        let reason = format!("{}: {field} at byte {at}: {why}", self.what);
        DataError::Session { code: SessionCode::ProtocolViolation, reason }
    }

    fn broken(&self, field: &str, why: &str) -> Stuck {
        Stuck::Error(self.violation(field, why))
    }

    fn int(&mut self) -> Result<u64, Stuck> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let (value, len) = self.rules.ints.decode(rest).ok_or(Stuck::Short)?;
        self.at += len;
        Ok(value)
    }

    fn byte(&mut self) -> Result<u8, Stuck> {
        let value = *self.bytes.get(self.at).ok_or(Stuck::Short)?;
        self.at += 1;
        Ok(value)
    }

    /// A length-prefixed block, as a range of the head. The limit is checked before its bytes are
    /// awaited.
    fn block(&mut self, max: usize) -> Result<std::ops::Range<usize>, Stuck> {
        let len = self.int()?;
        if len > max as u64 {
            return Err(Stuck::Error(DataError::Stream {
                code: ResetCode::ExcessiveLoad,
                reason: "a property block above its limit",
            }));
        }
        let start = self.at;
        let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
        if end > self.bytes.len() {
            return Err(Stuck::Short);
        }
        self.at = end;
        Ok(start..end)
    }
}

/// What a subgroup stream remembers between objects.
#[derive(Debug)]
struct Subgroup {
    header: SubgroupHeader,
    /// The subgroup id is the id of the first object, not read yet.
    from_first_object: bool,
    announced: bool,
    previous: Option<u64>,
}

/// What a fetch stream remembers between objects.
#[derive(Debug)]
struct Fetch {
    header: FetchHeader,
    announced: bool,
    prior: Option<Location>,
    subgroup: Option<u64>,
    priority: Option<u8>,
}

#[derive(Debug)]
enum State {
    Start,
    Subgroup(Subgroup),
    Fetch(Fetch),
    Padding,
}

/// Reads one data stream as its bytes arrive; holds at most one object head.
#[derive(Debug)]
pub struct Decoder {
    rules: &'static Rules,
    property_bytes: usize,
    object_bytes: u64,
    order: GroupOrder,
    state: State,
    /// Payload still to come of the current object.
    left: u64,
    /// An item found together with the one returned before.
    pending: Option<Item>,
    input: Bytes,
    /// The beginning of a head whose rest has not arrived.
    carry: BytesMut,
    /// Bytes read before that, for reasons.
    offset: u64,
}

/// How much input is copied behind a carried head at a time: the longest head without properties has
/// 9 integers of at most 9 bytes.
const CARRY_STEP: usize = 96;

impl Decoder {
    /// A decoder for a stream of which nothing was read yet. Property blocks above `property_bytes`
    /// and payloads above `object_bytes` end the stream.
    pub fn new(draft: Draft, property_bytes: usize, object_bytes: u64) -> Self {
        Self {
            rules: draft.codec().rules(),
            property_bytes,
            object_bytes,
            order: GroupOrder::Ascending,
            state: State::Start,
            left: 0,
            pending: None,
            input: Bytes::new(),
            carry: BytesMut::new(),
            offset: 0,
        }
    }

    /// Group order of the FETCH this stream answers; matters before the first object.
    pub fn set_group_order(&mut self, order: GroupOrder) {
        self.order = order;
    }

    /// Appends what arrived. Call [`Decoder::next`] until it returns `None` after each push.
    pub fn push(&mut self, data: Bytes) {
        if self.input.is_empty() {
            self.input = data;
        } else {
            let mut joined = BytesMut::with_capacity(self.input.len() + data.len());
            joined.extend_from_slice(&self.input);
            joined.extend_from_slice(&data);
            self.input = joined.freeze();
        }
    }

    /// Reads no further than the stream's head.
    pub fn head(&mut self) -> Result<Option<StreamKind>, DataError> {
        if matches!(self.state, State::Start)
            && let Some(state) = self.read(|cursor, _| Self::read_start(cursor))?
        {
            self.state = state;
        }
        Ok(self.kind())
    }

    /// Bytes pushed and not read yet.
    pub fn buffered(&self) -> usize {
        self.input.len() + self.carry.len()
    }

    /// What the stream is, once its head was read.
    pub fn kind(&self) -> Option<StreamKind> {
        match &self.state {
            State::Start => None,
            State::Subgroup(s) => Some(StreamKind::Subgroup { alias: s.header.alias }),
            State::Fetch(f) => Some(StreamKind::Fetch(f.header)),
            State::Padding => Some(StreamKind::Padding),
        }
    }

    /// The next item, or `None` until more is pushed.
    #[expect(clippy::should_implement_trait, reason = "an item needs more input, not another call")]
    pub fn next(&mut self) -> Result<Option<Item>, DataError> {
        if let Some(item) = self.pending.take() {
            return Ok(Some(item));
        }
        if self.left > 0 {
            return Ok(self.next_payload());
        }
        if self.head()?.is_none() {
            return Ok(None);
        }
        match &mut self.state {
            State::Start => Ok(None),
            State::Padding => {
                self.offset += self.input.len() as u64;
                self.input.clear();
                Ok(None)
            }
            State::Subgroup(s) if !s.announced && !s.from_first_object => {
                s.announced = true;
                Ok(Some(Item::Subgroup(s.header)))
            }
            State::Subgroup(_) => self.next_object(),
            State::Fetch(f) if !f.announced => {
                f.announced = true;
                Ok(Some(Item::Fetch(f.header)))
            }
            State::Fetch(_) => self.next_fetch_object(),
        }
    }

    /// The peer finished the stream: an error if it did so inside a head or a payload.
    pub fn finish(&self) -> Result<(), DataError> {
        if self.left == 0 && self.carry.is_empty() {
            return Ok(());
        }
        let (field, at) = match self.left {
            0 => ("a head", self.offset + self.carry.len() as u64),
            _ => ("a payload", self.offset),
        };
        let reason =
            format!("data stream: {field} at byte {at}: the stream ends {} bytes early", self.left);
        Err(DataError::Session { code: SessionCode::ProtocolViolation, reason })
    }

    fn next_payload(&mut self) -> Option<Item> {
        if self.input.is_empty() {
            return None;
        }
        let take = self.left.min(self.input.len() as u64);
        self.left -= take;
        let data = self.input.split_to(take as usize);
        self.offset += take;
        Some(Item::Payload { data, last: self.left == 0 })
    }

    fn expect_payload(&mut self, len: u64) -> Result<(), DataError> {
        if len > self.object_bytes {
            return Err(DataError::Stream {
                code: ResetCode::ExcessiveLoad,
                reason: "an object above its limit",
            });
        }
        self.left = len;
        Ok(())
    }

    /// Parses one head: straight from the input when it is there in one piece, otherwise from the
    /// carried beginning and as little of the input as it takes. The closure returns what it read and
    /// where in the head the property block is.
    fn read<T>(
        &mut self,
        parse: impl Fn(&mut Cursor<'_>, &Self) -> Result<(T, std::ops::Range<usize>), Stuck>,
    ) -> Result<Option<T>, DataError>
    where
        T: TakesProperties,
    {
        loop {
            let carried = self.carry.len();
            let step = if carried == 0 { 0 } else { self.input.len().min(CARRY_STEP) };
            if carried > 0 {
                let step = self.input.get(..step).unwrap_or_default();
                self.carry.extend_from_slice(step);
            }
            let bytes = if carried == 0 { &self.input[..] } else { &self.carry[..] };
            let what = "data stream";
            let mut cursor = Cursor { bytes, at: 0, rules: self.rules, what, base: self.offset };
            match parse(&mut cursor, self) {
                Ok((mut read, properties)) => {
                    let at = cursor.at;
                    self.offset += at as u64;
                    if carried == 0 {
                        read.properties(self.input.slice(properties));
                        self.input.advance(at);
                    } else {
                        let block = self.carry.get(properties).unwrap_or_default();
                        read.properties(Bytes::copy_from_slice(block));
                        // The head ends inside this step: before it, the carry was too short.
                        self.input.advance(at.saturating_sub(carried));
                        self.carry = BytesMut::new();
                    }
                    return Ok(Some(read));
                }
                Err(Stuck::Short) if carried == 0 => {
                    self.carry.extend_from_slice(&self.input);
                    self.input.clear();
                    return Ok(None);
                }
                Err(Stuck::Short) => {
                    self.input.advance(step);
                    if self.input.is_empty() {
                        return Ok(None);
                    }
                }
                Err(Stuck::Error(error)) => return Err(error),
            }
        }
    }

    fn read_start(cursor: &mut Cursor<'_>) -> Result<(State, std::ops::Range<usize>), Stuck> {
        let kind = cursor.int()?;
        if kind == fetch::STREAM_TYPE {
            let header = FetchHeader { request: RequestId(cursor.int()?) };
            let fetch =
                Fetch { header, announced: false, prior: None, subgroup: None, priority: None };
            return Ok((State::Fetch(fetch), 0..0));
        }
        if cursor.rules.padding.is_some_and(|(stream, _)| stream == kind) {
            return Ok((State::Padding, 0..0));
        }
        let mut allowed =
            subgroup::BASE | subgroup::PROPERTIES | subgroup::MODE | subgroup::END_OF_GROUP;
        if !cursor.rules.in_full {
            allowed |= subgroup::DEFAULT_PRIORITY;
        }
        if cursor.rules.first_object_bit {
            allowed |= subgroup::FIRST_OBJECT;
        }
        let mode = kind & subgroup::MODE;
        if kind & !allowed != 0 || kind & subgroup::BASE == 0 || mode == subgroup::MODE {
            return Err(cursor.broken("stream type", &format!("{kind:#x} is unknown")));
        }
        let alias = cursor.int()?;
        let group = cursor.int()?;
        let subgroup = if mode == subgroup::MODE_EXPLICIT { cursor.int()? } else { 0 };
        let priority =
            if kind & subgroup::DEFAULT_PRIORITY == 0 { Some(cursor.byte()?) } else { None };
        let header = SubgroupHeader {
            alias,
            group,
            subgroup,
            priority,
            properties: kind & subgroup::PROPERTIES != 0,
            end_of_group: kind & subgroup::END_OF_GROUP != 0,
            first_object: kind & subgroup::FIRST_OBJECT != 0,
        };
        let from_first_object = mode == subgroup::MODE_FIRST_OBJECT;
        let state = State::Subgroup(Subgroup {
            header,
            from_first_object,
            announced: false,
            previous: None,
        });
        Ok((state, 0..0))
    }

    fn next_object(&mut self) -> Result<Option<Item>, DataError> {
        loop {
            let Some(Head { object, missing }) =
                self.read(|cursor, decoder| match &decoder.state {
                    State::Subgroup(stream) => read_object(cursor, stream, decoder.property_bytes),
                    _ => Err(Stuck::Short),
                })?
            else {
                return Ok(None);
            };
            self.expect_payload(object.payload_len)?;
            let State::Subgroup(stream) = &mut self.state else {
                return Ok(None);
            };
            stream.previous = Some(object.object);
            if !stream.announced {
                stream.announced = true;
                stream.header.subgroup = object.object;
                self.pending = (!missing).then_some(Item::Object(object));
                return Ok(Some(Item::Subgroup(stream.header)));
            }
            if !missing {
                return Ok(Some(Item::Object(object)));
            }
        }
    }

    fn next_fetch_object(&mut self) -> Result<Option<Item>, DataError> {
        let Some(found) = self.read(|cursor, decoder| match &decoder.state {
            State::Fetch(stream) => {
                read_fetch_object(cursor, stream, decoder.order, decoder.property_bytes)
            }
            _ => Err(Stuck::Short),
        })?
        else {
            return Ok(None);
        };
        let State::Fetch(stream) = &mut self.state else {
            return Ok(None);
        };
        match found {
            Found::Gap(end, gap) => {
                // Subgroup and priority stay those of the last object (section 11.4.4.2).
                stream.prior = Some(end);
                Ok(Some(Item::FetchGap { end, gap }))
            }
            Found::Object(object) => {
                stream.prior = Some(object.location);
                stream.subgroup = object.subgroup.or(stream.subgroup);
                stream.priority = Some(object.priority);
                self.expect_payload(object.payload_len)?;
                Ok(Some(Item::FetchObject(object)))
            }
        }
    }
}

/// A head that may have a property block, filled in once its bytes are safe.
trait TakesProperties {
    fn properties(&mut self, _block: Bytes) {}
}

impl TakesProperties for State {}

impl TakesProperties for ObjectHeader {
    fn properties(&mut self, block: Bytes) {
        self.properties = block;
    }
}

/// An object on a subgroup stream.
struct Head {
    object: ObjectHeader,
    /// It says of itself that it does not exist (draft 14): a gap, in the model.
    missing: bool,
}

impl TakesProperties for Head {
    fn properties(&mut self, block: Bytes) {
        self.object.properties(block);
    }
}

enum Found {
    Object(FetchObject),
    Gap(Location, Gap),
}

impl TakesProperties for Found {
    fn properties(&mut self, block: Bytes) {
        if let Self::Object(object) = self {
            object.properties = block;
        }
    }
}

/// Section 11.4.2: delta, [properties], payload length, [status].
fn read_object(
    cursor: &mut Cursor<'_>,
    stream: &Subgroup,
    property_bytes: usize,
) -> Result<(Head, std::ops::Range<usize>), Stuck> {
    let delta = cursor.int()?;
    let object = match stream.previous {
        None => Some(delta),
        Some(previous) => previous.checked_add(1).and_then(|next| next.checked_add(delta)),
    };
    let object = object
        .filter(|&id| id <= cursor.rules.ints.max())
        .ok_or_else(|| cursor.broken("object id", "overflows"))?;
    let properties = if stream.header.properties { cursor.block(property_bytes)? } else { 0..0 };
    let payload_len = cursor.int()?;
    let (status, properties) = if payload_len == 0 {
        let wire = cursor.int()?;
        read_status(cursor, wire, properties)?
    } else {
        (Some(Status::Normal), properties)
    };
    let missing = status.is_none();
    let status = status.unwrap_or_default();
    let object = ObjectHeader { object, properties: Bytes::new(), payload_len, status };
    Ok((Head { object, missing }, properties))
}

type ReadStatus = (Option<Status>, std::ops::Range<usize>);

/// A status, and what of the properties beside it is kept: none but those of an object. `None` = the
/// object does not exist, which only draft 14 says; there other markers may have properties too
/// (section 10.2.1.1), which later drafts refuse.
fn read_status(
    cursor: &Cursor<'_>,
    wire: u64,
    properties: std::ops::Range<usize>,
) -> Result<ReadStatus, Stuck> {
    let in_full = cursor.rules.in_full;
    let status = match Status::read(wire) {
        Some(Status::Normal) => return Ok((Some(Status::Normal), properties)),
        None if in_full && wire == STATUS_MISSING => None,
        None => return Err(cursor.broken("object status", &format!("{wire} is unknown"))),
        marker => marker,
    };
    if !properties.is_empty() && (!in_full || status.is_none()) {
        return Err(cursor.broken("properties", "beside a status"));
    }
    Ok((status, 0..0))
}

/// Section 11.4.4.1.
fn read_fetch_object(
    cursor: &mut Cursor<'_>,
    stream: &Fetch,
    order: GroupOrder,
    property_bytes: usize,
) -> Result<(Found, std::ops::Range<usize>), Stuck> {
    if cursor.rules.in_full {
        return read_object_in_full(cursor, property_bytes);
    }
    let flags = cursor.int()?;
    let gap = match flags {
        fetch::GAP_NON_EXISTENT => Some(Gap::NonExistent),
        fetch::GAP_UNKNOWN => Some(Gap::Unknown),
        fetch::GAP_TIMED_OUT if cursor.rules.gap_timed_out => Some(Gap::TimedOut),
        0..=fetch::FLAGS_MAX => None,
        _ => return Err(cursor.broken("serialization flags", &format!("{flags:#x} are unknown"))),
    };
    if let Some(gap) = gap {
        let end = Location { group: cursor.int()?, object: cursor.int()? };
        if cursor.int()? != 0 {
            return Err(cursor.broken("end of range", "has a payload"));
        }
        return Ok((Found::Gap(end, gap), 0..0));
    }
    let field = |cursor: &mut Cursor<'_>, bit| {
        if flags & bit == 0 { Ok(None) } else { cursor.int().map(Some) }
    };
    let group_field = field(cursor, fetch::GROUP)?;
    let mode = flags & fetch::MODE;
    let datagram = flags & fetch::DATAGRAM != 0;
    let explicit =
        if mode == fetch::MODE_EXPLICIT && !datagram { Some(cursor.int()?) } else { None };
    let object_field = field(cursor, fetch::OBJECT)?;
    let priority = if flags & fetch::PRIORITY == 0 { None } else { Some(cursor.byte()?) };
    let properties =
        if flags & fetch::PROPERTIES == 0 { 0..0 } else { cursor.block(property_bytes)? };
    let payload_len = cursor.int()?;

    let location =
        resolve_location(cursor.rules, stream.prior, order, group_field, object_field)
            .ok_or_else(|| cursor.broken("object location", "refers to nothing or overflows"))?;
    let subgroup = if datagram {
        None
    } else {
        let subgroup = match mode {
            fetch::MODE_PRIOR => stream.subgroup,
            fetch::MODE_NEXT => stream.subgroup.and_then(|prior| prior.checked_add(1)),
            fetch::MODE_EXPLICIT => explicit,
            _ => Some(0),
        };
        Some(subgroup.ok_or_else(|| cursor.broken("subgroup", "refers to no prior object"))?)
    };
    let priority = priority
        .or(stream.priority)
        .ok_or_else(|| cursor.broken("priority", "refers to no prior object"))?;
    let properties_later = Bytes::new();
    let object =
        FetchObject { location, subgroup, priority, properties: properties_later, payload_len };
    Ok((Found::Object(object), properties))
}

/// Draft 14, section 10.4.4: all fields, and a status behind an empty payload. Markers become the gaps
/// they stand for.
fn read_object_in_full(
    cursor: &mut Cursor<'_>,
    property_bytes: usize,
) -> Result<(Found, std::ops::Range<usize>), Stuck> {
    let group = cursor.int()?;
    let subgroup = Some(cursor.int()?);
    let location = Location { group, object: cursor.int()? };
    let priority = cursor.byte()?;
    let properties = cursor.block(property_bytes)?;
    let payload_len = cursor.int()?;
    let (status, properties) = if payload_len == 0 {
        let wire = cursor.int()?;
        read_status(cursor, wire, properties)?
    } else {
        (Some(Status::Normal), properties)
    };
    let end = match status {
        Some(Status::Normal) => {
            let properties_later = Bytes::new();
            let object = FetchObject {
                location,
                subgroup,
                priority,
                properties: properties_later,
                payload_len,
            };
            return Ok((Found::Object(object), properties));
        }
        None => location,
        Some(Status::EndOfGroup | Status::EndOfTrack) => Location::whole_group(group),
    };
    Ok((Found::Gap(end, Gap::NonExistent), 0..0))
}

/// The first object is absolute in every draft; what follows is relative to the prior one (draft 18)
/// or absolute where present (draft 16). An absent object id is the prior one plus one.
fn resolve_location(
    rules: &Rules,
    prior: Option<Location>,
    order: GroupOrder,
    group: Option<u64>,
    object: Option<u64>,
) -> Option<Location> {
    let location = match (prior, group, object) {
        (None, Some(group), Some(object)) => Location { group, object },
        (None, ..) => return None,
        (Some(prior), group, object) => {
            let new_group = match group {
                None => prior.group,
                Some(group) if !rules.fetch_deltas => group,
                Some(delta) if order == GroupOrder::Ascending => {
                    prior.group.checked_add(delta)?.checked_add(1)?
                }
                Some(delta) => prior.group.checked_sub(delta)?.checked_sub(1)?,
            };
            let object = match object {
                None => prior.object.checked_add(1)?,
                Some(delta) if rules.fetch_deltas && group.is_none() => {
                    prior.object.checked_add(delta)?
                }
                Some(object) => object,
            };
            Location { group: new_group, object }
        }
    };
    (location.group.max(location.object) <= rules.ints.max()).then_some(location)
}

/// Section 11.3.1.
pub(super) fn datagram(draft: Draft, bytes: &Bytes) -> Result<Option<Datagram>, DataError> {
    let rules = draft.codec().rules();
    let mut cursor = Cursor { bytes, at: 0, rules, what: "datagram", base: 0 };
    match read_datagram(&mut cursor) {
        Ok(None) => Ok(None),
        Ok(Some((datagram, properties))) => {
            let payload = bytes.slice(cursor.at..);
            if datagram.status != Status::Normal && !payload.is_empty() {
                return Err(cursor.violation("payload", "beside a status"));
            }
            Ok(Some(Datagram { properties: bytes.slice(properties), payload, ..datagram }))
        }
        Err(Stuck::Error(error)) => Err(error),
        Err(Stuck::Short) => Err(cursor.violation("head", "ends inside a field")),
    }
}

type DatagramHead = Option<(Datagram, std::ops::Range<usize>)>;

fn read_datagram(cursor: &mut Cursor<'_>) -> Result<DatagramHead, Stuck> {
    let kind = cursor.int()?;
    if cursor.rules.padding.is_some_and(|(_, datagram)| datagram == kind) {
        return Ok(None);
    }
    let both = dg::STATUS | dg::END_OF_GROUP;
    let mut allowed = dg::ALL;
    if cursor.rules.in_full {
        allowed &= !dg::DEFAULT_PRIORITY;
        if kind & dg::STATUS != 0 {
            allowed &= !dg::ZERO_OBJECT;
        }
    }
    if kind & !allowed != 0 || kind & both == both {
        return Err(cursor.broken("type", &format!("{kind:#x} is unknown")));
    }
    let alias = cursor.int()?;
    let group = cursor.int()?;
    let object = if kind & dg::ZERO_OBJECT == 0 { cursor.int()? } else { 0 };
    let priority = if kind & dg::DEFAULT_PRIORITY == 0 { Some(cursor.byte()?) } else { None };
    let mut properties = 0..0;
    if kind & dg::PROPERTIES != 0 {
        properties = cursor.block(usize::MAX)?;
        if properties.is_empty() {
            return Err(cursor.broken("properties", "are announced and empty"));
        }
    }
    let (status, properties) = if kind & dg::STATUS == 0 {
        (Some(Status::Normal), properties)
    } else {
        // One byte in draft 18, a varint before: the same for the values there are.
        let wire = u64::from(cursor.byte()?);
        read_status(cursor, wire, properties)?
    };
    let Some(status) = status else {
        return Ok(None);
    };
    let datagram = Datagram {
        alias,
        location: Location { group, object },
        priority,
        end_of_group: kind & dg::END_OF_GROUP != 0,
        status,
        ..Datagram::default()
    };
    Ok(Some((datagram, properties)))
}
