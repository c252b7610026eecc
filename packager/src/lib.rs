//! Samples to CMAF chunks, init segments and catalogs, sans-IO.
//!
//! A [`Packager`] owns the media timeline of one broadcast: it takes the [`Sample`]s of a feed and gives back tracks,
//! groups and objects ready to be published, catalogs included. It knows no wire protocol, no socket and no clock: time
//! comes in as an argument, and a feed whose timestamps lie never makes decode times run backwards.
//!
//! Call one `handle_*`, then drain [`Packager::poll_output`] until it is empty, then arm [`Packager::poll_timeout`].
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod aac;
mod backlog;
mod bits;
mod boxes;
mod cadence;
pub mod catalog;
mod cmaf;
mod drift;
mod error;
pub mod fmp4;
pub mod fuzzing;
mod gauge;
mod groups;
mod h264;
mod health;
pub mod merge;
mod meter;
mod options;
mod packager;
mod sample;
mod timeline;
mod track;

pub use aac::AacConfig;
pub use bits::Bits;
pub use error::Error;
pub use h264::{AccessUnit, AvcConfig, Nals, Sps, unescape};
pub use health::{Health, TrackHealth};
pub use options::Options;
pub use packager::{CATALOG_TRACK, Counters, MSF_CATALOG_TRACK, Object, Output, Packager};
pub use sample::{Codec, Sample, TrackConfig, TrackId};
