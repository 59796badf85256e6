//! See [`fuzz::watch`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::watch::run(data));
