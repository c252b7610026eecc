//! What a session adds for a draft that says things in full (draft 14), so that its owner sees what later
//! drafts show: namespaces are named where later ones name a request, advertised by requests of their own,
//! and an update repeats the whole subscription and is never answered.

use super::messages::misplaced;
use super::{Event, Request, Session};
use crate::error::{CommandError, RequestCode, RequestError, SessionError};
use crate::message::{About, Decoded, Message};
use crate::model::{Filter, Location, Params, RequestId, RequestKind};
use crate::name::Namespace;

/// What the answers and the end of a request will have to say again.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Its namespace or prefix.
    namespace: Option<Namespace>,
    /// The namespace subscription this PUBLISH_NAMESPACE advertises on, and what follows its prefix.
    advert: Option<(RequestId, Namespace)>,
    /// What a subscription asks for, as far as updates repeat it.
    standing: Params,
    /// Where a PUBLISH said its track is.
    largest: Option<Location>,
}

impl Memory {
    /// What it advertises, if it does.
    pub(super) fn advertised(memory: Box<Self>) -> Option<(RequestId, Namespace)> {
        memory.advert
    }
}

impl Request {
    pub(super) fn about(&self) -> About {
        let namespace = self.memory.as_ref().and_then(|memory| memory.namespace.clone());
        About { kind: Some(self.kind), namespace }
    }
}

/// Finding the request a message is about.
impl Session {
    /// Turns names into request ids, and holds answers to the kind of request they are for. A name that is
    /// not open crossed with the end of its request: it becomes an id that is not open either.
    pub(super) fn settle(&mut self, decoded: &mut Decoded) -> Result<(), SessionError> {
        let About { kind, namespace } = std::mem::take(&mut decoded.aside.about);
        let named = |ours: bool, kind: RequestKind| {
            self.requests
                .iter()
                .find(|(_, open)| {
                    let memory = open.memory.as_ref();
                    open.ours == ours
                        && open.kind == kind
                        && memory.is_some_and(|memory| memory.namespace == namespace)
                })
                .map(|(id, _)| *id)
        };
        let (request, found) = match &mut decoded.message {
            Message::PublishNamespaceDone { request } if namespace.is_some() => {
                (request, named(false, RequestKind::PublishNamespace))
            }
            Message::PublishNamespaceCancel { request, .. } if namespace.is_some() => {
                (request, named(true, RequestKind::PublishNamespace))
            }
            Message::UnsubscribeNamespace { request } if namespace.is_some() => {
                (request, named(false, RequestKind::SubscribeNamespace))
            }
            Message::RequestOk { request, .. } | Message::RequestError { request, .. } => {
                let open = self.requests.get(request);
                let fits = kind.zip(open).is_none_or(|(kind, open)| open.kind == kind);
                if fits {
                    return Ok(());
                }
                return Err(misplaced(decoded.message.kind(), "a request of another kind"));
            }
            _ => return Ok(()),
        };
        if let Some(found) = found {
            *request = found;
        }
        Ok(())
    }

    /// What to remember of a request, where the draft needs it.
    pub(super) fn memory_of(&self, message: &Message) -> Option<Box<Memory>> {
        if !self.rules().in_full {
            return None;
        }
        let memory = Memory::default();
        let memory = match message {
            Message::PublishNamespace { namespace: name, .. }
            | Message::SubscribeNamespace { prefix: name, .. } => {
                Memory { namespace: Some(name.clone()), ..memory }
            }
            Message::Subscribe { params, .. } => Memory { standing: repeated(params), ..memory },
            Message::Publish { params, .. } => Memory { largest: params.largest, ..memory },
            _ => return None,
        };
        Some(Box::new(memory))
    }
}

/// Advertisements.
impl Session {
    /// NAMESPACE: a PUBLISH_NAMESPACE of ours whose answer nobody awaits (section 6.1).
    pub(super) fn advertise_in_full(
        &mut self,
        subscription: RequestId,
        suffix: &Namespace,
    ) -> Result<(), CommandError> {
        let prefix = self.requests.get(&subscription).and_then(|open| open.about().namespace);
        let namespace = prefix
            .unwrap_or_default()
            .join(suffix)
            .map_err(|_| CommandError::NotEncodable("a namespace above its limits"))?;
        let advert = self.publish_namespace(&namespace, Params::default())?;
        if let Some(memory) = self.memory(advert) {
            memory.advert = Some((subscription, suffix.clone()));
        }
        Ok(())
    }

    /// NAMESPACE_DONE.
    pub(super) fn unadvertise_in_full(&mut self, subscription: RequestId, suffix: &Namespace) {
        let advert = self.adverts(subscription).find(|(_, advertised)| *advertised == suffix);
        if let Some((advert, _)) = advert {
            self.cancel(advert);
        }
    }

    /// Requests of either side that advertise on a namespace subscription.
    fn adverts(&self, subscription: RequestId) -> impl Iterator<Item = (RequestId, &Namespace)> {
        self.requests.iter().filter_map(move |(id, open)| {
            let (on, suffix) = open.memory.as_ref()?.advert.as_ref()?;
            (*on == subscription).then_some((*id, suffix))
        })
    }

    /// Whether the owner does not know of this request.
    pub(super) fn is_advert(&self, request: RequestId) -> bool {
        let memory = self.requests.get(&request).and_then(|open| open.memory.as_ref());
        memory.is_some_and(|memory| memory.advert.is_some())
    }

    /// A namespace subscription ended: so do the advertisements on it.
    pub(super) fn withdraw(&mut self, subscription: RequestId, ended: &Request) {
        if ended.memory.is_none() || ended.kind != RequestKind::SubscribeNamespace {
            return;
        }
        let adverts: Vec<RequestId> = self.adverts(subscription).map(|(id, _)| id).collect();
        for advert in adverts {
            if self.requests.get(&advert).is_some_and(|open| open.ours) {
                self.cancel(advert);
            } else {
                self.close(advert);
            }
        }
    }

    /// Whether the peer's PUBLISH_NAMESPACE answers a namespace subscription of ours; then it is granted,
    /// and the owner sees what later drafts send.
    pub(super) fn advertised_by(&mut self, request: RequestId, namespace: &Namespace) -> bool {
        let on = self.requests.iter().find_map(|(id, open)| {
            let prefix = open.memory.as_ref()?.namespace.as_ref()?;
            let wanted = open.ours && open.kind == RequestKind::SubscribeNamespace;
            Some((*id, namespace.strip_prefix(prefix)?)).filter(|_| wanted)
        });
        let Some((subscription, suffix)) = on else {
            return false;
        };
        let full = self.requests.get_mut(&subscription).is_some_and(|open| {
            open.advertised += 1;
            open.advertised > self.limits.advertised
        });
        if full {
            self.counters.advertised_overflow += 1;
            let error = RequestError::new(RequestCode::ExcessiveLoad, "too many namespaces");
            let _ = self.reject(request, &error);
            return true;
        }
        if let Some(memory) = self.memory(request) {
            memory.advert = Some((subscription, suffix.clone()));
        }
        let _ = self.accept(request, Params::default(), &[]);
        self.events.push_back(Event::Namespace { request: subscription, suffix });
        true
    }

    /// The peer took back an advertisement.
    pub(super) fn unadvertised(&mut self, subscription: RequestId, suffix: Namespace) {
        if let Some(open) = self.requests.get_mut(&subscription) {
            open.advertised = open.advertised.saturating_sub(1);
            self.events.push_back(Event::NamespaceDone { request: subscription, suffix });
        }
    }

    fn memory(&mut self, request: RequestId) -> Option<&mut Memory> {
        self.requests.get_mut(&request)?.memory.as_deref_mut()
    }
}

/// Updates.
impl Session {
    /// Whether updates may name this request: a subscription, either side's.
    pub(super) fn is_subscription(&self, request: RequestId) -> bool {
        self.is_peers(request, RequestKind::Subscribe) || self.is_own(request, RequestKind::Publish)
    }

    /// The publisher told where a subscription of ours begins.
    pub(super) fn learn_start(&mut self, request: RequestId, largest: Option<Location>) {
        if let Some(memory) = self.memory(request) {
            memory.standing.filter = Some(resolved(memory.standing.filter, largest));
        }
    }

    /// We take the peer's PUBLISH with these parameters.
    pub(super) fn accepted_in_full(&mut self, request: RequestId, params: &Params) {
        if let Some(memory) = self.memory(request) {
            memory.standing = repeated(params);
            memory.standing.filter = Some(resolved(params.filter, memory.largest));
        }
    }

    /// An update with all that stands, where the draft has no "as before". A new filter must say itself
    /// where it starts: only the publisher knows its largest object.
    pub(super) fn whole_update(
        &self,
        request: RequestId,
        params: Params,
    ) -> Result<Params, CommandError> {
        if !self.rules().in_full {
            return Ok(params);
        }
        let takes_updates = |open: &&Request| match open.kind {
            RequestKind::Subscribe => open.ours,
            kind => kind == RequestKind::Publish && !open.ours,
        };
        let open = self.requests.get(&request).filter(takes_updates);
        let Some(memory) = open.and_then(|open| open.memory.as_ref()) else {
            return Err(CommandError::NotSupported("update of this request"));
        };
        let before = &memory.standing;
        let relative = CommandError::NotEncodable("an update relative to the largest object");
        let filter = match (params.filter, before.filter) {
            (None, Some(filter @ (Filter::AbsoluteStart(_) | Filter::AbsoluteRange { .. }))) => {
                filter
            }
            (Some(Filter::Range { start, end }), _) => {
                Filter::AbsoluteRange { start, end_group: end.group }
            }
            (Some(filter @ (Filter::AbsoluteStart(_) | Filter::AbsoluteRange { .. })), _) => filter,
            _ => return Err(relative),
        };
        Ok(Params {
            filter: Some(filter),
            priority: params.priority.or(before.priority),
            forward: params.forward.or(before.forward),
            object_timeout_ms: params.object_timeout_ms.or(before.object_timeout_ms),
            ..params
        })
    }

    /// The update is on its way; silence means that it was taken (section 9.10).
    pub(super) fn updated_in_full(
        &mut self,
        request: RequestId,
        update: RequestId,
        standing: &Params,
    ) {
        if let Some(memory) = self.memory(request) {
            memory.standing = repeated(standing);
        }
        self.events.push_back(Event::RequestOk {
            request: update,
            kind: RequestKind::Update,
            params: Params::default(),
            properties: Vec::new(),
        });
    }
}

/// The part of a subscription's parameters that an update repeats.
fn repeated(params: &Params) -> Params {
    let &Params { object_timeout_ms, forward, priority, filter, .. } = params;
    Params { object_timeout_ms, forward, priority, filter, ..Params::default() }
}

/// A filter that says itself where it starts, once the largest object is known.
fn resolved(filter: Option<Filter>, largest: Option<Location>) -> Filter {
    let after = |next: fn(Location) -> Location| {
        Filter::AbsoluteStart(largest.map_or(Location::default(), next))
    };
    match filter {
        Some(Filter::NextGroupStart | Filter::Relative { groups_back: 0 }) => {
            after(|at| Location::new(at.group.saturating_add(1), 0))
        }
        None | Some(Filter::NextObject | Filter::LargestObject | Filter::Relative { .. }) => {
            after(|at| Location::new(at.group, at.object.saturating_add(1)))
        }
        Some(Filter::Range { start, end }) => Filter::AbsoluteRange { start, end_group: end.group },
        Some(filter) => filter,
    }
}
