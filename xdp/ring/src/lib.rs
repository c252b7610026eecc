//! Rings between shards: mcache/dcache links and SPSC queues.
