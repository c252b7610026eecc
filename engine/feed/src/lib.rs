//! Contribution protocols in, samples out, sans-IO.
