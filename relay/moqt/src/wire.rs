//! Reading and writing fields.
