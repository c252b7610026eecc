//! How a command fails: one line that says what happened, one that says what to do.

use std::{
    fmt::{self, Write},
    io,
    net::SocketAddr,
};

use crate::{cert, config, logs};

/// Exit code when the command line or the configuration is wrong, as is the custom.
const USAGE: u8 = 2;
/// Exit code of every other failure.
const GENERAL: u8 = 1;

/// A failure as the operator sees it.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    message: String,
    help: Option<String>,
    exit_code: u8,
}

impl Failure {
    /// A failure with exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: one_line(&message.into()), help: None, exit_code: GENERAL }
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(one_line(&help.into()));
        self
    }

    /// Turns it into a mistake of the command or the configuration: exit code 2.
    #[must_use]
    pub fn usage(mut self) -> Self {
        self.exit_code = USAGE;
        self
    }

    /// A listener that cannot be opened. `flag` is its name without dashes: `http`, `quic`, ….
    pub fn listen(flag: &str, address: SocketAddr, error: &io::Error) -> Self {
        let name = flag.to_uppercase();
        let failure = match error.kind() {
            io::ErrorKind::AddrInUse => Self::new(format!("{name} port {address} is in use"))
                .help(format!("stop what listens there, or choose another with --{flag} ADDR")),
            io::ErrorKind::PermissionDenied => {
                Self::new(format!("not allowed to listen on {name} {address}"))
                    .help(format!("ports under 1024 need CAP_NET_BIND_SERVICE at the start (it is given up once all is bound); give it, or choose with --{flag} ADDR"))
            }
            io::ErrorKind::AddrNotAvailable => {
                Self::new(format!("this machine has no address {}", address.ip()))
                    .help(format!("choose one of its own with --{flag} ADDR"))
            }
            _ => Self::new(format!("cannot listen on {name} {address}: {error}"))
                .help(format!("choose another address with --{flag} ADDR")),
        };
        failure.usage_if(error.kind() != io::ErrorKind::AddrInUse)
    }

    /// The code the process ends with.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// The lines for standard error.
    pub fn render(&self, colour: bool) -> String {
        let (red, cyan, plain) =
            if colour { ("\x1b[1;31m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
        let mut text = format!("{red}error:{plain} {}\n", self.message);
        if let Some(help) = &self.help {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{cyan}help:{plain} {help}");
        }
        text
    }

    fn usage_if(self, is_usage: bool) -> Self {
        if is_usage { self.usage() } else { self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        let text = error.to_string();
        let mut paragraphs = text.split("\n\n");
        let message = paragraphs.next().unwrap_or_default();
        let message = message.strip_prefix("error: ").unwrap_or(message);
        let tip = paragraphs.find_map(|text| text.trim().strip_prefix("tip: "));
        let help = match error.kind() {
            clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                return Self::new("a command is missing").help("`weir --help` lists them").usage();
            }
            _ => tip.unwrap_or("add --help to the command to see what it takes"),
        };
        Self::new(message).help(help).usage()
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(failure) => failure,
            Err(error) => Self::new(format!("{error:#}")),
        }
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::new(error.to_string()).help(error.help()).usage()
    }
}

impl From<cert::Error> for Failure {
    fn from(error: cert::Error) -> Self {
        Self::new(error.to_string()).help(error.help())
    }
}

impl From<logs::InvalidFilter> for Failure {
    fn from(error: logs::InvalidFilter) -> Self {
        Self::new(error.to_string()).help("use a level such as debug, or weir=debug,info").usage()
    }
}

impl From<weir_control::Error> for Failure {
    fn from(error: weir_control::Error) -> Self {
        use weir_control::Error;
        let failure = Self::new(error.to_string());
        match error {
            Error::UnknownInput(_) => {
                failure.help("`weir input list` shows them; --data-dir chooses the directory")
            }
            Error::UnknownSigningKey(_) => failure.help("`weir signing-key list` shows them"),
            Error::NoSigningKey => failure.help("`weir signing-key create` makes one"),
            Error::DataDir { .. } => {
                failure.help("name a directory you may write to with --data-dir")
            }
            Error::RevocationsFull => failure
                .help("withdraw a whole key instead: `weir signing-key create`, then `deactivate`"),
            Error::TokenWithoutId => failure.help("use --vid, or `weir signing-key deactivate`"),
            Error::Name => failure.help("choose another --name").usage(),
            _ => failure,
        }
    }
}

/// Output that cannot be written; a reader that has gone away is no failure.
pub(super) fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
