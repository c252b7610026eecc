//! Control messages, draft-free.
