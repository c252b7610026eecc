//! The host as `weir host` sees it: files of `/proc` and `/sys`, and what is asked of interfaces by
//! ethtool. It owns how to get there; what is wanted, `items` knows.

use std::{fs, io, path::PathBuf};

use crate::sys;

/// What a host can be asked and told. Tests have one of their own.
pub trait System {
    /// The text of a file, without the end of its last line.
    fn read(&self, path: &str) -> io::Result<String>;
    /// Replaces the value behind a file.
    fn write(&mut self, path: &str, value: &str) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, directory: &str) -> io::Result<Vec<String>>;
    /// A number of an interface.
    fn interface(&self, name: &str, of: Of) -> io::Result<Numbered>;
    /// Sets it.
    fn set_interface(&mut self, name: &str, of: Of, value: u32) -> io::Result<()>;
}

/// What is asked of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    /// Pairs of receive and transmit queues in use.
    Queues,
    /// Entries of each receive ring.
    ReceiveRing,
    /// Entries of each transmit ring.
    TransmitRing,
    /// Joining of what arrives: 1 or 0.
    Gro,
    /// Trains that the kernel or the device cuts: 1 or 0.
    Gso,
}

impl Of {
    /// All of them, with the word for each in records.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Queues, "queues"),
        (Self::ReceiveRing, "receive-ring"),
        (Self::TransmitRing, "transmit-ring"),
        (Self::Gro, "gro"),
        (Self::Gso, "gso"),
    ];

    /// The word in records.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(of, _)| *of == self).map_or("", |(_, word)| word)
    }

    /// From the word in records.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, of)| *of == word).map(|(of, _)| *of)
    }
}

/// A number and how far it can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbered {
    /// What it is.
    pub value: u32,
    /// What it can be.
    pub most: u32,
}

/// The host that this process runs on.
#[derive(Debug, Clone, Default)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    fn at(&self, path: &str) -> PathBuf {
        if self.root.as_os_str().is_empty() {
            PathBuf::from(path)
        } else {
            self.root.join(path.trim_start_matches('/'))
        }
    }
}

impl System for Host {
    fn read(&self, path: &str) -> io::Result<String> {
        fs::read_to_string(self.at(path)).map(|text| text.trim_end().to_owned())
    }

    fn write(&mut self, path: &str, value: &str) -> io::Result<()> {
        // Written and not created: a file that is not there is a thing that this kernel does not have.
        let mut file = fs::OpenOptions::new().write(true).open(self.at(path))?;
        io::Write::write_all(&mut file, value.as_bytes())
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.at(directory))?;
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn interface(&self, name: &str, of: Of) -> io::Result<Numbered> {
        const GRINGPARAM: u32 = 0x10;
        const GGSO: u32 = 0x23;
        const GGRO: u32 = 0x2b;
        const GCHANNELS: u32 = 0x3c;
        let value = |command| {
            let [_, value] = sys::ethtool(name, [command, 0])?;
            Ok(Numbered { value, most: 1 })
        };
        match of {
            Of::Queues => {
                let mut words = [0; 9];
                words[0] = GCHANNELS;
                let [_, _, _, _, most, _, _, _, value] = sys::ethtool(name, words)?;
                Ok(Numbered { value, most })
            }
            Of::ReceiveRing | Of::TransmitRing => {
                let mut words = [0; 9];
                words[0] = GRINGPARAM;
                let [_, receive_most, _, _, transmit_most, receive, _, _, transmit] =
                    sys::ethtool(name, words)?;
                Ok(if of == Of::ReceiveRing {
                    Numbered { value: receive, most: receive_most }
                } else {
                    Numbered { value: transmit, most: transmit_most }
                })
            }
            Of::Gro => value(GGRO),
            Of::Gso => value(GGSO),
        }
    }

    fn set_interface(&mut self, name: &str, of: Of, value: u32) -> io::Result<()> {
        const GRINGPARAM: u32 = 0x10;
        const SRINGPARAM: u32 = 0x11;
        const SGSO: u32 = 0x24;
        const SGRO: u32 = 0x2c;
        const GCHANNELS: u32 = 0x3c;
        const SCHANNELS: u32 = 0x3d;
        // What is not meant is set as it was read.
        let change = |get, set, at: usize| {
            let mut words = [0; 9];
            words[0] = get;
            let mut words = sys::ethtool(name, words)?;
            words[0] = set;
            words[at] = value;
            sys::ethtool(name, words).map(drop)
        };
        match of {
            Of::Queues => change(GCHANNELS, SCHANNELS, 8),
            Of::ReceiveRing => change(GRINGPARAM, SRINGPARAM, 5),
            Of::TransmitRing => change(GRINGPARAM, SRINGPARAM, 8),
            Of::Gro => sys::ethtool(name, [SGRO, value]).map(drop),
            Of::Gso => sys::ethtool(name, [SGSO, value]).map(drop),
        }
    }
}
