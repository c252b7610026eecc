//! Rows in `SQLite`: the schema's versions, every statement, and how a file is opened.
//!
//! The file is in WAL mode, so that the CLI reads and writes beside a running server; writers wait
//! for each other up to [`BUSY_TIMEOUT`]. Nothing here hashes, signs or reads a clock. A second
//! dialect is a second file with these methods.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, Row,
    sqlite::{
        SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
        SqliteRow, SqliteSynchronous,
    },
};

use crate::{
    Algorithm, ApiKeyId, ApiKeyRecord, Error, Input, InputId, OrgId, PlaybackKey, Scope,
    SigningKey, SigningKeyId, Timestamp,
};

/// Name of the database inside the data directory.
pub const DATABASE_FILE: &str = "weir.db";
/// Held while the schema is looked at or changed: switching a new file to WAL cannot be shared.
const LOCK_FILE: &str = "weir.db.lock";
/// How long a writer waits for another one; our transactions are a few statements long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Each connection is a thread; requests to the store are rare.
const CONNECTIONS_MAX: u32 = 4;

/// Scripts that turn schema version n into n + 1, in order. Released ones are never edited.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_first_light.sql"),
    include_str!("migrations/0002_revocations.sql"),
    include_str!("migrations/0003_node_keys.sql"),
    include_str!("migrations/0004_publishers.sql"),
    include_str!("migrations/0005_srt_passphrases.sql"),
];

/// A statement that begins with what [`input_of`] reads, of `live_inputs AS i`.
macro_rules! select_input {
    ($rest:literal) => {
        concat!(
            "SELECT i.id, i.org_id, i.name, i.ingest, i.policy, i.reconnect_window_s, ",
            "i.created_at",
            $rest
        )
    };
}
pub(super) use select_input;

/// A pool of connections to one database file.
#[derive(Clone)]
pub(crate) struct Sqlite {
    pub(super) pool: SqlitePool,
}

/// A connection that only watches for commits of others.
pub(crate) struct Observer(SqliteConnection);

/// What a fresh database starts with.
pub(super) struct Bootstrap {
    pub(super) org: OrgId,
    pub(super) hashing: [u8; 32],
    pub(super) decoy: [u8; 32],
    pub(super) steering: [u8; 32],
    pub(super) mesh_hashing: [u8; 32],
    pub(super) mesh_signing: [u8; 32],
    pub(super) signing_key: SigningKeyRow,
}

/// The server's secrets as stored.
pub(super) struct SecretRows {
    pub(super) hashing: [u8; 32],
    pub(super) steering: [u8; 32],
    pub(super) mesh_hashing: [u8; 32],
    pub(super) mesh_signing: [u8; 32],
}

/// A signing key with its private half.
pub(super) struct SigningKeyRow {
    pub(super) key: SigningKey,
    pub(super) private_pkcs8: Vec<u8>,
    pub(super) public_key: [u8; 32],
}

/// What a publisher's key is compared with: the input's hash, or the decoy and no input.
pub(super) struct KeyCandidate {
    pub(super) input: Option<Input>,
    pub(super) hash: Vec<u8>,
}

impl Sqlite {
    /// Opens or creates the file, readable by its owner only, and migrates it.
    pub(super) async fn open(data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join(DATABASE_FILE);
        let lock = prepare(data_dir, &path).await?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(BUSY_TIMEOUT)
            .connect_with(options)
            .await?;
        let db = Self { pool };
        db.migrate().await?;
        drop(lock);
        Ok(db)
    }

    /// Writes what a fresh database lacks, and reads what it has; one of several processes that
    /// start at once wins, the others read its values.
    pub(super) async fn bootstrap(
        &self,
        first: &Bootstrap,
        now: Timestamp,
    ) -> Result<(OrgId, SecretRows), Error> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for (name, value) in [
            ("decoy_key_hash", &first.decoy),
            ("key_hashing", &first.hashing),
            ("steering", &first.steering),
            ("mesh_hashing", &first.mesh_hashing),
            ("mesh_signing", &first.mesh_signing),
        ] {
            sqlx::query("INSERT INTO server_secrets VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")
                .bind(name)
                .bind(value.as_slice())
                .bind(now.as_millis())
                .execute(&mut *tx)
                .await?;
        }
        let oldest = "SELECT id FROM orgs ORDER BY id LIMIT 1";
        let held: Option<String> = sqlx::query_scalar(oldest).fetch_optional(&mut *tx).await?;
        let org = if let Some(id) = held {
            stored(id.parse(), "organisation id")?
        } else {
            sqlx::query("INSERT INTO orgs VALUES (?1, 'default', ?2)")
                .bind(first.org.as_str())
                .bind(now.as_millis())
                .execute(&mut *tx)
                .await?;
            insert_signing_key(&mut tx, &first.org, &first.signing_key).await?;
            first.org.clone()
        };
        let hashing = server_secret(&mut tx, "key_hashing").await?;
        let steering = server_secret(&mut tx, "steering").await?;
        let mesh_hashing = server_secret(&mut tx, "mesh_hashing").await?;
        let mesh_signing = server_secret(&mut tx, "mesh_signing").await?;
        tx.commit().await?;
        Ok((org, SecretRows { hashing, steering, mesh_hashing, mesh_signing }))
    }

    pub(super) async fn insert_input(&self, input: &Input, key_hash: &[u8]) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO live_inputs \
             (id, org_id, name, ingest, key_hash, created_at, policy, reconnect_window_s) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )
        .bind(input.id.as_str())
        .bind(input.org.as_str())
        .bind(&input.name)
        .bind(input.ingest.as_str())
        .bind(key_hash)
        .bind(input.created_at.as_millis())
        .bind(input.policy.as_str())
        .bind(input.reconnect_window_s)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    pub(super) async fn input(&self, id: &InputId) -> Result<Option<Input>, Error> {
        sqlx::query(select_input!(" FROM live_inputs AS i WHERE i.id = ?1"))
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await?
            .map(|row| input_of(&row))
            .transpose()
    }

    pub(super) async fn input_by_name(
        &self,
        org: &OrgId,
        name: &str,
    ) -> Result<Option<Input>, Error> {
        sqlx::query(select_input!(
            " FROM live_inputs AS i \
             WHERE i.org_id = ?1 AND i.name = ?2 ORDER BY i.id LIMIT 1"
        ))
        .bind(org.as_str())
        .bind(name)
        .fetch_optional(&self.pool)
        .await?
        .map(|row| input_of(&row))
        .transpose()
    }

    pub(super) async fn inputs(&self, org: &OrgId) -> Result<Vec<Input>, Error> {
        sqlx::query(select_input!(" FROM live_inputs AS i WHERE i.org_id = ?1 ORDER BY i.id"))
            .bind(org.as_str())
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(input_of)
            .collect()
    }

    pub(super) async fn update_key_hash(
        &self,
        id: &InputId,
        key_hash: &[u8],
        now: Timestamp,
    ) -> Result<bool, Error> {
        let done =
            sqlx::query("UPDATE live_inputs SET key_hash = ?2, key_rotated_at = ?3 WHERE id = ?1")
                .bind(id.as_str())
                .bind(key_hash)
                .bind(now.as_millis())
                .execute(&self.pool)
                .await?;
        Ok(done.rows_affected() == 1)
    }

    pub(super) async fn put_srt_secret(
        &self,
        id: &InputId,
        key_bytes: u8,
        sealed: &[u8],
    ) -> Result<(), Error> {
        sqlx::query("INSERT OR REPLACE INTO srt_passphrases VALUES (?1, ?2, ?3)")
            .bind(id.as_str())
            .bind(i64::from(key_bytes))
            .bind(sealed)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    pub(super) async fn delete_srt_secret(&self, id: &InputId) -> Result<(), Error> {
        sqlx::query("DELETE FROM srt_passphrases WHERE input_id = ?1")
            .bind(id.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Key length and sealed passphrase.
    pub(super) async fn srt_secret(&self, id: &InputId) -> Result<Option<(u8, Vec<u8>)>, Error> {
        let row: Option<(i64, Vec<u8>)> =
            sqlx::query_as("SELECT key_bytes, sealed FROM srt_passphrases WHERE input_id = ?1")
                .bind(id.as_str())
                .fetch_optional(&self.pool)
                .await?;
        let Some((key_bytes, sealed)) = row else { return Ok(None) };
        let key_bytes =
            u8::try_from(key_bytes).map_err(|_| Error::Stored { what: "SRT key length" })?;
        Ok(Some((key_bytes, sealed)))
    }

    /// One statement for known and unknown inputs alike: the decoy is always read.
    pub(super) async fn key_candidate(&self, input_id: &str) -> Result<KeyCandidate, Error> {
        let row = sqlx::query(select_input!(
            ", i.key_hash, d.value AS decoy \
             FROM server_secrets AS d LEFT JOIN live_inputs AS i ON i.id = ?1 \
             WHERE d.name = 'decoy_key_hash'"
        ))
        .bind(input_id)
        .fetch_one(&self.pool)
        .await?;
        match row.try_get::<Option<Vec<u8>>, _>("key_hash")? {
            Some(hash) => Ok(KeyCandidate { input: Some(input_of(&row)?), hash }),
            None => Ok(KeyCandidate { input: None, hash: row.try_get("decoy")? }),
        }
    }

    pub(super) async fn insert_signing_key(
        &self,
        org: &OrgId,
        row: &SigningKeyRow,
    ) -> Result<(), Error> {
        let mut connection = self.pool.acquire().await?;
        insert_signing_key(&mut connection, org, row).await
    }

    pub(super) async fn signing_keys(&self, org: &OrgId) -> Result<Vec<SigningKey>, Error> {
        sqlx::query(
            "SELECT kid, alg, active, created_at FROM signing_keys WHERE org_id = ?1 ORDER BY kid",
        )
        .bind(org.as_str())
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(|row| {
            Ok(SigningKey {
                kid: stored(row.try_get::<&str, _>("kid")?.parse(), "signing key id")?,
                algorithm: algorithm_of(row)?,
                active: row.try_get("active")?,
                created_at: Timestamp::from_millis(row.try_get("created_at")?),
            })
        })
        .collect()
    }

    pub(super) async fn newest_private_key(
        &self,
        org: &OrgId,
    ) -> Result<Option<(SigningKeyId, Vec<u8>)>, Error> {
        let row: Option<(String, Vec<u8>)> = sqlx::query_as(
            "SELECT kid, private_pkcs8 FROM signing_keys \
             WHERE org_id = ?1 AND active = 1 ORDER BY kid DESC LIMIT 1",
        )
        .bind(org.as_str())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|(kid, private)| Ok((stored(kid.parse(), "signing key id")?, private))).transpose()
    }

    pub(crate) async fn playback_keys(&self) -> Result<Vec<PlaybackKey>, Error> {
        sqlx::query(
            "SELECT kid, alg, public_key, org_id FROM signing_keys WHERE active = 1 ORDER BY kid",
        )
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(|row| {
            let public: &[u8] = row.try_get("public_key")?;
            Ok(PlaybackKey {
                kid: stored(row.try_get::<&str, _>("kid")?.parse(), "signing key id")?,
                algorithm: algorithm_of(row)?,
                public_key: stored(public.try_into(), "public key")?,
                org: stored(row.try_get::<&str, _>("org_id")?.parse(), "organisation id")?,
            })
        })
        .collect()
    }

    pub(super) async fn replace_api_key(
        &self,
        record: &ApiKeyRecord,
        key_hash: &[u8],
        now: Timestamp,
    ) -> Result<(), Error> {
        let scopes: Vec<&str> = record.scopes.iter().map(|scope| scope.as_str()).collect();
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("DELETE FROM api_keys WHERE org_id = ?1 AND name = ?2")
            .bind(record.org.as_str())
            .bind(&record.name)
            .execute(&mut *tx)
            .await?;
        sqlx::query("INSERT INTO api_keys VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
            .bind(record.id.as_str())
            .bind(record.org.as_str())
            .bind(&record.name)
            .bind(key_hash)
            .bind(scopes.join(" "))
            .bind(now.as_millis())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    pub(super) async fn api_key_by_hash(
        &self,
        key_hash: &[u8],
    ) -> Result<Option<(ApiKeyRecord, Vec<u8>)>, Error> {
        let row = sqlx::query(
            "SELECT id, org_id, name, key_hash, scopes FROM api_keys WHERE key_hash = ?1",
        )
        .bind(key_hash)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            let scopes: &str = row.try_get("scopes")?;
            let record = ApiKeyRecord {
                id: stored(row.try_get::<&str, _>("id")?.parse::<ApiKeyId>(), "API key id")?,
                org: stored(row.try_get::<&str, _>("org_id")?.parse(), "organisation id")?,
                name: row.try_get("name")?,
                // A word of a later version grants nothing here.
                scopes: Scope::ALL
                    .into_iter()
                    .filter(|scope| scopes.split(' ').any(|word| word == scope.as_str()))
                    .collect(),
            };
            Ok((record, row.try_get("key_hash")?))
        })
        .transpose()
    }

    /// A connection apart from the pool, so that every commit of ours is another's to it.
    pub(crate) async fn observer(&self) -> Result<Observer, Error> {
        let options = self.pool.connect_options().as_ref().clone().read_only(true);
        Ok(Observer(SqliteConnection::connect_with(&options).await?))
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    async fn migrate(&self) -> Result<(), Error> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL) STRICT")
            .execute(&mut *tx)
            .await?;
        let newest = "SELECT COALESCE(MAX(version), 0) FROM schema_version";
        let found: i64 = sqlx::query_scalar(newest).fetch_one(&mut *tx).await?;
        let known = MIGRATIONS.len() as i64;
        if found > known {
            return Err(Error::SchemaTooNew { found, known });
        }
        for (version, script) in (1..).zip(MIGRATIONS).skip(found.max(0).cast_unsigned() as usize) {
            sqlx::raw_sql(*script).execute(&mut *tx).await?;
            sqlx::query("INSERT INTO schema_version VALUES (?1)")
                .bind::<i64>(version)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

impl Observer {
    /// A number that differs from the last one when another connection has committed since.
    pub(crate) async fn version(&mut self) -> Result<i64, Error> {
        Ok(sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut self.0).await?)
    }
}

/// Makes the directory and the file with the owner's rights only, and takes the opening lock. The
/// files that `SQLite` adds (`-wal`, `-shm`) inherit the rights of the database.
async fn prepare(data_dir: &Path, path: &Path) -> Result<File, Error> {
    let (data_dir, path) = (data_dir.to_owned(), path.to_owned());
    let prepared = tokio::task::spawn_blocking(move || {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::DataDir { path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&data_dir)
            .map_err(failed(&data_dir))?;
        let private = |path: &Path| -> io::Result<File> {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
            if file.metadata()?.permissions().mode() & 0o077 != 0 {
                file.set_permissions(Permissions::from_mode(0o600))?;
            }
            Ok(file)
        };
        let lock_path = data_dir.join(LOCK_FILE);
        let lock = private(&lock_path).map_err(failed(&lock_path))?;
        lock.lock().map_err(failed(&lock_path))?;
        private(&path).map_err(failed(&path))?;
        Ok(lock)
    });
    prepared.await.unwrap_or_else(|lost| {
        Err(Error::DataDir { path: DATABASE_FILE.into(), source: io::Error::other(lost) })
    })
}

async fn insert_signing_key(
    connection: &mut SqliteConnection,
    org: &OrgId,
    row: &SigningKeyRow,
) -> Result<(), Error> {
    sqlx::query("INSERT INTO signing_keys VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")
        .bind(row.key.kid.as_str())
        .bind(org.as_str())
        .bind(row.key.algorithm.as_str())
        .bind(&row.private_pkcs8)
        .bind(row.public_key.as_slice())
        .bind(row.key.active)
        .bind(row.key.created_at.as_millis())
        .execute(connection)
        .await?;
    Ok(())
}

/// False when the organisation has no such key.
pub(super) async fn deactivate_signing_key(
    connection: &mut SqliteConnection,
    org: &OrgId,
    kid: &SigningKeyId,
) -> Result<bool, Error> {
    let done = sqlx::query("UPDATE signing_keys SET active = 0 WHERE org_id = ?1 AND kid = ?2")
        .bind(org.as_str())
        .bind(kid.as_str())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}

async fn server_secret(
    connection: &mut SqliteConnection,
    name: &'static str,
) -> Result<[u8; 32], Error> {
    let value: Vec<u8> = sqlx::query_scalar("SELECT value FROM server_secrets WHERE name = ?1")
        .bind(name)
        .fetch_one(connection)
        .await?;
    stored(value.as_slice().try_into(), name)
}

pub(super) fn input_of(row: &SqliteRow) -> Result<Input, Error> {
    Ok(Input {
        id: stored(row.try_get::<&str, _>("id")?.parse(), "input id")?,
        org: stored(row.try_get::<&str, _>("org_id")?.parse(), "organisation id")?,
        name: row.try_get("name")?,
        ingest: stored(row.try_get::<&str, _>("ingest")?.parse(), "ingest")?,
        policy: stored(row.try_get::<&str, _>("policy")?.parse(), "policy")?,
        reconnect_window_s: row.try_get("reconnect_window_s")?,
        created_at: Timestamp::from_millis(row.try_get("created_at")?),
    })
}

fn algorithm_of(row: &SqliteRow) -> Result<Algorithm, Error> {
    stored(Algorithm::parse(row.try_get("alg")?).ok_or(()), "algorithm")
}

pub(super) fn stored<T, E>(parsed: Result<T, E>, what: &'static str) -> Result<T, Error> {
    parsed.map_err(|_| Error::Stored { what })
}
