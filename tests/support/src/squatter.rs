//! Another user of this machine, who listens where somebody else should. Only root can be him.

use std::os::unix::fs::chown;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
use rustix::process::Uid;

/// A Unix socket at `path` of the user `uid`: either the file is his, or the file is root's and it is he who listens there.
///
/// # Panics
/// Where this process is not root's.
#[must_use]
pub fn listen_as(uid: u32, path: &Path, his_file: bool) -> UnixListener {
    if his_file {
        let listener = UnixListener::bind(path).expect("root makes sockets");
        chown(path, Some(uid), Some(uid)).expect("root gives files away");
        return listener;
    }
    let made = socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
    bind(&made, &SocketAddrUnix::new(path).expect("a path")).expect("root makes sockets");
    // Who connects is told by the kernel who it was when listening began. A thread can be somebody else alone.
    std::thread::scope(|scope| {
        let listening = scope.spawn(|| {
            let uid = Uid::from_raw(uid);
            rustix::thread::set_thread_res_uid(uid, uid, uid).expect("root is whom it likes");
            listen(&made, 8).expect("it listens");
        });
        listening.join().expect("no panic");
    });
    made.into()
}
