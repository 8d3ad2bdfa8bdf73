#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pilotlight_tests::hostile::picture(bytes));
