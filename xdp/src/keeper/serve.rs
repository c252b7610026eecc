//! The keeper's side: does what it agreed to do for one peer, and ends with it. It owns the XDP
//! program's maps; it knows no QUIC, reads no file and keeps no socket of its peer.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::{
    TALLY_BYTES,
    wire::{Answer, MESSAGE_BYTES_MAX, Request, Terms},
};
use crate::{
    program::{Attach, Budget, Program, Tally},
    steer,
    sys::{self, memory::SharedWords, passing},
    udp,
    xdp_port::{Options, Placed, QUEUES_MAX},
    xsk,
};

/// How often the program's counters are laid out for the peer.
const TALLY_INTERVAL: Duration = Duration::from_millis(250);

/// A peer that lost its interface comes back for sockets, so what it gets is limited by the minute.
const ALLOWANCE: Duration = Duration::from_mins(1);

/// `AF_XDP` sockets handed out within that: 64 queues, each tried twice, and once more.
const SOCKETS_MAX: u32 = 256;

/// Memory pinned within that: 64 queues x 16 MiB, each tried twice.
const UMEM_BYTES_MAX: usize = 2 * QUEUES_MAX as usize * xsk::QUEUE_BYTES;

/// Serves the process at the other end of `socket` until it is gone. A message that is not on the list
/// ends it too: whoever sends such a thing is not the peer that this was started for.
pub fn serve(socket: BorrowedFd<'_>) -> io::Result<()> {
    passing::follow_parent()?;
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    let (bytes, _) = passing::receive(socket, &mut buffer)?;
    if bytes == 0 {
        return Ok(());
    }
    let terms = buffer.get(..bytes).and_then(Terms::decode).ok_or_else(nonsense)?;
    passing::send(socket, &Answer::Done(0).encode(), &[])?;
    let mut work = Work { terms, gate: None, since: Instant::now(), sockets: 0, umem_bytes: 0 };
    loop {
        if !sys::wait_readable(socket, TALLY_INTERVAL)? {
            work.lay_out();
            continue;
        }
        let (bytes, descriptors) = passing::receive(socket, &mut buffer)?;
        if bytes == 0 {
            return Ok(());
        }
        let request = buffer.get(..bytes).and_then(Request::decode).ok_or_else(nonsense)?;
        let (least, most) = request.descriptors();
        if !(least..=most).contains(&descriptors.len()) {
            return Err(nonsense());
        }
        let (answer, given) = match work.act(request, &descriptors) {
            Ok((number, given)) => (Answer::Done(number), given),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or_default();
                (Answer::Refused { errno, text: error.to_string() }, Vec::new())
            }
        };
        let given: Vec<_> = given.iter().map(|fd| fd.as_fd()).collect();
        passing::send(socket, &answer.encode(), &given)?;
    }
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a request that no peer of a keeper makes")
}

/// What was done so far.
struct Work {
    terms: Terms,
    gate: Option<Gate>,
    /// When counting began.
    since: Instant,
    sockets: u32,
    umem_bytes: usize,
}

/// The program, and where its counters are laid out.
struct Gate {
    program: Program,
    tallies: SharedWords,
}

impl Work {
    fn act(
        &mut self,
        request: Request,
        descriptors: &[OwnedFd],
    ) -> io::Result<(u32, Vec<OwnedFd>)> {
        let first = descriptors.first().map(OwnedFd::as_fd);
        let one = first.ok_or(io::ErrorKind::InvalidInput);
        match request {
            Request::Gate { port } => return self.open(port),
            Request::Socket => {
                self.count_socket(0)?;
                return Ok((0, vec![xsk::socket()?.into()]));
            }
            Request::Umem => {
                let memory = File::from(one?.try_clone_to_owned()?);
                let bytes = memory.metadata()?.len() as usize;
                self.count_socket(bytes)?;
                return Ok((0, vec![xsk::socket_over(memory.as_fd(), bytes)?.into()]));
            }
            Request::Put { queue } => {
                let gate = self.gate.as_ref().ok_or_else(|| not_agreed("a slot"))?;
                gate.program.put(queue, 0, one?)?;
            }
            Request::Bind { address } => {
                if !self.terms.binds.contains(&address) {
                    return Err(not_agreed("that address"));
                }
                SockRef::from(&one?).bind(&address.into())?;
            }
            Request::Widen => udp::widen(one?)?,
            Request::Steer { key } => {
                let group: Vec<BorrowedFd<'_>> = descriptors.iter().map(OwnedFd::as_fd).collect();
                steer::attach_extended(&group, group.len() as u16, key)?;
            }
        }
        Ok((0, Vec::new()))
    }

    fn count_socket(&mut self, umem_bytes: usize) -> io::Result<()> {
        if self.since.elapsed() > ALLOWANCE {
            (self.since, self.sockets, self.umem_bytes) = (Instant::now(), 0, 0);
        }
        let pinned = self.umem_bytes.saturating_add(umem_bytes);
        if self.terms.frames.is_none() || self.sockets >= SOCKETS_MAX || pinned > UMEM_BYTES_MAX {
            return Err(not_agreed("an AF_XDP socket"));
        }
        self.sockets += 1;
        self.umem_bytes = pinned;
        Ok(())
    }

    fn open(&mut self, port: u16) -> io::Result<(u32, Vec<OwnedFd>)> {
        let Some((mut listen, interface)) = self.terms.frames.clone() else {
            return Err(not_agreed("frames"));
        };
        if listen.port() != 0 && listen.port() != port {
            return Err(not_agreed("frames of that port"));
        }
        listen.set_port(port);
        let options = Options {
            listen,
            interface,
            attach: Attach::Either,
            budget: Budget::default(),
            vlan: None,
        };
        // The peer has let go of the link of an earlier one, which it says is gone.
        self.gate = None;
        let Placed { view, program, attached } =
            Placed::new(&options).map_err(|refused| io::Error::other(refused.to_string()))?;
        let memory = passing::shared_memory(TALLY_BYTES)?;
        let tallies = SharedWords::of(memory.as_fd(), 0, TALLY_BYTES)?;
        self.gate = Some(Gate { program, tallies });
        self.lay_out();
        Ok((view.interface.index, vec![attached.into(), memory]))
    }

    /// Lays the program's counters out where the peer reads them.
    fn lay_out(&self) {
        let Some(gate) = &self.gate else { return };
        for (at, tally) in Tally::ALL.into_iter().enumerate() {
            if let Ok(count) = gate.program.count(tally) {
                // A number of its own: nothing is read because of it.
                gate.tallies.double(at * 8).store(count, Ordering::Relaxed);
            }
        }
    }
}

fn not_agreed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("{what} was not agreed on"))
}
