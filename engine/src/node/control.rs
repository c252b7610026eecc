//! The bridge between shards and control threads: questions from shards (is this key good), mail
//! back to them. Bounded both ways; a shard never waits for the database.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use weir_control::{Ingest, InputReport, InputState, PublisherPolicy, Store, Timestamp};
use weir_moqt::Namespace;
use weir_relay::{RefuseReason, SessionId};

use super::drain::ShardOrder;
use super::rtmp::Adopted;
use super::shell::Mail;
use super::srt;
use super::strangers::{Checks, Refusals};
use crate::mesh::{Trust, UpstreamUrl};
use crate::shard::{Admission, Opening, Policy, Protocol, Rank, Report, Second, State};

/// Key checks waiting at once; beyond it a publisher is refused and may come again.
const REQUESTS_DEPTH: usize = 1_024;

/// Reports of inputs on their way into the store; what finds no room waits at its shard.
const REPORTS_DEPTH: usize = 1_024;

/// How long a key check may take before the publisher is refused.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// Addresses of one upstream that are tried.
const ADDRESSES_MAX: usize = 8;

/// What an accepted stream key gives.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) input_id: String,
    pub(super) namespace: Namespace,
    /// The shard the input is pinned to.
    pub(super) shard: u16,
    /// What was asked for and is granted.
    pub(super) protocol: Protocol,
    /// How publishers of the input follow each other.
    pub(super) policy: Policy,
    /// What an SRT caller must encrypt with, if the input says so.
    pub(super) passphrase: Option<weir_feed::Secret>,
}

impl Grant {
    /// The same as a shard wants it.
    pub(super) fn opening(&self, rank: Rank, peer: Option<IpAddr>) -> Opening<'_> {
        Opening {
            input_id: &self.input_id,
            namespace: &self.namespace,
            policy: &self.policy,
            rank,
            protocol: self.protocol,
            peer,
        }
    }
}

impl Grant {
    /// The same for a publisher session on whatever shard.
    fn admission(self, peer: Option<IpAddr>) -> Admission {
        let Self { input_id, namespace, shard, policy, .. } = self;
        Admission { input_id, namespace, shard, policy, peer }
    }
}

pub(super) enum Asker {
    /// A task of some shard waits for the answer.
    Task(oneshot::Sender<Result<Grant, RefuseReason>>),
    /// A MoQT session; the answer goes to its shard's mailbox.
    Session(u16, SessionId),
}

pub(super) enum Request {
    /// Is this key good for this input?
    Key {
        input_id: String,
        key: String,
        /// Which protocol it is shown over.
        protocol: Protocol,
        /// From where; bad keys are counted by it.
        peer: Option<IpAddr>,
        asker: Asker,
    },
    /// Where is this upstream? The answer goes to the mailbox of a shard.
    Address { url: UpstreamUrl, shard: u16 },
}

/// A shard's side of the bridge.
#[derive(Clone)]
pub(super) struct Requests {
    questions: mpsc::Sender<Request>,
    reports: mpsc::Sender<Report>,
    mailboxes: Arc<[mpsc::Sender<Mail>]>,
    refusals: Refusals,
}

impl Requests {
    /// Whether a refusal of `peer` is to be logged: once a minute, over all shards and protocols.
    pub(super) fn is_news(&self, peer: IpAddr) -> bool {
        self.refusals.is_news(peer, Instant::now())
    }

    /// Tells what became of an input; given back when there is no room now.
    pub(super) fn report(&self, report: Report) -> Result<(), Report> {
        self.reports.try_send(report).map_err(mpsc::error::TrySendError::into_inner)
    }

    /// Asks whether `key` opens `input_id` to a publisher over `protocol`.
    pub(super) async fn verify_key(
        &self,
        input_id: &str,
        key: &str,
        protocol: Protocol,
        peer: IpAddr,
    ) -> Result<Grant, RefuseReason> {
        let (answer, wait) = oneshot::channel();
        let request = Request::Key {
            input_id: input_id.to_owned(),
            key: key.to_owned(),
            protocol,
            peer: Some(peer),
            asker: Asker::Task(answer),
        };
        self.questions.try_send(request).map_err(|_| RefuseReason::Capacity)?;
        // The answering side keeps to ANSWER_TIMEOUT; a dropped sender is an answer too.
        wait.await.unwrap_or(Err(RefuseReason::Timeout))
    }

    /// The same for a MoQT session; the answer comes by mail.
    pub(super) fn authorize_session(
        &self,
        shard: u16,
        session: SessionId,
        input_id: String,
        key: &str,
        peer: Option<IpAddr>,
    ) {
        let (key, asker) = (key.to_owned(), Asker::Session(shard, session));
        let request = Request::Key { input_id, key, protocol: Protocol::Moqt, peer, asker };
        // A full queue leaves the session to the relay's own time limit.
        let _ = self.questions.try_send(request);
    }

    /// Looks up an upstream for a shard; the answer comes by mail.
    pub(super) fn resolve(&self, shard: u16, url: UpstreamUrl) {
        // Without an answer the shard asks again.
        let _ = self.questions.try_send(Request::Address { url, shard });
    }

    /// The same for an SRT caller.
    pub(super) async fn adopt_srt(&self, shard: u16, adopted: srt::Adopted) {
        if let Some(mailbox) = self.mailboxes.get(usize::from(shard)) {
            let _ = mailbox.send(Mail::AdoptSrt(Box::new(adopted))).await;
        }
    }

    /// Moves a publisher's connection to the shard of its input.
    pub(super) async fn adopt(&self, shard: u16, adopted: Adopted) {
        if let Some(mailbox) = self.mailboxes.get(usize::from(shard)) {
            let _ = mailbox.send(Mail::Adopt(Box::new(adopted))).await;
        }
    }
}

/// The control side: every shard's mailbox, and the questions to answer.
pub(super) struct Bridge {
    mailboxes: Arc<[mpsc::Sender<Mail>]>,
    questions: mpsc::Receiver<Request>,
    reports: mpsc::Receiver<Report>,
    refusals: Refusals,
    checks: Checks,
}

/// Builds both sides for `mailboxes.len()` shards.
pub(super) fn bridge(mailboxes: Vec<mpsc::Sender<Mail>>) -> (Requests, Bridge) {
    let (questions, receiver) = mpsc::channel(REQUESTS_DEPTH);
    let (reports, told) = mpsc::channel(REPORTS_DEPTH);
    let mailboxes: Arc<[mpsc::Sender<Mail>]> = mailboxes.into();
    let refusals = Refusals::default();
    (
        Requests {
            questions,
            reports,
            mailboxes: Arc::clone(&mailboxes),
            refusals: refusals.clone(),
        },
        Bridge {
            mailboxes,
            questions: receiver,
            reports: told,
            refusals,
            checks: Checks::default(),
        },
    )
}

impl Bridge {
    /// Every shard's mailbox, for whoever has news.
    pub(super) fn post(&self) -> Post {
        Post(Arc::clone(&self.mailboxes))
    }

    /// Answers questions until the shards are gone. An address that keeps showing bad keys, to
    /// whatever shard and over whatever protocol, is refused without looking for a while.
    pub(super) async fn answer(mut self, store: Option<Store>) {
        let shards = self.mailboxes.len();
        let (checks, refusals) = (self.checks.clone(), self.refusals.clone());
        if let Some(store) = store.clone() {
            tokio::spawn(keep_reports(self.reports, store));
        }
        while let Some(request) = self.questions.recv().await {
            let (store, mailboxes) = (store.clone(), Arc::clone(&self.mailboxes));
            let (checks, refusals) = (checks.clone(), refusals.clone());
            tokio::spawn(async move {
                let (input_id, key, protocol, peer, asker) = match request {
                    Request::Key { input_id, key, protocol, peer, asker } => {
                        (input_id, key, protocol, peer, asker)
                    }
                    Request::Address { url, shard } => {
                        let addresses = look_up(&url).await;
                        if let Some(mailbox) = mailboxes.get(usize::from(shard)) {
                            let _ = mailbox.send(Mail::Resolved(url, addresses)).await;
                        }
                        return;
                    }
                };
                let check = async {
                    match &store {
                        Some(store) => check(store, &input_id, &key, protocol, shards).await,
                        // An edge takes nothing in.
                        None => Err(RefuseReason::Disabled),
                    }
                };
                let answer = match checks.enter(peer, Instant::now()) {
                    None => Err(RefuseReason::TooMany),
                    Some(place) => {
                        let checked = tokio::time::timeout(ANSWER_TIMEOUT, place.run(check)).await;
                        let answer = match checked {
                            Ok(checked) => checked.unwrap_or(Err(RefuseReason::TooMany)),
                            Err(_) => Err(RefuseReason::Timeout),
                        };
                        if let Err(RefuseReason::KeyInvalid) = answer {
                            checks.failed(peer, Instant::now());
                        }
                        answer
                    }
                };
                match asker {
                    Asker::Task(waiting) => {
                        let _ = waiting.send(answer);
                    }
                    Asker::Session(shard, session) => {
                        if let (Err(reason), Some(peer)) = (&answer, peer)
                            && refusals.is_news(peer, Instant::now())
                        {
                            tracing::info!(%peer, %reason, "MoQT publisher refused");
                        }
                        let answer = answer.map(|grant| grant.admission(peer));
                        if let Some(mailbox) = mailboxes.get(usize::from(shard)) {
                            let _ = mailbox.send(Mail::Authorized(session, answer)).await;
                        }
                    }
                }
            });
        }
    }
}

/// Writes what shards say of inputs into the store: all that is waiting in one commit, in order.
async fn keep_reports(mut reports: mpsc::Receiver<Report>, store: Store) {
    let mut waiting = Vec::new();
    while reports.recv_many(&mut waiting, REPORTS_DEPTH).await > 0 {
        let rows: Vec<_> = waiting.drain(..).map(row).collect();
        if let Err(error) = store.report_inputs(&rows).await {
            tracing::warn!(%error, "the state of inputs is not noted");
        }
    }
}

fn row(report: Report) -> InputReport {
    InputReport {
        input_id: report.input_id,
        state: match report.state {
            State::Idle => InputState::Idle,
            State::Connected => InputState::Connected,
            State::Live => InputState::Live,
            State::Reconnecting => InputState::Reconnecting,
            State::Errored => InputState::Errored,
        },
        reason: Some(report.reason.label()),
        protocol: Some(report.protocol.label()),
        since: Timestamp::from_millis(i64::try_from(report.since.as_millis()).unwrap_or(i64::MAX)),
        health: report.health.map(|health| health.to_json()),
    }
}

/// News for shards.
#[derive(Clone)]
pub(super) struct Post(Arc<[mpsc::Sender<Mail>]>);

impl Post {
    pub(super) async fn trust(&self, trust: &Trust, sealed: &Bytes) {
        for mailbox in self.0.iter() {
            let _ = mailbox.send(Mail::Trust(Box::new(trust.clone()), sealed.clone())).await;
        }
    }

    pub(super) async fn drain(&self, order: &ShardOrder) {
        for mailbox in self.0.iter() {
            let _ = mailbox.send(Mail::Drain(order.clone())).await;
        }
    }

    pub(super) async fn stop(&self) {
        for mailbox in self.0.iter() {
            let _ = mailbox.send(Mail::Stop).await;
        }
    }

    pub(super) async fn send(&self, shard: u16, mail: Mail) {
        if let Some(mailbox) = self.0.get(usize::from(shard)) {
            let _ = mailbox.send(mail).await;
        }
    }
}

/// The addresses of an upstream; none when nobody knows.
async fn look_up(url: &UpstreamUrl) -> Vec<SocketAddr> {
    let found = tokio::net::lookup_host((url.host(), url.port()));
    match tokio::time::timeout(ANSWER_TIMEOUT, found).await {
        Ok(Ok(found)) => found.take(ADDRESSES_MAX).collect(),
        Ok(Err(error)) => {
            tracing::warn!(%error, upstream = %url, "cannot look up the upstream");
            Vec::new()
        }
        Err(_) => {
            tracing::warn!(upstream = %url, "the look-up of the upstream took too long");
            Vec::new()
        }
    }
}

async fn check(
    store: &Store,
    input_id: &str,
    key: &str,
    protocol: Protocol,
    shards: usize,
) -> Result<Grant, RefuseReason> {
    let input = store.verify_stream_key(input_id, key).await.map_err(|error| match error {
        weir_control::Error::KeyRefused => RefuseReason::KeyInvalid,
        other => {
            tracing::error!(error = %other, "cannot check a stream key");
            RefuseReason::Timeout
        }
    })?;
    let mut grant = grant(&input, protocol, shards)?;
    if protocol == Protocol::Srt {
        // Without it nobody gets in: an input that wants encryption is never fed in the clear.
        let secret = store.srt_secret(&input.id).await.map_err(|error| {
            tracing::error!(%error, "cannot read an SRT passphrase");
            RefuseReason::Timeout
        })?;
        grant.passphrase = secret.map(|secret| weir_feed::Secret::new(secret.passphrase.expose()));
    }
    Ok(grant)
}

/// Where an input's objects go and who holds it, for a publisher over `protocol`. Only the protocol
/// the input was made for is taken; whoever gets to hear that has shown the right key.
pub(super) fn grant(
    input: &weir_control::Input,
    protocol: Protocol,
    shards: usize,
) -> Result<Grant, RefuseReason> {
    let org = input.org.to_string();
    let id = input.id.to_string();
    let namespace = Namespace::new(["stream", &org, &id]).map_err(|_| RefuseReason::Disabled)?;
    let shard = pin(&id, shards);
    let wanted = match protocol {
        // The node's own feed goes wherever it is told to.
        Protocol::Demo => input.ingest,
        Protocol::Moqt => Ingest::Fmp4,
        Protocol::Rtmp | Protocol::Rtmps => Ingest::Rtmp,
        Protocol::Srt => Ingest::Srt,
        Protocol::Whip => Ingest::Whip,
    };
    if input.ingest != wanted {
        return Err(RefuseReason::Protocol);
    }
    let policy = Policy {
        second: match input.policy {
            PublisherPolicy::Refuse => Second::Refuse,
            PublisherPolicy::Takeover => Second::Takeover,
        },
        reconnect_window: Duration::from_secs(input.reconnect_window_s.into()),
        ..Policy::DEFAULT
    };
    Ok(Grant { input_id: id, namespace, shard, protocol, policy, passphrase: None })
}

/// The shard of an input: FNV-1a of its id, so that every publisher of it meets the same one.
pub(super) fn pin(input_id: &str, shards: usize) -> u16 {
    let hash = input_id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash % shards.max(1) as u64) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_granted_over_the_protocol_it_was_made_for_only() {
        let id = weir_control::InputId::generate();
        let input = |ingest| weir_control::Input {
            id: id.clone(),
            org: weir_control::OrgId::generate(),
            name: "Stage".into(),
            ingest,
            policy: PublisherPolicy::Takeover,
            reconnect_window_s: 7,
            created_at: Timestamp::from_millis(0),
        };
        for (ingest, taken) in [
            (Ingest::Rtmp, vec![Protocol::Demo, Protocol::Rtmp, Protocol::Rtmps]),
            (Ingest::Srt, vec![Protocol::Demo, Protocol::Srt]),
            (Ingest::Whip, vec![Protocol::Demo, Protocol::Whip]),
            (Ingest::Fmp4, vec![Protocol::Demo, Protocol::Moqt]),
        ] {
            for protocol in Protocol::ALL {
                let granted = grant(&input(ingest), protocol, 4);
                match granted {
                    Ok(grant) => {
                        assert!(taken.contains(&protocol), "{ingest:?} over {protocol:?}");
                        assert_eq!(grant.protocol, protocol);
                        assert_eq!(grant.policy.second, Second::Takeover);
                        assert_eq!(grant.policy.reconnect_window, Duration::from_secs(7));
                    }
                    Err(reason) => {
                        assert!(!taken.contains(&protocol), "{ingest:?} over {protocol:?}");
                        assert_eq!(reason, RefuseReason::Protocol);
                    }
                }
            }
        }
    }

    /// Keys that open nothing, over every protocol at once, as many as the queue takes.
    const FLOOD: usize = 900;

    #[tokio::test]
    async fn a_flood_of_bad_keys_over_any_protocol_is_slowed_and_delays_no_good_publisher_elsewhere()
     {
        let dir = std::env::temp_dir().join(format!("weir-flood-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a folder");
        let store = Store::open(&dir).await.expect("the store opens");
        let mut keys = Vec::new();
        for (ingest, protocol) in [
            (Ingest::Rtmp, Protocol::Rtmp),
            (Ingest::Srt, Protocol::Srt),
            (Ingest::Whip, Protocol::Whip),
            (Ingest::Fmp4, Protocol::Moqt),
        ] {
            let new = weir_control::NewInput::new("Stage", ingest);
            let (input, key) = store.create_input(new).await.expect("created");
            keys.push((protocol, input.id.to_string(), key.expose().to_owned()));
        }
        let (requests, bridge) = bridge(vec![mpsc::channel(1).0]);
        let checks = bridge.checks.clone();
        let answering = tokio::spawn(bridge.answer(Some(store)));
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (bad, good) = (ip("192.0.2.9"), ip("198.51.100.7"));
        let mut refused = Vec::new();
        for n in 0..FLOOD {
            let (protocol, input, _) = &keys[n % 4];
            let (answer, wait) = oneshot::channel();
            refused.push(wait);
            let asker = Asker::Task(answer);
            let (input_id, key, peer) = (input.clone(), format!("sk_live_{n}"), Some(bad));
            let request = Request::Key { input_id, key, protocol: *protocol, peer, asker };
            requests.questions.send(request).await.expect("the bridge is there");
        }
        // Behind all of them in the queue, and not behind them in the store.
        let show = async |(protocol, input, key): &(Protocol, String, String), peer: IpAddr| {
            requests.verify_key(input, key, *protocol, peer).await
        };
        for right in &keys {
            assert!(show(right, good).await.is_ok(), "{:?} was held up", right.0);
        }
        let mut looked_at = 0;
        for wait in refused {
            match wait.await.expect("an answer").expect_err("a bad key") {
                RefuseReason::KeyInvalid => looked_at += 1,
                RefuseReason::TooMany => {}
                other => panic!("{other:?}"),
            }
        }
        assert!((1..=40).contains(&looked_at), "{looked_at} of {FLOOD} keys were looked at");
        // However slow this machine is: the address is shut out for the longest time, half a minute.
        (0..16).for_each(|_| checks.failed(Some(bad), Instant::now()));
        // Not even the right key is looked at, over whatever protocol, while the others still come and go.
        for right in &keys {
            let answer = show(right, bad).await;
            assert_eq!(answer.err(), Some(RefuseReason::TooMany), "{:?}", right.0);
            assert!(show(right, good).await.is_ok(), "{:?}", right.0);
        }
        answering.abort();
        let _ = std::fs::remove_dir_all(&dir);
    }
}
