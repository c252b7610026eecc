//! Reading and writing the fields of a control message. Knows bytes, lengths and limits; which fields
//! a message has is known to the codec of a draft.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{CommandError, SessionCode, SessionError};
use crate::model::Location;
use crate::name::{FullTrackName, Namespace, NamespaceBuilder};
use crate::varint::Ints;

/// Longest reason phrase (section 1.4.4).
pub(crate) const REASON_BYTES_MAX: usize = 1024;
/// Longest GOAWAY URI (section 10.4).
pub(crate) const URI_BYTES_MAX: usize = 8192;
/// Longest value of a key-value pair (section 1.4.3).
pub(crate) const VALUE_BYTES_MAX: usize = 65535;

/// Takes the fields off a message body. Every failure names message, field and offset.
#[derive(Debug)]
pub(crate) struct Reader {
    bytes: Bytes,
    at: usize,
    ints: Ints,
    what: &'static str,
}

impl Reader {
    pub(crate) fn new(what: &'static str, ints: Ints, bytes: Bytes) -> Self {
        Self { bytes, at: 0, ints, what }
    }

    /// A reader of `bytes`, the value of a field that was just read, for the same message.
    pub(crate) fn inside(&self, bytes: Bytes) -> Self {
        Self { at: self.at - bytes.len(), bytes, ints: self.ints, what: self.what }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn fail(&self, code: SessionCode, field: &str, why: &str) -> SessionError {
        SessionError::new(code, format!("{}: {field} at byte {}: {why}", self.what, self.at))
    }

    pub(crate) fn violation(&self, field: &str, why: &str) -> SessionError {
        self.fail(SessionCode::ProtocolViolation, field, why)
    }

    pub(crate) fn int(&mut self, field: &str) -> Result<u64, SessionError> {
        let Some((value, len)) = self.ints.decode(&self.bytes) else {
            return Err(self.violation(field, "the message ends inside it"));
        };
        let _ = self.take(len);
        Ok(value)
    }

    pub(crate) fn byte(&mut self, field: &str) -> Result<u8, SessionError> {
        let Some(&value) = self.bytes.first() else {
            return Err(self.violation(field, "the message ends before it"));
        };
        let _ = self.take(1);
        Ok(value)
    }

    /// Bytes behind a length. The length is compared with the limit and with what is there before
    /// anything is kept, so 2^62-1 costs nothing.
    pub(crate) fn prefixed(&mut self, field: &str, max: usize) -> Result<Bytes, SessionError> {
        let len = self.int(field)?;
        if len > max as u64 {
            return Err(self.violation(field, &format!("length {len} is above {max}")));
        }
        if len > self.bytes.len() as u64 {
            let why = format!("length {len}, but {} bytes are left", self.bytes.len());
            return Err(self.violation(field, &why));
        }
        Ok(self.take(len as usize))
    }

    pub(crate) fn text(&mut self, field: &str, max: usize) -> Result<String, SessionError> {
        let bytes = self.prefixed(field, max)?;
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        // Replacement characters are longer than the bytes they stand for.
        text.truncate(text.floor_char_boundary(max));
        Ok(text)
    }

    pub(crate) fn location(&mut self, field: &str) -> Result<Location, SessionError> {
        Ok(Location { group: self.int(field)?, object: self.int(field)? })
    }

    pub(crate) fn namespace(&mut self, field: &str) -> Result<Namespace, SessionError> {
        let count = self.int(field)?;
        if count > crate::NAMESPACE_FIELDS_MAX as u64 {
            return Err(self.violation(field, &format!("{count} fields are above 32")));
        }
        let mut namespace = NamespaceBuilder::default();
        for _ in 0..count {
            let value = self.prefixed(field, crate::FULL_NAME_BYTES_MAX)?;
            namespace.push(&value).map_err(|e| self.violation(field, &e.to_string()))?;
        }
        Ok(namespace.finish())
    }

    pub(crate) fn track(&mut self) -> Result<FullTrackName, SessionError> {
        let namespace = self.namespace("track namespace")?;
        let name = self.prefixed("track name", crate::FULL_NAME_BYTES_MAX)?;
        FullTrackName::new(namespace, name)
            .map_err(|e| self.violation("track name", &e.to_string()))
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> Bytes {
        self.take(self.bytes.len())
    }

    /// The message must be used up: its length is part of it, not a hint.
    pub(crate) fn finish(&self) -> Result<(), SessionError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(self.violation("end", &format!("{} trailing bytes", self.bytes.len())))
    }

    /// Callers have compared `len` with what is left.
    fn take(&mut self, len: usize) -> Bytes {
        let len = len.min(self.bytes.len());
        self.at += len;
        self.bytes.split_to(len)
    }
}

/// Appends fields. What does not fit the draft is remembered and reported once, at the end.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: &'a mut BytesMut,
    ints: Ints,
    misfit: Option<&'static str>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(ints: Ints, out: &'a mut BytesMut) -> Self {
        Self { out, ints, misfit: None }
    }

    pub(crate) fn int(&mut self, field: &'static str, value: u64) {
        if value > self.ints.max() {
            self.misfit = Some(field);
            return;
        }
        self.ints.encode(value, self.out);
    }

    /// Largest integer the draft can write.
    pub(crate) fn int_max(&self) -> u64 {
        self.ints.max()
    }

    pub(crate) fn byte(&mut self, value: u8) {
        self.out.put_u8(value);
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.out.put_slice(bytes);
    }

    pub(crate) fn prefixed(&mut self, bytes: &[u8]) {
        self.ints.encode(bytes.len() as u64, self.out);
        self.out.put_slice(bytes);
    }

    /// Text cut to `max` bytes at a character boundary.
    pub(crate) fn text(&mut self, text: &str, max: usize) {
        let end = text.floor_char_boundary(max);
        self.prefixed(text.get(..end).unwrap_or_default().as_bytes());
    }

    pub(crate) fn location(&mut self, field: &'static str, location: Location) {
        self.int(field, location.group);
        self.int(field, location.object);
    }

    pub(crate) fn namespace(&mut self, namespace: &Namespace) {
        self.ints.encode(namespace.len() as u64, self.out);
        for field in namespace.fields() {
            self.prefixed(field);
        }
    }

    pub(crate) fn track(&mut self, track: &FullTrackName) {
        self.namespace(track.namespace());
        self.prefixed(track.name());
    }

    /// Writes into a scratch buffer first, then its length and it.
    pub(crate) fn nested(&mut self, write: impl FnOnce(&mut Writer<'_>)) {
        let mut scratch = BytesMut::new();
        let mut inner = Writer::new(self.ints, &mut scratch);
        write(&mut inner);
        self.misfit = self.misfit.or(inner.misfit);
        self.prefixed(&scratch);
    }

    pub(crate) fn misfit(&mut self, field: &'static str) {
        self.misfit = Some(field);
    }
}

/// Appends one control message: type, 16-bit length, body. On failure `out` is as before.
pub(crate) fn frame(
    ints: Ints,
    kind: u64,
    out: &mut BytesMut,
    body: impl FnOnce(&mut Writer<'_>),
) -> Result<(), CommandError> {
    let start = out.len();
    ints.encode(kind, out);
    let length_at = out.len();
    out.put_u16(0);
    let mut writer = Writer::new(ints, out);
    body(&mut writer);
    let misfit = writer.misfit;
    let length = u16::try_from(out.len() - length_at - 2);
    let failure = match (misfit, length) {
        (Some(field), _) => field,
        (None, Err(_)) => "a message above 65535 bytes",
        (None, Ok(length)) => {
            if let Some(slot) = out.get_mut(length_at..length_at + 2) {
                slot.copy_from_slice(&length.to_be_bytes());
            }
            return Ok(());
        }
    };
    out.truncate(start);
    Err(CommandError::NotEncodable(failure))
}
