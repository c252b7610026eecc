//! Carries what a session wants written onto a transport that may have no room just now. It keeps the order of each
//! stream and a cap on what waits; it does not know what the bytes say.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use weir_moqt::{Dir, OpenKey, Output, Session, SessionError, StreamId};
use weir_relay::{Transport, WriteError};

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Streams wanted that the peer's credit did not allow yet.
    opens: VecDeque<(OpenKey, Dir)>,
    /// What streams without room did not take.
    waiting: BTreeMap<StreamId, Backlog>,
    /// Bytes in `waiting`.
    bytes: usize,
}

#[derive(Debug, Default)]
struct Backlog {
    blocked: bool,
    queue: VecDeque<(Bytes, bool)>,
}

impl Outbox {
    /// Bytes that wait for room.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn handle_writable(&mut self, stream: StreamId) {
        if let Some(backlog) = self.waiting.get_mut(&stream) {
            backlog.blocked = false;
        }
    }

    /// Writes until the session has nothing more to say or the transport no more room.
    pub(super) fn drive(
        &mut self,
        session: &mut Session,
        transport: &mut impl Transport,
    ) -> Result<(), SessionError> {
        let ready: Vec<StreamId> =
            self.waiting.iter().filter(|(_, b)| !b.blocked).map(|(id, _)| *id).collect();
        for stream in ready {
            self.flush(stream, transport);
        }
        loop {
            while let Some(&(key, dir)) = self.opens.front() {
                let Some(stream) = transport.open(dir) else { break };
                self.opens.pop_front();
                // Requests are small and everything else waits for them.
                transport.set_priority(stream, i32::MAX);
                session.stream_opened(key, stream)?;
            }
            match session.poll_output() {
                None => return Ok(()),
                Some(Output::Open { key, dir }) => self.opens.push_back((key, dir)),
                Some(Output::Write { stream, data, fin }) => {
                    self.bytes += data.len();
                    let backlog = self.waiting.entry(stream).or_default();
                    backlog.queue.push_back((data, fin));
                    if !backlog.blocked {
                        self.flush(stream, transport);
                    }
                }
                Some(Output::Reset { stream, code }) => {
                    self.forget(stream);
                    transport.reset(stream, code);
                }
                Some(Output::Stop { stream, code }) => transport.stop(stream, code),
            }
        }
    }

    fn flush(&mut self, stream: StreamId, transport: &mut impl Transport) {
        while let Some(backlog) = self.waiting.get_mut(&stream) {
            let Some((data, fin)) = backlog.queue.front_mut() else {
                self.waiting.remove(&stream);
                return;
            };
            if !data.is_empty() {
                match transport.write(stream, std::slice::from_mut(data)) {
                    Ok(taken) => self.bytes -= taken,
                    Err(WriteError::Blocked) => {}
                    // The session hears of it through `handle_stop`.
                    Err(WriteError::Stopped(_) | WriteError::Closed) => return self.forget(stream),
                }
                if !data.is_empty() {
                    backlog.blocked = true;
                    return;
                }
            }
            if *fin {
                transport.finish(stream);
            }
            backlog.queue.pop_front();
        }
    }

    fn forget(&mut self, stream: StreamId) {
        if let Some(backlog) = self.waiting.remove(&stream) {
            self.bytes -= backlog.queue.iter().map(|(data, _)| data.len()).sum::<usize>();
        }
    }
}
