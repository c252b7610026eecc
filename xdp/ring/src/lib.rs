//! Rings between shards: everything that crosses from one shard to another crosses here.
//!
//! Two shapes, and no third. A [`link`] carries objects from one writer to any number of readers;
//! it never blocks the writer, and a reader that falls behind learns how much it missed. An
//! [`spsc`] queue carries commands and handed-over packets between one pair of shards; it loses
//! nothing, and a full one says so. Neither takes a lock, neither knows what a track means, and
//! neither parks or wakes anyone: that belongs to the shard.
//!
//! The links are checked with loom at small sizes, together with mutants that the model must
//! kill (one removed fence, one missing slot, and so on, see `tests/loom.rs`):
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test --release -p weir-ring --test loom
//! ```

#![forbid(unsafe_code)]

pub mod link;
pub mod spsc;
mod sync;
