//! Node keys: what lets relays of ours in below this engine. The store keeps hashes and the two
//! secrets of the mesh; what is done with them is the engine's affair.

use sqlx::Row;

use super::sqlite::stored;
use super::{Sqlite, Store, checked_name};
use crate::{Error, NodeKeyId, Timestamp};

/// A node key without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeKeyRecord {
    /// Its id.
    pub id: NodeKeyId,
    /// Shown to people.
    pub name: String,
    /// Whether nodes with it are let in.
    pub active: bool,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Store {
    /// The secret under which node keys are hashed, here and on every node of the mesh.
    pub fn mesh_hashing(&self) -> &[u8; 32] {
        &self.secrets.mesh_hashing
    }

    /// The seed of the Ed25519 key with which this engine signs whom to believe.
    pub fn mesh_signing(&self) -> &[u8; 32] {
        &self.secrets.mesh_signing
    }

    /// Keeps the hash of a new node key.
    pub async fn add_node_key(&self, name: &str, hash: &[u8; 32]) -> Result<NodeKeyRecord, Error> {
        let record = NodeKeyRecord {
            id: NodeKeyId::generate(),
            name: checked_name(name.to_owned())?,
            active: true,
            created_at: Timestamp::now(),
        };
        self.db.insert_node_key(&record, hash).await?;
        Ok(record)
    }

    /// All node keys, oldest first.
    pub async fn node_keys(&self) -> Result<Vec<NodeKeyRecord>, Error> {
        self.db.node_keys().await
    }

    /// Cuts off the nodes of a key, those connected included.
    pub async fn revoke_node_key(&self, id: &NodeKeyId) -> Result<(), Error> {
        if self.db.revoke_node_key(id).await? {
            Ok(())
        } else {
            Err(Error::UnknownNodeKey(id.clone()))
        }
    }
}

impl Sqlite {
    async fn insert_node_key(&self, record: &NodeKeyRecord, hash: &[u8; 32]) -> Result<(), Error> {
        sqlx::query("INSERT INTO node_keys VALUES (?1, ?2, ?3, 1, ?4)")
            .bind(record.id.as_str())
            .bind(&record.name)
            .bind(hash.as_slice())
            .bind(record.created_at.as_millis())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn node_keys(&self) -> Result<Vec<NodeKeyRecord>, Error> {
        sqlx::query("SELECT id, name, active, created_at FROM node_keys ORDER BY id")
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(|row| {
                Ok(NodeKeyRecord {
                    id: stored(row.try_get::<&str, _>("id")?.parse(), "node key id")?,
                    name: row.try_get("name")?,
                    active: row.try_get("active")?,
                    created_at: Timestamp::from_millis(row.try_get("created_at")?),
                })
            })
            .collect()
    }

    async fn revoke_node_key(&self, id: &NodeKeyId) -> Result<bool, Error> {
        let done = sqlx::query("UPDATE node_keys SET active = 0 WHERE id = ?1 AND active = 1")
            .bind(id.as_str())
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Hashes of the keys that let nodes in.
    pub(crate) async fn node_key_hashes(&self) -> Result<Vec<[u8; 32]>, Error> {
        sqlx::query("SELECT key_hash FROM node_keys WHERE active = 1 ORDER BY id")
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(|row| stored(row.try_get::<&[u8], _>("key_hash")?.try_into(), "node key hash"))
            .collect()
    }
}
