//! Reading the first bytes of a connection.

use std::io;

use postern_proto::preface::{self, PrefaceError, Service};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Why a connection was not understood. It is closed without an answer.
#[derive(Debug, thiserror::Error)]
pub enum PrefaceReadError {
    #[error(transparent)]
    Preface(#[from] PrefaceError),
    /// The peer went, or sent less than a preface.
    #[error("the connection ended before it said what it is for")]
    Io(#[from] io::Error),
}

/// What the peer wants. The caller sets a deadline. A peer that begins with other bytes is found out at its first 8.
///
/// # Errors
/// [`PrefaceReadError`].
pub async fn read_preface(stream: &mut (impl AsyncRead + Unpin)) -> Result<Service, PrefaceReadError> {
    let mut bytes = [0; preface::LEN];
    stream.read_exact(&mut bytes).await?;
    Ok(Service::from_preface(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn from_a_connection() {
        let mut bytes = &[Service::Peer.preface().as_slice(), b"rest"].concat()[..];
        assert_eq!(read_preface(&mut bytes).await.unwrap(), Service::Peer);
        assert_eq!(bytes, b"rest");
        assert!(matches!(
            read_preface(&mut &b"GET / HTTP/1.1"[..]).await,
            Err(PrefaceReadError::Preface(PrefaceError::NotPostern))
        ));
        assert!(matches!(read_preface(&mut &b"PSTN"[..]).await, Err(PrefaceReadError::Io(_))));
    }
}
