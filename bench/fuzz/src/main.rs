//! The fuzzer: libFuzzer's loop around one target, named by `WEIR_FUZZ_TARGET`. Built by bench/fuzz/run with coverage
//! flags that a stable compiler has; knows nothing of the parsers.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("WEIR_FUZZ_TARGET").unwrap_or_default();
    weir_fuzz::target(&name).unwrap_or_else(|| {
        let known: Vec<&str> = weir_fuzz::TARGETS.iter().map(|target| target.name).collect();
        eprintln!("WEIR_FUZZ_TARGET={name:?} is not one of {known:?}");
        std::process::exit(2)
    })
});

fuzz_target!(|bytes: &[u8]| (*TARGET)(bytes));
