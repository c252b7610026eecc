//! Cuts a control or request stream into messages.

use bytes::{Buf, Bytes, BytesMut};

use crate::draft::Codec;
use crate::error::SessionError;
use crate::message::Kind;
use crate::model::Role;

/// Collects bytes until a message is whole. Holds at most one message beyond what a push brings.
#[derive(Debug, Default)]
pub(super) struct Framer {
    buffer: BytesMut,
    /// Bytes of the messages before, for reasons.
    offset: u64,
}

impl Framer {
    pub(super) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// What it means that the stream ends here.
    pub(super) fn cut_off(&self, stream: &str) -> SessionError {
        let at = self.offset;
        SessionError::violation(format!(
            "{stream}: message at byte {at}: the stream ends inside it"
        ))
    }

    /// Whether no byte of an unfinished message is held.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next whole message as sent by `sender`.
    pub(super) fn next(
        &mut self,
        codec: &dyn Codec,
        sender: Role,
        bytes_max: usize,
    ) -> Result<Option<(Kind, Bytes)>, SessionError> {
        let Some((number, type_len)) = codec.rules().ints.decode(&self.buffer) else {
            return Ok(None);
        };
        // The type is judged before its body is awaited.
        let Some(kind) = codec.kind(number, sender) else {
            let reason = format!("message type at byte {}: {number:#x} is unknown", self.offset);
            return Err(SessionError::violation(reason));
        };
        let Some(length) = self.buffer.get(type_len..type_len + 2) else {
            return Ok(None);
        };
        let length = length.iter().fold(0, |length, &byte| (length << 8) | usize::from(byte));
        if length > bytes_max {
            let name = kind.name();
            let at = self.offset + type_len as u64;
            let reason =
                format!("{name}: length at byte {at}: {length} is above the limit of {bytes_max}");
            return Err(SessionError::violation(reason));
        }
        let head = type_len + 2;
        if self.buffer.len() < head + length {
            return Ok(None);
        }
        self.buffer.advance(head);
        self.offset += (head + length) as u64;
        let body = self.buffer.split_to(length).freeze();
        if self.buffer.is_empty() {
            // An idle stream keeps no buffer.
            self.buffer = BytesMut::new();
        }
        Ok(Some((kind, body)))
    }
}
