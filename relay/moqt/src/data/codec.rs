//! Encoders of data stream and datagram headers.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Datagram, FetchHeader, FetchObject, Gap, ObjectHeader, SubgroupHeader};
use crate::draft::Draft;
use crate::error::CommandError;
use crate::model::{GroupOrder, Location};

/// Writes the headers of one subgroup stream; the same bytes serve every subscriber of a draft.
#[derive(Clone, Debug)]
pub struct SubgroupEncoder {
    draft: Draft,
    properties: bool,
    previous: Option<u64>,
}

impl SubgroupEncoder {
    /// Starts a stream: appends its header to `out`.
    pub fn new(
        draft: Draft,
        header: &SubgroupHeader,
        out: &mut BytesMut,
    ) -> Result<Self, CommandError> {
        let _ = (out, header);
        Ok(Self { draft, properties: header.properties, previous: None })
    }

    /// Goes on with a stream whose header and objects up to `previous` were written elsewhere.
    pub fn resume(draft: Draft, properties: bool, previous: Option<u64>) -> Self {
        Self { draft, properties, previous }
    }

    /// Appends the head of an object; its payload follows. Objects must come in ascending order.
    pub fn object(
        &mut self,
        object: &ObjectHeader,
        out: &mut BytesMut,
    ) -> Result<(), CommandError> {
        let _ = (self.draft, self.properties, self.previous, object, out);
        Ok(())
    }
}

/// Writes the heads of one fetch stream.
#[derive(Clone, Debug)]
pub struct FetchEncoder {
    draft: Draft,
    order: GroupOrder,
}

impl FetchEncoder {
    /// Starts a stream: appends its header to `out`. `order` is that of the FETCH.
    pub fn new(
        draft: Draft,
        header: &FetchHeader,
        order: GroupOrder,
        out: &mut BytesMut,
    ) -> Result<Self, CommandError> {
        let _ = (header, out);
        Ok(Self { draft, order })
    }

    /// Appends the head of an object; its payload follows.
    pub fn object(&mut self, object: &FetchObject, out: &mut BytesMut) -> Result<(), CommandError> {
        let _ = (self.draft, self.order, object, out);
        Ok(())
    }

    /// Says that everything since the last object up to and including `end` is missing, and why.
    pub fn gap(&mut self, end: Location, gap: Gap, out: &mut BytesMut) -> Result<(), CommandError> {
        let _ = (end, gap, out);
        Ok(())
    }
}

impl Datagram {
    /// Reads an object datagram; `Ok(None)` for padding.
    pub fn decode(draft: Draft, bytes: Bytes) -> Result<Option<Self>, super::DataError> {
        let _ = (draft, bytes);
        Ok(None)
    }

    /// Appends this datagram to `out`.
    pub fn encode(&self, draft: Draft, out: &mut BytesMut) -> Result<(), CommandError> {
        let _ = draft;
        out.put_slice(&self.payload);
        Ok(())
    }
}
