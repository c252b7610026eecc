//! Network stories.
