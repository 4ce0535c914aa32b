//! `postern demo`: the scenario of two companies on this machine, with real processes, shown step by step.

mod recorder;
mod service;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use postern_proto::secret::random_array;
use postern_runtime::daemon::Signals;
use serde::Serialize;
use serde_json::Value;

use self::recorder::{Recorder, Scan};
use crate::code;
use crate::context::Context;
use crate::error::CliError;
use crate::output::Versioned;

/// How long something that happens in the background may take to be seen.
const PATIENCE: Duration = Duration::from_secs(8);

/// Watch two companies reach each other on this machine, with real processes
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Leave everything running until the command is ended (Ctrl-C), and print how to look at it
    #[arg(long)]
    keep: bool,
}

/// What the demo saw, for programs.
#[derive(Debug, Serialize)]
struct Report {
    seconds: f64,
    customer_reached_vendor: bool,
    vendor_reached_customer: bool,
    third_node_refused: bool,
    refusal: String,
    reused_ticket_refused: bool,
    bytes_at_relay: u64,
    readable_at_relay: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    homes: Option<PathBuf>,
}

pub fn run(context: &Context, args: &DemoArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let stage = Stage::new(context)?;
    let played = play(&stage, began);
    // Whatever happened, nothing is left running that nobody asked for.
    let report = match played {
        Ok(mut report) if args.keep => {
            report.homes = Some(stage.root.clone());
            report
        }
        other => {
            stage.clear();
            other?
        }
    };
    if context.output().wants_json() {
        context.output().show(&Versioned::new(report), String::new)?;
    }
    if args.keep {
        context.output().say(format!(
            "\nEverything runs until you end this command (Ctrl-C). Look around meanwhile, for instance:\n  POSTERN_HOME={} postern status",
            stage.root.join("customer").display()
        ));
        let stopped = context.block_on(async {
            Signals::new()?.next().await;
            Ok::<_, std::io::Error>(())
        });
        stage.clear();
        stopped??;
    }
    Ok(())
}

fn play(stage: &Stage<'_>, began: Instant) -> Result<Report, CliError> {
    let io = |error: std::io::Error| CliError::from(error);
    stage.say("Two companies: Initech sells a product, ACME runs it against a server of its own. Neither opens a port.\n");

    let [vendor_canary, customer_canary, asker_canary] = [(); 3].map(|()| canary());
    let vendor_service = service::serve(format!("Initech's product, {vendor_canary}")).map_err(io)?;
    let customer_service = service::serve(format!("ACME's git server, {customer_canary}")).map_err(io)?;
    let recorder = Recorder::start().map_err(io)?;

    let advertise = recorder.address.to_string();
    let made = stage.step("Initech makes a project: authority, relay, administrator", || {
        stage.json("initech", &["enroll", "--advertise", &advertise])
    })?;
    recorder.set_target(address(&made["address"])?);

    let saas_ticket = stage.step("Initech issues a one-time ticket for its own node", || {
        let attributes =
            ["--attribute", "outlet-to-saas", "--attribute", "inlet-from-saas", "--relay", "saas-relay", "--enroller"];
        stage.ticket("initech", "saas.ticket", &attributes)
    })?;
    let saas = format!(
        "relay: saas-relay\n\ntcp-outlet:\n  from: saas\n  to: {vendor_service}\n  allow: inlet-to-saas\n\n\
         policy:\n  resource-type: tcp-inlet\n  allow: outlet-from-saas\n"
    );
    let saas = stage.file("saas.yaml", &saas)?;
    stage.step("Initech's node starts: an outlet to its product", || {
        stage.postern("vendor", &["node", "create", &saas, "--enrollment-ticket", &saas_ticket])
    })?;
    let acme_ticket = stage.step("that node, an enroller, issues ACME's ticket", || {
        let attributes = ["--attribute", "inlet-to-saas", "--attribute", "outlet-from-saas", "--relay", "acme-relay"];
        stage.ticket("vendor", "acme.ticket", &attributes)
    })?;
    let customer = "relay: $RELAY\n\ntcp-inlet:\n  from: 127.0.0.1:0\n  via: saas-relay\n  to: saas\n  alias: saas\n  allow: outlet-to-saas\n\n\
                    tcp-outlet:\n  from: github\n  to: $GITHUB_ADDRESS\n  allow: inlet-from-saas\n\n\
                    policy:\n  resource-type: tcp-outlet\n  allow: inlet-from-saas\n";
    let customer = stage.file("customer.yaml", customer)?;
    stage.step("ACME runs one command inside its network", || {
        let github = format!("GITHUB_ADDRESS={customer_service}");
        let create = ["node", "create", &customer, "--enrollment-ticket", &acme_ticket, "--variable", "RELAY=acme-relay"];
        stage.postern("customer", &[&create[..], &["--variable", &github]].concat())
    })?;
    let page = stage.step("ACME reaches Initech's product through its inlet", || {
        let inlet = stage.inlet("customer", "saas")?;
        stage.fetch(inlet, &asker_canary, &vendor_canary)
    })?;
    stage.quote(&page);
    let page = stage.step("Initech reaches ACME's git server, and only that", || {
        let create =
            ["tcp-inlet", "create", "--from", "127.0.0.1:0", "--via", "acme-relay", "--to", "github", "--alias", "github"];
        stage.postern("vendor", &create)?;
        let inlet = stage.inlet("vendor", "github")?;
        stage.fetch(inlet, &asker_canary, &customer_canary)
    })?;
    stage.quote(&page);

    let refusal = stage.step("a third node, with a ticket but other attributes, is refused", || {
        let ticket = stage.ticket("initech", "third.ticket", &["--attribute", "visitor"])?;
        let inlet = "{name: third, tcp-inlet: {from: '127.0.0.1:0', via: saas-relay, to: saas, alias: third}}";
        stage.postern("third", &["node", "create", "--configuration", inlet, "--enrollment-ticket", &ticket])?;
        let inlet = stage.inlet("third", "third")?;
        stage.refused(inlet, "vendor", "inlet-to-saas")
    })?;
    stage.quote(&refusal);
    let reused = stage.step("ACME's ticket, used a second time, is refused", || {
        let again = ["node", "create", "--configuration", "{name: copy}", "--enrollment-ticket", &acme_ticket];
        stage.fails("copy", &again)
    })?;
    stage.quote(&reused);

    let canaries =
        [&*vendor_canary, &*customer_canary, &*asker_canary, "inlet-to-saas", "outlet-from-saas", "inlet-from-saas", "HTTP/1.1"];
    let (bytes, readable) = stage.step("every byte that the relay's process received is searched", || {
        let Scan { bytes, unsearched, found } = recorder.scan(&canaries);
        if bytes == 0 {
            return Err(CliError::new(code::DEMO, "the wire tap in front of the relay saw no byte"));
        }
        if unsearched > 0 {
            return Err(CliError::new(
                code::DEMO,
                format!("{unsearched} of the {bytes} bytes at the relay were not kept, and so not searched"),
            ));
        }
        Ok((bytes, found))
    })?;
    stage.quote(&format!(
        "{bytes} bytes, {} of {} secrets, attributes and words of HTTP among them",
        readable.len(),
        canaries.len()
    ));
    if let Some(found) = readable.first() {
        return Err(CliError::new(code::DEMO, format!("the relay was sent `{found}` in clear")));
    }
    let seconds = began.elapsed().as_secs_f64();
    stage.say(&format!("\nAll of it in {seconds:.1} s, with real processes, on this machine."));
    Ok(Report {
        seconds,
        customer_reached_vendor: true,
        vendor_reached_customer: true,
        third_node_refused: true,
        refusal,
        reused_ticket_refused: true,
        bytes_at_relay: bytes,
        readable_at_relay: readable.into_iter().map(str::to_owned).collect(),
        homes: None,
    })
}

fn canary() -> String {
    random_array::<12>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The temporary homes, and how the commands of the story are run in them.
struct Stage<'a> {
    context: &'a Context,
    postern: PathBuf,
    root: PathBuf,
}

impl<'a> Stage<'a> {
    fn new(context: &'a Context) -> Result<Self, CliError> {
        let suffix: String = random_array::<6>().iter().map(|byte| format!("{byte:02x}")).collect();
        let root = std::env::temp_dir().join(format!("postern-demo-{suffix}"));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&root)?;
        Ok(Self { context, postern: std::env::current_exe()?, root })
    }

    fn say(&self, text: &str) {
        self.context.output().say(text);
    }

    fn quote(&self, text: &str) {
        self.say(&format!("      {}", text.trim()));
    }

    fn step<T>(&self, what: &str, act: impl FnOnce() -> Result<T, CliError>) -> Result<T, CliError> {
        let began = Instant::now();
        let done = act().map_err(|error| error.why(format!("in the step: {what}")));
        if done.is_ok() {
            self.say(&format!("  ok  {what:<62} {:>5.2} s", began.elapsed().as_secs_f64()));
        }
        done
    }

    fn file(&self, name: &str, text: &str) -> Result<String, CliError> {
        let path = self.root.join(name);
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
        std::io::Write::write_all(&mut options.open(&path)?, text.as_bytes())?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn home(&self, home: &str) -> PathBuf {
        self.root.join(home)
    }

    fn command(&self, home: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.postern);
        command.args(arguments).env("POSTERN_HOME", home).env("NO_INPUT", "1").stdin(Stdio::null());
        command
    }

    /// Runs a command of the story; its standard output.
    fn postern(&self, home: &str, arguments: &[&str]) -> Result<String, CliError> {
        let output = self.command(&self.home(home), arguments).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let told = String::from_utf8_lossy(&output.stderr);
        Err(CliError::new(code::DEMO, format!("`postern {}` failed", arguments.join(" "))).why(told.trim()))
    }

    /// Runs a command that has to fail; the first line of what it tells.
    fn fails(&self, home: &str, arguments: &[&str]) -> Result<String, CliError> {
        let output = self.command(&self.home(home), arguments).output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Err(CliError::new(code::DEMO, format!("`postern {}` should have been refused", arguments.join(" "))));
        }
        Ok(told.lines().find(|line| line.contains("ticket")).unwrap_or(&told).trim().to_owned())
    }

    fn ticket(&self, home: &str, file: &str, flags: &[&str]) -> Result<String, CliError> {
        let create = ["project", "ticket", "--expires-in", "24h", "--usage-count", "1"];
        let ticket = self.postern(home, &[&create[..], flags].concat())?;
        self.file(file, &ticket)
    }

    fn json(&self, home: &str, arguments: &[&str]) -> Result<Value, CliError> {
        let text = self.postern(home, &[arguments, &["--output", "json"]].concat())?;
        serde_json::from_str(&text)
            .map_err(|error| CliError::new(code::DEMO, format!("`postern {}` printed no JSON: {error}", arguments.join(" "))))
    }

    fn inlet(&self, home: &str, alias: &str) -> Result<SocketAddr, CliError> {
        address(&self.json(home, &["tcp-inlet", "show", alias])?["bind_addr"])
    }

    /// The page behind an inlet, once it has `expected` in it.
    fn fetch(&self, inlet: SocketAddr, secret: &str, expected: &str) -> Result<String, CliError> {
        let began = Instant::now();
        loop {
            let got = service::get(inlet, secret);
            match got {
                Ok(page) if recorder::contains(page.as_bytes(), expected.as_bytes()) => {
                    return Ok(page.lines().last().unwrap_or_default().to_owned());
                }
                // The peer may still be connecting; a new connection tries at once.
                _ if began.elapsed() < PATIENCE => std::thread::yield_now(),
                Ok(page) => return Err(CliError::new(code::DEMO, format!("another page came through the portal: {page}"))),
                Err(error) => return Err(CliError::new(code::DEMO, format!("nothing came through the portal: {error}"))),
            }
        }
    }

    /// Connects until the outlet's node has logged a refusal that names `term`; returns that line's reason.
    fn refused(&self, inlet: SocketAddr, outlet_home: &str, term: &str) -> Result<String, CliError> {
        let log = self.postern(outlet_home, &["node", "logs"])?;
        let began = Instant::now();
        loop {
            if let Ok(page) = service::get(inlet, "third")
                && !page.is_empty()
            {
                return Err(CliError::new(code::DEMO, "the third node reached the product"));
            }
            let text = std::fs::read_to_string(&log)?;
            if let Some(line) = text.lines().rev().find(|line| line.contains("DENIED") && line.contains(term)) {
                let reason = line.split("reason=").nth(1).unwrap_or(line).split(" code=").next().unwrap_or(line);
                return Ok(format!("Initech's node: {reason}"));
            }
            if began.elapsed() > PATIENCE {
                return Err(CliError::new(code::DEMO, "the outlet's node did not log why it refused the third node"));
            }
        }
    }

    /// Ends every process of the story and removes its files.
    fn clear(&self) {
        // The nodes at once: each leaves its peers a moment to hear that it goes. The servers come last, which tell them.
        self.reset(&["third", "copy", "customer", "vendor"]);
        self.reset(&["initech"]);
        if let Err(error) = std::fs::remove_dir_all(&self.root) {
            self.context.output().warn(format!("{} was not removed: {error}", self.root.display()));
        }
    }

    fn reset(&self, homes: &[&str]) {
        let homes = homes.iter().map(|home| self.home(home)).filter(|home| home.exists());
        let reset = |home: PathBuf| self.command(&home, &["reset", "-y"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        // A home that cannot be reset is told of by `clear`, when its directory cannot be removed or a process is seen.
        for child in homes.filter_map(|home| reset(home).ok()).collect::<Vec<_>>() {
            if let Ok(output) = child.wait_with_output()
                && !output.status.success()
            {
                self.context.output().warn(String::from_utf8_lossy(&output.stderr).trim());
            }
        }
    }
}

fn address(value: &Value) -> Result<SocketAddr, CliError> {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| CliError::new(code::DEMO, format!("no address where one was expected: {value}")))
}
