//! The Weir binary and its composition root.
