//! A connection and the transport stream in it, as one feed: datagrams in, tracks and samples out.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::connection::{self, CloseReason, Connection, Statistics};
use crate::{EndReason, Event, ts};

/// One publisher over SRT.
#[derive(Debug)]
pub struct Feed {
    connection: Connection,
    demuxer: ts::Demuxer,
    events: VecDeque<Event>,
}

impl Feed {
    /// Of an accepted caller.
    pub fn new(connection: Connection) -> Self {
        Self { connection, demuxer: ts::Demuxer::default(), events: VecDeque::new() }
    }

    /// Where the caller is.
    pub fn peer(&self) -> SocketAddr {
        self.connection.peer()
    }

    /// What names the connection.
    pub fn socket_id(&self) -> u32 {
        self.connection.socket_id()
    }

    /// A datagram to this connection.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        self.connection.handle_datagram(from, datagram, now);
    }

    /// Acts on what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.connection.handle_timeout(now);
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.connection.poll_timeout()
    }

    /// The next datagram for the caller.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.connection.poll_transmit()
    }

    /// What is due by now. [`Event::End`] is the last one.
    pub fn poll_event(&mut self, now: Instant) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let Self { connection, demuxer, events } = self;
            let mut emit = |event| events.push_back(event);
            match connection.poll_event(now)? {
                connection::Event::Payload(bytes) => demuxer.handle_bytes(&bytes, now, &mut emit),
                connection::Event::Gap => demuxer.handle_loss(),
                connection::Event::Closed(reason) => {
                    demuxer.handle_end(&mut emit);
                    emit(Event::End {
                        reason: match reason {
                            CloseReason::Closed => EndReason::Closed,
                            CloseReason::Shutdown => EndReason::Unpublished,
                            CloseReason::TimedOut => EndReason::TimedOut,
                        },
                    });
                }
            }
        }
    }

    /// Says goodbye.
    pub fn close(&mut self, now: Instant) {
        self.connection.close(now);
    }

    /// The link so far.
    pub fn statistics(&self) -> Statistics {
        self.connection.statistics()
    }

    /// What of the transport stream was not used.
    pub fn counters(&self) -> ts::Counters {
        self.demuxer.counters()
    }

    /// Stream types that are not carried.
    pub fn unsupported(&self) -> &[u8] {
        self.demuxer.unsupported()
    }
}
