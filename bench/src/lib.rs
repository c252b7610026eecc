//! Measurement and proof. Owns the statistics that every measurement here shares: percentiles, the cost of a process,
//! one report for people and machines. It refuses to know what is measured.

pub mod callgrind;
pub mod fanout;
pub mod histogram;
pub mod ingest;
pub mod limit;
pub mod machine;
pub mod model;
pub mod netem;
pub mod process;
pub mod report;
pub mod rivals;
pub mod run;
pub mod statistics;
