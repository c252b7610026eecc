//! What publishers bring to their publish address, the namespace `publish/<input_id>`: tracks that are the engine's and
//! nobody else's. They are read like any publisher's, under a name that no viewer can ask for, and handed over object by
//! object; what is in them, and what becomes of it, is the engine's affair. So is who has the input: the first request
//! for the address claims it, and nothing there is answered before the engine has given it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_moqt::{Params, RequestCode, RequestError, RequestId};

use super::Relay;
use super::offers::Offer;
use crate::cache::Order;
use crate::session::Claim;
use crate::track::{Source, State};
use crate::{Event, FullTrackName, Namespace, SessionCode, SessionId, TrackId};

impl Relay {
    /// Asks a publisher that announced its publish address for a track of it. The answer is an
    /// [`Event::TrackOpened`] or [`Event::TrackRefused`] for the id, objects are [`Event::Exported`].
    pub fn ask_contribution(&mut self, session: SessionId, name: &Bytes) -> Option<TrackId> {
        let address = self.live(session)?.publisher.as_ref()?.address.clone();
        let ours = private_name(session, name)?;
        if self.names.contains_key(&ours) {
            return None;
        }
        let wire = FullTrackName::new(address, name.clone()).ok()?;
        let track = self.subscribe_upstream(session, &wire, &ours)?;
        if let Some(state) = self.tracks.get_mut(track.0) {
            state.exported = true;
        }
        Some(track)
    }

    /// Ends the session of a publisher, for a reason that begins with a code of the API.
    pub fn close_publisher(
        &mut self,
        session: SessionId,
        code: SessionCode,
        reason: &str,
        now: Instant,
    ) {
        if self.live(session).is_some_and(|state| state.publisher.is_some()) {
            self.metrics.publishers_refused += 1;
            self.close(session, code, reason.to_owned(), now);
        }
    }

    /// The engine's answer to [`Event::AddressClaimed`] if the publisher may have the input: what it asked for at its
    /// publish address is granted. Otherwise the answer is [`Relay::close_publisher`].
    pub fn grant_address(&mut self, session: SessionId, now: Instant, wall: Duration) {
        let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) else {
            return;
        };
        if !matches!(publisher.claim, Claim::Asked(_)) {
            return;
        }
        publisher.claim = Claim::Held;
        let announced = std::mem::take(&mut publisher.announced);
        let offers = std::mem::take(&mut publisher.offers);
        for (request, namespace) in announced {
            self.announce(session, request, namespace, now);
        }
        for offer in offers {
            self.take_offer(session, offer, now);
        }
        self.after_input(session, Ok(()), now, wall);
    }

    /// Whether the input behind the publish address is this publisher's. The first time, the engine is asked.
    fn has_input(&mut self, session: SessionId, now: Instant) -> bool {
        let deadline = now + self.limits.authorize_timeout;
        let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) else {
            return false;
        };
        if publisher.claim == Claim::None {
            publisher.claim = Claim::Asked(deadline);
            self.events.push_back(Event::AddressClaimed { session });
            self.reschedule(session);
            return false;
        }
        publisher.claim == Claim::Held
    }

    pub(super) fn contributes(&mut self, session: SessionId, namespace: &Namespace) -> bool {
        let publisher = self.live(session).and_then(|state| state.publisher.as_ref());
        publisher.is_some_and(|publisher| publisher.contributes(namespace))
    }

    /// PUBLISH at the publish address.
    pub(super) fn take_contribution(
        &mut self,
        session: SessionId,
        offer: Offer,
        now: Instant,
    ) -> Result<(), RequestError> {
        if !self.has_input(session, now) {
            if let Some(publisher) = self.live(session).and_then(|state| state.publisher.as_mut()) {
                publisher.offers.push(offer);
            }
            return Ok(());
        }
        let refused = |code, text| Err(RequestError::new(code, text));
        let Offer { request, track: wire, params, properties } = offer;
        let Some(ours) = private_name(session, wire.name()) else {
            return refused(RequestCode::DoesNotExist, "the name is too long");
        };
        if self.names.contains_key(&ours) {
            return refused(RequestCode::Uninterested, "subscribed already");
        }
        let source = Source::Upstream { session, request };
        let Some(track) = self.add_track(ours, source, Order::Streams) else {
            return refused(RequestCode::ExcessiveLoad, "capacity");
        };
        if let Some(state) = self.tracks.get_mut(track.0) {
            state.state = State::Open;
            state.offered = true;
            state.exported = true;
            state.set_properties(properties);
            if let Some(largest) = params.largest {
                state.cache.note_largest(largest);
            }
        }
        let Some(state) = self.live(session) else { return Ok(()) };
        if let Some(publisher) = &mut state.publisher {
            publisher.upstreams.push((request, track));
        }
        let answer = Params { forward: Some(true), ..Params::default() };
        let _ = state.moqt.accept(request, answer, &[]);
        self.metrics.upstream_subscriptions += 1;
        self.dirty.mark(session);
        let name = wire.name().clone();
        self.events.push_back(Event::Contributed { session, track, name });
        Ok(())
    }

    /// PUBLISH_NAMESPACE of the publish address.
    pub(super) fn announce_contribution(
        &mut self,
        session: SessionId,
        request: RequestId,
        address: Namespace,
        now: Instant,
    ) {
        let has_input = self.has_input(session, now);
        let Some(state) = self.live(session) else { return };
        let Some(publisher) = &mut state.publisher else { return };
        if !has_input {
            publisher.announced.push((request, address));
            return;
        }
        publisher.held.push((request, address));
        let _ = state.moqt.accept(request, Params::default(), &[]);
        self.dirty.mark(session);
        self.events.push_back(Event::ContributionAnnounced { session });
    }
}

/// What we call a track of a publish address: a session's own, so that a publisher that was replaced and its successor do
/// not meet. It begins with a dot, which no granted namespace does.
fn private_name(session: SessionId, name: &Bytes) -> Option<FullTrackName> {
    let namespace = Namespace::new([".contribution".to_owned(), session.to_string()]).ok()?;
    FullTrackName::new(namespace, name.clone()).ok()
}
