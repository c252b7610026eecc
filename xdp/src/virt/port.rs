//! A port on the virtual network. It owns one place before which datagrams are put; everything
//! that can happen to them is decided in the network.

use std::{cell::RefCell, io, net::SocketAddr, os::fd::BorrowedFd, rc::Rc, time::Instant};

use super::{Interface, world::World};
use crate::{Counters, Datagram, Outcome, Port, Transmit, udp::SEGMENTS_MAX};

/// A port on a [`super::Network`]. Dropping it frees its address.
#[derive(Debug)]
pub struct VirtPort {
    world: Rc<RefCell<World>>,
    address: SocketAddr,
    index: usize,
}

impl VirtPort {
    pub(super) fn new(world: Rc<RefCell<World>>, address: SocketAddr, index: usize) -> Self {
        Self { world, address, index }
    }

    /// Limits how fast this port can send, which makes it answer `Full`.
    pub fn set_interface(&self, interface: Option<Interface>) {
        self.world.borrow_mut().socket_mut(self.address, self.index).interface = interface;
    }
}

impl Port for VirtPort {
    fn local_addr(&self) -> SocketAddr {
        self.address
    }

    fn recv(&mut self, sink: &mut dyn FnMut(Datagram)) -> io::Result<usize> {
        // The network is free again before the sink runs, which may well send an answer.
        let batch = self.world.borrow_mut().socket_mut(self.address, self.index).take_batch();
        let count = batch.len();
        batch.into_iter().filter(|datagram| !datagram.data.is_empty()).for_each(sink);
        Ok(count)
    }

    fn send(&mut self, transmit: &Transmit<'_>) -> io::Result<Outcome> {
        Ok(self.world.borrow_mut().send(self.address, self.index, transmit))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn max_segments(&self) -> usize {
        SEGMENTS_MAX
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn next_wake(&self) -> Option<Instant> {
        self.world.borrow().next_wake(self.address, self.index)
    }

    fn counters(&self) -> Counters {
        self.world.borrow().socket(self.address, self.index).counters
    }
}

impl Drop for VirtPort {
    fn drop(&mut self) {
        self.world.borrow_mut().close(self.address, self.index);
    }
}
