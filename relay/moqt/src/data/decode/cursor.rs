//! Fields off the front of bytes that may still grow, each with the offset to complain about. It knows integers, bytes and blocks, and no object.

use super::DataError;
use crate::draft::Rules;
use crate::error::{ResetCode, SessionCode};

/// Why a head was not read.
pub(super) enum Stuck {
    /// More bytes are needed.
    Short,
    Error(DataError),
}

/// Reads fields off the front of a byte string that may still grow.
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) rules: &'static Rules,
    pub(super) what: &'static str,
    /// Where in the stream `bytes` begins.
    pub(super) base: u64,
}

impl Cursor<'_> {
    /// A field that breaks a rule; the offset is where reading it ended.
    pub(super) fn violation(&self, field: &str, why: &str) -> DataError {
        let at = self.base + self.at as u64;
        let reason = format!("{}: {field} at byte {at}: {why}", self.what);
        DataError::Session { code: SessionCode::ProtocolViolation, reason }
    }

    pub(super) fn broken(&self, field: &str, why: &str) -> Stuck {
        Stuck::Error(self.violation(field, why))
    }

    pub(super) fn int(&mut self) -> Result<u64, Stuck> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let (value, len) = self.rules.ints.decode(rest).ok_or(Stuck::Short)?;
        self.at += len;
        Ok(value)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Stuck> {
        let value = *self.bytes.get(self.at).ok_or(Stuck::Short)?;
        self.at += 1;
        Ok(value)
    }

    /// A length-prefixed block, as a range of the head. The limit is checked before its bytes are
    /// awaited.
    pub(super) fn block(&mut self, max: usize) -> Result<std::ops::Range<usize>, Stuck> {
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
