//! Whether a name leads to this machine itself, as far as its own files tell: nobody is asked. So that whoever writes an outlet learns at
//! once that its name will not be followed.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};

use postern_proto::address::HostPort;

use super::DialError;
use super::target::{is_named, is_of_this_place};

/// Where this machine writes down names and their addresses.
const HOSTS: &str = "/etc/hosts";

/// How much of it is read: thousands of times what a machine has, also one that blocks advertisers by it.
const MAX_HOSTS: u64 = 16 * 1024 * 1024;

/// A name that leads to this machine, where [`super::dial_target`] does not follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnName {
    /// `/etc/hosts` gives it this address, and no other one that would be dialled.
    Listed(SocketAddr),
    /// It is what the machine calls itself, and `/etc/hosts` says nothing else of it.
    HostName,
}

impl OwnName {
    /// What will come of an outlet to `to`, and what to write instead.
    #[must_use]
    pub fn warning(&self, to: &HostPort) -> String {
        match self {
            Self::Listed(address) => DialError::Forbidden { host: to.host().to_owned(), address: *address }.to_string(),
            Self::HostName => format!(
                "`{}` is what this machine calls itself: where it leads to a loopback address, it is not followed; write `localhost:{}` if this \
                 machine is meant",
                to.host(),
                to.port()
            ),
        }
    }
}

/// Whether the name in `to` leads to this machine; `None` where it does not, where nothing here tells, and where the place is written itself.
#[must_use]
pub fn own_name(to: &HostPort) -> Option<OwnName> {
    if is_named(to) {
        return None;
    }
    let mut hosts = Vec::new();
    // A machine without the file has no such names.
    if let Ok(file) = File::open(HOSTS) {
        let _ = file.take(MAX_HOSTS).read_to_end(&mut hosts);
    }
    judge(to, &String::from_utf8_lossy(&hosts), &rustix::system::uname().nodename().to_string_lossy())
}

fn judge(to: &HostPort, hosts: &str, host_name: &str) -> Option<OwnName> {
    let host = to.host().trim_end_matches('.');
    let addresses: Vec<SocketAddr> =
        hosts.lines().filter_map(|line| address_of(line, host)).map(|ip| SocketAddr::new(ip, to.port())).collect();
    match addresses.first() {
        // One that may be dialled is enough.
        Some(first) => addresses.iter().all(|address| is_of_this_place(*address)).then_some(OwnName::Listed(*first)),
        None => host.eq_ignore_ascii_case(host_name).then_some(OwnName::HostName),
    }
}

/// The address of a line such as `127.0.1.1 myhost.example myhost`, where it has the name `host`.
fn address_of(line: &str, host: &str) -> Option<IpAddr> {
    let mut words = line.split('#').next()?.split_ascii_whitespace();
    let address = words.next()?.parse().ok()?;
    words.any(|name| name.trim_end_matches('.').eq_ignore_ascii_case(host)).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: &str = "\
127.0.0.1\tlocalhost
127.0.1.1 myhost.example MyHost   # Debian's
::1 six
10.0.0.5 db
# 127.0.0.1 commented
127.0.0.1 both
10.0.0.6 both
nonsense both
";

    fn judged(to: &str, host_name: &str) -> Option<OwnName> {
        judge(&to.parse().unwrap(), HOSTS, host_name)
    }

    #[test]
    fn names_of_this_machine() {
        let listed = |address: &str| Some(OwnName::Listed(address.parse().unwrap()));
        assert_eq!(judged("myhost:5432", "myhost"), listed("127.0.1.1:5432"));
        assert_eq!(judged("MYHOST.example.:5432", "other"), listed("127.0.1.1:5432"));
        assert_eq!(judged("six:1", "other"), listed("[::1]:1"));
        assert_eq!(judged("box:80", "box"), Some(OwnName::HostName));
        let said = OwnName::HostName.warning(&"box:80".parse().unwrap());
        assert!(said.contains("`localhost:80`"), "{said}");
    }

    #[test]
    fn names_of_others() {
        for to in ["db:1", "both:1", "commented:1", "example.org:1"] {
            assert_eq!(judged(to, "box"), None, "{to}");
        }
        // The file says where this machine's own name leads.
        assert_eq!(judged("db:1", "db"), None);
        for written in ["localhost:1", "127.0.1.1:1", "[::1]:1"] {
            assert_eq!(own_name(&written.parse().unwrap()), None, "{written}");
        }
    }
}
