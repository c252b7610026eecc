//! The process and its host: which privileges it gives up ([`rights`]), which system calls it keeps
//! ([`seccomp`]), and what the host is set to ([`tuning`]). It owns the system calls for that; it refuses to know what Weir serves.

pub mod rights;
pub mod seccomp;
mod sys;
pub mod tuning;
