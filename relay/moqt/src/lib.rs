//! Media over QUIC Transport, sans-IO: messages, data streams and sessions of drafts 16 and 18 to 22.
//!
//! Stream bytes go in through [`Session::handle_stream`] and its siblings, commands through methods
//! named after the messages; after each call drain [`Session::poll_output`] and [`Session::poll_event`].
//! Everything outside `draft/` speaks one draft-free model; the wire of a draft is known to its codec
//! only. The crate reads no clock, opens no socket and does not know what a payload holds.
//!
//! Outbound data streams belong to the caller: it opens them itself and writes the headers that
//! [`data`] encodes, so that one encoding serves every subscriber of a draft.
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]
#![expect(
    clippy::doc_markdown,
    reason = "names of messages and fields are words of the specification"
)]

pub mod data;
mod draft;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod limits;
mod message;
mod model;
mod name;
mod session;
mod token;
mod varint;
mod wire;

pub use draft::{Draft, Feature};
pub use error::{
    CommandError, DoneCode, Redirect, RequestCode, RequestError, ResetCode, SessionCode,
    SessionError,
};
pub use limits::{Counters, Limits};
pub use model::{
    Dir, FetchTarget, Fill, Filter, GroupOrder, Location, MANDATORY_PROPERTIES, OpenKey, Params,
    Property, PropertyValue, RangeFilter, RangeSubject, RequestId, RequestKind, Role, StreamId,
    Transport, ValueRange,
};
pub use name::{
    FULL_NAME_BYTES_MAX, Fields, FullTrackName, NAMESPACE_FIELDS_MAX, NameError, Namespace,
};
pub use session::{Event, Output, Session, SetupOptions};
pub use token::Token;
