//! WHIP as the pages see it: keys are checked, the shard of the input is asked, its answer is waited for.
//! Runs on the control threads and holds no session; a shard that does not answer in time is a
//! refusal.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::sync::oneshot;
use weir_control::Store;
use weir_control::http::whip::{
    Admitted, Answering, Change, Changed, Published, Reached, Refusal, Whip,
};
use weir_feed::whip::SessionId;
use weir_relay::RefuseReason;

use super::control::{Grant, Post, Requests, pin};
use super::shell::Mail;
use super::whip::Order;
use crate::shard::Protocol;

/// How long a shard may take; it answers in microseconds unless it is drowning.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// Addresses told to one publisher.
const ADDRESSES_MAX: usize = 4;

/// The pages' way to the shards.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) requests: Requests,
    pub(super) post: Post,
    pub(super) store: Store,
    pub(super) shards: usize,
    /// Where media is listened for.
    pub(super) bound: SocketAddr,
    /// Where publishers find it from outside, if that is configured.
    pub(super) public: Vec<SocketAddr>,
}

impl Desk {
    async fn ask<T>(
        &self,
        input: &str,
        order: impl FnOnce(oneshot::Sender<T>) -> Order,
    ) -> Option<T> {
        let (answer, wait) = oneshot::channel();
        let mail = Mail::Whip(Box::new(order(answer)));
        let asked = async {
            self.post.send(pin(input, self.shards), mail).await;
            wait.await.ok()
        };
        tokio::time::timeout(ANSWER_TIMEOUT, asked).await.ok().flatten()
    }

    async fn check(&self, input: &str, key: &str, reached: Reached) -> Result<Grant, Refusal> {
        let peer = reached.peer.ip().to_canonical();
        let checked = self.requests.verify_key(input, key, Protocol::Whip, peer).await;
        let refused = match checked {
            Ok(grant) => return Ok(grant),
            Err(refused) => refused,
        };
        if self.requests.is_news(peer) {
            tracing::info!(%peer, reason = %refused, "WHIP publisher refused");
        }
        Err(match refused {
            RefuseReason::KeyInvalid => match input.parse() {
                Ok(id) if self.store.input(&id).await.is_ok() => Refusal::Key,
                _ => Refusal::NotFound,
            },
            RefuseReason::TooMany => Refusal::TooMany,
            RefuseReason::Protocol => Refusal::Disabled("this input is fed by another protocol"),
            RefuseReason::Disabled => Refusal::Disabled("this input is switched off"),
            RefuseReason::Busy => Refusal::Busy,
            RefuseReason::Draining => Refusal::Draining,
            RefuseReason::Capacity => Refusal::Capacity,
            _ => Refusal::Timeout,
        })
    }

    /// Where a publisher can send to that reached us so: what is configured, then what it used.
    fn addresses(&self, reached: Reached) -> Vec<SocketAddr> {
        let port = self.bound.port();
        let used = match (self.bound.ip(), reached.local.ip().to_canonical()) {
            (bound, _) if !bound.is_unspecified() => Some(bound),
            // The pages are on ::1 too, the media port on IPv4 only.
            (IpAddr::V4(_), IpAddr::V6(v6)) => {
                v6.is_loopback().then_some(Ipv4Addr::LOCALHOST.into())
            }
            (_, used) => Some(used),
        };
        let mut addresses = self.public.clone();
        if let Some(used) = used.map(|ip| SocketAddr::new(ip, port))
            && !addresses.contains(&used)
        {
            addresses.push(used);
        }
        addresses.truncate(ADDRESSES_MAX);
        addresses
    }
}

impl Whip for Desk {
    fn admit(
        &self,
        input: String,
        key: String,
        reached: Reached,
    ) -> Answering<'_, Result<Box<dyn Admitted>, Refusal>> {
        Box::pin(async move {
            let grant = self.check(&input, &key, reached).await?;
            let admitted = Publisher { desk: self.clone(), grant, reached };
            Ok(Box::new(admitted) as Box<dyn Admitted>)
        })
    }

    fn change(&self, change: Change) -> Answering<'_, Result<Changed, Refusal>> {
        Box::pin(async move {
            let Change { input, session, etag, fragment } = change;
            let session = session.parse().map_err(|_| Refusal::NotFound)?;
            let name = input.clone();
            self.ask(&name, |answer| Order::Change { input, session, etag, fragment, answer })
                .await
                .unwrap_or(Err(Refusal::Timeout))
        })
    }

    fn close(&self, input: String, session: String) -> Answering<'_, bool> {
        Box::pin(async move {
            let Ok(session) = session.parse::<SessionId>() else { return false };
            let name = input.clone();
            self.ask(&name, |answer| Order::Close { input, session, answer }).await.unwrap_or(false)
        })
    }

    fn inspect(&self, input: String) -> Answering<'_, Vec<serde_json::Value>> {
        Box::pin(async move {
            let name = input.clone();
            self.ask(&name, |answer| Order::Inspect { input, answer }).await.unwrap_or_default()
        })
    }
}

/// A publisher whose key is good.
struct Publisher {
    desk: Desk,
    grant: Grant,
    reached: Reached,
}

impl Admitted for Publisher {
    fn publish(self: Box<Self>, offer: String) -> Answering<'static, Result<Published, Refusal>> {
        Box::pin(async move {
            let Self { desk, grant, reached } = *self;
            let (peer, addresses) = (reached.peer, desk.addresses(reached));
            let input = grant.input_id.clone();
            let published = desk
                .ask(&input, |answer| Order::Publish {
                    grant: Box::new(grant),
                    peer,
                    addresses,
                    offer,
                    answer,
                })
                .await
                .unwrap_or(Err(Refusal::Timeout));
            if let Err(refused) = &published
                && desk.requests.is_news(peer.ip())
            {
                tracing::info!(peer = %peer, input, ?refused, "WHIP publisher refused");
            }
            published
        })
    }
}
