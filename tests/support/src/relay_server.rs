//! A relay on its own, beside the one of the authority's process.

use crate::home::TestHome;
use crate::poll::{PATIENCE, eventually};
use crate::processes;
use crate::project::Project;
use crate::run::Foreground;
use crate::servers::Reserved;

/// A relay of a project, in a home and a process of its own.
pub struct RelayServer {
    /// `HOST:PORT`, as nodes are told.
    pub address: String,
    home: TestHome,
    process: Option<Foreground>,
}

impl RelayServer {
    /// Joins `project` by a ticket, and serves.
    #[track_caller]
    #[must_use]
    pub fn join(project: &Project) -> Self {
        Self::join_with(project, &[])
    }

    /// As [`Self::join`], with these variables in its environment.
    #[track_caller]
    #[must_use]
    pub fn join_with(project: &Project, environment: &[(&str, &str)]) -> Self {
        let home = project.stranger();
        let port = Reserved::new();
        let address = format!("127.0.0.1:{}", port.port());
        let ticket = home.file("relay.ticket", project.ticket(&["--relay-server", &address]));
        let _port = port.release();
        let invocation = home.invoke(["serve", "relay", "--listen", &address, "--ticket"]).arg(ticket);
        let invocation = environment.iter().fold(invocation, |invocation, (name, value)| invocation.env(name, value));
        let process = invocation.spawn();
        process.line_with("serving on", PATIENCE);
        Self { address, home, process: Some(process) }
    }

    /// What it has printed, its log among it.
    #[must_use]
    pub fn output(&self) -> String {
        self.process.as_ref().map(Foreground::output).unwrap_or_default()
    }

    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }

    /// Ends it at once (SIGKILL).
    #[track_caller]
    pub fn kill(&mut self) {
        let process = self.process.take().expect("it runs");
        processes::signal(process.pid(), rustix::process::Signal::KILL);
        process.wait();
    }

    /// Serves again, after [`Self::kill`].
    #[track_caller]
    pub fn start(&mut self) {
        let process = self.home.spawn(&["serve", "relay", "--listen", &self.address]);
        process.line_with("serving on", PATIENCE);
        self.process = Some(process);
    }
}

impl TestHome {
    /// Waits until the default node has registered `name` at exactly so many relay servers.
    #[track_caller]
    pub fn registered_at(&self, name: &str, servers: usize) {
        eventually(PATIENCE, "the relay name at the relays", || {
            let document = self.json(&["relay", "show", name]);
            let servers_of = document["servers"].as_array().into_iter().flatten();
            (servers_of.filter(|server| server["status"] == "Up").count() == servers).then_some(())
        });
    }
}
