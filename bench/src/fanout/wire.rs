//! One MoQT session over one QUIC connection, client side: carries what the session asks for to the connection and
//! keeps what does not fit for later. It knows neither what is subscribed nor what is published.

use std::collections::VecDeque;

use anyhow::{Context, Result};
use bytes::Bytes;
use weir::quic::{ConnId, Link};
use weir_moqt::{Draft, Event, Limits, Output, Role, Session, SetupOptions, Transport as Carrier};
use weir_relay::{Transport, WriteError};

/// A session and what waits to be written for it.
pub(super) struct Wire {
    pub(super) conn: ConnId,
    pub(super) session: Session,
    waiting: VecDeque<Output>,
}

impl Wire {
    /// A session on an open connection; `path` holds the secret and goes nowhere but into SETUP.
    pub(super) fn new(conn: ConnId, draft: Draft, authority: &str, path: &str) -> Self {
        let options = SetupOptions {
            path: Some(path.to_owned()),
            authority: Some(authority.to_owned()),
            implementation: Some(concat!("weir-bench/", env!("CARGO_PKG_VERSION")).to_owned()),
            ..SetupOptions::default()
        };
        let session = Session::new(draft, Role::Client, Carrier::Quic, Limits::default(), options);
        Self { conn, session, waiting: VecDeque::new() }
    }

    /// Feeds one event of the connection to the session.
    pub(super) fn take(&mut self, event: weir::quic::Event) -> Result<()> {
        use weir::quic::Event as E;
        match event {
            E::Stream { id, dir, data, fin } => self.session.handle_stream(id, dir, data, fin),
            E::Reset { id, code } => self.session.handle_reset(id, code.into()),
            E::Stopped { id, code } => self.session.handle_stop(id, code.into()),
            _ => Ok(()),
        }
        .context("the relay broke the protocol")
    }

    /// What the session has to say.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.session.poll_event()
    }

    /// Writes until nothing is left or the connection takes no more.
    pub(super) fn drive(&mut self, link: &mut Link<'_>) -> Result<()> {
        while let Some(output) = self.waiting.pop_front().or_else(|| self.session.poll_output()) {
            match output {
                Output::Open { key, dir } => match link.open(dir) {
                    Some(id) => self.session.stream_opened(key, id)?,
                    None => return self.wait(Output::Open { key, dir }),
                },
                Output::Write { stream, data, fin } => {
                    let mut chunks = [data];
                    if !chunks[0].is_empty() {
                        let blocked = link.write(stream, &mut chunks) == Err(WriteError::Blocked);
                        if blocked {
                            let [data] = chunks;
                            return self.wait(Output::Write { stream, data, fin });
                        }
                    }
                    let [rest] = chunks;
                    if !rest.is_empty() {
                        return self.wait(Output::Write { stream, data: rest, fin });
                    }
                    if fin {
                        link.finish(stream);
                    }
                }
                Output::Reset { stream, code } => link.reset(stream, code),
                Output::Stop { stream, code } => link.stop(stream, code),
            }
        }
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "ends `drive` in one word")]
    fn wait(&mut self, output: Output) -> Result<()> {
        self.waiting.push_front(output);
        Ok(())
    }
}

/// Writes chunks from the front of a queue; true when all went.
pub(super) fn write_queue(
    link: &mut Link<'_>,
    stream: weir_moqt::StreamId,
    queue: &mut VecDeque<Bytes>,
) -> bool {
    while !queue.is_empty() {
        let result = link.write(stream, queue.make_contiguous());
        queue.retain(|chunk| !chunk.is_empty());
        match result {
            Ok(_) => {}
            Err(WriteError::Blocked) => return false,
            // The relay wants no more of this group.
            Err(_) => queue.clear(),
        }
    }
    true
}
