//! Media-blind fan-out: directory, tracks, group cache, subscriptions, tokens.
