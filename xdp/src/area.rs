//! The memory that arrived datagrams are handed out from, shared by the ports that are given trains
//! by the kernel. It owns the one copy of each arrival and the cut into datagrams; it refuses to know
//! where the bytes came from.

use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;

use crate::{Counters, Datagram, Ecn};

/// Bytes of the area that datagrams are handed out from. One area serves 50 full-sized datagrams
/// or a thousand acknowledgements; a datagram that is kept keeps its area.
const AREA_BYTES: usize = 64 * 1024;

/// Where datagrams are handed out from.
///
/// Each arrival is copied once (about 20 ns per 1,200 bytes) from its buffer to the area, and
/// split there into datagrams without another copy or allocation. When the area is used up it is
/// taken back if its datagrams are gone, else replaced: one allocation for 64 KiB of traffic at
/// worst. Handing out the receive buffers themselves would be dearer: a kept acknowledgement of 40
/// bytes would pin 64 KiB, and a buffer taken back has to be zeroed before it can be lent again.
#[derive(Debug)]
pub(crate) struct Area(BytesMut);

/// What is known of a datagram, or of a train of them that the kernel joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) from: SocketAddr,
    pub(crate) to: Option<IpAddr>,
    pub(crate) ecn: Option<Ecn>,
    /// Bytes of each datagram but the last; 0 if there is only one.
    pub(crate) datagram_bytes: usize,
}

impl Area {
    pub(crate) fn new() -> Self {
        Self(BytesMut::with_capacity(AREA_BYTES))
    }

    /// Gives `sink` the datagrams of what arrived, and counts them.
    pub(crate) fn hand_out(
        &mut self,
        train: &Arrived,
        arrived: &[u8],
        counters: &mut Counters,
        sink: &mut dyn FnMut(Datagram),
    ) {
        counters.received_bytes += arrived.len() as u64;
        if arrived.is_empty() {
            counters.received += 1;
            counters.received_empty += 1;
            return;
        }
        if !self.0.try_reclaim(arrived.len()) {
            self.0 = BytesMut::with_capacity(AREA_BYTES);
            counters.receive_areas += 1;
        }
        self.0.extend_from_slice(arrived);
        let mut rest = self.0.split();
        let size = if train.datagram_bytes == 0 { rest.len() } else { train.datagram_bytes };
        while !rest.is_empty() {
            let data = rest.split_to(size.min(rest.len()));
            counters.received += 1;
            sink(Datagram { from: train.from, to: train.to, ecn: train.ecn, data });
        }
    }
}
