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
mod ac3;
mod av1;
mod backlog;
mod bits;
mod boxes;
mod cadence;
pub mod catalog;
mod cmaf;
mod codec;
mod drift;
mod error;
mod flac;
pub mod fmp4;
pub mod fuzzing;
mod gauge;
mod groups;
mod h264;
mod health;
mod hevc;
mod inits;
pub mod merge;
mod meter;
mod options;
mod opus;
mod packager;
mod sample;
mod timeline;
mod track;
mod vp9;

pub use aac::AacConfig;
pub use ac3::{Ac3Config, ac3_codec_of};
pub use av1::{Av1Config, Av1Sequence, without_delimiters};
pub use bits::Bits;
pub use error::Error;
pub use flac::FlacConfig;
pub use h264::{AccessUnit, AvcConfig, Nals, Sps, unescape};
pub use health::{Health, TrackHealth};
pub use hevc::{HevcConfig, HevcProfile, HevcSps};
pub use inits::inits_of;
pub use options::Options;
pub use opus::OpusConfig;
pub use packager::{CATALOG_TRACK, Counters, MSF_CATALOG_TRACK, Object, Output, Packager};
pub use sample::{Codec, Sample, TrackConfig, TrackId};
pub use vp9::Vp9Config;
