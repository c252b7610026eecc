//! Notices what other processes change in the store, without asking for it again and again.
//!
//! `PRAGMA data_version` changes on a connection whenever any *other* connection commits, in this
//! process or another, and costs a look into shared memory. So one connection is set aside that
//! never writes; only when its version moves is the snapshot read again.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{Error, PlaybackKey, Revocation, Timestamp, store::Sqlite};

/// How often the version is looked at: a change is seen within this, well under half a second.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// What running relays need to know of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Active signing keys of all organisations, oldest first.
    pub playback_keys: Vec<PlaybackKey>,
    /// What was withdrawn and could still be in use.
    pub revocations: Vec<Revocation>,
    /// Hashes of the active node keys, oldest first.
    pub node_keys: Vec<[u8; 32]>,
}

/// Reads the snapshot now and keeps the receiver current until it is dropped.
pub(crate) async fn start(db: Sqlite) -> Result<watch::Receiver<Arc<Snapshot>>, Error> {
    let mut observer = db.observer().await?;
    // The version first: a commit between the two reads is then seen as a change.
    let mut version = observer.version().await?;
    let (sender, receiver) = watch::channel(Arc::new(snapshot(&db).await?));
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tokio::select! {
                () = sender.closed() => return,
                _ = ticks.tick() => {}
            }
            match refresh(&db, &mut observer, &mut version).await {
                Ok(None) => failing = false,
                Ok(Some(fresh)) => {
                    failing = false;
                    sender.send_if_modified(|held| {
                        let changed = **held != fresh;
                        if changed {
                            *held = Arc::new(fresh);
                        }
                        changed
                    });
                }
                Err(error) => {
                    // Relays go on with the keys they have; said once, not five times a second.
                    if !failing {
                        tracing::warn!(%error, "cannot read changes of the store, trying on");
                    }
                    failing = true;
                }
            }
        }
    });
    Ok(receiver)
}

async fn refresh(
    db: &Sqlite,
    observer: &mut crate::store::Observer,
    version: &mut i64,
) -> Result<Option<Snapshot>, Error> {
    let seen = observer.version().await?;
    if seen == *version {
        return Ok(None);
    }
    let fresh = snapshot(db).await?;
    *version = seen;
    Ok(Some(fresh))
}

async fn snapshot(db: &Sqlite) -> Result<Snapshot, Error> {
    Ok(Snapshot {
        playback_keys: db.playback_keys().await?,
        revocations: db.revocations(Timestamp::now()).await?,
        node_keys: db.node_key_hashes().await?,
    })
}
