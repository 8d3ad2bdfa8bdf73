//! What the fuzzers and the stable corpus test both run: no input may panic, and what is accepted is consistent.

use pilotlight_wire::{Deframer, Direction, FleetKey, Frame, Kind, MAX_BODY, Message};

/// Any bytes as a datagram: walks its frames, and reads every body although it is not authentic.
pub fn decode(data: &[u8]) {
    let key = FleetKey::new([0; 32]).derive(Direction::Up, 0, 1);
    let mut rest = data;
    while let Ok((frame, after)) = Frame::parse(rest) {
        assert!(after.len() < rest.len());
        let _ = (frame.claimed_device(), frame.verify(&key));
        rest = after;
    }
    let Some((&kind, body)) = data.split_first() else { return };
    if let Ok(message) = Message::decode(Kind(kind & 0x1f), body) {
        // What was read can be written, and reads the same: a second writing is the first's.
        let mut once = [0; MAX_BODY];
        let Ok(length) = message.encode(&mut once) else { return };
        let again = Message::decode(message.kind(), &once[..length]);
        assert_eq!(again.as_ref(), Ok(&message));
    }
}

/// Any bytes as a serial line.
pub fn deframe(data: &[u8]) {
    let mut deframer = Deframer::new();
    for &byte in data {
        if let Some(Ok(frame)) = deframer.push(byte) {
            let _ = Frame::parse(frame);
        }
    }
    // Whatever came before, a whole frame after a delimiter is found.
    let mut line = [0; pilotlight_wire::MAX_SERIAL];
    let Ok(length) = pilotlight_wire::frame_serial(b"next", &mut line) else { return };
    deframer.push(0);
    let found =
        line[..length].iter().filter(|&&byte| matches!(deframer.push(byte), Some(Ok(b"next")))).count();
    assert_eq!(found, 1);
}
