//! A keeper: a small process beside the one that serves, which alone holds privileges. It places the XDP
//! program, makes `AF_XDP` sockets and puts them into their slots, binds low ports, widens buffers and
//! attaches the selector of a socket group, on request and within [`Terms`] that were agreed on before
//! anybody could reach the serving process. Here is the serving side; the keeper's is [`serve`].
//!
//! A process has one set of rights, so it has one keeper: [`install`] makes it known to the whole crate,
//! and what needs a privilege then asks it instead of the kernel. Without one, the kernel decides.

mod serve;
mod wire;

use std::{
    io,
    net::SocketAddr,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

pub use serve::serve;
use socket2::{Domain, Socket, Type};
use wire::{Answer, MESSAGE_BYTES_MAX, Request};
pub use wire::{Terms, fuzz_keeper};

use crate::{program::Tally, steer::Key, sys::passing, xsk};

/// How long a keeper may take. It answers within milliseconds; longer means that it is stuck, and then
/// the node goes on without.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of the memory in which the program's counters are laid out.
pub(crate) const TALLY_BYTES: usize = Tally::ALL.len() * 8;

static CURRENT: RwLock<Option<Arc<Keeper>>> = RwLock::new(None);

/// The process that holds this one's privileges. Dropping it ends that process.
#[derive(Debug)]
pub struct Keeper {
    /// Nothing once it failed: an answer that comes late would be taken for another's.
    socket: Mutex<Option<Socket>>,
    child: Mutex<Child>,
}

/// Makes a keeper known to all that need a privilege.
pub fn install(keeper: Keeper) {
    *CURRENT.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keeper));
}

/// Ends the keeper. What it made stays.
pub fn dismiss() {
    CURRENT.write().unwrap_or_else(PoisonError::into_inner).take();
}

/// The keeper of this process.
pub(crate) fn current() -> Option<Arc<Keeper>> {
    CURRENT.read().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Keeper {
    /// Starts `command` as a keeper: a program that calls [`serve`] with its standard input.
    pub fn start(mut command: Command, terms: &Terms) -> io::Result<Self> {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None)?;
        ours.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        // Ctrl-C is for the process that serves; this one ends with it.
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).process_group(0);
        let child = command.spawn()?;
        // It holds the keeper's end of the pair, whose closing is how an end is noticed.
        drop(command);
        let keeper = Self { socket: Mutex::new(Some(ours)), child: Mutex::new(child) };
        keeper.exchange(&terms.encode(), &[])?;
        Ok(keeper)
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// Places the program; the index of its interface, the link and the memory of its counters.
    pub(crate) fn gate(&self, port: u16) -> io::Result<(u32, OwnedFd, OwnedFd)> {
        let (index, given) = self.ask(Request::Gate { port }, &[])?;
        match <[OwnedFd; 2]>::try_from(given) {
            Ok([link, memory]) => Ok((index, link, memory)),
            Err(_) => Err(garbled()),
        }
    }

    /// Puts a socket into the slot of a queue.
    pub(crate) fn put(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.ask(Request::Put { queue }, &[socket]).map(drop)
    }

    /// Attaches the selector of a group of sockets.
    pub(crate) fn steer(&self, group: &[BorrowedFd<'_>], key: Key) -> io::Result<()> {
        self.ask(Request::Steer { key }, group).map(drop)
    }

    /// Gives a socket the buffers of [`crate::udp::SOCKET_BUFFER_BYTES`].
    pub(crate) fn widen(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.ask(Request::Widen, &[socket]).map(drop)
    }

    fn socket(&self, umem: Option<BorrowedFd<'_>>) -> io::Result<Socket> {
        let (_, given) = match umem {
            None => self.ask(Request::Socket, &[])?,
            Some(memory) => self.ask(Request::Umem, &[memory])?,
        };
        given.into_iter().next().map(Socket::from).ok_or_else(garbled)
    }

    fn ask(
        &self,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<(u32, Vec<OwnedFd>)> {
        self.exchange(&request.encode(), descriptors)
    }

    fn exchange(
        &self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<(u32, Vec<OwnedFd>)> {
        let mut held = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        // Put back only after a whole exchange.
        let socket = held.take().ok_or_else(gone)?;
        passing::send(socket.as_fd(), bytes, descriptors)?;
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let (length, given) = passing::receive(socket.as_fd(), &mut buffer)?;
        if length == 0 {
            return Err(gone());
        }
        let answer = buffer.get(..length).and_then(Answer::decode).ok_or_else(garbled)?;
        *held = Some(socket);
        match answer {
            Answer::Done(number) => Ok((number, given)),
            Answer::Refused { errno: 0, text } => Err(io::Error::other(text)),
            Answer::Refused { errno, .. } => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It ends when this is closed, and then leaves no corpse.
        drop(self.socket.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.child.get_mut().unwrap_or_else(PoisonError::into_inner).wait();
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the keeper of this process's privileges is gone")
}

fn garbled() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the keeper's answer makes no sense")
}

/// Binds a socket; asks the keeper where that needs a privilege.
pub(crate) fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match (socket.bind(&address.into()), current()) {
        (Err(error), Some(keeper)) if error.kind() == io::ErrorKind::PermissionDenied => {
            keeper.ask(Request::Bind { address }, &[socket.as_fd()]).map(drop)
        }
        (bound, _) => bound,
    }
}

/// An `AF_XDP` socket that is bound to nothing. With `umem`, which only a process with a keeper has,
/// that is its memory already.
pub(crate) fn frame_socket(umem: Option<BorrowedFd<'_>>) -> io::Result<Socket> {
    current().map_or_else(xsk::socket, |keeper| keeper.socket(umem))
}
