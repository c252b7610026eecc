//! Network stories: a relay, real MoQT client sessions of both drafts as peers, and a transport whose
//! credit the story decides. No sockets, no clock: time moves when a story moves it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this crate is tests"
)]

mod above;
mod contributions;
mod discovery;
mod drops;
mod fills;
mod grants;
mod holes;
mod hostile;
mod limits;
mod mesh;
mod objects;
mod offers;
mod open;
mod pairs;
mod publishers;
mod ranges;
mod redirects;
mod requests;
mod shards;
mod viewers;
mod world;
