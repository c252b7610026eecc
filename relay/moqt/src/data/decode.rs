//! The incremental decoder of data streams. It keeps at most one head (ids and a property block below
//! its limit); payload goes through as slices of what was pushed, as soon as it is there.

mod cursor;
mod objects;

use bytes::{Buf, Bytes, BytesMut};

use super::codec::{fetch, subgroup};
use super::{FetchHeader, FetchObject, Gap, ObjectHeader, SubgroupHeader};
use crate::draft::{Draft, Rules};
use crate::error::{ResetCode, SessionCode};
use crate::model::{GroupOrder, Location, RequestId};
use cursor::{Cursor, Stuck};
pub(super) use objects::datagram;
use objects::{read_fetch_object, read_object};

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
