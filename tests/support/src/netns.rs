//! Network namespaces: machines of their own for a test, with their own ports, routes and host names. Only root makes them.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns exec` finds the files that it lays over those of `/etc`.
const OVERLAYS: &str = "/etc/netns";

/// Why namespaces cannot be made here; `None` where they can.
#[must_use]
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root makes network namespaces".to_owned());
    }
    match Command::new("ip").args(["netns", "list"]).output() {
        Err(error) => return Some(format!("the program `ip` cannot be run: {error}")),
        Ok(output) if !output.status.success() => return Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Ok(_) => {}
    }
    // A container may forbid it even to root.
    Namespace::try_new("probe").err().map(|error| format!("network namespaces cannot be made here: {error}"))
}

/// A network namespace with a loopback device, removed when dropped; what runs in it goes on without a network.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace whose loopback is up.
    ///
    /// # Panics
    /// Where that fails; ask [`unavailable`] first.
    #[must_use]
    pub fn new(label: &str) -> Self {
        Self::try_new(label).unwrap_or_else(|error| panic!("namespace {label}: {error}"))
    }

    fn try_new(label: &str) -> io::Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        remove_stale();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("postern-{}-{number}-{label}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        namespace.add_hosts(&[("127.0.0.1", "localhost")])?;
        Ok(namespace)
    }

    /// Its name for `ip -n`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn overlay(&self) -> PathBuf {
        Path::new(OVERLAYS).join(&self.name)
    }

    /// Makes names resolvable for what [`Self::command`] starts from now on.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn add_hosts(&self, hosts: &[(&str, &str)]) -> io::Result<()> {
        fs::create_dir_all(self.overlay())?;
        let file = self.overlay().join("hosts");
        let mut text = fs::read_to_string(&file).unwrap_or_default();
        hosts.iter().for_each(|(address, name)| text += &format!("{address} {name}\n"));
        fs::write(file, text)
    }

    /// Has what [`Self::command`] starts from now on ask the name server at `address`, behind the hosts of [`Self::add_hosts`].
    /// Each name is asked for once, however long the answer takes.
    ///
    /// # Errors
    /// Where the files cannot be written.
    pub fn resolves_at(&self, address: &str) -> io::Result<()> {
        fs::create_dir_all(self.overlay())?;
        fs::write(self.overlay().join("resolv.conf"), format!("nameserver {address}\noptions timeout:30 attempts:1\n"))?;
        // A machine may have names looked up by a service of its own.
        if Path::new("/etc/nsswitch.conf").exists() {
            fs::write(self.overlay().join("nsswitch.conf"), "hosts: files dns\n")?;
        }
        Ok(())
    }

    /// A command that will run in the namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// The same for a command that is there already.
    #[must_use]
    pub fn around(&self, command: &Command) -> Command {
        let mut inside = self.command(command.get_program());
        inside.args(command.get_args());
        command.get_current_dir().map(|directory| inside.current_dir(directory));
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Runs `ip` with `arguments` in the namespace.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, arguments: &[&str]) -> io::Result<()> {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// Runs `inside` on a thread in the namespace: sockets that it makes belong there, wherever they are used afterwards.
    ///
    /// # Panics
    /// Where the namespace cannot be entered, or `inside` panics.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let file = File::open(Path::new("/run/netns").join(&self.name)).expect("the namespace has a name");
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("the namespace can be entered");
                inside()
            });
            entered.join().expect("what runs inside does not panic")
        })
    }

    /// Joins two namespaces with a cable; `near` and `far` are their addresses with prefix length, such as `10.77.1.1/24`. Returns the
    /// name of its near end, by which it can be removed.
    ///
    /// # Panics
    /// Where that fails.
    pub fn connect(&self, near: &str, other: &Self, far: &str) -> String {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Names of devices have 15 characters at most. They are made inside, so that they meet no device of the machine.
        let (here, there) = (format!("a{number}"), format!("b{number}"));
        let made = self
            .ip(&["link", "add", &here, "type", "veth", "peer", "name", &there, "netns", &other.name])
            .and_then(|()| self.ip(&["addr", "add", near, "dev", &here]))
            .and_then(|()| self.ip(&["link", "set", &here, "up"]))
            .and_then(|()| other.ip(&["addr", "add", far, "dev", &there]))
            .and_then(|()| other.ip(&["link", "set", &there, "up"]));
        made.unwrap_or_else(|error| panic!("cable between {} and {}: {error}", self.name, other.name));
        here
    }

    /// Whether the namespace passes on what is not for itself. What it does not, is gone without a word.
    ///
    /// # Panics
    /// Where that cannot be set.
    pub fn forwards(&self, forwards: bool) {
        // The file is that of the namespace in which the thread runs.
        self.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", if forwards { "1" } else { "0" }).expect("root sets it"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn remove(name: &str) {
    // Nothing else of the test depends on either.
    let _ = ip(&["netns", "del", name]);
    let _ = fs::remove_dir_all(Path::new(OVERLAYS).join(name));
}

/// Removes what a test process that was killed has left.
fn remove_stale() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let owner =
            name.strip_prefix("postern-").and_then(|rest| rest.split('-').next()).filter(|pid| pid.parse::<u32>().is_ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(name);
        }
    }
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())))
}
