//! The order to drain and the account of how far it is, as `weir drain` and the running node tell each
//! other: one JSON object a line over a unix socket in the data directory. It knows no shard.
//!
//! A socket and not the HTTP API, because whoever may write into the data directory owns the node's
//! keys already and needs no further credential, because it works with any listener address, and
//! because the connection ends with the node, which is what the caller waits for.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::config::{Deadline, NewUri};

/// The socket, inside the data directory.
const SOCKET: &str = "node.sock";
/// An order: an address of 2 KiB, quoted and escaped.
const ORDER_BYTES_MAX: u64 = 8 * 1024;
/// How long a caller may take to say what it wants.
const ORDER_TIMEOUT: Duration = Duration::from_secs(5);
/// Callers listened to at once; more than a few are a loop gone wild.
const CALLERS_MAX: usize = 8;

/// What is asked for; what is `None` is as the node is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Where sessions are sent.
    pub new_uri: Option<String>,
    /// How long they may take.
    pub deadline_secs: Option<u64>,
}

/// How far the node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What it does.
    pub state: Stage,
    /// Sessions still here.
    pub sessions: u64,
    /// Publishers still here.
    pub publishers: u64,
    /// Until the deadline.
    pub seconds_left: u64,
    /// Sessions closed because they stayed too long.
    pub closed: u64,
}

/// The life of a node that is told to drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Nobody has asked it to.
    Serving,
    /// Waits for sessions and publishers to leave.
    Draining,
    /// Nobody is left, or the deadline has passed: it ends.
    Done,
}

impl Progress {
    /// Nobody has asked for anything.
    pub const SERVING: Self =
        Self { state: Stage::Serving, sessions: 0, publishers: 0, seconds_left: 0, closed: 0 };
}

/// The node's side of the socket.
pub struct Door {
    listener: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Opens the socket for the owner of the data directory only. One left by a crash is replaced:
    /// the caller holds the directory's lock.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(SOCKET);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = at_socket(data_dir, |place| UnixListener::bind(place))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path })
    }

    /// Takes orders and tells callers how far it is, until dropped.
    pub async fn serve(self, orders: mpsc::Sender<Order>, progress: watch::Receiver<Progress>) {
        let Ok(listener) = self.listener.try_clone().and_then(tokio::net::UnixListener::from_std)
        else {
            return tracing::error!("cannot listen for `weir drain`");
        };
        let seats = std::sync::Arc::new(Semaphore::new(CALLERS_MAX));
        loop {
            let Ok(seat) = std::sync::Arc::clone(&seats).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot listen to `weir drain` for a moment");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (orders, progress) = (orders.clone(), progress.clone());
            tokio::spawn(async move {
                // A caller that goes away is no loss: the order stands.
                let _ = answer(stream, orders, progress).await;
                drop(seat);
            });
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // A file that stays is replaced by the next node.
        let _ = fs::remove_file(&self.path);
    }
}

async fn answer(
    stream: tokio::net::UnixStream,
    orders: mpsc::Sender<Order>,
    mut progress: watch::Receiver<Progress>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = tokio::io::BufReader::new(read.take(ORDER_BYTES_MAX));
    tokio::time::timeout(ORDER_TIMEOUT, read.read_line(&mut line)).await??;
    match parse(&line) {
        // Full: another order is on its way, and the first one decides.
        Ok(order) => drop(orders.try_send(order)),
        Err(error) => {
            let text = serde_json::json!({ "error": error }).to_string();
            return write.write_all(format!("{text}\n").as_bytes()).await;
        }
    }
    loop {
        let now = *progress.borrow_and_update();
        if now.state != Stage::Serving {
            let text = serde_json::to_string(&now).map_err(io::Error::other)?;
            write.write_all(format!("{text}\n").as_bytes()).await?;
        }
        if now.state == Stage::Done || progress.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// An order in which every value is one that the configuration would take.
fn parse(line: &str) -> Result<Order, String> {
    let order: Order =
        serde_json::from_str(line).map_err(|error| format!("not an order: {error}"))?;
    order.new_uri.as_deref().map_or(Ok(NewUri::default()), str::parse)?;
    order.deadline_secs.map(|secs| secs.to_string().parse::<Deadline>()).transpose()?;
    Ok(order)
}

/// Gives an order to the node that runs on `data_dir` and returns what it tells, line by line, until it
/// has ended.
pub fn ask(
    data_dir: &Path,
    order: &Order,
) -> io::Result<impl Iterator<Item = io::Result<Progress>> + use<>> {
    let mut stream = at_socket(data_dir, |place| UnixStream::connect(place))?;
    let text = serde_json::to_string(order).map_err(io::Error::other)?;
    writeln!(stream, "{text}")?;
    let lines = BufReader::new(stream).lines();
    Ok(lines.map(|line| {
        let line = line?;
        serde_json::from_str(&line).map_err(|_| {
            let said: Option<serde_json::Value> = serde_json::from_str(&line).ok();
            let said = said.as_ref().and_then(|said| said.get("error")?.as_str());
            io::Error::new(io::ErrorKind::InvalidInput, said.unwrap_or("an unknown answer"))
        })
    }))
}

/// Names the socket by way of its open directory: a path of its own may be longer than the 108 bytes
/// that a socket address has (unix(7)).
fn at_socket<T>(data_dir: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let dir = File::open(data_dir)?;
    act(Path::new(&format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::TempDir;

    async fn told(line: &'static str, dir: &Path) -> Vec<String> {
        let dir = dir.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut stream = at_socket(&dir, |place| UnixStream::connect(place)).expect("a node");
            stream.write_all(line.as_bytes()).expect("it listens");
            BufReader::new(stream).lines().map(|line| line.expect("text")).collect()
        })
        .await
        .expect("a caller")
    }

    #[tokio::test]
    async fn a_caller_gives_an_order_and_hears_how_far_it_is_until_the_end() {
        // A path longer than a socket address.
        let temp = TempDir::new();
        let dir = temp.path().join("d".repeat(120));
        fs::create_dir(&dir).expect("a directory");
        let door = Door::open(&dir).expect("a socket");
        assert_eq!(fs::metadata(&door.path).expect("there").permissions().mode() & 0o777, 0o600);
        let (orders, mut taken) = mpsc::channel(1);
        let (tell, progress) = watch::channel(Progress::SERVING);
        let serving = tokio::spawn(door.serve(orders, progress));
        let caller = {
            let dir = dir.clone();
            let order = Order { new_uri: Some("https://b:1".into()), deadline_secs: Some(7) };
            tokio::task::spawn_blocking(move || {
                ask(&dir, &order).expect("a node").collect::<io::Result<Vec<_>>>()
            })
        };
        let order = taken.recv().await.expect("an order");
        assert_eq!((order.new_uri.as_deref(), order.deadline_secs), (Some("https://b:1"), Some(7)));
        let draining = Progress { state: Stage::Draining, sessions: 2, ..Progress::SERVING };
        let done = Progress { state: Stage::Done, ..Progress::SERVING };
        tell.send_replace(draining);
        // A second caller hears of the same drain.
        let second = told("{}\n", &dir);
        tokio::pin!(second);
        tell.send_replace(done);
        let heard = caller.await.expect("a thread").expect("progress");
        assert_eq!(heard.last(), Some(&done));
        assert_eq!(second.await.len(), 1);
        serving.abort();
        assert!(serving.await.is_err());
        assert!(!dir.join(SOCKET).exists(), "nothing is left behind");
    }

    #[tokio::test]
    async fn what_is_no_order_is_refused_in_words() {
        let dir = TempDir::new();
        let door = Door::open(dir.path()).expect("a socket");
        let (orders, mut taken) = mpsc::channel(1);
        let (_tell, progress) = watch::channel(Progress::SERVING);
        let serving = tokio::spawn(door.serve(orders, progress));
        for bad in [
            "nonsense\n",
            "{\"new_uri\":\"ftp://x\"}\n",
            "{\"deadline_secs\":0}\n",
            "{\"stop\":true}\n",
            "\n",
        ] {
            let said = told(bad, dir.path()).await;
            assert!(said.first().is_some_and(|line| line.contains("error")), "{bad}: {said:?}");
        }
        assert!(taken.try_recv().is_err(), "nothing was ordered");
        serving.abort();
    }
}
