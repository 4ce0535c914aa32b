//! OpenSSH: a forward through one sshd, which the bench starts with keys and a configuration of its own on a free port.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::{Held, Kind, Part, Place, STARTS, Setting, Started, find, printed};
use crate::Result;
use crate::hosts::Side;
use crate::process::{Owned, descendants, wait_for};

const INSTALL: &str = "OpenSSH's client and server, such as `apt-get install openssh-client openssh-server`";

/// `ssh -L` (the client's port is at the ssh beside it) or `ssh -R` (at the sshd).
pub fn start(kind: Kind, setting: &Setting<'_>) -> Result<Started> {
    let options = setting.options;
    let (Some(ssh), Some(sshd), Some(keygen)) =
        (find("ssh", options.ssh.as_ref()), find("sshd", options.sshd.as_ref()), find("ssh-keygen", None))
    else {
        return Ok(Started::Missing(INSTALL.to_owned()));
    };
    let mut held = Held::new(setting)?;
    let directory = held.directory().to_owned();
    for key in ["host", "user"] {
        printed(Command::new(&keygen).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(directory.join(key)))?;
    }
    let (place, direction, daemons_side) =
        if kind == Kind::SshL { (Place::Near, "-L", Side::Service) } else { (Place::Far, "-R", Side::Client) };
    let clients_side = if kind == Kind::SshL { Side::Client } else { Side::Service };
    let server = server(&mut held, &sshd, &directory, setting, daemons_side)?;
    // A remote forward listens on loopback, unless the server's configuration says otherwise.
    let entry = SocketAddr::from(([127, 0, 0, 1], setting.free(Side::Client).port()));
    let user = printed(Command::new("id").arg("-un"))?;
    let mut command = Command::new(&ssh);
    command.args(["-N", "-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ExitOnForwardFailure=yes"]);
    command.args(["-o", "StrictHostKeyChecking=yes", "-o"]);
    command.arg(format!("UserKnownHostsFile={}", directory.join("known").display()));
    command.arg("-i").arg(directory.join("user")).args(["-p", &server.port().to_string(), "-l", &user, &server.ip().to_string()]);
    command.arg(direction).arg(format!("{entry}:{}", setting.service));
    // sshd logs its clients in with processes that end then; this forward, to nobody, is listened to by one that comes after them.
    let after_login = SocketAddr::from(([127, 0, 0, 1], setting.free(daemons_side).port()));
    command.arg("-R").arg(format!("{after_login}:{}", setting.free(clients_side)));
    let client = Owned::spawn(&setting.on(clients_side, command), setting.warden)?;
    let mut parts = vec![Part { place, name: "ssh", pid: client.pid() }];
    held.process(client);
    setting.listens(entry, "ssh's forward")?;
    setting.listens_at(daemons_side, after_login, "sshd after the login")?;
    let daemon = held.processes().next().ok_or("no sshd")?;
    parts.extend(descendants(daemon).into_iter().map(|pid| Part { place: Place::Middle, name: "sshd", pid }));
    parts.sort_by_key(|part| part.place);
    // It tells its version with its errors.
    let version = Command::new(&ssh).arg("-V").output()?.stderr;
    let what = String::from_utf8_lossy(&version).split(',').next().unwrap_or_default().trim().to_owned();
    Ok(Started::Runs(held.way(kind, format!("{what}, ssh {direction}"), entry, parts)))
}

/// An sshd that knows one key.
fn server(held: &mut Held, sshd: &Path, directory: &Path, setting: &Setting<'_>, side: Side) -> Result<SocketAddr> {
    if rustix::process::geteuid().is_root() {
        // The server insists on it; packages make it when the machine starts.
        fs::create_dir_all("/run/sshd")?;
    }
    fs::copy(directory.join("user.pub"), directory.join("authorized"))?;
    let address = setting.free(side);
    let host = fs::read_to_string(directory.join("host.pub"))?;
    fs::write(directory.join("known"), format!("[{}]:{} {host}", address.ip(), address.port()))?;
    let file = |name: &str| directory.join(name).display().to_string();
    fs::write(
        directory.join("config"),
        format!(
            "Port {}\nListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n",
            address.port(),
            address.ip(),
            file("host"),
            file("authorized")
        ),
    )?;
    let mut command = Command::new(sshd);
    command.arg("-D").arg("-f").arg(file("config")).arg("-E").arg(file("log"));
    let daemon = Owned::spawn(&setting.on(side, command), setting.warden)?;
    setting.listens(address, "sshd")?;
    // The process that took that connection must not be counted among those that carry bytes.
    wait_for("sshd to be alone", STARTS, || descendants(daemon.pid()).is_empty().then_some(()))?;
    held.process(daemon);
    Ok(address)
}
