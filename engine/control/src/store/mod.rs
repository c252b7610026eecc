//! The store: what Weir remembers between runs, and the rules for it.
//!
//! [`Store`] owns meaning (ids, key hashing, minting, clamping); `sqlite.rs` owns rows and SQL and
//! is the one file a second dialect has to mirror. The store does not know who asks: the CLI and
//! a running server use it side by side on the same file.

mod inputs;
mod nodes;
mod passphrases;
pub(crate) mod revocations;
mod sqlite;
#[cfg(test)]
mod tests;

use std::{fmt, path::Path, str::FromStr, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use serde::Serialize;
use subtle::ConstantTimeEq;

pub use self::inputs::{
    InputChange, InputHealth, InputReport, InputState, InputStatus, InvalidPolicy, PublisherPolicy,
    RECONNECT_WINDOW_DEFAULT_S, RECONNECT_WINDOW_MAX_S,
};
pub use self::nodes::NodeKeyRecord;
pub use self::passphrases::{SEALING_FILE, SrtSecret};
pub use self::sqlite::DATABASE_FILE;
pub(crate) use self::sqlite::{Observer, Sqlite};
use crate::{
    Algorithm, ApiKey, ApiKeyId, Error, InputId, MintedToken, OrgId, PlaybackKey, SigningKeyId,
    Snapshot, StreamKey, Timestamp,
    revocation::{Withdraw, check_claim},
    secret::random,
    token, watch,
};

/// Longest name of an input or key, in characters.
pub(crate) const NAME_CHARS_MAX: usize = 200;
/// Longest text looked at as an id or a key: ours have 29 and 40 characters.
const CREDENTIAL_BYTES_MAX: usize = 256;

/// A handle on the control state; cheap to clone, safe beside other processes.
#[derive(Clone)]
pub struct Store {
    db: Sqlite,
    org: OrgId,
    secrets: Arc<Secrets>,
    data_dir: Arc<Path>,
}

/// How an input is fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Ingest {
    /// CMAF fragments over MoQT.
    Fmp4,
    /// RTMP or RTMPS.
    Rtmp,
    /// SRT.
    Srt,
    /// WebRTC by WHIP.
    Whip,
}

/// A word that is no [`Ingest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ingest is one of rtmp, srt, whip, fmp4")]
pub struct InvalidIngest;

/// What to create an input with.
#[derive(Debug, Clone)]
pub struct NewInput {
    /// Shown to people; need not be unique.
    pub name: String,
    /// How it will be fed.
    pub ingest: Ingest,
    /// What happens to a second publisher.
    pub policy: PublisherPolicy,
    /// How long its broadcast waits for a publisher that has gone.
    pub reconnect_window_s: u32,
}

impl NewInput {
    /// One with the usual settings.
    pub fn new(name: impl Into<String>, ingest: Ingest) -> Self {
        Self {
            name: name.into(),
            ingest,
            policy: PublisherPolicy::default(),
            reconnect_window_s: RECONNECT_WINDOW_DEFAULT_S,
        }
    }
}

/// A live input. Its stream key is not in here: only a keyed hash of it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Input {
    /// Its id, also the last field of its namespace.
    pub id: InputId,
    /// The tenant it belongs to.
    pub org: OrgId,
    /// Shown to people.
    pub name: String,
    /// How it is fed.
    pub ingest: Ingest,
    /// What happens to a second publisher.
    pub policy: PublisherPolicy,
    /// How long its broadcast waits for a publisher that has gone.
    pub reconnect_window_s: u32,
    /// When it was created.
    pub created_at: Timestamp,
}

/// A signing key without its private half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// The `kid` of its tokens.
    pub kid: SigningKeyId,
    /// How it signs.
    pub algorithm: Algorithm,
    /// Whether its tokens are accepted.
    pub active: bool,
    /// When it was created.
    pub created_at: Timestamp,
}

/// What an API key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// Create, list and deactivate signing and API keys.
    Keys,
    /// Machine operations: drain, nodes, metrics.
    Ops,
    /// Mint playback tokens.
    StreamsMint,
    /// Read inputs.
    StreamsRead,
    /// Create and change inputs.
    StreamsWrite,
}

/// An API key without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// Its id.
    pub id: ApiKeyId,
    /// The tenant it acts for.
    pub org: OrgId,
    /// Shown to people.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

/// Secrets of this installation, made at first start.
struct Secrets {
    hashing: hmac::Key,
    steering: [u8; 32],
    mesh_hashing: [u8; 32],
    mesh_signing: [u8; 32],
}

impl Store {
    /// Opens (at first: creates) the database in `data_dir`, brings its schema up to date and
    /// makes sure that the default organisation, its signing key and the server's secrets exist.
    pub async fn open(data_dir: &Path) -> Result<Self, Error> {
        let db = Sqlite::open(data_dir).await?;
        let now = Timestamp::now();
        let first = sqlite::Bootstrap {
            org: OrgId::generate(),
            hashing: random(),
            decoy: random(),
            steering: random(),
            mesh_hashing: random(),
            mesh_signing: random(),
            signing_key: new_signing_key(now),
        };
        let (org, secrets) = db.bootstrap(&first, now).await?;
        let secrets = Secrets {
            hashing: hmac::Key::new(hmac::HMAC_SHA256, &secrets.hashing),
            steering: secrets.steering,
            mesh_hashing: secrets.mesh_hashing,
            mesh_signing: secrets.mesh_signing,
        };
        Ok(Self { db, org, secrets: Arc::new(secrets), data_dir: data_dir.into() })
    }

    /// The organisation that inputs made on this machine belong to.
    pub fn default_org(&self) -> &OrgId {
        &self.org
    }

    /// The secret under which connection ids hide their shard; the same for all runs.
    pub fn steering_key(&self) -> &[u8; 32] {
        &self.secrets.steering
    }

    /// Creates an input. The key is in the answer and nowhere else.
    pub async fn create_input(&self, new: NewInput) -> Result<(Input, StreamKey), Error> {
        let input = Input {
            id: InputId::generate(),
            org: self.org.clone(),
            name: checked_name(new.name)?,
            ingest: new.ingest,
            policy: new.policy,
            reconnect_window_s: inputs::checked_window(new.reconnect_window_s)?,
            created_at: Timestamp::now(),
        };
        let key = StreamKey::generate();
        let hash = self.stream_key_hash(input.id.as_str(), key.expose());
        self.db.insert_input(&input, &hash).await?;
        Ok((input, key))
    }

    /// Finds the oldest input of this name or creates it, and gives it a fresh key: for inputs the
    /// server itself feeds, such as the demo.
    pub async fn ensure_input(&self, new: NewInput) -> Result<(Input, StreamKey), Error> {
        match self.db.input_by_name(&self.org, &new.name).await? {
            Some(input) => {
                let key = self.rotate_stream_key(&input.id).await?;
                Ok((input, key))
            }
            None => self.create_input(new).await,
        }
    }

    /// One input.
    pub async fn input(&self, id: &InputId) -> Result<Input, Error> {
        self.db.input(id).await?.ok_or_else(|| Error::UnknownInput(id.clone()))
    }

    /// All inputs of the default organisation, oldest first.
    pub async fn inputs(&self) -> Result<Vec<Input>, Error> {
        self.db.inputs(&self.org).await
    }

    /// Replaces the stream key; the old one is refused from now on, a live session goes on.
    pub async fn rotate_stream_key(&self, id: &InputId) -> Result<StreamKey, Error> {
        let key = StreamKey::generate();
        let hash = self.stream_key_hash(id.as_str(), key.expose());
        if self.db.update_key_hash(id, &hash, Timestamp::now()).await? {
            Ok(key)
        } else {
            Err(Error::UnknownInput(id.clone()))
        }
    }

    /// Checks a publisher's key. An unknown input takes the same statement, the same hash and the
    /// same comparison as a wrong key and ends in the same [`Error::KeyRefused`].
    pub async fn verify_stream_key(&self, input_id: &str, key: &str) -> Result<Input, Error> {
        let (input_id, key) = (capped(input_id), capped(key));
        let given = self.stream_key_hash(input_id, key);
        let candidate = self.db.key_candidate(input_id).await?;
        let equal = bool::from(candidate.hash.as_slice().ct_eq(given.as_slice()));
        match candidate.input {
            Some(input) if equal => Ok(input),
            _ => Err(Error::KeyRefused),
        }
    }

    /// Creates a signing key for the default organisation; tokens are signed by it from now on.
    pub async fn create_signing_key(&self) -> Result<SigningKey, Error> {
        let row = new_signing_key(Timestamp::now());
        self.db.insert_signing_key(&self.org, &row).await?;
        Ok(row.key)
    }

    /// All signing keys of the default organisation, oldest first.
    pub async fn signing_keys(&self) -> Result<Vec<SigningKey>, Error> {
        self.db.signing_keys(&self.org).await
    }

    /// Stops accepting a key's tokens, those already out included: sessions on them end.
    pub async fn deactivate_signing_key(&self, kid: &SigningKeyId) -> Result<(), Error> {
        self.revoke(&self.org, Withdraw::Key(kid.clone())).await.map(|_| ())
    }

    /// Mints a playback token for an input with its organisation's newest active key. The life is
    /// clamped to [`TTL_MIN`](crate::TTL_MIN)..=[`TTL_MAX`](crate::TTL_MAX).
    pub async fn mint_playback_token(
        &self,
        input: &InputId,
        ttl: Duration,
    ) -> Result<MintedToken, Error> {
        self.mint_viewer_token(input, None, ttl).await
    }

    /// The same for a known viewer, whose tokens can be withdrawn together and whose sessions are
    /// counted.
    pub async fn mint_viewer_token(
        &self,
        input: &InputId,
        viewer: Option<&str>,
        ttl: Duration,
    ) -> Result<MintedToken, Error> {
        viewer.map_or(Ok(()), check_claim)?;
        let input = self.input(input).await?;
        let (kid, private) =
            self.db.newest_private_key(&input.org).await?.ok_or(Error::NoSigningKey)?;
        let to = token::Recipient { org: &input.org, input: &input.id, viewer };
        token::mint(kid, &private, &to, ttl, Timestamp::now())
    }

    /// The public halves of all active signing keys.
    pub async fn playback_keys(&self) -> Result<Vec<PlaybackKey>, Error> {
        self.db.playback_keys().await
    }

    /// A view that follows the store: changed within half a second of any commit that matters to
    /// relays, whichever process made it. Needs a running tokio; ends with the last receiver.
    pub async fn watch(&self) -> Result<tokio::sync::watch::Receiver<Arc<Snapshot>>, Error> {
        watch::start(self.db.clone()).await
    }

    /// Creates an API key, replacing earlier ones of the same name. Shown once.
    pub async fn issue_api_key(
        &self,
        name: &str,
        scopes: &[Scope],
    ) -> Result<(ApiKeyRecord, ApiKey), Error> {
        let record = ApiKeyRecord {
            id: ApiKeyId::generate(),
            org: self.org.clone(),
            name: checked_name(name.to_owned())?,
            scopes: scopes.to_vec(),
        };
        let key = ApiKey::generate();
        let hash = self.api_key_hash(key.expose());
        self.db.replace_api_key(&record, &hash, Timestamp::now()).await?;
        Ok((record, key))
    }

    /// Checks an API key and says what it may do.
    pub async fn verify_api_key(&self, key: &str) -> Result<ApiKeyRecord, Error> {
        let given = self.api_key_hash(capped(key));
        match self.db.api_key_by_hash(&given).await? {
            Some((record, stored)) if bool::from(stored.as_slice().ct_eq(given.as_slice())) => {
                Ok(record)
            }
            _ => Err(Error::KeyRefused),
        }
    }

    /// Closes the connections; what is written stays written.
    pub async fn close(&self) {
        self.db.close().await;
    }

    /// The input's id is part of what is hashed, so a hash copied to another row is worthless.
    fn stream_key_hash(&self, input_id: &str, key: &str) -> Vec<u8> {
        self.hash(&[b"stream_key", input_id.as_bytes(), key.as_bytes()])
    }

    fn api_key_hash(&self, key: &str) -> Vec<u8> {
        self.hash(&[b"api_key", key.as_bytes()])
    }

    fn hash(&self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.secrets.hashing);
        for part in parts {
            // The length in front keeps ("a", "bc") and ("ab", "c") apart.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().to_vec()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("org", &self.org).finish_non_exhaustive()
    }
}

impl Ingest {
    /// The word for it in the API and the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fmp4 => "fmp4",
            Self::Rtmp => "rtmp",
            Self::Srt => "srt",
            Self::Whip => "whip",
        }
    }
}

impl FromStr for Ingest {
    type Err = InvalidIngest;

    fn from_str(text: &str) -> Result<Self, InvalidIngest> {
        [Self::Fmp4, Self::Rtmp, Self::Srt, Self::Whip]
            .into_iter()
            .find(|ingest| ingest.as_str() == text)
            .ok_or(InvalidIngest)
    }
}

impl Scope {
    /// Every scope there is.
    pub const ALL: [Self; 5] =
        [Self::Keys, Self::Ops, Self::StreamsMint, Self::StreamsRead, Self::StreamsWrite];

    /// The word for it in the API and the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys:*",
            Self::Ops => "ops:*",
            Self::StreamsMint => "streams:mint",
            Self::StreamsRead => "streams:read",
            Self::StreamsWrite => "streams:write",
        }
    }
}

fn checked_name(name: String) -> Result<String, Error> {
    let fits = (1..=NAME_CHARS_MAX).contains(&name.chars().count());
    if fits && !name.trim().is_empty() && !name.chars().any(char::is_control) {
        Ok(name)
    } else {
        Err(Error::Name)
    }
}

/// Cuts a stranger's text to what could be a credential; a longer one is wrong anyway, and the cut
/// one takes the ordinary way to the refusal.
fn capped(text: &str) -> &str {
    let mut end = text.len().min(CREDENTIAL_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn new_signing_key(now: Timestamp) -> sqlite::SigningKeyRow {
    let pair = ed25519_dalek::SigningKey::from_bytes(&random());
    let private = pair.to_pkcs8_der().expect("an Ed25519 key always has a PKCS #8 form");
    sqlite::SigningKeyRow {
        key: SigningKey {
            kid: SigningKeyId::generate(),
            algorithm: Algorithm::EdDsa,
            active: true,
            created_at: now,
        },
        private_pkcs8: private.as_bytes().to_vec(),
        public_key: pair.verifying_key().to_bytes(),
    }
}
