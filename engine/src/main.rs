//! The `weir` binary: hands the long-running roles to the command line.

use std::process::ExitCode;

use weir::cli::{self, Failure, PlayOptions, PublishOptions, Roles};
use weir::config::{Edge, Up};
use weir::{node, play, publish};

struct Binary;

impl Roles for Binary {
    fn up(&self, up: Up) -> Result<(), Failure> {
        node::up::run(up)
    }

    fn relay(&self, edge: Edge) -> Result<(), Failure> {
        node::edge::run(edge)
    }

    fn keeper(&self) -> Result<(), Failure> {
        node::confine::keep()
    }

    fn play(&self, options: PlayOptions) -> Result<(), Failure> {
        play::run(&options)
    }

    fn publish(&self, options: PublishOptions) -> Result<(), Failure> {
        publish::run(&options)
    }
}

fn main() -> ExitCode {
    cli::main(&Binary)
}
