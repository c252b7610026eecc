//! A small RTMP publisher, for tests and load generators. It writes chunks by hand in whatever
//! dialect a story needs, and owns no socket.
