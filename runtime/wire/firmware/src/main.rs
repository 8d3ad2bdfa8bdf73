//! The smallest program that seals a report for a serial line, and with the feature `receive` also takes what a
//! collector answers. It is linked to be measured, not to be run: what a device would do with the bytes is left out.
#![no_std]
#![no_main]

use core::hint::black_box;
use pilotlight_wire::{FrameKey, Header, KEY_LENGTH, MAX_FRAME, MAX_SERIAL, Message, Report, seal};

/// A device would restart itself here.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// What a device does every second. Bytes ready for the line, or none where the report does not fit.
#[inline(never)]
fn send(key: &FrameKey, header: &Header, report: Report, line: &mut [u8; MAX_SERIAL]) -> usize {
    let mut frame = [0; MAX_FRAME];
    let Ok(length) = seal(header, &Message::Report(report), key, &mut frame) else { return 0 };
    pilotlight_wire::frame_serial(&frame[..length], line).unwrap_or(0)
}

/// What a device does with a byte from the line: an authentic message, if that byte ended one.
#[cfg(feature = "receive")]
#[inline(never)]
fn receive(key: &FrameKey, deframer: &mut pilotlight_wire::Deframer, byte: u8) -> bool {
    let Some(Ok(frame)) = deframer.push(byte) else { return false };
    let Ok((frame, _)) = pilotlight_wire::Frame::parse(frame) else { return false };
    let Ok(opened) = frame.verify(key) else { return false };
    black_box(opened.message()).is_ok()
}

/// Where the linker begins.
#[unsafe(no_mangle)]
#[allow(unsafe_code, reason = "the linker must find the entry by its name; nothing else has it")]
pub extern "C" fn _start() -> ! {
    let key = FrameKey::new(black_box(0), &black_box([0; KEY_LENGTH]));
    let mut line = [0; MAX_SERIAL];
    #[cfg(feature = "receive")]
    let mut deframer = pilotlight_wire::Deframer::new();
    loop {
        black_box(send(&key, &black_box(Header::default()), black_box(Report::default()), &mut line));
        #[cfg(feature = "receive")]
        black_box(receive(&key, &mut deframer, black_box(0)));
    }
}
