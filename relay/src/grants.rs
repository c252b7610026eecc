//! What one session may watch until when: the grants it holds and the token it came with. It owns
//! renewal and the choice between several grants for one broadcast; it knows no requests and no
//! tracks. Ends are on the monotonic clock from the moment a token is accepted, so a step of the
//! wall clock neither cuts a viewer nor lets one stay (F14).

use std::time::{Duration, Instant};

use weir_moqt::Token;

use crate::auth::{AuthError, Grant, KeySet, verify};
use crate::{Limits, Namespace, Secret};

/// Grants for one broadcast held at once: the running one and its renewal. With more, a token that
/// is withdrawn could never leave a session without one that stands.
const PER_BROADCAST: usize = 2;

/// The grants of one session.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    held: Vec<Held>,
    /// From the path or from SETUP; looked at when a request needs it.
    token: Option<Secret>,
    /// Something was added or let go since it was last asked.
    changed: bool,
}

#[derive(Debug)]
struct Held {
    grant: Grant,
    ends: Instant,
}

/// Why a session gets no further grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The token opens nothing.
    Auth(AuthError),
    /// A limit with this name stands against it.
    Limit(crate::admission::Full),
}

impl From<AuthError> for Denied {
    fn from(error: AuthError) -> Self {
        Self::Auth(error)
    }
}

/// When tokens are judged, and by what.
pub(crate) struct Judge<'a> {
    pub(crate) keys: &'a KeySet,
    pub(crate) limits: &'a Limits,
    pub(crate) now: Instant,
    pub(crate) wall: Duration,
}

impl Grants {
    /// The token of the path or of SETUP; the path's goes first.
    pub(crate) fn present(&mut self, token: Secret) {
        self.token = Some(token);
    }

    /// Whether `namespace` may be used, by the tokens of a request or else by what is held or was
    /// presented. Every token of a request is taken: that is how a grant is renewed.
    pub(crate) fn authorise(
        &mut self,
        namespace: &Namespace,
        tokens: &[Token],
        judge: &Judge<'_>,
    ) -> Result<(), Denied> {
        if tokens.len() > judge.limits.tokens_per_request_max {
            return Err(Denied::Limit(crate::admission::Full::TokensPerRequest));
        }
        for token in tokens {
            let token = std::str::from_utf8(&token.value).map_err(|_| AuthError::Malformed)?;
            self.take(token, judge)?;
        }
        if self.covers_at(namespace, judge.now) {
            return Ok(());
        }
        if !tokens.is_empty() {
            return Err(AuthError::OtherStream.into());
        }
        if self.covers(namespace) {
            return Err(AuthError::Expired.into());
        }
        let token = self.token.clone().ok_or(AuthError::Missing)?;
        self.take(token.expose(), judge)?;
        if self.covers_at(namespace, judge.now) {
            Ok(())
        } else {
            Err(AuthError::OtherStream.into())
        }
    }

    fn take(&mut self, token: &str, judge: &Judge<'_>) -> Result<(), Denied> {
        let leeway = judge.limits.token_leeway;
        let grant = verify(token, judge.keys, judge.wall, leeway)?;
        let left = grant.expires_at.saturating_add(leeway).saturating_sub(judge.wall);
        // A life is at most a day, so the sum exists; if not, the grant ends at once.
        let ends = judge.now.checked_add(left).unwrap_or(judge.now);
        self.hold(Held { grant, ends }, judge.limits.grants_per_session_max)
    }

    fn hold(&mut self, new: Held, grants_max: usize) -> Result<(), Denied> {
        if self.held.iter().any(|held| held.grant == new.grant) {
            return Ok(());
        }
        let same = |held: &Held| held.grant.org == new.grant.org && held.grant.sub == new.grant.sub;
        if self.held.iter().filter(|held| same(held)).count() >= PER_BROADCAST {
            let shortest = (0..self.held.len())
                .filter(|at| self.held.get(*at).is_some_and(same))
                .min_by_key(|at| self.held.get(*at).map(|held| held.ends));
            match shortest.and_then(|at| self.held.get_mut(at)) {
                Some(shortest) if shortest.ends <= new.ends => {
                    *shortest = new;
                    self.changed = true;
                }
                _ => {}
            }
            return Ok(());
        }
        if self.held.len() >= grants_max {
            return Err(Denied::Limit(crate::admission::Full::GrantsPerSession));
        }
        self.held.push(new);
        self.changed = true;
        Ok(())
    }

    /// The broadcast that the presented token opens.
    pub(crate) fn opened(&mut self, judge: &Judge<'_>) -> Result<Namespace, Denied> {
        let token = self.token.clone().ok_or(AuthError::Missing)?;
        let grant = verify(token.expose(), judge.keys, judge.wall, judge.limits.token_leeway)?;
        let fields = ["stream", &grant.org, &grant.sub];
        Namespace::new(fields).map_err(|_| AuthError::Malformed.into())
    }

    /// Whether a grant for `namespace` is held.
    pub(crate) fn covers(&self, namespace: &Namespace) -> bool {
        self.held.iter().any(|held| covers(&held.grant, namespace))
    }

    fn covers_at(&self, namespace: &Namespace, now: Instant) -> bool {
        self.ends(namespace).is_some_and(|ends| now < ends)
    }

    /// When the last grant for `namespace` ends, leeway included.
    pub(crate) fn ends(&self, namespace: &Namespace) -> Option<Instant> {
        let of = self.held.iter().filter(|held| covers(&held.grant, namespace));
        of.map(|held| held.ends).max()
    }

    /// When the next grant ends, needed or not.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.ends).min()
    }

    /// Lets go of grants that have ended; true if there were any.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let before = self.held.len();
        self.held.retain(|held| now < held.ends);
        self.changed |= self.held.len() != before;
        self.held.len() != before
    }

    /// Lets go of grants that `keys` no longer upholds; true if there were any.
    pub(crate) fn uphold(&mut self, keys: &KeySet) -> bool {
        let before = self.held.len();
        self.held.retain(|held| keys.upholds(&held.grant));
        self.changed |= self.held.len() != before;
        self.held.len() != before
    }

    /// Lets go of everything.
    pub(crate) fn clear(&mut self) {
        self.changed = !self.held.is_empty();
        self.held.clear();
    }

    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether what is held has changed since this was last asked.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What has changed was not acted on.
    pub(crate) fn ask_again(&mut self) {
        self.changed = true;
    }

    /// What is held.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.held.iter().map(|held| &held.grant)
    }
}

/// A grant opens exactly `stream/<org>/<sub>` (R20).
fn covers(grant: &Grant, namespace: &Namespace) -> bool {
    let wanted: [&[u8]; 3] = [b"stream", grant.org.as_bytes(), grant.sub.as_bytes()];
    namespace.fields().eq(wanted)
}
