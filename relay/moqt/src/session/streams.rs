//! Inbound data streams of a session: matched with the request they belong to, then decoded into
//! events as their bytes arrive. Streams that overtake the message naming their alias wait, within
//! limits.

use bytes::{Bytes, BytesMut};

use super::{Event, Session, Stream};
use crate::data::{DataError, Datagram, Decoder, Item, StreamKind};
use crate::draft::Feature;
use crate::error::{ResetCode, SessionError};
use crate::model::{RequestId, RequestKind, Role, StreamId};

/// A data stream of the peer.
#[derive(Debug)]
pub(super) struct DataStream {
    decoder: Decoder,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Its head is not whole.
    Head,
    /// Its alias is not known.
    Waiting { alias: u64, held: BytesMut, bytes: usize, fin: bool },
    /// It belongs to a request; `opened` once the owner was told.
    Live { request: RequestId, opened: bool },
}

impl Session {
    pub(super) fn admit_data(&mut self, id: StreamId) -> Stream {
        if self.data_streams >= self.limits.data_streams {
            self.counters.data_streams_refused += 1;
            self.stop(id, ResetCode::ExcessiveLoad);
            return Stream::Discard;
        }
        self.data_streams += 1;
        let limits = &self.limits;
        let decoder = Decoder::new(self.draft, limits.property_bytes, limits.object_bytes);
        Stream::Data(Box::new(DataStream { decoder, phase: Phase::Head }))
    }

    pub(super) fn feed_data(
        &mut self,
        id: StreamId,
        mut stream: Box<DataStream>,
        data: Bytes,
        fin: bool,
    ) -> Result<Option<Stream>, SessionError> {
        if let Phase::Waiting { held, bytes, fin: ended, .. } = &mut stream.phase {
            *bytes += data.len();
            self.pending_bytes += data.len();
            held.extend_from_slice(&data);
            *ended |= fin;
            return Ok(self.check_waiting(id, stream, fin));
        }
        stream.decoder.push(data);
        if let Phase::Head = stream.phase {
            let kind = match stream.decoder.head() {
                Ok(kind) => kind,
                Err(error) => return self.broken(id, &stream, error, fin),
            };
            match kind {
                None if fin => {
                    stream.decoder.finish().map_err(into_session)?;
                    self.data_streams -= 1;
                    return Ok(None);
                }
                None => return Ok(Some(Stream::Data(stream))),
                Some(StreamKind::Padding) => {
                    self.data_streams -= 1;
                    return Ok((!fin).then_some(Stream::Discard));
                }
                Some(StreamKind::Subgroup { alias }) => match self.aliases.get(&alias) {
                    Some(known) if known.wanted => {
                        stream.phase = Phase::Live { request: known.request, opened: false };
                    }
                    Some(_) => return Ok(self.stale(id, fin)),
                    None => {
                        let bytes = stream.decoder.buffered();
                        self.pending_bytes += bytes;
                        self.pending_streams += 1;
                        stream.phase = Phase::Waiting { alias, held: BytesMut::new(), bytes, fin };
                        return Ok(self.check_waiting(id, stream, fin));
                    }
                },
                Some(StreamKind::Fetch(header)) => {
                    let request = header.request;
                    if !self.is_own(request, RequestKind::Fetch) && !self.may_fill(request) {
                        return self.stray_fetch(id, request, fin);
                    }
                    if let Some(open) = self.requests.get(&request) {
                        stream.decoder.set_group_order(open.order);
                    }
                    stream.phase = Phase::Live { request, opened: false };
                }
            }
        }
        self.drain(id, stream, fin)
    }

    /// A stream answering a fetch that is not open: cancelled, or never asked for.
    fn stray_fetch(
        &mut self,
        id: StreamId,
        request: RequestId,
        fin: bool,
    ) -> Result<Option<Stream>, SessionError> {
        let own_parity = u64::from(self.role == Role::Server);
        // The fill of a PUBLISH may overtake it or outlive it; nobody misses it then.
        let of_publish = request.0 % 2 != own_parity && self.supports(Feature::Fill);
        if !of_publish && (request.0 % 2 != own_parity || request.0 >= self.next_id) {
            let reason = format!("fetch stream: request id {} was never used", request.0);
            return Err(SessionError::violation(reason));
        }
        Ok(self.stale(id, fin))
    }

    /// Whether a fetch stream may carry the past of this subscription: ours, or a PUBLISH of the peer.
    fn may_fill(&self, request: RequestId) -> bool {
        self.supports(Feature::Fill)
            && (self.is_own(request, RequestKind::Subscribe)
                || self.is_peers(request, RequestKind::Publish))
    }

    /// Nobody waits for this stream any more.
    fn stale(&mut self, id: StreamId, fin: bool) -> Option<Stream> {
        self.counters.stale_streams += 1;
        self.data_streams -= 1;
        if fin {
            return None;
        }
        self.stop(id, ResetCode::Cancelled);
        Some(Stream::Discard)
    }

    fn check_waiting(
        &mut self,
        id: StreamId,
        stream: Box<DataStream>,
        fin: bool,
    ) -> Option<Stream> {
        let within = self.pending_streams <= self.limits.pending_streams
            && self.pending_bytes <= self.limits.pending_bytes;
        if within {
            return Some(Stream::Data(stream));
        }
        self.counters.pending_refused += 1;
        self.forget_waiting(&stream);
        self.data_streams -= 1;
        if fin {
            return None;
        }
        self.stop(id, ResetCode::ExcessiveLoad);
        Some(Stream::Discard)
    }

    fn forget_waiting(&mut self, stream: &DataStream) {
        if let Phase::Waiting { bytes, .. } = &stream.phase {
            self.pending_bytes -= bytes;
            self.pending_streams -= 1;
        }
    }

    /// The alias became known: streams that waited for it go on.
    pub(super) fn wake(&mut self, alias: u64) -> Result<(), SessionError> {
        if self.pending_streams == 0 {
            return Ok(());
        }
        let Some(request) = self.aliases.get(&alias).map(|known| known.request) else {
            return Ok(());
        };
        let waiting: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(_, stream)| match stream {
                Stream::Data(data) => {
                    matches!(data.phase, Phase::Waiting { alias: a, .. } if a == alias)
                }
                _ => false,
            })
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            let Some(Stream::Data(mut stream)) = self.streams.remove(&id) else {
                continue;
            };
            self.forget_waiting(&stream);
            let live = Phase::Live { request, opened: false };
            let Phase::Waiting { held, fin, .. } = std::mem::replace(&mut stream.phase, live)
            else {
                continue;
            };
            if !held.is_empty() {
                stream.decoder.push(held.freeze());
            }
            // A stream stopped on the way has nothing more to come when it had finished.
            if let Some(next) = self.drain(id, stream, fin)? {
                self.streams.insert(id, next);
            }
        }
        Ok(())
    }

    /// Turns what the decoder has into events.
    fn drain(
        &mut self,
        id: StreamId,
        mut stream: Box<DataStream>,
        fin: bool,
    ) -> Result<Option<Stream>, SessionError> {
        let Phase::Live { request, opened } = &mut stream.phase else {
            return Ok(Some(Stream::Data(stream)));
        };
        let request = *request;
        loop {
            let item = match stream.decoder.next() {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(error) => return self.broken(id, &stream, error, fin),
            };
            self.events.push_back(match item {
                Item::Subgroup(header) => {
                    *opened = true;
                    Event::SubgroupOpened { stream: id, request, header }
                }
                Item::Fetch(_) => {
                    *opened = true;
                    Event::FetchOpened { stream: id, request }
                }
                Item::Object(object) => Event::ObjectStarted { stream: id, object },
                Item::FetchObject(object) => Event::FetchObjectStarted { stream: id, object },
                Item::FetchGap { end, gap } => Event::FetchGap { stream: id, end, gap },
                Item::Payload { data, last } => Event::Payload { stream: id, data, last },
            });
        }
        if !fin {
            return Ok(Some(Stream::Data(stream)));
        }
        stream.decoder.finish().map_err(into_session)?;
        self.data_streams -= 1;
        if *opened {
            self.events.push_back(Event::DataEnded { stream: id });
        }
        self.fetch_data_done(request);
        Ok(None)
    }

    /// The stream cannot be read on: the session's end, or only the stream's.
    fn broken(
        &mut self,
        id: StreamId,
        stream: &DataStream,
        error: DataError,
        fin: bool,
    ) -> Result<Option<Stream>, SessionError> {
        let DataError::Stream { code, .. } = error else {
            return Err(into_session(error));
        };
        self.counters.objects_too_large += 1;
        self.data_streams -= 1;
        if let Phase::Live { request, opened } = stream.phase {
            if opened {
                self.events.push_back(Event::DataReset { stream: id, code });
            }
            self.fetch_data_done(request);
        }
        if fin {
            return Ok(None);
        }
        self.stop(id, code);
        Ok(Some(Stream::Discard))
    }

    /// The peer reset a data stream.
    pub(super) fn end_data(&mut self, id: StreamId, stream: &DataStream, code: ResetCode) {
        self.data_streams -= 1;
        self.forget_waiting(stream);
        if let Phase::Live { request, opened } = stream.phase {
            if opened {
                self.events.push_back(Event::DataReset { stream: id, code });
            }
            self.fetch_data_done(request);
        }
    }

    /// Stops the data streams of a request nobody wants any more. No event follows.
    pub(super) fn stop_data(&mut self, request: RequestId) {
        let streams: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(_, stream)| match stream {
                Stream::Data(data) => {
                    matches!(data.phase, Phase::Live { request: of, .. } if of == request)
                }
                _ => false,
            })
            .map(|(id, _)| *id)
            .collect();
        for id in streams {
            self.streams.insert(id, Stream::Discard);
            self.data_streams -= 1;
            self.stop(id, ResetCode::Cancelled);
        }
    }

    fn fetch_data_done(&mut self, request: RequestId) {
        if let Some(open) = self.requests.get_mut(&request) {
            open.data_done = true;
            self.complete_fetch(request);
        }
    }

    /// Closes a fetch of ours once both its answer and its objects are in.
    pub(super) fn complete_fetch(&mut self, request: RequestId) {
        let complete = self.requests.get(&request).is_some_and(|open| {
            open.ours && open.kind == RequestKind::Fetch && open.answered && open.data_done
        });
        if complete {
            self.finish_own(request);
            self.close(request);
        }
    }

    pub(super) fn on_datagram(&mut self, data: Bytes) -> Result<(), SessionError> {
        let Some(datagram) = Datagram::decode(self.draft, data).map_err(into_session)? else {
            return Ok(());
        };
        match self.aliases.get(&datagram.alias) {
            Some(known) if known.wanted => {
                let request = known.request;
                self.events.push_back(Event::Datagram { request, datagram });
            }
            _ => self.counters.datagrams_dropped += 1,
        }
        Ok(())
    }
}

fn into_session(error: DataError) -> SessionError {
    match error {
        DataError::Session { code, reason } => SessionError::new(code, reason),
        DataError::Stream { reason, .. } => SessionError::violation(reason),
    }
}
