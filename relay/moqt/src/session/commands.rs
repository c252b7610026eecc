//! Requests of our own: what the owner of a session asks of its peer, changes and takes back. Answers to the peer's
//! requests are in `answers`.

use bytes::Bytes;

#[cfg(doc)]
use super::Event;
use super::{Link, Request, Session};
use crate::draft::{Ending, Feature};
use crate::error::{CommandError, RequestCode, RequestError, ResetCode};
use crate::message::{Message, Want};
use crate::model::{
    Dir, FetchTarget, GroupOrder, OpenKey, Params, Property, RequestId, RequestKind,
};
use crate::name::{FullTrackName, Namespace};

/// Requests of ours.
impl Session {
    /// SUBSCRIBE.
    pub fn subscribe(
        &mut self,
        track: &FullTrackName,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        self.check_filters(&params)?;
        let track = track.clone();
        let order = fill_order(&params);
        let request = self.request(RequestKind::Subscribe, |request| Message::Subscribe {
            request,
            track,
            params,
        })?;
        self.expect_order(request, order);
        Ok(request)
    }

    /// FETCH.
    pub fn fetch(
        &mut self,
        target: &FetchTarget,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        self.check_filters(&params)?;
        let target = target.clone();
        let order = params.group_order;
        let request =
            self.request(RequestKind::Fetch, |request| Message::Fetch { request, target, params })?;
        self.expect_order(request, order);
        Ok(request)
    }

    /// Groups on the fetch stream of `request` come in this order.
    fn expect_order(&mut self, request: RequestId, order: Option<GroupOrder>) {
        if let (Some(open), Some(order)) = (self.requests.get_mut(&request), order) {
            open.order = order;
        }
    }

    /// Filters that would be lost on the way are refused: leaving one out would ask for more.
    pub(super) fn check_filters(&self, params: &Params) -> Result<(), CommandError> {
        if params.fill.is_some() {
            self.require(Feature::Fill, "fill")?;
        }
        let (of_request, of_fill) = params.range_counts();
        if of_request.max(of_fill) > self.peer_filter_ranges {
            return Err(CommandError::NotSupported("range filter, or the peer takes fewer"));
        }
        Ok(())
    }

    /// TRACK_STATUS.
    pub fn track_status(
        &mut self,
        track: &FullTrackName,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        let track = track.clone();
        self.request(RequestKind::TrackStatus, |request| Message::TrackStatus {
            request,
            track,
            params,
        })
    }

    /// PUBLISH_NAMESPACE.
    pub fn publish_namespace(
        &mut self,
        namespace: &Namespace,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        let namespace = namespace.clone();
        self.request(RequestKind::PublishNamespace, |request| Message::PublishNamespace {
            request,
            namespace,
            params,
        })
    }

    /// SUBSCRIBE_NAMESPACE, for NAMESPACE advertisements.
    pub fn subscribe_namespace(
        &mut self,
        prefix: &Namespace,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        let prefix = prefix.clone();
        self.request(RequestKind::SubscribeNamespace, |request| Message::SubscribeNamespace {
            request,
            prefix,
            want: Want::Namespaces,
            params,
        })
    }

    /// SUBSCRIBE_TRACKS (draft 16: SUBSCRIBE_NAMESPACE for tracks): asks for PUBLISH of every track under
    /// `prefix`.
    pub fn subscribe_tracks(
        &mut self,
        prefix: &Namespace,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        self.require(Feature::SubscribeTracks, "SUBSCRIBE_TRACKS")?;
        self.check_filters(&params)?;
        let prefix = prefix.clone();
        self.request(RequestKind::SubscribeTracks, |request| Message::SubscribeNamespace {
            request,
            prefix,
            want: Want::Tracks,
            params,
        })
    }

    /// PUBLISH. `alias` must be unique among the subscriptions the peer holds here; data may flow at once
    /// unless `params` has FORWARD 0. The answer is an [`Event::RequestOk`] or [`Event::RequestError`];
    /// later changes of the subscriber come as [`Event::Update`], its end as [`Event::Unsubscribed`].
    /// We end it with [`Session::publish_done`].
    pub fn publish(
        &mut self,
        track: &FullTrackName,
        alias: u64,
        params: Params,
        properties: &[Property],
    ) -> Result<RequestId, CommandError> {
        let (track, properties) = (track.clone(), properties.to_vec());
        self.request(RequestKind::Publish, |request| Message::Publish {
            request,
            track,
            alias,
            params,
            properties,
        })
    }

    /// REQUEST_UPDATE of an open request of ours (or of a PUBLISH of the peer that we accepted). The
    /// answer is an [`Event::RequestOk`] or [`Event::RequestError`] for the id returned.
    pub fn update(
        &mut self,
        request: RequestId,
        params: Params,
    ) -> Result<RequestId, CommandError> {
        let open = self.requests.get(&request).ok_or(CommandError::UnknownRequest(request))?;
        let accepted_publish = open.kind == RequestKind::Publish && open.answered;
        if !(open.ours || accepted_publish) {
            return Err(CommandError::UnknownRequest(request));
        }
        let update = RequestId(self.next_id);
        let unanswered = open.updates.len();
        if update.0 >= self.peer_max
            || unanswered >= self.limits.own_requests
            || unanswered as u64 >= self.peer_updates
        {
            return Err(CommandError::TooManyRequests);
        }
        self.check_filters(&params)?;
        let order = fill_order(&params);
        let params = self.whole_update(request, params)?;
        let standing = self.rules().in_full.then(|| params.clone());
        let bytes = self.encode(&Message::Update { request: update, target: request, params })?;
        self.next_id += 2;
        if let Some(standing) = standing {
            self.updated_in_full(request, update, &standing);
        } else {
            self.updates.insert(update, request);
            if let Some(open) = self.requests.get_mut(&request) {
                open.updates.push(update);
            }
        }
        self.expect_order(request, order);
        self.send_on(request, &bytes.freeze(), false);
        Ok(update)
    }

    /// Ends a request of ours (UNSUBSCRIBE, FETCH_CANCEL, PUBLISH_NAMESPACE_DONE or a reset, as the draft
    /// has it), or a PUBLISH of the peer. Its data streams are stopped; no event follows. Unknown requests
    /// are ignored.
    pub fn cancel(&mut self, request: RequestId) {
        let Some(open) = self.requests.get(&request) else {
            return;
        };
        let kind = open.kind;
        if !open.ours {
            let error = RequestError::new(RequestCode::Uninterested, "not wanted any more");
            match (kind, open.answered) {
                (RequestKind::Publish, true) => {
                    self.end(request, self.codec().revoke(kind, request, &error));
                }
                (RequestKind::Publish, false) => drop(self.reject(request, &error)),
                _ => {}
            }
            return;
        }
        if let Link::Blocked(_) = open.link {
            // The peer never heard of it.
            self.blocked.retain(|id| *id != request);
            self.close(request);
            return;
        }
        self.end(request, self.codec().cancel(kind, request));
    }

    pub(super) fn end(&mut self, request: RequestId, ending: Ending) {
        match ending {
            Ending::Message(message) => {
                if let Ok(bytes) = self.encode_about(request, &message) {
                    self.send_control_bytes(&bytes.freeze());
                }
            }
            Ending::Stream => {
                if let Some(Request { link: Link::Stream(stream), rx_done, .. }) =
                    self.requests.get(&request)
                {
                    let (stream, rx_done) = (*stream, *rx_done);
                    self.reset(stream, ResetCode::Cancelled);
                    if !rx_done {
                        self.stop(stream, ResetCode::Cancelled);
                    }
                }
            }
            Ending::Silent => {}
        }
        self.stop_data(request);
        if let Some(alias) = self.requests.get(&request).and_then(|open| open.alias)
            && let Some(known) = self.aliases.get_mut(&alias)
            && known.request == request
        {
            known.wanted = false;
        }
        self.close(request);
    }

    fn request(
        &mut self,
        kind: RequestKind,
        build: impl FnOnce(RequestId) -> Message,
    ) -> Result<RequestId, CommandError> {
        if self.goaway_seen {
            return Err(CommandError::GoingAway);
        }
        if self.requests.len() - self.peer_open >= self.limits.own_requests {
            return Err(CommandError::TooManyRequests);
        }
        let request = RequestId(self.next_id);
        let message = build(request);
        let first = self.encode(&message)?;
        self.next_id += 2;
        let memory = self.memory_of(&message);
        let open = Request { memory, ..Request::new(kind, true, Link::Blocked(first)) };
        self.requests.insert(request, open);
        if request.0 < self.peer_max {
            self.start(request);
        } else {
            self.blocked.push_back(request);
            self.complain();
        }
        Ok(request)
    }

    /// Sends a request that was held back.
    fn start(&mut self, request: RequestId) {
        let own_stream = self.rules().own_stream;
        let Some(open) = self.requests.get_mut(&request) else {
            return;
        };
        let Link::Blocked(first) = &mut open.link else {
            return;
        };
        let first = std::mem::take(first);
        if own_stream(open.kind) {
            open.link = Link::Opening(first);
            self.open(OpenKey(request.0), Dir::Bi);
        } else {
            open.link = Link::Control;
            self.send_control_bytes(&first.freeze());
        }
    }

    /// REQUESTS_BLOCKED, once for each limit we run into.
    fn complain(&mut self) {
        if self.setup_seen && self.blocked_at != Some(self.peer_max) {
            self.blocked_at = Some(self.peer_max);
            let _ = self.send_control(&Message::RequestsBlocked { max: self.peer_max });
        }
    }

    /// The peer allows ids below `max`: what waited goes out.
    pub(super) fn raise_peer_max(&mut self, max: u64) {
        self.peer_max = max;
        while let Some(&request) = self.blocked.front() {
            if request.0 >= max {
                return self.complain();
            }
            self.blocked.pop_front();
            self.start(request);
        }
    }

    /// Sends on a request's stream, wherever it is by now.
    pub(super) fn send_on(&mut self, request: RequestId, bytes: &Bytes, fin: bool) {
        let Some(open) = self.requests.get_mut(&request) else {
            return;
        };
        match &mut open.link {
            Link::Control => self.send_control_bytes(bytes),
            Link::Opening(first) | Link::Blocked(first) => first.extend_from_slice(bytes),
            Link::Stream(stream) => {
                let stream = *stream;
                self.write(stream, bytes.clone(), fin);
            }
        }
    }
}

/// Group order of the fill asked for, if one is.
fn fill_order(params: &Params) -> Option<GroupOrder> {
    params.fill.as_ref().and_then(|fill| fill.group_order.or(params.group_order))
}
