//! Media over QUIC Transport: messages, data streams and sessions, sans-IO.
