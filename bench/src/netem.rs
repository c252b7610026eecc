//! A bad network in userspace: a UDP relay that loses, delays, reorders and repeats datagrams by a seed. Owns its
//! sockets and three kinds of thread, and nothing else of this crate, so that a test of another crate can take in this
//! one file by `#[path]`. It refuses to know what it carries.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a thread that waits for datagrams looks whether it shall stop.
const LOOK: Duration = Duration::from_millis(50);

/// Datagrams under way at once; more are lost, as in a router: 65,536 x 1.5 KB = 98 MB.
const QUEUE_MAX: usize = 65_536;

/// What happens to datagrams on one way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Path {
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// How long each takes.
    pub delay: Duration,
    /// At most so much is added to the delay; datagrams keep their order.
    pub jitter: Duration,
    /// Share of datagrams that take `reorder_by` longer than those around them, 0 to 1.
    pub reorder: f64,
    /// How much longer those take.
    pub reorder_by: Duration,
    /// Share of datagrams that come twice, 0 to 1.
    pub duplicate: f64,
}

/// How the relay is set up.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where clients send to; port 0 picks one.
    pub listen: SocketAddr,
    /// Where their datagrams go.
    pub target: SocketAddr,
    /// From clients to the target.
    pub there: Path,
    /// From the target to clients.
    pub back: Path,
    /// Seed of all chances.
    pub seed: u64,
}

/// What a relay did so far, both ways together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Datagrams that came in.
    pub received: u64,
    /// Datagrams lost on purpose.
    pub lost: u64,
    /// Datagrams sent on, repeated ones included.
    pub sent: u64,
}

/// A running relay; dropping it stops its threads.
#[derive(Debug)]
pub struct Netem {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Netem {
    /// Starts relaying.
    pub fn start(options: Options) -> io::Result<Self> {
        let front = Arc::new(UdpSocket::bind(options.listen)?);
        front.set_read_timeout(Some(LOOK))?;
        let address = front.local_addr()?;
        let shared = Arc::new(Shared::default());
        let receive = {
            let (front, shared) = (Arc::clone(&front), Arc::clone(&shared));
            std::thread::spawn(move || receive_from_clients(&options, &front, &shared))
        };
        let send = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.send_due())
        };
        Ok(Self { address, shared, threads: vec![receive, send] })
    }

    /// Where clients send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            received: read(&self.shared.received),
            lost: read(&self.shared.lost),
            sent: read(&self.shared.sent),
        }
    }
}

impl Drop for Netem {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.more.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What the threads share: datagrams under way, soonest first.
#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<BinaryHeap<Reverse<Flight>>>,
    more: Condvar,
    stop: AtomicBool,
    received: AtomicU64,
    lost: AtomicU64,
    sent: AtomicU64,
}

/// A datagram under way. Ordered by when it arrives, then by when it came.
#[derive(Debug)]
struct Flight {
    due: Instant,
    number: u64,
    bytes: Vec<u8>,
    from: Arc<UdpSocket>,
    to: SocketAddr,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Flight {}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl Shared {
    fn send_due(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let wait = match queue.peek() {
                Some(Reverse(first)) if first.due <= now => Duration::ZERO,
                Some(Reverse(first)) => first.due - now,
                None => LOOK,
            };
            if wait.is_zero() {
                if let Some(Reverse(flight)) = queue.pop() {
                    drop(queue);
                    if flight.from.send_to(&flight.bytes, flight.to).is_ok() {
                        self.sent.fetch_add(1, Ordering::Relaxed);
                    }
                    queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                }
            } else {
                let waited = self.more.wait_timeout(queue, wait.min(LOOK));
                queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

/// One way of one client: its chances, and when its last datagram arrives.
struct Way {
    path: Path,
    chance: Chance,
    last: Instant,
    number: u64,
}

impl Way {
    fn new(path: Path, seed: u64) -> Self {
        Self { path, chance: Chance(seed), last: Instant::now(), number: 0 }
    }

    fn carry(&mut self, bytes: &[u8], from: &Arc<UdpSocket>, to: SocketAddr, shared: &Shared) {
        shared.received.fetch_add(1, Ordering::Relaxed);
        if self.chance.happens(self.path.loss) {
            shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let copies = if self.chance.happens(self.path.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let mut due = Instant::now() + self.path.delay + self.chance.part_of(self.path.jitter);
            if self.chance.happens(self.path.reorder) {
                due += self.path.reorder_by;
            } else {
                // Jitter alone does not reorder: a queue was longer for a while.
                due = due.max(self.last);
                self.last = due;
            }
            self.number += 1;
            let flight = Flight {
                due,
                number: self.number,
                bytes: bytes.to_vec(),
                from: Arc::clone(from),
                to,
            };
            let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.len() < QUEUE_MAX {
                queue.push(Reverse(flight));
            } else {
                shared.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        shared.more.notify_one();
    }
}

/// Reads what clients send. Each client gets a socket of its own towards the target, and a thread that reads it, so
/// that the target sees one address for each client.
fn receive_from_clients(options: &Options, front: &Arc<UdpSocket>, shared: &Arc<Shared>) {
    let mut clients: HashMap<SocketAddr, (Arc<UdpSocket>, Way)> = HashMap::new();
    let mut readers = Vec::new();
    let mut buffer = vec![0; 65_536];
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((length, client)) = front.recv_from(&mut buffer) else { continue };
        let number = clients.len() as u64;
        let (socket, way) = match clients.entry(client) {
            std::collections::hash_map::Entry::Occupied(held) => held.into_mut(),
            std::collections::hash_map::Entry::Vacant(free) => {
                let any = if options.target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let Ok(socket) = UdpSocket::bind(any) else { continue };
                let _ = socket.set_read_timeout(Some(LOOK));
                let socket = Arc::new(socket);
                let back = Way::new(options.back, options.seed.wrapping_mul(31) ^ (2 * number + 1));
                let (read, front, shared) =
                    (Arc::clone(&socket), Arc::clone(front), Arc::clone(shared));
                readers.push(std::thread::spawn(move || {
                    receive_from_target(&read, &front, client, back, &shared);
                }));
                let there = Way::new(options.there, options.seed.wrapping_mul(31) ^ (2 * number));
                free.insert((socket, there))
            }
        };
        way.carry(buffer.get(..length).unwrap_or_default(), socket, options.target, shared);
    }
    for reader in readers {
        let _ = reader.join();
    }
}

fn receive_from_target(
    socket: &UdpSocket,
    front: &Arc<UdpSocket>,
    client: SocketAddr,
    mut way: Way,
    shared: &Shared,
) {
    let mut buffer = vec![0; 65_536];
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        way.carry(buffer.get(..length).unwrap_or_default(), front, client, shared);
    }
}

/// Chances from a seed: splitmix64 (Steele, Lea and Flood, 2014).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Between 0 and 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn happens(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    fn part_of(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.unit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket that answers every datagram with its bytes.
    fn echo() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if length == 0 {
                    return;
                }
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
        address
    }

    fn relay(there: Path, back: Path) -> (Netem, UdpSocket) {
        let listen = "127.0.0.1:0".parse().unwrap();
        let options = Options { listen, target: echo(), there, back, seed: 7 };
        let netem = Netem::start(options).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(netem.address()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (netem, client)
    }

    fn number(client: &UdpSocket) -> u32 {
        let mut buffer = [0; 64];
        assert_eq!(client.recv(&mut buffer).unwrap(), 4);
        u32::from_be_bytes(buffer[..4].try_into().unwrap())
    }

    #[test]
    fn a_relay_without_faults_keeps_order_and_adds_its_delay() {
        let path = Path { delay: Duration::from_millis(10), ..Path::default() };
        let (netem, client) = relay(path, path);
        let sent = Instant::now();
        for n in 0_u32..50 {
            client.send(&n.to_be_bytes()).unwrap();
        }
        assert_eq!(
            (0..50).map(|_| number(&client)).collect::<Vec<_>>(),
            (0..50).collect::<Vec<_>>()
        );
        assert!(sent.elapsed() >= Duration::from_millis(20), "both ways are delayed");
        assert_eq!(netem.counts().lost, 0);
    }

    #[test]
    fn a_seed_loses_its_share_and_reordering_reorders() {
        let there = Path {
            loss: 0.2,
            reorder: 0.1,
            reorder_by: Duration::from_millis(30),
            ..Path::default()
        };
        let (netem, client) = relay(there, Path::default());
        // Few enough for socket buffers of default size.
        for n in 0_u32..200 {
            client.send(&n.to_be_bytes()).unwrap();
        }
        // Back comes what was not lost.
        while netem.counts().received + netem.counts().lost < 400 {
            std::thread::yield_now();
        }
        let lost = netem.counts().lost;
        assert!((20..60).contains(&lost), "{lost} of 200 at one in five");
        let order: Vec<_> = (0..200 - lost).map(|_| number(&client)).collect();
        assert!(!order.is_sorted(), "nothing was overtaken");
    }
}
