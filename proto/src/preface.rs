//! The first bytes of every TCP connection to a Postern listener: that this is Postern, and what the connection is for. One port
//! serves all. Specified in `docs/protocol/links.md`.

/// Length of a preface: `"PSTN" ‖ u8 version ‖ u8 service ‖ 0 ‖ 0`.
pub const LEN: usize = 8;

const MAGIC: [u8; 4] = *b"PSTN";
/// Version of the preface itself. The protocol's own version is negotiated in the handshake.
const VERSION: u8 = 1;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Service {
    /// A session with the authority.
    Authority = 1,
    /// A control link of a node with a relay.
    RelayControl = 2,
    /// A data link of a node with a relay.
    RelayData = 3,
    /// A path from another node, without a relay.
    Peer = 4,
}

/// Why the first bytes of a connection are no preface. Such a connection is closed without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    #[error("the peer does not speak Postern's protocol")]
    NotPostern,
    #[error("the peer's connection has version {0}, which this program does not know")]
    Version(u8),
    #[error("the peer asks for service {0}, which this program does not know")]
    Service(u8),
}

impl Service {
    const ALL: [Self; 4] = [Self::Authority, Self::RelayControl, Self::RelayData, Self::Peer];

    #[must_use]
    pub const fn preface(self) -> [u8; LEN] {
        let [a, b, c, d] = MAGIC;
        [a, b, c, d, VERSION, self as u8, 0, 0]
    }

    /// # Errors
    /// [`PrefaceError`].
    pub fn from_preface(bytes: &[u8; LEN]) -> Result<Self, PrefaceError> {
        let [a, b, c, d, version, service, reserved @ ..] = *bytes;
        if [a, b, c, d] != MAGIC {
            return Err(PrefaceError::NotPostern);
        }
        if version != VERSION {
            return Err(PrefaceError::Version(version));
        }
        if reserved != [0, 0] {
            return Err(PrefaceError::NotPostern);
        }
        Self::ALL.into_iter().find(|known| *known as u8 == service).ok_or(PrefaceError::Service(service))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefaces() {
        assert_eq!(Service::RelayData.preface(), *b"PSTN\x01\x03\0\0");
        for service in Service::ALL {
            assert_eq!(Service::from_preface(&service.preface()), Ok(service));
        }
        for (bytes, error) in [
            (*b"GET / HT", PrefaceError::NotPostern),
            (*b"\x16\x03\x01\x02\0\x01\0\x01", PrefaceError::NotPostern),
            (*b"SSH-2.0-", PrefaceError::NotPostern),
            (*b"PSTN\x02\x01\0\0", PrefaceError::Version(2)),
            (*b"PSTN\x01\x00\0\0", PrefaceError::Service(0)),
            (*b"PSTN\x01\x05\0\0", PrefaceError::Service(5)),
            (*b"PSTN\x01\x01\0\x01", PrefaceError::NotPostern),
        ] {
            assert_eq!(Service::from_preface(&bytes), Err(error));
        }
    }
}
