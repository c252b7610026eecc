//! The publisher of a measurement: holds the namespace, answers the relay's one SUBSCRIBE, and writes each object when
//! it is due, one stream a group. What the objects hold is the content's matter.

use std::collections::VecDeque;

use anyhow::{Result, bail};
use bytes::{Bytes, BytesMut};
use weir::quic::Link;
use weir_moqt::data::{ObjectHeader, Status, SubgroupEncoder, SubgroupHeader};
use weir_moqt::{Dir, Draft, Event, Namespace, Params, RequestId, RequestKind, StreamId};
use weir_relay::Transport;

use super::content::Content;
use super::wire::{Wire, write_queue};

/// Alias of the only track.
const ALIAS: u64 = 1;

/// Seconds of groups whose bytes the connection has not taken; past it the relay cannot take the rate.
const SECONDS_WAITING_MAX: usize = 8;

/// One group on its way out.
struct Outgoing {
    stream: Option<StreamId>,
    chunks: VecDeque<Bytes>,
    complete: bool,
}

pub(super) struct Publisher {
    pub(super) wire: Wire,
    namespace: Namespace,
    track: Bytes,
    draft: Draft,
    content: Content,
    /// The relay granted the namespace.
    announced: bool,
    subscription: Option<RequestId>,
    /// SUBSCRIBEs the relay sent: one, whatever the number of viewers.
    subscriptions: u32,
    encoder: Option<SubgroupEncoder>,
    groups: VecDeque<Outgoing>,
    /// Next object to be published.
    next: u64,
    /// Objects pass unseen: what subscribers cost while nothing comes.
    silent: bool,
}

impl Publisher {
    pub(super) fn new(
        wire: Wire,
        namespace: Namespace,
        track: Bytes,
        draft: Draft,
        content: Content,
        silent: bool,
    ) -> Self {
        Self {
            wire,
            namespace,
            track,
            draft,
            content,
            announced: false,
            subscription: None,
            subscriptions: 0,
            encoder: None,
            groups: VecDeque::new(),
            next: 0,
            silent,
        }
    }

    pub(super) fn is_announced(&self) -> bool {
        self.announced
    }

    pub(super) fn subscriptions(&self) -> u32 {
        self.subscriptions
    }

    /// Next object to be published.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Acts on what the session says.
    pub(super) fn events(&mut self) -> Result<()> {
        while let Some(event) = self.wire.poll_event() {
            match event {
                Event::Setup { .. } => {
                    self.wire.session.publish_namespace(&self.namespace, Params::default())?;
                }
                Event::RequestOk { kind: RequestKind::PublishNamespace, .. } => {
                    self.announced = true;
                }
                Event::RequestError { error, .. } => {
                    bail!("the relay refuses the publisher: {}", error.reason)
                }
                Event::Subscribe { request, track, .. } if *track.name() == self.track => {
                    self.subscriptions += 1;
                    self.subscription = Some(request);
                    self.wire.session.accept_subscribe(request, ALIAS, Params::default(), &[])?;
                }
                Event::Subscribe { request, .. } => {
                    let code = weir_moqt::RequestCode::DoesNotExist;
                    let error = weir_moqt::RequestError::new(code, "no such track");
                    self.wire.session.reject(request, &error)?;
                }
                // moq-relay joins a group by FETCH, and waits for the answer; the subscription begins with a group anyway.
                Event::Fetch { request, .. } | Event::TrackStatus { request, .. } => {
                    let code = weir_moqt::RequestCode::DoesNotExist;
                    let error = weir_moqt::RequestError::new(code, "nothing is kept");
                    self.wire.session.reject(request, &error)?;
                }
                // The namespace was published on its own.
                Event::SubscribeNamespace { request, .. } => {
                    self.wire.session.accept(request, Params::default(), &[])?;
                }
                Event::Unsubscribed { .. } => {
                    self.subscription = None;
                    self.encoder = None;
                    self.groups.clear();
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Everything due before `end` goes into the queue. When silent, without a subscriber, and until the first group after it came,
    /// objects pass unseen.
    pub(super) fn publish(&mut self, end: u64) -> Result<()> {
        while self.next < end {
            let (group, object) = self.content.shape().place(self.next);
            self.next += 1;
            let unseen = self.silent || self.subscription.is_none();
            if unseen || (object > 0 && self.encoder.is_none()) {
                continue;
            }
            let mut head = BytesMut::with_capacity(32);
            if object == 0 {
                let shape = self.content.shape();
                let waiting = self.groups.len() * shape.group_objects as usize;
                if waiting > SECONDS_WAITING_MAX * shape.objects_per_second as usize {
                    bail!("the relay does not take the publisher's rate");
                }
                let header = SubgroupHeader {
                    alias: ALIAS,
                    group,
                    subgroup: 0,
                    priority: Some(2),
                    properties: false,
                    end_of_group: true,
                    first_object: true,
                };
                self.encoder = Some(SubgroupEncoder::new(self.draft, &header, &mut head)?);
                self.groups.push_back(Outgoing {
                    stream: None,
                    chunks: VecDeque::new(),
                    complete: false,
                });
            }
            let (Some(encoder), Some(outgoing)) = (&mut self.encoder, self.groups.back_mut())
            else {
                continue;
            };
            let shape = self.content.shape();
            let header = ObjectHeader {
                object,
                properties: Bytes::new(),
                payload_len: shape.bytes(object) as u64,
                status: Status::Normal,
            };
            encoder.object(&header, &mut head)?;
            outgoing.chunks.push_back(head.freeze());
            outgoing.chunks.extend(self.content.payload(group, object));
            outgoing.complete = object + 1 == u64::from(shape.group_objects);
        }
        Ok(())
    }

    /// Writes as much as the connection takes.
    pub(super) fn drive(&mut self, link: &mut Link<'_>) -> Result<()> {
        self.wire.drive(link)?;
        for outgoing in &mut self.groups {
            if outgoing.stream.is_none() {
                outgoing.stream = link.open(Dir::Uni);
            }
            let Some(stream) = outgoing.stream else { break };
            if write_queue(link, stream, &mut outgoing.chunks) && outgoing.complete {
                link.finish(stream);
            }
        }
        self.groups.retain(|outgoing| !outgoing.complete || !outgoing.chunks.is_empty());
        Ok(())
    }
}
