//! A project on this machine, and homes that join it.

use std::ops::Deref;
use std::path::Path;

use crate::home::TestHome;

/// The home of a project's administrator, with authority and relay running in it.
#[derive(Debug)]
pub struct Project {
    admin: TestHome,
}

impl Project {
    /// `postern enroll` in a new home.
    #[track_caller]
    #[must_use]
    pub fn new(binary: impl AsRef<Path>) -> Self {
        let admin = TestHome::new(binary);
        admin.run(&["enroll"]).success();
        Self { admin }
    }

    /// The project of a home in which `enroll` has run.
    #[must_use]
    pub const fn of(admin: TestHome) -> Self {
        Self { admin }
    }

    /// `project ticket` with these flags; the ticket's text.
    #[track_caller]
    pub fn ticket(&self, flags: &[&str]) -> String {
        ticket(&self.admin, flags)
    }

    /// A new home whose default identity has joined by a ticket with these flags.
    #[track_caller]
    #[must_use]
    pub fn member(&self, flags: &[&str]) -> TestHome {
        let home = TestHome::new(self.admin.binary());
        let file = home.file("join.ticket", self.ticket(flags));
        home.invoke(["project", "enroll"]).arg(file).run().success();
        home
    }

    /// A new home that has joined nothing, for a node that brings its ticket.
    #[must_use]
    pub fn stranger(&self) -> TestHome {
        TestHome::new(self.admin.binary())
    }
}

impl Deref for Project {
    type Target = TestHome;

    fn deref(&self) -> &TestHome {
        &self.admin
    }
}

/// A ticket that the member of `home` makes.
#[track_caller]
fn ticket(home: &TestHome, flags: &[&str]) -> String {
    home.invoke(["project", "ticket"]).args(flags).run().success().line().to_owned()
}
