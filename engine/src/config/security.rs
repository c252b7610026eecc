//! What the serving process may ask of its host. Owns the words of the operator; the list of system
//! calls is `weir_host`'s.

use std::{fmt, str::FromStr};

use serde::Deserialize;
use weir_host::seccomp::Mode;

/// Section `[security]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    /// What becomes of system calls that are not on the list.
    pub seccomp: Seccomp,
}

/// `on`, `log` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Seccomp(pub Mode);

impl FromStr for Seccomp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for Seccomp {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Seccomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Mode::Off => "off",
            Mode::Log => "log",
            Mode::On => "on",
        })
    }
}
