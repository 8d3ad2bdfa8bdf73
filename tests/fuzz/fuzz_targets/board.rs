#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = pilotlight_boards::BoardData::parse("fuzz", text);
});
