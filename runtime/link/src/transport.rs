//! Carriers of frames: UDP and serial, both of which may come and go.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::time::{Duration, Instant};

use pilotlight_wire::{Deframer, MAX_SERIAL, frame_serial};
use serial2::SerialPort;
use thiserror::Error;

use crate::target::Target;

/// How long a vanished port rests before it is looked for again.
const REST: Duration = Duration::from_secs(1);

/// A carrier that does not carry now; the caller goes on, and the carrier looks for its port again by itself.
#[derive(Debug, Error)]
#[error("telemetry link {name}: {source}; trying again")]
pub struct TransportError {
    name: String,
    source: io::Error,
}

/// Carries frames. No call waits longer than it is told, and none panics when the carrier is gone.
pub trait Transport: Send {
    /// Sends one frame.
    ///
    /// # Errors
    /// The carrier does not work now; the frame is lost, as on any lossy link.
    fn send(&mut self, frame: &[u8]) -> Result<(), TransportError>;

    /// Waits at most `wait` for a datagram's or line's frames, and gives their length in `out`.
    ///
    /// # Errors
    /// The carrier does not work now.
    fn receive(&mut self, out: &mut [u8], wait: Duration) -> Result<Option<usize>, TransportError>;
}

impl Target {
    /// The carrier for this target; a serial port may be absent now and come later.
    ///
    /// # Errors
    /// A host that does not resolve, or no socket.
    pub fn open(&self) -> Result<Box<dyn Transport>, TransportError> {
        Ok(match self {
            Self::Udp { address } => Box::new(UdpTransport::connect(address)?),
            Self::Serial { path, baud } => Box::new(SerialTransport::new(path, *baud)),
        })
    }
}

/// Datagrams to one host.
#[derive(Debug)]
pub struct UdpTransport {
    socket: UdpSocket,
    name: String,
}

impl UdpTransport {
    /// A socket that sends to `address` (`host:port`) and hears from there only.
    ///
    /// # Errors
    /// The host does not resolve, or the system gives no socket.
    pub fn connect(address: &str) -> Result<Self, TransportError> {
        let name = format!("udp://{address}");
        let open = || {
            let no_address = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
            let peer = address.to_socket_addrs()?.next().ok_or(no_address)?;
            let any: SocketAddr = match peer {
                SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
                SocketAddr::V6(_) => ([0u16; 8], 0).into(),
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect(peer)?;
            Ok(socket)
        };
        match open() {
            Ok(socket) => Ok(Self { socket, name }),
            Err(source) => Err(TransportError { name, source }),
        }
    }

    fn error(&self, source: io::Error) -> TransportError {
        TransportError { name: self.name.clone(), source }
    }
}

impl Transport for UdpTransport {
    fn send(&mut self, frame: &[u8]) -> Result<(), TransportError> {
        match self.socket.send(frame) {
            Ok(_) => Ok(()),
            Err(source) => Err(self.error(source)),
        }
    }

    fn receive(&mut self, out: &mut [u8], wait: Duration) -> Result<Option<usize>, TransportError> {
        // A zero time-out would mean "for ever".
        let wait = wait.max(Duration::from_micros(1));
        match self.socket.set_read_timeout(Some(wait)).and_then(|()| self.socket.recv(out)) {
            Ok(length) => Ok(Some(length)),
            Err(error) if is_timeout(&error) => Ok(None),
            Err(source) => Err(self.error(source)),
        }
    }
}

/// A serial port that may be unplugged and plugged in again.
pub struct SerialTransport {
    path: String,
    baud: u32,
    port: Option<SerialPort>,
    tried: Option<Instant>,
    deframer: Deframer,
    bytes: Vec<u8>,
    noise: u64,
}

impl SerialTransport {
    /// A port by its path; opened at the first use and again whenever it was gone.
    pub fn new(path: &str, baud: u32) -> Self {
        Self {
            path: path.to_owned(),
            baud,
            port: None,
            tried: None,
            deframer: Deframer::new(),
            bytes: Vec::new(),
            noise: 0,
        }
    }

    /// A port that is open already, such as an end of a pseudo-terminal pair; it is not opened again when it goes.
    pub fn from_port(name: &str, port: SerialPort) -> Self {
        Self { port: Some(port), ..Self::new(name, 0) }
    }

    /// Stretches of the line that held no frame.
    pub fn noise(&self) -> u64 {
        self.noise
    }

    fn port(&mut self) -> Result<&mut SerialPort, io::Error> {
        if self.port.is_none() {
            if self.tried.is_some_and(|tried| tried.elapsed() < REST) || self.baud == 0 {
                return Err(io::Error::new(io::ErrorKind::NotConnected, "the port is gone"));
            }
            self.tried = Some(Instant::now());
            let mut port = SerialPort::open(&self.path, self.baud)?;
            port.set_write_timeout(Duration::from_millis(500))?;
            self.port = Some(port);
            self.deframer = Deframer::new();
        }
        self.port.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn gone(&mut self, source: io::Error) -> TransportError {
        self.port = None;
        TransportError { name: format!("serial://{}", self.path), source }
    }
}

impl Transport for SerialTransport {
    fn send(&mut self, frame: &[u8]) -> Result<(), TransportError> {
        let mut line = [0; MAX_SERIAL];
        // The sender makes no frame above MAX_FRAME, so this cannot fail; a failure would be a lost frame.
        let length = frame_serial(frame, &mut line).unwrap_or(0);
        let written = self.port().and_then(|port| port.write_all(&line[..length]));
        written.map_err(|source| self.gone(source))
    }

    fn receive(&mut self, out: &mut [u8], wait: Duration) -> Result<Option<usize>, TransportError> {
        let until = Instant::now() + wait;
        loop {
            while let Some(byte) = self.bytes.pop() {
                match self.deframer.push(byte) {
                    None => {}
                    Some(Ok(frame)) if frame.len() <= out.len() => {
                        out[..frame.len()].copy_from_slice(frame);
                        return Ok(Some(frame.len()));
                    }
                    Some(_) => self.noise += 1,
                }
            }
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let mut read = [0; 512];
            let got = self.port().and_then(|port| {
                port.set_read_timeout(left)?;
                port.read(&mut read)
            });
            match got {
                Ok(0) => return Err(self.gone(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => self.bytes.extend(read[..length].iter().rev()),
                Err(error) if is_timeout(&error) => return Ok(None),
                Err(error) => {
                    let error = self.gone(error);
                    std::thread::sleep(until.saturating_duration_since(Instant::now()));
                    return Err(error);
                }
            }
            if Instant::now() >= until && self.bytes.is_empty() {
                return Ok(None);
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
