//! Sockets: dialling, listening, the options that each kind of socket gets, and the first bytes of a connection.

pub mod dial;
mod free_port;
pub mod half_open;
pub mod listen;
mod options;
mod own_names;
mod preface;
mod target;

pub use self::dial::{DialError, dial, dial_allowed};
pub use self::half_open::{Evicted, HalfOpen, HalfOpenGuard, Source};
pub use self::listen::{Accepted, Acceptor, BindError, bind, bind_lasting};
pub use self::options::SocketKind;
pub use self::own_names::{OwnName, own_name};
pub use self::preface::{PrefaceReadError, read_preface};
pub use self::target::dial_target;
