//! Packet ports: the only crate that makes packet and socket system calls.
