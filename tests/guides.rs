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
        let ports = ["4000", "7000", "8000"].map(|name| {
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

fn type_guide(name: &str) {
    let text = std::fs::read_to_string(folder().join(format!("{name}.md"))).unwrap();
    let mut placeholders = Placeholders::new();
    let mut homes: BTreeMap<String, TestHome> = BTreeMap::new();
    // Tickets are carried from one machine to the next: all lines run in one directory.
    let desk = TestHome::new(env!("CARGO_BIN_EXE_postern"));
    let binaries = Path::new(env!("CARGO_BIN_EXE_postern")).parent().unwrap();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    let mut typed = 0;
    for block in blocks(&text) {
        match (block.language.as_str(), block.word.as_str()) {
            ("yaml", file) if !file.is_empty() => {
                desk.file(file, placeholders.put_in_command(&(block.lines.join("\n") + "\n")));
            }
            ("sh", machine) => {
                assert!(!machine.is_empty(), "{name}: an sh block does not say on which machine");
                let home = homes.entry(machine.to_owned()).or_insert_with(|| TestHome::new(env!("CARGO_BIN_EXE_postern")));
                for line in &block.lines {
                    let output = Command::new("timeout")
                        .args([LINE_SECONDS, "bash", "-c", &placeholders.put_in_command(line)])
                        .env("POSTERN_HOME", home.path())
                        .env("PATH", &path)
                        .current_dir(desk.scratch())
                        .stdin(Stdio::null())
                        .output()
                        .unwrap();
                    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                    assert!(output.status.success(), "{name}, on {machine}: {line}\n{}\n{}{}", output.status, told[0], told[1]);
                    typed += 1;
                }
            }
            _ => {}
        }
    }
    assert!(typed > 0, "{name} has nothing to type");
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
fn troubleshooting() {
    type_guide("troubleshooting");
}

#[test]
fn every_guide_is_typed_and_every_placeholder_is_explained() {
    let mut guides: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().trim_end_matches(".md").to_owned())
        .filter(|name| name != "README")
        .collect();
    guides.sort();
    assert_eq!(guides, ["first-portal", "policies", "running-the-servers", "troubleshooting", "two-companies"]);
    let index = std::fs::read_to_string(folder().join("README.md")).unwrap();
    for name in Placeholders::new().names() {
        assert!(index.contains(&format!("`{name}`")), "{name}");
    }
}
