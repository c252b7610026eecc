//! Ring ends for shards that share a thread: real links and command rings, wired as a node wires them.

use weir::shard::{Neighbour, Rings};
use weir_ring::{link, spsc};
use weir_xdp::wake;

/// Commands and handed-over datagrams that may wait between two shards.
const DEPTH: usize = 1024;

pub(super) fn rings(shards: u16, options: link::Options) -> Vec<Rings> {
    let count = usize::from(shards);
    let links: Vec<_> = (0..count).map(|_| link::link(options)).collect();
    let wakers: Vec<_> = (0..count).map(|_| wake::pair().expect("a bell")).collect();
    // Of each pair of shards: what `a` holds towards `b`.
    let mut commands = pairs(count);
    let mut datagrams = pairs(count);
    let consumers: Vec<_> = links.iter().map(|(_, consumer)| consumer.clone()).collect();
    let producers = links.into_iter().map(|(producer, _)| producer);
    let ends = producers.zip(0..).map(|(link, own)| {
        let neighbours = (0..count)
            .filter(|other| *other != own)
            .map(|other| {
                let (to, from) = commands(own, other);
                let (datagrams_to, datagrams_from) = datagrams(own, other);
                Neighbour {
                    shard: other as u16,
                    to,
                    from,
                    datagrams_to,
                    datagrams_from,
                    link: consumers[other].clone(),
                    waker: wakers[other].1.clone(),
                }
            })
            .collect();
        Rings { link, neighbours }
    });
    ends.collect()
}

/// Queues between all ordered pairs; the function gives each holder its two ends once.
fn pairs<T>(count: usize) -> impl FnMut(usize, usize) -> (spsc::Producer<T>, spsc::Consumer<T>) {
    let mut queues: Vec<_> = (0..count * count)
        .map(|_| {
            let (producer, consumer) = spsc::queue(DEPTH);
            (Some(producer), Some(consumer))
        })
        .collect();
    move |own, other| {
        let to = queues[own * count + other].0.take().expect("given once");
        let from = queues[other * count + own].1.take().expect("given once");
        (to, from)
    }
}
