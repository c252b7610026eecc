//! Network stories: a relay, real MoQT client sessions of both drafts as peers, and a transport whose
//! credit the story decides. No sockets, no clock: time moves when a story moves it.

mod hostile;
mod publishers;
mod shards;
mod viewers;
mod world;
