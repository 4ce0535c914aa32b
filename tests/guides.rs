//! The guides, typed line by line: every `sh` block of `docs/guides/` is run, each word behind `sh` in a home of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use postern_test_support::{HttpServer, Reserved, TestHome};

/// Line by line, so that one that hangs is named.
const LINE_SECONDS: &str = "60";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides")
}

/// A fenced block: its language, the word behind it, its lines.
struct Block {
    language: String,
    word: String,
    lines: Vec<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(info) => {
                let (language, word) = info.split_once(' ').unwrap_or((info, ""));
                found.push(Block { language: language.to_owned(), word: word.to_owned(), lines: Vec::new() });
                open = true;
            }
            None if open => found.last_mut().unwrap().lines.push(line.to_owned()),
            None => {}
        }
    }
    assert!(!open, "a block is not closed");
    found
}

/// What stands for the reader's own names and ports: the table of `docs/guides/README.md`, and no more.
struct Placeholders {
    fixed: Vec<(&'static str, String)>,
    ports: BTreeMap<&'static str, (u16, Option<Reserved>)>,
    _service: HttpServer,
}

impl Placeholders {
    fn new() -> Self {
        let service = HttpServer::start("hello");
        let (target, host) = (service.address().to_string(), "127.0.0.1".to_owned());
        let fixed = vec![
            ("AUTHORITY_HOST", host.clone()),
            ("RELAY_HOST", host),
            ("http-server:80", target.clone()),
            ("github.local:80", target.clone()),
            ("jira.local:443", target),
            ("6000", service.port().to_string()),
        ];
        let ports = ["4000", "7000", "8000", "9100", "9101"].map(|name| {
            let reserved = Reserved::new();
            (name, (reserved.port(), Some(reserved)))
        });
        Self { fixed, ports: ports.into(), _service: service }
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.fixed.iter().map(|(name, _)| *name).chain(self.ports.keys().copied())
    }

    /// `text` with everything put in, from left to right, so that nothing that was put in is replaced again.
    fn put_in(&self, text: &str) -> String {
        let mut values: Vec<(&str, String)> = self.fixed.clone();
        values.extend(self.ports.iter().map(|(name, (port, _))| (*name, port.to_string())));
        let (mut out, mut rest) = (String::new(), text);
        while let Some((at, name, value)) =
            values.iter().filter_map(|(name, value)| Some((rest.find(name)?, *name, value))).min_by_key(|(at, ..)| *at)
        {
            out.push_str(&rest[..at]);
            out.push_str(value);
            rest = &rest[at + name.len()..];
        }
        out + rest
    }

    /// As [`Self::put_in`], for a command that is run now, or a file that the next command reads: they may listen on the ports in it.
    fn put_in_command(&mut self, line: &str) -> String {
        let text = self.put_in(line);
        for (port, held) in self.ports.values_mut() {
            if text.contains(&port.to_string())
                && let Some(held) = held.take()
            {
                let _ = held.release();
            }
        }
        text
    }
}

/// Somebody who types what stands on a page, on several machines. Files are carried from one to the next: all lines run in one directory.
struct Typist {
    page: String,
    placeholders: Placeholders,
    homes: BTreeMap<String, TestHome>,
    desk: TestHome,
    typed: usize,
}

impl Typist {
    fn new(page: &str) -> Self {
        let desk = TestHome::new(env!("CARGO_BIN_EXE_postern"));
        Self { page: page.to_owned(), placeholders: Placeholders::new(), homes: BTreeMap::new(), desk, typed: 0 }
    }

    fn file(&mut self, name: &str, text: &str) {
        let text = self.placeholders.put_in_command(text);
        self.desk.file(name, text);
    }

    /// Types a line; what it printed.
    fn line(&mut self, machine: &str, line: &str) -> String {
        let home = self.homes.entry(machine.to_owned()).or_insert_with(|| TestHome::new(env!("CARGO_BIN_EXE_postern")));
        let binaries = Path::new(env!("CARGO_BIN_EXE_postern")).parent().unwrap();
        let output = Command::new("timeout")
            .args([LINE_SECONDS, "bash", "-c", &self.placeholders.put_in_command(line)])
            .env("POSTERN_HOME", home.path())
            .env("PATH", format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap()))
            .current_dir(self.desk.scratch())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "{}, on {machine}: {line}\n{}\n{out}{err}", self.page, output.status);
        self.typed += 1;
        out
    }
}

fn type_guide(name: &str) {
    type_guide_after(name, &[]);
}

/// `before` is what the reader has typed on each machine, long before.
fn type_guide_after(name: &str, before: &[(&str, &str)]) {
    let text = std::fs::read_to_string(folder().join(format!("{name}.md"))).unwrap();
    let mut typist = Typist::new(name);
    before.iter().for_each(|(machine, line)| drop(typist.line(machine, line)));
    typist.typed = 0;
    for block in blocks(&text) {
        match (block.language.as_str(), block.word.as_str()) {
            ("yaml", file) if !file.is_empty() => typist.file(file, &(block.lines.join("\n") + "\n")),
            ("sh", machine) => {
                assert!(!machine.is_empty(), "{name}: an sh block does not say on which machine");
                block.lines.iter().for_each(|line| drop(typist.line(machine, line)));
            }
            _ => {}
        }
    }
    assert!(typist.typed > 0, "{name} has nothing to type");
}

/// A block's lines, those that end with a backslash together with the next.
fn joined(lines: &[String]) -> Vec<String> {
    let text = lines.join("\n").replace("\\\n", " ");
    text.lines().map(str::to_owned).collect()
}

/// The front page: the shortest portal, and the scenario, whose comments say on which machine it goes on.
#[test]
fn the_front_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("README.md")).unwrap();
    let (mut shortest, mut scenario) = (Typist::new("README, shortest"), Typist::new("README, scenario"));
    for file in ["saas.yaml", "customer.yaml"] {
        scenario.file(file, &std::fs::read_to_string(root.join("configs").join(file)).unwrap());
    }
    let mut machine = "first machine".to_owned();
    for block in blocks(&text) {
        match block.language.as_str() {
            "sh" if block.lines[0].starts_with("postern") => {
                block.lines.iter().for_each(|line| drop(shortest.line("only", line)));
            }
            "sh" => assert!(block.lines.iter().all(|line| line.starts_with("cargo")), "{:?}", block.lines),
            "bash" => {
                for line in joined(&block.lines) {
                    match line.strip_prefix("# ") {
                        Some(comment) => machine = comment.trim_end_matches(" again").to_owned(),
                        None => {
                            let printed = scenario.line(&machine, &line);
                            assert!(!line.starts_with("curl") || printed == "hello", "{line}: {printed}");
                        }
                    }
                }
            }
            _ => {}
        }
    }
    assert_eq!((shortest.typed, scenario.typed, scenario.homes.len()), (2, 9, 3));
}

#[test]
fn first_portal() {
    type_guide("first-portal");
}

#[test]
fn two_companies() {
    type_guide("two-companies");
}

#[test]
fn policies() {
    type_guide("policies");
}

#[test]
fn running_the_servers() {
    type_guide("running-the-servers");
}

#[test]
fn keys_at_rest() {
    type_guide("keys-at-rest");
}

#[test]
fn monitoring() {
    type_guide("monitoring");
}

#[test]
fn audit() {
    type_guide("audit");
}

#[test]
fn replacing_keys() {
    type_guide("replacing-keys");
}

#[test]
fn removing_a_member() {
    let joined = [
        ("first", "postern enroll"),
        ("first", "postern project ticket --attribute inlet-to-saas > customer.ticket"),
        ("customer", "postern project enroll customer.ticket --identity customer"),
    ];
    type_guide_after("removing-a-member", &joined);
}

#[test]
fn troubleshooting() {
    type_guide_after("troubleshooting", &[("first", "postern identity create")]);
}

#[test]
fn every_guide_is_typed_and_every_placeholder_is_explained() {
    let mut guides: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().trim_end_matches(".md").to_owned())
        .filter(|name| name != "README")
        .collect();
    guides.sort();
    assert_eq!(
        guides,
        [
            "audit",
            "benchmarks",
            "first-portal",
            "keys-at-rest",
            "monitoring",
            "policies",
            "removing-a-member",
            "replacing-keys",
            "running-the-servers",
            "troubleshooting",
            "two-companies"
        ]
    );
    let index = std::fs::read_to_string(folder().join("README.md")).unwrap();
    for name in Placeholders::new().names() {
        assert!(index.contains(&format!("`{name}`")), "{name}");
    }
}
