//! Where output goes: the result on standard output and nothing else there; everything for a person on standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

use postern_node::control::document::ApiVersion;

use crate::args::Format;
use crate::error::CliError;

#[derive(Debug)]
pub struct Output {
    format: Option<Format>,
    quiet: bool,
    color: bool,
    terminal: bool,
}

impl Output {
    pub fn new(format: Option<Format>, quiet: bool, color: bool) -> Self {
        Self { format, quiet, color, terminal: io::stdout().is_terminal() }
    }

    pub const fn color(&self) -> bool {
        self.color
    }

    /// Says something to the person.
    pub fn say(&self, text: impl Display) {
        if !self.quiet {
            self.line_to_person(&inert(&text.to_string()));
        }
    }

    /// Warns the person.
    pub fn warn(&self, text: impl Display) {
        if !self.quiet {
            self.line_to_person(&format!("{} {}", self.paint("warning:", "33;1"), inert(&text.to_string())));
        }
    }

    fn line_to_person(&self, text: &str) {
        // Nobody can be told that standard error is closed.
        let _ = writeln!(io::stderr(), "{text}");
    }

    fn paint(&self, text: &str, style: &str) -> String {
        if self.color && io::stderr().is_terminal() { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The result of a `create`: its bare line, or the document where JSON is asked for.
    pub fn created(&self, line: impl Display, document: &impl Serialize) -> Result<(), CliError> {
        match self.format {
            Some(Format::Json) => self.json(document),
            _ => self.line(line),
        }
    }

    /// One bare line on standard output.
    pub fn line(&self, line: impl Display) -> Result<(), CliError> {
        self.write(&format!("{line}\n"))
    }

    /// The result of a `show`: `plain` makes what a person reads.
    pub fn show(&self, document: &impl Serialize, plain: impl FnOnce() -> String) -> Result<(), CliError> {
        if self.wants_json() { self.json(document) } else { self.write(&inert(&plain())) }
    }

    /// The result of a `list`: an array of exactly what `show` prints.
    pub fn list<T: Serialize>(&self, documents: &[T], plain: impl FnOnce() -> String) -> Result<(), CliError> {
        if self.wants_json() {
            self.json(&documents)
        } else if documents.is_empty() {
            self.say("none");
            Ok(())
        } else {
            self.write(&inert(&plain()))
        }
    }

    /// Whether documents are printed as JSON: where that is asked for, and where no person reads.
    pub fn wants_json(&self) -> bool {
        match self.format {
            Some(Format::Json) => true,
            Some(Format::Plain) => false,
            None => !self.terminal,
        }
    }

    /// Whether standard output is a terminal that can be drawn on again.
    pub fn can_redraw(&self) -> bool {
        self.terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
    }

    fn json(&self, document: &impl Serialize) -> Result<(), CliError> {
        let mut text = serde_json::to_string_pretty(document).map_err(io::Error::from)?;
        text.push('\n');
        self.write(&text)
    }

    /// Text for standard output, as it is.
    pub fn write(&self, text: &str) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // A reader like `head` that has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }

    /// Tells the person, or the program, of an error; returns the exit code of the process.
    pub fn report(&self, error: &CliError) -> ExitCode {
        tracing::debug!(code = error.code, exit = error.exit.exit_code(), "{}", error.what);
        if self.format == Some(Format::Json) {
            let document = json!({"api_version": ApiVersion, "error": document(error)});
            self.line_to_person(&serde_json::to_string_pretty(&document).unwrap_or_default());
        } else {
            let mut text = format!("{} {}", self.paint("error:", "31;1"), inert(&error.what));
            for reason in &error.why {
                text.push_str(&format!("\n  because: {}", inert(reason)));
            }
            for change in error.access.iter().flat_map(|access| &access.0) {
                text.push_str(&format!("\n  would change: {}", inert(&change.to_string())));
            }
            for hint in &error.try_this {
                text.push_str(&format!("\n  try: {}", inert(hint)));
            }
            text.push_str(&format!("\n  code: {}", error.code));
            self.line_to_person(&text);
        }
        ExitCode::from(error.exit.exit_code())
    }
}

/// An error as JSON.
pub fn document(error: &CliError) -> Value {
    let mut document = json!({
        "code": error.code,
        "exit": error.exit.exit_code(),
        "what": error.what,
        "why": error.why,
        "try": error.try_this,
    });
    if let Some(access) = &error.access {
        document["access"] = json!(access.0);
    }
    document
}

/// A document with the version of its shape.
#[derive(Debug, Clone, Serialize)]
pub struct Versioned<T> {
    api_version: ApiVersion,
    #[serde(flatten)]
    content: T,
}

impl<T> Versioned<T> {
    pub const fn new(content: T) -> Self {
        Self { api_version: ApiVersion, content }
    }
}

impl<T> std::ops::Deref for Versioned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.content
    }
}

/// Columns under headings, as wide as what is in them.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |row: &[String], column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
    let widths: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(column, heading)| rows.iter().map(|row| cells(row, column)).max().unwrap_or(0).max(heading.len()))
        .collect();
    let mut text = String::new();
    let headings: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    for row in std::iter::once(&headings).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `name: value` lines with the values under each other; lines without a value are left out.
pub fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let mut text = String::new();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        let name = format!("{name}:");
        text.push_str(&format!("{name:width$} {value}\n"));
    }
    text
}

/// A time as a person says it, in its two largest units.
pub fn time_left(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..172_800 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// `text` without anything that a terminal would act on.
pub fn inert(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let said = [0, 59, 60, 431, 3_599, 3_600, 86_393, 172_800].map(time_left);
        assert_eq!(said, ["0 s", "59 s", "1 min 0 s", "7 min 11 s", "59 min 59 s", "1 h 0 min", "23 h 59 min", "2 d 0 h"]);
    }

    #[test]
    fn tables_and_fields() {
        let rows = vec![vec!["a".to_owned(), "long value".to_owned()], vec!["longer".to_owned(), "b".to_owned()]];
        assert_eq!(table(&["NAME", "TO"], &rows), "NAME    TO\na       long value\nlonger  b\n");
        assert_eq!(fields(&[("name", "n".into()), ("empty", String::new()), ("x", "y".into())]), "name:  n\nx:     y\n");
        assert_eq!(inert("a\x1b[31mb\n"), "a\u{fffd}[31mb\n");
    }
}
