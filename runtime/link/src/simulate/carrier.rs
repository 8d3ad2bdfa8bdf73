//! What carries a simulated fleet's frames: one socket, or one serial line, for all of its devices.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use pilotlight_wire::{Deframer, MAX_FRAME, MAX_SERIAL, frame_serial};
use serial2::SerialPort;

/// Answers that wait to be looked at; the line's own buffers hold what is more.
const ANSWERS: usize = 4096;

/// Carries the frames of many devices.
pub enum Carrier {
    /// Datagrams, one a frame.
    Udp(UdpSocket),
    /// A serial line that many devices share, as behind a gateway, and what comes back on it.
    Serial(SerialPort, Receiver<Vec<u8>>),
}

impl Carrier {
    /// A socket that sends to `collector`.
    ///
    /// # Errors
    /// The system gives no socket.
    pub fn udp(collector: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr =
            if collector.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(any)?;
        socket.connect(collector)?;
        socket.set_nonblocking(true)?;
        Ok(Self::Udp(socket))
    }

    /// A serial line. A thread of its own reads it, so that a writer that waits for room blocks no answer.
    ///
    /// # Errors
    /// The port cannot be set up, or the system gives no thread.
    pub fn serial(mut port: SerialPort) -> io::Result<Self> {
        port.set_read_timeout(Duration::from_millis(100))?;
        port.set_write_timeout(Duration::from_secs(10))?;
        let line = port.try_clone()?;
        let (answers, heard) = sync_channel(ANSWERS);
        let listen = move || {
            let (mut deframer, mut bytes) = (Deframer::new(), [0; 4096]);
            loop {
                let length = match line.read(&mut bytes) {
                    Ok(length) if length > 0 => length,
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => 0,
                    Ok(_) | Err(_) => return,
                };
                for &byte in &bytes[..length] {
                    // What noise spoilt is as good as lost.
                    if let Some(Ok(frame)) = deframer.push(byte)
                        && answers.send(frame.to_vec()).is_err()
                    {
                        return;
                    }
                }
            }
        };
        std::thread::Builder::new().name("serial answers".into()).spawn(listen)?;
        Ok(Self::Serial(port, heard))
    }

    /// The bytes that a frame becomes on this carrier.
    pub(super) fn pack<'a>(&self, frame: &'a [u8], line: &'a mut [u8; MAX_SERIAL]) -> &'a [u8] {
        match self {
            Self::Udp(_) => frame,
            Self::Serial(..) => {
                // No frame is longer than MAX_FRAME, so this cannot fail; a failure would be a lost frame.
                let length = frame_serial(frame, line).unwrap_or(0);
                &line[..length]
            }
        }
    }

    /// How many of those end a frame. Damage to them would cost the next frame too, and the injected losses could
    /// no longer be counted.
    pub(super) fn delimiter(&self) -> usize {
        match self {
            Self::Udp(_) => 0,
            Self::Serial(..) => 1,
        }
    }

    /// Sends packed bytes, waiting while there is no room; a collector that is away is the link's matter.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let socket = match self {
            Self::Udp(socket) => socket,
            Self::Serial(port, _) => return port.write_all(bytes),
        };
        loop {
            match socket.send(bytes) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_micros(50));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// A datagram or frame that has come, without waiting for one; its length in `out`.
    pub(super) fn receive(&self, out: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Udp(socket) => match socket.recv(out) {
                Ok(length) => Ok(Some(length)),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused
                    ) =>
                {
                    Ok(None)
                }
                Err(error) => Err(error),
            },
            Self::Serial(_, heard) => Ok(heard.try_recv().ok().map(|frame| {
                let length = frame.len().min(out.len()).min(MAX_FRAME);
                out[..length].copy_from_slice(&frame[..length]);
                length
            })),
        }
    }
}
