//! Where telemetry goes: `udp://HOST:PORT` or `serial:///dev/ttyX?baud=N`.

use std::str::FromStr;

use thiserror::Error;

/// Where telemetry goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Datagrams to a host.
    Udp {
        /// `host:port`, resolved when the link opens.
        address: String,
    },
    /// A serial port.
    Serial {
        /// The port's path.
        path: String,
        /// Symbols a second.
        baud: u32,
    },
}

/// A target that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("telemetry target {text:?}: {why}; write udp://HOST:PORT or serial:///dev/ttyX?baud=115200")]
pub struct TargetError {
    text: String,
    why: &'static str,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let wrong = |why| TargetError { text: text.to_owned(), why };
        if let Some(address) = text.strip_prefix("udp://") {
            let (host, port) = address.rsplit_once(':').ok_or(wrong("no port"))?;
            if host.is_empty() {
                return Err(wrong("no host"));
            }
            port.parse::<u16>().ok().filter(|&port| port > 0).ok_or(wrong("the port is not 1 to 65535"))?;
            return Ok(Self::Udp { address: address.to_owned() });
        }
        let rest = text.strip_prefix("serial://").ok_or(wrong("unknown scheme"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, "baud=115200"));
        if path.is_empty() {
            return Err(wrong("no port path"));
        }
        let baud = query.strip_prefix("baud=").ok_or(wrong("the only setting is baud"))?;
        let baud =
            baud.parse().ok().filter(|&baud| baud > 0).ok_or(wrong("baud is not a positive number"))?;
        Ok(Self::Serial { path: path.to_owned(), baud })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_or_refused_with_the_reason() {
        let udp = |address: &str| Target::Udp { address: address.to_owned() };
        let serial = |baud| Target::Serial { path: "/dev/ttyUSB0".to_owned(), baud };
        assert_eq!("udp://host:7600".parse(), Ok(udp("host:7600")));
        assert_eq!("udp://[::1]:7600".parse(), Ok(udp("[::1]:7600")));
        assert_eq!("serial:///dev/ttyUSB0".parse(), Ok(serial(115_200)));
        assert_eq!("serial:///dev/ttyUSB0?baud=9600".parse(), Ok(serial(9600)));
        for wrong in ["", "tcp://h:1", "udp://h", "udp://:1", "udp://h:0", "udp://h:99999", "serial://"]
            .into_iter()
            .chain(["serial:///dev/tty?speed=1", "serial:///dev/tty?baud=0"])
        {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
