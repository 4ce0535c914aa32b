//! A portal of Postern: inlet node, relay (in one process with the authority), outlet node, in three homes of one project.

use std::path::{Path, PathBuf};

use postern_test_support::{Portal, Project, TestHome};

use super::{Kind, Part, Place, Setting, Way};
use crate::Result;
use crate::options::Options;
use crate::warden::{Entrusted, Warden};

pub fn start(setting: &Setting<'_>) -> Result<Way> {
    let binary = binary(setting.options)?;
    let mut entrusted = Vec::new();
    let admin = home(&binary, setting.warden, &mut entrusted);
    admin.run(&["enroll"]).success();
    let what = admin.ok(&["--version"]);
    let project = Project::of(admin);
    let mut member = |flags: &[&str]| {
        let home = home(&binary, setting.warden, &mut entrusted);
        let ticket = home.file("join.ticket", project.ticket(flags));
        home.invoke(["project", "enroll"]).arg(ticket).run().success();
        home
    };
    let vendor = member(&["--relay", "vendor"]);
    let outlet = format!("{{name: vendor, relay: vendor, tcp-outlet: {{from: service, to: '{}'}}}}", setting.service);
    vendor.ok(&["node", "create", "--configuration", &outlet]);
    let customer = member(&[]);
    let inlet = "{name: customer, tcp-inlet: {alias: service, from: '127.0.0.1:0', via: vendor, to: service}}";
    customer.ok(&["node", "create", "--configuration", inlet]);
    let portal = Portal { inlet: customer.inlet("service"), customer, vendor, project };
    let parts = vec![
        Part { place: Place::Near, name: "inlet node", pid: portal.customer.node_pid("customer") },
        Part { place: Place::Middle, name: "relay", pid: portal.project.servers_pid() },
        Part { place: Place::Far, name: "outlet node", pid: portal.vendor.node_pid("vendor") },
    ];
    // The homes first, then those who look after them.
    Ok(Way { kind: Kind::Postern, what, entry: portal.inlet, parts, _held: Box::new((portal, entrusted)) })
}

/// A home that is reset, and whose directory is removed, whatever becomes of the bench.
fn home(binary: &Path, warden: &Warden, entrusted: &mut Vec<Entrusted>) -> TestHome {
    let home = TestHome::new(binary);
    entrusted.extend([warden.home(binary, &home.path()), warden.directory(home.scratch())]);
    home
}

/// The `postern` to measure: the one named, or the one that stands beside this program.
fn binary(options: &Options) -> Result<PathBuf> {
    let named = options.postern.clone();
    let path = match &named {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("postern"),
    };
    if path.is_file() {
        return Ok(path.canonicalize()?);
    }
    let profile = if cfg!(debug_assertions) { "" } else { "--release " };
    Err(format!(
        "there is no {}: build it with `cargo build {profile}-p postern-cli`, or name another with --postern PATH",
        path.display()
    )
    .into())
}
