//! A portal between two members of a project, for suites about what passes through it.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;

use crate::home::TestHome;
use crate::inspect::resident;
use crate::project::Project;

/// A project with two members: the node `vendor` offers the outlet `service` under the relay name `vendor`; the node `customer` has
/// an inlet `service` that reaches it.
#[derive(Debug)]
pub struct Portal {
    pub inlet: SocketAddr,
    pub customer: TestHome,
    pub vendor: TestHome,
    pub project: Project,
}

impl Portal {
    /// All of it, to a service at a port of this machine.
    #[track_caller]
    #[must_use]
    pub fn to(binary: impl AsRef<Path>, target: u16) -> Self {
        Self::in_project(Project::new(binary), target)
    }

    /// The two members, in a project that is there.
    #[track_caller]
    #[must_use]
    pub fn in_project(project: Project, target: u16) -> Self {
        let vendor = Self::vendor(&project, target);
        let (customer, inlet) = Self::customer(&project);
        Self { inlet, customer, vendor, project }
    }

    /// A new member whose node `vendor` has the outlet.
    #[track_caller]
    #[must_use]
    pub fn vendor(project: &Project, target: u16) -> TestHome {
        let vendor = project.member(&["--relay", "vendor"]);
        let configuration = format!("{{name: vendor, relay: vendor, tcp-outlet: {{from: service, to: {target}}}}}");
        vendor.ok(&["node", "create", "--configuration", &configuration]);
        vendor
    }

    /// A new member whose node `customer` has the inlet, and where it listens.
    #[track_caller]
    #[must_use]
    pub fn customer(project: &Project) -> (TestHome, SocketAddr) {
        let customer = project.member(&[]);
        let configuration = "{name: customer, tcp-inlet: {alias: service, from: '127.0.0.1:0', via: vendor, to: service}}";
        customer.ok(&["node", "create", "--configuration", configuration]);
        let inlet = customer.inlet("service");
        (customer, inlet)
    }

    /// Resident memory of the three processes that carry bytes: inlet node, relay, outlet node.
    #[track_caller]
    pub fn resident(&self) -> [u64; 3] {
        [self.customer.node_pid("customer"), self.project.servers_pid(), self.vendor.node_pid("vendor")].map(resident)
    }
}

impl TestHome {
    /// Where the inlet `alias` of the default node listens.
    #[track_caller]
    pub fn inlet(&self, alias: &str) -> SocketAddr {
        let inlet = self.json(&["tcp-inlet", "show", alias]);
        inlet["bind_addr"].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no address in {inlet}"))
    }

    /// What `status` says of the portal that begins at the inlet `alias`.
    #[track_caller]
    pub fn portal(&self, alias: &str) -> Value {
        let outcome = self.run(&["status"]);
        let status = outcome.json();
        let portals = status["portals"].as_array().unwrap_or_else(|| panic!("no portals in {status}"));
        let found = portals.iter().find(|portal| portal["inlet"] == alias).cloned();
        let found = found.unwrap_or_else(|| panic!("no inlet {alias} in {status}"));
        assert!(outcome.status != 0 || portals.iter().all(|portal| portal["ok"] == true), "all is not well: {outcome:?}");
        found
    }
}
