//! Unix sockets that are their owner's alone from their first moment.

use std::os::unix::net::UnixListener;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{Dir, FileError};

/// Connections that wait to be accepted: as many as the standard library asks for.
const BACKLOG: i32 = 128;

impl Dir {
    /// Listens at the Unix socket `name`, in the place of one that a killed process left. Blocks, as the standard library's do.
    ///
    /// # Errors
    /// Where something else has that name, or takes it in this moment.
    pub fn listen(&self, name: &str) -> Result<UnixListener, FileError> {
        self.remove(name)?;
        let path = self.socket_path(name)?;
        let bound = || {
            let address = SocketAddrUnix::new(&path)?;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            // The file gets the mode that the socket has. A mode that is set by name afterwards may be that of another file.
            rustix::fs::fchmod(&socket, Mode::from_raw_mode(super::dir::FILE_MODE))?;
            rustix::net::bind(&socket, &address)?;
            rustix::net::listen(&socket, BACKLOG)?;
            Ok::<_, rustix::io::Errno>(UnixListener::from(socket))
        };
        bound().map_err(|errno| FileError::io("listen at", &path, errno))
    }
}
