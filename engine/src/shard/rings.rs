//! The rings between the shards of a node, and who holds which end: a link for each shard that the
//! others read, a queue for commands and one for datagrams for each ordered pair, a bell for each
//! shard. Pure wiring; what travels is the exchange's matter.

use weir_ring::{link, spsc};
use weir_xdp::Datagram;
use weir_xdp::wake::{self, Wake, Waker};

use super::exchange::Command;

/// How large the rings of a node are.
#[derive(Clone, Debug)]
pub struct RingSizes {
    /// The link of each shard; their number is the number of shards.
    pub links: Vec<link::Options>,
    /// Commands that may wait between two shards.
    pub commands: usize,
    /// Datagrams of migrated connections that may wait between two shards.
    pub datagrams: usize,
}

/// The ends a shard holds of the rings to one other shard.
pub(super) struct Neighbour {
    /// Its number.
    pub(super) shard: u16,
    /// Our commands to it.
    pub(super) to: spsc::Producer<Command>,
    /// Its commands to us.
    pub(super) from: spsc::Consumer<Command>,
    /// Datagrams of its connections that came to us.
    pub(super) datagrams_to: spsc::Producer<Datagram>,
    /// Datagrams of our connections that came to it.
    pub(super) datagrams_from: spsc::Consumer<Datagram>,
    /// Its link.
    pub(super) link: link::Consumer,
    /// Wakes it when it sleeps.
    pub(super) waker: Waker,
}

/// All ring ends of one shard.
pub struct Rings {
    /// Our link, read by every other shard.
    pub(super) link: link::Producer,
    /// The other shards, in order.
    pub(super) neighbours: Vec<Neighbour>,
}

/// Wires the rings: what each shard holds, and the end of its bell on which it sleeps.
pub fn rings(sizes: &RingSizes) -> std::io::Result<(Vec<Rings>, Vec<Wake>)> {
    let count = sizes.links.len();
    let (producers, consumers): (Vec<_>, Vec<_>) =
        sizes.links.iter().map(|options| link::link(*options)).unzip();
    let bells = (0..count).map(|_| wake::pair()).collect::<std::io::Result<Vec<_>>>()?;
    let (wakes, wakers): (Vec<_>, Vec<_>) = bells.into_iter().unzip();
    let mut commands = Mesh::new(count, sizes.commands);
    let mut datagrams = Mesh::new(count, sizes.datagrams);
    let mut all = Vec::with_capacity(count);
    for (shard, link) in producers.into_iter().enumerate() {
        let neighbours = (0..count)
            .filter(|other| *other != shard)
            .map(|other| {
                let (to, from) = commands.take(shard, other);
                let (datagrams_to, datagrams_from) = datagrams.take(shard, other);
                Neighbour {
                    shard: other as u16,
                    to,
                    from,
                    datagrams_to,
                    datagrams_from,
                    link: consumers[other].clone(),
                    waker: wakers[other].clone(),
                }
            })
            .collect();
        all.push(Rings { link, neighbours });
    }
    Ok((all, wakes))
}

/// One queue per ordered pair of shards, each end to be taken once.
struct Mesh<T> {
    count: usize,
    producers: Vec<Option<spsc::Producer<T>>>,
    consumers: Vec<Option<spsc::Consumer<T>>>,
}

impl<T> Mesh<T> {
    fn new(count: usize, depth: usize) -> Self {
        let (producers, consumers) = (0..count * count)
            .map(|_| {
                let (producer, consumer) = spsc::queue(depth);
                (Some(producer), Some(consumer))
            })
            .unzip();
        Self { count, producers, consumers }
    }

    /// The ends that `shard` holds towards `other`.
    fn take(&mut self, shard: usize, other: usize) -> (spsc::Producer<T>, spsc::Consumer<T>) {
        let to = self.producers[shard * self.count + other].take();
        let from = self.consumers[other * self.count + shard].take();
        to.zip(from).expect("each end is taken once")
    }
}
