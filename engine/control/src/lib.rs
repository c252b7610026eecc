//! Control state and HTTP: store, keys, tokens, pages.
