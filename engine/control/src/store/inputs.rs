//! Live inputs beyond their keys: how publishers follow each other, and what the node last said of
//! each. States are written when they change and health every few seconds, by the one node that runs
//! on this store; everybody else only reads. What health consists of is the engine's affair.

use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::sqlite::{Sqlite, input_of, select_input, stored};
use super::{Ingest, Input, Store, checked_name};
use crate::{Error, InputId, Timestamp};

/// How long a broadcast waits for its publisher when nothing else is asked for.
pub const RECONNECT_WINDOW_DEFAULT_S: u32 = 30;
/// The longest it may wait: each waiting broadcast keeps its caches.
pub const RECONNECT_WINDOW_MAX_S: u32 = 3_600;

/// What happens to a second publisher with the key while the first is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PublisherPolicy {
    /// It is refused.
    #[default]
    Refuse,
    /// It replaces the first.
    Takeover,
}

/// A word that is no [`PublisherPolicy`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy is one of refuse, takeover")]
pub struct InvalidPolicy;

/// Life-cycle of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum InputState {
    /// Nobody publishes.
    #[default]
    Idle,
    /// A publisher is accepted and has sent nothing to show yet.
    Connected,
    /// It can be watched.
    Live,
    /// The publisher is gone; viewers are held for the reconnect window.
    Reconnecting,
    /// The last publisher failed, and nobody has come since.
    Errored,
}

/// What the node last said of an input.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct InputStatus {
    /// What it is now.
    pub state: InputState,
    /// Why, as a stable word.
    pub state_reason: Option<String>,
    /// Since when; none when nothing has happened yet.
    pub state_since: Option<Timestamp>,
    /// What its publisher speaks, or the last one spoke.
    pub protocol: Option<String>,
}

/// Health as last measured.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct InputHealth {
    /// What it is now.
    #[serde(flatten)]
    pub status: InputStatus,
    /// When it was measured; none: never.
    pub measured_at: Option<Timestamp>,
    /// What the engine measured.
    pub health: Option<Value>,
}

/// What a node says of an input.
#[derive(Debug, Clone, PartialEq)]
pub struct InputReport {
    /// Which input.
    pub input_id: String,
    /// What it is now.
    pub state: InputState,
    /// Why, as a stable word.
    pub reason: Option<&'static str>,
    /// What its publisher speaks.
    pub protocol: Option<&'static str>,
    /// Since when.
    pub since: Timestamp,
    /// What was measured, if anything was.
    pub health: Option<Value>,
}

/// What to change of an input; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputChange {
    /// Shown to people.
    pub name: Option<String>,
    /// How it is fed from now on; the key stays.
    pub ingest: Option<Ingest>,
    /// How publishers follow each other, from the next one on.
    pub policy: Option<PublisherPolicy>,
    /// How long a broadcast waits for its publisher, from the next one on.
    pub reconnect_window_s: Option<u32>,
}

impl Store {
    /// Changes an input. Who publishes now goes on; the next publisher meets the new settings.
    pub async fn change_input(&self, id: &InputId, change: InputChange) -> Result<Input, Error> {
        let name = change.name.map(checked_name).transpose()?;
        let window = change.reconnect_window_s.map(checked_window).transpose()?;
        let done = sqlx::query(
            "UPDATE live_inputs SET name = COALESCE(?2, name), ingest = COALESCE(?3, ingest), \
             policy = COALESCE(?4, policy), \
             reconnect_window_s = COALESCE(?5, reconnect_window_s) WHERE id = ?1",
        )
        .bind(id.as_str())
        .bind(name)
        .bind(change.ingest.map(Ingest::as_str))
        .bind(change.policy.map(PublisherPolicy::as_str))
        .bind(window)
        .execute(&self.db.pool)
        .await?;
        if done.rows_affected() == 0 {
            return Err(Error::UnknownInput(id.clone()));
        }
        self.input(id).await
    }

    /// All inputs of the default organisation with their states, oldest first.
    pub async fn inputs_with_status(&self) -> Result<Vec<(Input, InputStatus)>, Error> {
        self.db.statuses(self.org.as_str()).await
    }

    /// What the node last said of an input.
    pub async fn input_status(&self, id: &InputId) -> Result<InputStatus, Error> {
        Ok(self.input_health(id).await?.status)
    }

    /// The same with its health.
    pub async fn input_health(&self, id: &InputId) -> Result<InputHealth, Error> {
        let row = sqlx::query(
            "SELECT s.state, s.reason, s.protocol, s.since, s.health, s.measured_at \
             FROM live_inputs AS i LEFT JOIN input_states AS s ON s.input_id = i.id \
             WHERE i.id = ?1",
        )
        .bind(id.as_str())
        .fetch_optional(&self.db.pool)
        .await?
        .ok_or_else(|| Error::UnknownInput(id.clone()))?;
        let text: Option<&str> = row.try_get("health")?;
        let measured: Option<i64> = row.try_get("measured_at")?;
        Ok(InputHealth {
            status: status_of(&row)?,
            measured_at: measured.map(Timestamp::from_millis),
            health: text.map(|text| stored(serde_json::from_str(text), "health")).transpose()?,
        })
    }

    /// Notes what the node says of inputs, all in one commit. Inputs that are no more are passed over.
    pub async fn report_inputs(&self, reports: &[InputReport]) -> Result<(), Error> {
        if reports.is_empty() {
            return Ok(());
        }
        let now = Timestamp::now().as_millis();
        let mut tx = self.db.pool.begin_with("BEGIN IMMEDIATE").await?;
        for report in reports {
            let health = report.health.as_ref().map(Value::to_string);
            sqlx::query(
                "INSERT INTO input_states \
                 (input_id, state, reason, protocol, since, health, measured_at) \
                 SELECT ?1, ?2, ?3, ?4, ?5, ?6, IIF(?6 IS NULL, NULL, ?7) \
                 FROM live_inputs WHERE id = ?1 \
                 ON CONFLICT (input_id) DO UPDATE SET state = excluded.state, \
                 reason = excluded.reason, protocol = COALESCE(excluded.protocol, protocol), \
                 since = excluded.since, health = COALESCE(excluded.health, health), \
                 measured_at = COALESCE(excluded.measured_at, measured_at)",
            )
            .bind(&report.input_id)
            .bind(report.state.as_str())
            .bind(report.reason)
            .bind(report.protocol)
            .bind(report.since.as_millis())
            .bind(health)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// A node starts: whatever was live before is not.
    pub async fn reset_input_states(&self) -> Result<(), Error> {
        sqlx::query(
            "UPDATE input_states SET state = 'idle', reason = 'node_restarted', since = ?1 \
             WHERE state NOT IN ('idle', 'errored')",
        )
        .bind(Timestamp::now().as_millis())
        .execute(&self.db.pool)
        .await?;
        Ok(())
    }
}

impl Sqlite {
    async fn statuses(&self, org: &str) -> Result<Vec<(Input, InputStatus)>, Error> {
        sqlx::query(select_input!(
            ", s.state, s.reason, s.protocol, s.since \
             FROM live_inputs AS i LEFT JOIN input_states AS s ON s.input_id = i.id \
             WHERE i.org_id = ?1 ORDER BY i.id"
        ))
        .bind(org)
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(|row| Ok((input_of(row)?, status_of(row)?)))
        .collect()
    }
}

fn status_of(row: &SqliteRow) -> Result<InputStatus, Error> {
    let state: Option<&str> = row.try_get("state")?;
    let since: Option<i64> = row.try_get("since")?;
    Ok(InputStatus {
        state: state.map_or(Ok(InputState::Idle), |state| stored(state.parse(), "input state"))?,
        state_reason: row.try_get("reason")?,
        state_since: since.map(Timestamp::from_millis),
        protocol: row.try_get("protocol")?,
    })
}

pub(super) fn checked_window(seconds: u32) -> Result<u32, Error> {
    if seconds <= RECONNECT_WINDOW_MAX_S { Ok(seconds) } else { Err(Error::ReconnectWindow) }
}

impl PublisherPolicy {
    /// The word for it in the API and the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Takeover => "takeover",
        }
    }
}

impl FromStr for PublisherPolicy {
    type Err = InvalidPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidPolicy> {
        [Self::Refuse, Self::Takeover]
            .into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or(InvalidPolicy)
    }
}

impl InputState {
    const ALL: [Self; 5] =
        [Self::Idle, Self::Connected, Self::Live, Self::Reconnecting, Self::Errored];

    /// The word for it in the API and the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connected => "connected",
            Self::Live => "live",
            Self::Reconnecting => "reconnecting",
            Self::Errored => "errored",
        }
    }
}

impl FromStr for InputState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::NewInput;
    use super::*;
    use crate::testing::TempDir;

    fn report(id: &InputId, state: InputState, since: i64, health: Option<Value>) -> InputReport {
        InputReport {
            input_id: id.to_string(),
            state,
            reason: Some("publishing"),
            protocol: Some("rtmp"),
            since: Timestamp::from_millis(since),
            health,
        }
    }

    #[tokio::test]
    async fn an_input_says_how_publishers_follow_each_other_and_takes_changes() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).await.expect("the store opens");
        let (input, key) =
            store.create_input(NewInput::new("Stage", Ingest::Rtmp)).await.expect("created");
        assert_eq!(input.policy, PublisherPolicy::Refuse);
        assert_eq!(input.reconnect_window_s, 30);
        let change = InputChange {
            ingest: Some(Ingest::Srt),
            policy: Some(PublisherPolicy::Takeover),
            reconnect_window_s: Some(5),
            ..InputChange::default()
        };
        let changed = store.change_input(&input.id, change).await.expect("changed");
        assert_eq!((changed.ingest, changed.reconnect_window_s), (Ingest::Srt, 5));
        assert_eq!((changed.policy, &*changed.name), (PublisherPolicy::Takeover, "Stage"));
        let verified = store.verify_stream_key(input.id.as_str(), key.expose()).await;
        assert_eq!(verified.expect("the key stays"), changed);
        let long = InputChange {
            reconnect_window_s: Some(RECONNECT_WINDOW_MAX_S + 1),
            ..InputChange::default()
        };
        let refused = store.change_input(&input.id, long).await;
        assert!(matches!(refused, Err(Error::ReconnectWindow)));
        let nobody = store.change_input(&InputId::generate(), InputChange::default()).await;
        assert!(matches!(nobody, Err(Error::UnknownInput(_))));
    }

    #[tokio::test]
    async fn states_are_told_and_do_not_outlive_the_node_that_told_them() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).await.expect("the store opens");
        let (input, _) =
            store.create_input(NewInput::new("Stage", Ingest::Rtmp)).await.expect("created");
        let id = &input.id;
        assert_eq!(store.input_status(id).await.expect("there"), InputStatus::default());
        let nobody = InputId::generate();
        let measured = json!({ "bitrate": 1 });
        let reports = [
            report(&nobody, InputState::Live, 1, None),
            report(id, InputState::Live, 1_000, Some(measured.clone())),
        ];
        store.report_inputs(&reports).await.expect("an unknown input is passed over");
        let listed = store.inputs_with_status().await.expect("listed");
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].1.state, InputState::Live);
        assert_eq!(listed[0].1.state_since, Some(Timestamp::from_millis(1_000)));
        // A change of state without a measurement keeps the last one.
        let gone = report(id, InputState::Reconnecting, 2_000, None);
        store.report_inputs(&[gone]).await.expect("noted");
        let health = store.input_health(id).await.expect("there");
        assert_eq!(health.status.state, InputState::Reconnecting);
        assert_eq!(health.health, Some(measured));
        assert!(health.measured_at.is_some());
        store.reset_input_states().await.expect("reset");
        let status = store.input_status(id).await.expect("there");
        assert_eq!(status.state, InputState::Idle);
        assert_eq!(status.state_reason.as_deref(), Some("node_restarted"));
        assert!(matches!(store.input_status(&nobody).await, Err(Error::UnknownInput(_))));
    }
}
