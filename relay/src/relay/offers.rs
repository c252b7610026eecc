//! PUBLISH from a publisher: tracks it offers without being asked for them. An offered track enters the same
//! directory and cache as one we subscribed to, and flows whether or not somebody watches (FORWARD 1), so that the
//! first viewer finds its newest group. To let it rest would take a REQUEST_UPDATE when somebody comes, which publishers
//! in use (moq-rs 0.17) answer by ending the track. Who may publish what is `publisher`'s affair, what arrives `inbound`'s.

use std::time::Instant;

use weir_moqt::{Params, Property, RequestCode, RequestError, RequestId};

use super::Relay;
use crate::cache::Order;
use crate::session::{Access, Publisher};
use crate::track::{Source, State};
use crate::{Event, FullTrackName, Namespace, Origin, SessionId};

/// A PUBLISH as it came.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) request: RequestId,
    pub(crate) track: FullTrackName,
    pub(crate) params: Params,
    pub(crate) properties: Vec<Property>,
}

impl Relay {
    /// PUBLISH: taken, refused, or kept until the engine has said whether the session may publish.
    pub(super) fn on_publish(&mut self, session: SessionId, offer: Offer, now: Instant) {
        let tracks_max = self.limits.tracks_per_publisher_max;
        let open = self.open.hold(offer.track.namespace());
        if open && let Some(state) = self.live(session) {
            state.publisher.get_or_insert_with(|| Publisher::unasked(now));
        }
        let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) else {
            let error =
                RequestError::new(RequestCode::Unauthorized, "auth_failed: not a publisher");
            return self.refuse_request(session, offer.request, &error);
        };
        if publisher.upstreams.len() + publisher.offers.len() >= tracks_max {
            self.metrics.limit_tracks += 1;
            let error = RequestError::new(RequestCode::ExcessiveLoad, "too many tracks");
            return self.refuse_request(session, offer.request, &error);
        }
        match publisher.access {
            Access::Asked(_) => publisher.offers.push(offer),
            Access::Granted(_) | Access::Unasked | Access::Above => {
                self.take_offer(session, offer, now);
            }
        }
    }

    pub(super) fn take_offer(&mut self, session: SessionId, offer: Offer, now: Instant) {
        let request = offer.request;
        if let Err(error) = self.try_offer(session, offer, now) {
            self.refuse_request(session, request, &error);
        }
    }

    fn try_offer(
        &mut self,
        session: SessionId,
        offer: Offer,
        now: Instant,
    ) -> Result<(), RequestError> {
        if self.contributes(session, offer.track.namespace()) {
            return self.take_contribution(session, offer, now);
        }
        let refused = |code, text| Err(RequestError::new(code, text));
        let Offer { request, track: name, params, properties } = offer;
        let open = self.open.hold(name.namespace());
        let publisher = self.live(session).and_then(|state| state.publisher.as_ref());
        if !publisher.is_some_and(|it| open || it.may_hold(name.namespace())) {
            return refused(RequestCode::Unauthorized, "auth_failed: other stream");
        }
        if name.is_session_local() {
            return refused(RequestCode::DoesNotExist, "reserved for the session itself");
        }
        if let Some(known) = self.names.get(&name).and_then(|id| self.tracks.get(id.0)) {
            let ours =
                matches!(known.source, Source::Upstream { session: by, .. } if by == session);
            return if ours {
                // Our SUBSCRIBE crossed its PUBLISH: one of them is enough.
                refused(RequestCode::Uninterested, "subscribed already")
            } else {
                refused(RequestCode::Unauthorized, "input_busy")
            };
        }
        self.imply_namespace(session, name.namespace())?;
        let source = Source::Upstream { session, request };
        let Some(id) = self.add_track(name.clone(), source, Order::Streams) else {
            self.settle_implied(session, name.namespace());
            return refused(RequestCode::ExcessiveLoad, "capacity");
        };
        if let Some(track) = self.tracks.get_mut(id.0) {
            track.state = State::Open;
            track.offered = true;
            track.set_properties(properties);
            if let Some(largest) = params.largest {
                track.cache.note_largest(largest);
            }
        }
        let Some(state) = self.live(session) else { return Ok(()) };
        if let Some(publisher) = &mut state.publisher {
            publisher.upstreams.push((request, id));
        }
        let answer = Params { forward: Some(true), ..Params::default() };
        let _ = state.moqt.accept(request, answer, &[]);
        self.metrics.upstream_subscriptions += 1;
        self.dirty.mark(session);
        self.bring_forward(id, now);
        Ok(())
    }

    /// The namespace of an offered track is held by its publisher, announced or not.
    fn imply_namespace(
        &mut self,
        session: SessionId,
        namespace: &Namespace,
    ) -> Result<(), RequestError> {
        match self.directory.origin(namespace) {
            Some(Origin::Session(holder)) if holder == session => return Ok(()),
            Some(_) => {
                return Err(RequestError::new(RequestCode::Unauthorized, "input_busy"));
            }
            None => {}
        }
        if self.hold_namespace(namespace, Origin::Session(session)).is_err() {
            return Err(RequestError::new(RequestCode::ExcessiveLoad, "capacity"));
        }
        if let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) {
            publisher.implied.push(namespace.clone());
        }
        let namespace = namespace.clone();
        self.events.push_back(Event::NamespacePublished { session, namespace });
        Ok(())
    }

    /// An offered track has gone: a namespace that only offers held is free with the last of them.
    pub(super) fn settle_implied(&mut self, session: SessionId, namespace: &Namespace) {
        let left = self.tracks_of(namespace).into_iter().any(|id| {
            self.tracks.get(id.0).is_some_and(|track| {
                track.offered
                    && matches!(track.source, Source::Upstream { session: by, .. } if by == session)
            })
        });
        let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) else {
            return;
        };
        let Some(at) = publisher.implied.iter().position(|known| known == namespace) else {
            return;
        };
        if left {
            return;
        }
        publisher.implied.swap_remove(at);
        if !publisher.held.iter().any(|(_, held)| held == namespace) {
            self.directory.remove(namespace);
            self.metrics.namespaces = self.directory.len() as u64;
            self.tell_watchers(namespace, false);
            let namespace = namespace.clone();
            self.events.push_back(Event::NamespaceEnded { session, namespace });
        }
    }
}
