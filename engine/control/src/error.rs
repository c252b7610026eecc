//! What can go wrong in the control state, and the stable code each case has on the wire.
//!
//! The codes are the ones the API, the close reasons of sessions and the CLI share. No variant
//! carries a secret: an unknown input and a wrong key are one and the same [`Error::KeyRefused`].

use std::path::PathBuf;

/// A failure of the store, of a token or of a key check.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A `jti` or `vid` is empty, too long, or holds control characters.
    #[error("a token id or viewer id has 1 to {max} bytes without control characters", max = crate::revocation::CLAIM_BYTES_MAX)]
    Claim,
    /// The database answered with an error.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The data directory or the database file in it cannot be used.
    #[error("cannot use {path}: {source}")]
    DataDir {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The stream key was wrong, or the input does not exist; which of the two is never told.
    #[error("stream key refused")]
    KeyRefused,
    /// A name is empty, too long, or holds control characters.
    #[error("a name has 1 to {max} printable characters", max = crate::store::NAME_CHARS_MAX)]
    Name,
    /// The organisation has no active signing key.
    #[error("no active signing key: create one first")]
    NoSigningKey,
    /// A reconnect window that is too long.
    #[error("a reconnect window has at most {max} seconds", max = crate::RECONNECT_WINDOW_MAX_S)]
    ReconnectWindow,
    /// As many revocations are in force as relays can hold.
    #[error("{max} revocations are in force, which is the most", max = crate::REVOCATIONS_MAX)]
    RevocationsFull,
    /// A sealed value does not open: the file of its key is another one, or the row was changed.
    #[error("a passphrase in the database does not open: its key is in {file}, which must stay with the database", file = crate::SEALING_FILE)]
    Sealing,
    /// The database was written by a later version of Weir.
    #[error("the database has schema {found}, this build knows {known}: run the newer Weir")]
    SchemaTooNew {
        /// The version in the file.
        found: i64,
        /// The newest version this build can read.
        known: i64,
    },
    /// A stored value does not parse: the file was edited or damaged.
    #[error("the database holds a malformed {what}")]
    Stored {
        /// Which column or secret.
        what: &'static str,
    },
    /// The token could not be signed.
    #[error("cannot sign the token: {0}")]
    Sign(String),
    /// A text that was to be withdrawn is no token of this organisation. Its text is not in here.
    #[error("this is no playback token of this organisation")]
    TokenUnreadable,
    /// A token to be withdrawn has no `jti`.
    #[error("the token has no id (jti): withdraw its viewer or its key")]
    TokenWithoutId,
    /// No input has this id.
    #[error("no input {0}")]
    UnknownInput(crate::InputId),
    /// No active node key has this id.
    #[error("no active node key {0}")]
    UnknownNodeKey(crate::NodeKeyId),
    /// No signing key has this id.
    #[error("no signing key {0}")]
    UnknownSigningKey(crate::SigningKeyId),
}

impl Error {
    /// The stable code used by the API, by close reasons and by `--json` output.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Claim => "claim_invalid",
            Self::KeyRefused => "stream_key_invalid",
            Self::Name => "name_invalid",
            Self::NoSigningKey => "no_signing_key",
            Self::ReconnectWindow => "reconnect_window_out_of_range",
            Self::RevocationsFull => "capacity",
            Self::TokenUnreadable => "token_invalid",
            Self::TokenWithoutId => "token_without_id",
            Self::UnknownInput(_) | Self::UnknownNodeKey(_) | Self::UnknownSigningKey(_) => {
                "not_found"
            }
            Self::Database(_)
            | Self::DataDir { .. }
            | Self::SchemaTooNew { .. }
            | Self::Sealing
            | Self::Sign(_)
            | Self::Stored { .. } => "internal",
        }
    }
}
