//! The limit program: what sending the bytes of a broadcast to N receivers costs at least, on this machine and through
//! the engine's own socket. L0 sends, L1 also seals each packet with the key of its receiver, L2 also opens and reads the
//! ACKs that come back. Owns both ends; it has no session, no loss recovery and no congestion control, on purpose.

mod packet;
mod sender;
mod sink;

use anyhow::{Result, ensure};

pub use sender::{Options, run};
pub use sink::{Sink, sink};

/// How much of a relay's work is done.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// Sending.
    Send,
    /// Sealing, too.
    Seal,
    /// Taking ACKs, too.
    Acknowledge,
}

impl Level {
    /// As the command line numbers them.
    pub fn new(level: u8) -> Result<Self> {
        ensure!(level <= 2, "there are levels 0, 1 and 2");
        Ok([Self::Send, Self::Seal, Self::Acknowledge][usize::from(level)])
    }
}
