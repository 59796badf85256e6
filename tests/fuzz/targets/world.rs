//! See [`fuzz::world`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::world::run(data));
