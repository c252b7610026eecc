//! A TCP address held for listeners that come later. Shards listen side by side by `SO_REUSEPORT`, which two strangers
//! of one user could do just as well: so the address is first bound without it, which fails when anybody is there, and
//! held until all shards listen. It accepts nothing itself.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::keeper;

/// Connections that may wait to be accepted, as the standard library has it.
const BACKLOG: i32 = 128;

/// Listens on `address` alone.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    keeper::bind(&socket, address)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connections that may wait for one of several listeners: all encoders of a host that come back at once.
const SHARED_BACKLOG: i32 = 1_024;

/// Listens without blocking on an address that a [`Reservation`] holds, beside the other shards.
pub fn listen_beside(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    keeper::bind(&socket, address)?;
    socket.listen(SHARED_BACKLOG)?;
    Ok(socket.into())
}

/// A TCP address that nobody but sockets with `SO_REUSEPORT` can bind, until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    socket: Socket,
}

impl Reservation {
    /// Binds `address` alone; port 0 asks for a free one.
    pub fn new(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of a run before this one may still be in TIME_WAIT.
        socket.set_reuse_address(true)?;
        keeper::bind(&socket, address)?;
        // Both count when others bind, long after ours (Linux, inet_csk_bind_conflict).
        socket.set_reuse_address(false)?;
        socket.set_reuse_port(true)?;
        Ok(Self { socket })
    }

    /// What was bound.
    pub fn address(&self) -> io::Result<SocketAddr> {
        let address = self.socket.local_addr()?;
        address.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

    use std::net::TcpStream;

    use super::*;

    #[test]
    fn listeners_of_shards_share_a_held_address_and_strangers_do_not() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let held = Reservation::new(any).unwrap();
        let address = held.address().unwrap();
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        TcpStream::connect(address).unwrap_err();
        let shards = [listen_beside(address).unwrap(), listen_beside(address).unwrap()];
        assert_eq!(Reservation::new(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(held);
        TcpStream::connect(address).unwrap();
        assert_eq!(Reservation::new(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(shards);
    }

    #[test]
    fn an_address_where_somebody_listens_is_not_held() {
        let somebody = listen_beside(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = somebody.local_addr().unwrap();
        assert_eq!(Reservation::new(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
