//! Withdrawing tokens: the rows, and the rules for them. A revocation is kept as long as a token
//! could live that it is about, is counted against [`REVOCATIONS_MAX`], and may be asked for again
//! without harm.

use sqlx::Row;

use super::Store;
use super::sqlite::{Sqlite, deactivate_signing_key, stored};
use crate::revocation::{REVOCATIONS_MAX, Revocation, Withdraw};
use crate::{Error, OrgId, Timestamp};

/// Most entries of one page of a list.
pub(crate) const PAGE_MAX: usize = 100;

impl Store {
    /// Withdraws tokens of an organisation: relays end their sessions within a second and refuse
    /// them from now on. Answers what is in force, and whether it is new. Withdrawing a viewer
    /// again also reaches the tokens issued since.
    pub async fn revoke(&self, org: &OrgId, what: Withdraw) -> Result<(Revocation, bool), Error> {
        what.check()?;
        let now = Timestamp::now();
        let until = Withdraw::until(now);
        let wanted = Revocation { org: org.clone(), what, revoked_at: now, until };
        self.db.insert_revocation(&wanted).await
    }

    /// Revocations of an organisation in force, in a fixed order, a page of at most `limit` behind
    /// `after` (the kind and value of the last one seen).
    pub async fn revocations(
        &self,
        org: &OrgId,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Result<Vec<Revocation>, Error> {
        let limit = limit.clamp(1, PAGE_MAX);
        self.db.revocations_of(org, after.unwrap_or_default(), limit, Timestamp::now()).await
    }

    /// Withdraws a token in hand, by its text.
    pub async fn revoke_token(
        &self,
        org: &OrgId,
        token: &str,
    ) -> Result<(Revocation, bool), Error> {
        self.revoke(org, Withdraw::token(token, org)?).await
    }
}

impl Sqlite {
    /// Adds a revocation, or renews the one there is; drops those that are over. A key is made
    /// inactive in the same transaction, so that nobody sees one without the other.
    async fn insert_revocation(&self, wanted: &Revocation) -> Result<(Revocation, bool), Error> {
        let (kind, value) = (wanted.what.kind(), wanted.what.value());
        let now = wanted.revoked_at;
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        if let Withdraw::Key(kid) = &wanted.what
            && !deactivate_signing_key(&mut tx, &wanted.org, kid).await?
        {
            return Err(Error::UnknownSigningKey(kid.clone()));
        }
        sqlx::query("DELETE FROM revocations WHERE until <= ?1")
            .bind(now.as_millis())
            .execute(&mut *tx)
            .await?;
        let held: Option<(i64, i64)> = sqlx::query_as(
            "SELECT revoked_at, until FROM revocations \
             WHERE org_id = ?1 AND kind = ?2 AND value = ?3",
        )
        .bind(wanted.org.as_str())
        .bind(kind)
        .bind(&value)
        .fetch_optional(&mut *tx)
        .await?;
        if let Some((revoked_at, until)) = held
            && kind == "jti"
        {
            // One token cannot be issued again: nothing to renew.
            tx.commit().await?;
            let (revoked_at, until) =
                (Timestamp::from_millis(revoked_at), Timestamp::from_millis(until));
            return Ok((Revocation { revoked_at, until, ..wanted.clone() }, false));
        }
        let count: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM revocations").fetch_one(&mut *tx).await?;
        if held.is_none() && count >= REVOCATIONS_MAX as i64 {
            if kind == "kid" {
                // An inactive key opens nothing; only the word that relays have for it is lost.
                tx.commit().await?;
                return Ok((wanted.clone(), true));
            }
            return Err(Error::RevocationsFull);
        }
        sqlx::query(
            "INSERT INTO revocations VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (org_id, kind, value) \
             DO UPDATE SET revoked_at = excluded.revoked_at, until = excluded.until",
        )
        .bind(wanted.org.as_str())
        .bind(kind)
        .bind(&value)
        .bind(now.as_millis())
        .bind(wanted.until.as_millis())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok((wanted.clone(), held.is_none()))
    }

    async fn revocations_of(
        &self,
        org: &OrgId,
        (kind, value): (&str, &str),
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Revocation>, Error> {
        sqlx::query(
            "SELECT org_id, kind, value, revoked_at, until FROM revocations \
             WHERE org_id = ?1 AND until > ?2 AND (kind, value) > (?3, ?4) \
             ORDER BY kind, value LIMIT ?5",
        )
        .bind(org.as_str())
        .bind(now.as_millis())
        .bind(kind)
        .bind(value)
        .bind(limit as i64)
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(revocation_of)
        .collect()
    }

    /// All revocations in force, for relays.
    pub(crate) async fn revocations(&self, now: Timestamp) -> Result<Vec<Revocation>, Error> {
        sqlx::query(
            "SELECT org_id, kind, value, revoked_at, until FROM revocations \
             WHERE until > ?1 ORDER BY org_id, kind, value",
        )
        .bind(now.as_millis())
        .fetch_all(&self.pool)
        .await?
        .iter()
        .map(revocation_of)
        .collect()
    }
}

fn revocation_of(row: &sqlx::sqlite::SqliteRow) -> Result<Revocation, Error> {
    let what = Withdraw::read(row.try_get("kind")?, row.try_get("value")?);
    Ok(Revocation {
        org: stored(row.try_get::<&str, _>("org_id")?.parse(), "organisation id")?,
        what: stored(what.ok_or(()), "revocation")?,
        revoked_at: Timestamp::from_millis(row.try_get("revoked_at")?),
        until: Timestamp::from_millis(row.try_get("until")?),
    })
}
