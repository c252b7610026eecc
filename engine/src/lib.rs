//! The Weir binary and its composition root.

pub mod cli;
pub mod config;
pub mod cert;
pub mod logs;
pub mod topology;
