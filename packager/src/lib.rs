//! Samples to CMAF chunks, init segments and catalogs, sans-IO.
