//! The command line: parses it, merges it into the configuration, and does the short commands.
//!
//! The long ones (`up`, `play`) are given in as [`Roles`], so this module knows neither shards nor
//! players. Every failure ends as one `error:` line and one `help:` line; the exit code is 2 when
//! the command or the configuration is wrong, else 1.

mod announce;
mod args;
mod drain;
mod failure;
mod host;
mod publish;
mod short;
#[cfg(test)]
pub(crate) mod testing;

use std::{ffi::OsString, io::Write, path::PathBuf, process::ExitCode};

use clap::{Parser, error::ErrorKind};

use self::args::{Command, Weir};
pub use self::{
    announce::{Addresses, Claim, Ready, ReadyDemo, card, edge_card},
    args::{KEEPER_COMMAND, PlayOptions, PlayOutput, PublishOptions, PublishSource},
    failure::Failure,
    publish::PublishUrls,
};
use crate::{
    config::{self, Config, Edge, Overrides, Up},
    logs,
    topology::HostFacts,
};

/// What the binary can do beside the short commands.
pub trait Roles {
    /// `weir up`: runs until stopped.
    fn up(&self, up: Up) -> Result<(), Failure>;

    /// `weir relay`: runs until stopped.
    fn relay(&self, edge: Edge) -> Result<(), Failure>;

    /// `weir play`: runs until the broadcast or the duration ends.
    fn play(&self, options: PlayOptions) -> Result<(), Failure>;

    /// `weir keeper`: runs until the process that started it ends.
    fn keeper(&self) -> Result<(), Failure>;

    /// `weir publish`: runs until the file or the operator ends it.
    fn publish(&self, options: PublishOptions) -> Result<(), Failure>;
}

/// The whole program.
pub fn main(roles: &dyn Roles) -> ExitCode {
    let environment = |name: &str| std::env::var(name).ok();
    match run(std::env::args_os(), environment, roles, &mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let colour =
                std::io::IsTerminal::is_terminal(&std::io::stderr()) && logs::colour_wanted();
            // Nobody is left to tell when standard error is closed.
            let _ = std::io::stderr().write_all(failure.render(colour).as_bytes());
            ExitCode::from(failure.exit_code())
        }
    }
}

/// The program with its surroundings given in.
fn run(
    line: impl IntoIterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<String>,
    roles: &dyn Roles,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let weir = match Weir::try_parse_from(line) {
        Ok(weir) => weir,
        Err(error)
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) =>
        {
            return failure::written(write!(out, "{error}"));
        }
        Err(error) => return Err(Failure::from(error)),
    };
    if let Command::Config(args::Config::Print) = weir.command {
        return failure::written(out.write_all(config::MANUAL.as_bytes()));
    }
    if let Command::Keeper = weir.command {
        return roles.keeper();
    }
    let weir = match weir {
        Weir { command: Command::Host(command), .. } => return host::host(command, out),
        weir => weir,
    };
    let from_environment = Overrides::from_environment(&environment)?;
    let file =
        weir.common.config.clone().or_else(|| {
            environment("WEIR_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
        });
    let file = match &weir.command {
        Command::Config(args::Config::Check { file: Some(file) }) => Some(file.clone()),
        _ => file,
    };
    let config = Config::load(file.as_deref(), &from_environment, &weir.overrides())?;
    match weir.command {
        Command::Up(up) => {
            logs::start(&config.log)?;
            roles.up(config.resolve(up.flags(), &HostFacts::read())?)
        }
        Command::Relay(relay) => {
            logs::start(&config.log)?;
            roles.relay(config.resolve_edge(relay.node_key, &HostFacts::read())?)
        }
        Command::ApiKey(command) => short::api_key(&config, command, out),
        Command::NodeKey(command) => short::node_key(&config, command, out),
        Command::Play(play) => {
            logs::start(&config.log)?;
            roles.play(play.into())
        }
        Command::Publish(publish) => {
            logs::start(&config.log)?;
            roles.publish(publish.into())
        }
        Command::Drain(command) => drain::drain(&config, &command, out),
        Command::Input(command) => short::input(&config, command, out),
        Command::Token(command) => short::token(&config, command, out),
        Command::SigningKey(command) => short::signing_key(&config, command, out),
        // Done above, without a configuration.
        Command::Keeper | Command::Host(_) => Ok(()),
        Command::Config(_) => short::check(&config, file.as_deref(), out),
    }
}

#[cfg(test)]
mod tests;
