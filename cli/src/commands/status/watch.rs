//! `status --watch`: one look after the other, until somebody has seen enough. On a terminal each takes the place of the one before, on the
//! screen as it is: nothing has to be put back at the end, however it comes.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use postern_proto::time::Timestamp;
use postern_runtime::daemon::Signals;
use postern_runtime::home::Home;
use rustix::termios::tcgetwinsize;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Document, Look, look, plain};
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Versioned, document, inert};

/// Looks every `interval` until a signal ends it, or nobody reads any more.
pub fn run(context: &Context, home: &Home, interval: Duration) -> Result<ExitCode, CliError> {
    context.block_on(async {
        let mut signals = Signals::new()?;
        let mut screen = Screen::new(context, interval);
        loop {
            // A probe can take as long as a target may; who wants to end does not wait for it.
            let looked = tokio::select! {
                looked = look(home) => looked,
                _ = signals.next() => break,
            };
            // What cannot be looked at from the beginning never will; what cannot be any more may come back.
            let looked = if screen.drawn { looked } else { Ok(looked?) };
            match screen.draw(&looked, context.now()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                drawn => drawn?,
            }
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                _ = signals.next() => break,
            }
        }
        Ok(ExitCode::SUCCESS)
    })?
}

/// A look as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    at: String,
    #[serde(flatten)]
    document: &'a Versioned<Document>,
}

struct Screen {
    form: Form,
    interval: Duration,
    drawn: bool,
}

/// How looks are shown.
enum Form {
    Json,
    /// One below the other.
    Plain,
    /// In place: how many lines the last one took, and the size of the terminal then.
    Redrawn {
        lines: usize,
        size: (usize, usize),
    },
}

impl Screen {
    fn new(context: &Context, interval: Duration) -> Self {
        let form = match context.output() {
            output if output.wants_json() => Form::Json,
            output if output.can_redraw() => Form::Redrawn { lines: 0, size: size() },
            _ => Form::Plain,
        };
        Self { form, interval, drawn: false }
    }

    fn draw(&mut self, looked: &Result<Look, CliError>, now: Timestamp) -> io::Result<()> {
        let text = match &mut self.form {
            Form::Json => format!("{}\n", as_json(looked, now)?),
            Form::Plain => format!("{}{}", if self.drawn { "\n" } else { "" }, as_text(looked, now, self.interval)),
            Form::Redrawn { lines, size: before } => {
                let size = size();
                let text = as_text(looked, now, self.interval);
                let shown = fitting(&text, size);
                // Another size has put the lines elsewhere.
                let begin = if size == *before { up(*lines) } else { "\x1b[H\x1b[2J".to_owned() };
                (*lines, *before) = (shown.len(), size);
                // Line over line, and what is left of the last look behind and below: nothing flickers.
                let drawn: String = shown.iter().map(|line| format!("{line}\x1b[K\n")).collect();
                format!("{begin}{drawn}\x1b[J")
            }
        };
        self.drawn = true;
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

fn as_json(looked: &Result<Look, CliError>, now: Timestamp) -> io::Result<String> {
    let at = now.to_string();
    let value: Value = match looked {
        Ok(Look { document, .. }) => serde_json::to_value(Line { at, document })?,
        Err(error) => serde_json::to_value(Versioned::new(json!({"at": at, "error": document(error)})))?,
    };
    Ok(value.to_string())
}

fn as_text(looked: &Result<Look, CliError>, now: Timestamp, interval: Duration) -> String {
    let body = match looked {
        Ok(Look { document, nodes }) => plain(document, nodes),
        Err(error) => format!("error: {}\n", error.what),
    };
    format!("{now}, every {interval:?}\n{}", inert(&body))
}

/// What of `text` fits a terminal of `size`, in lines that it need not break itself: how many they are must be known.
fn fitting(text: &str, (rows, columns): (usize, usize)) -> Vec<String> {
    let broken = |line: &str| {
        let line: Vec<char> = line.chars().collect();
        line.chunks(columns).map(String::from_iter).collect::<Vec<_>>()
    };
    let mut lines: Vec<String> = text.lines().flat_map(broken).collect();
    // The cursor stands below the last line.
    let most = rows.saturating_sub(1).max(1);
    if lines.len() > most {
        let left_out = lines.len() - (most - 1);
        lines.truncate(most - 1);
        lines.push(format!("… and {left_out} more lines").chars().take(columns).collect());
    }
    lines
}

/// To the beginning of the line so many lines above.
fn up(lines: usize) -> String {
    if lines == 0 { "\r".to_owned() } else { format!("\r\x1b[{lines}A") }
}

/// Rows and columns of the terminal; of one that does not say, what every terminal has.
fn size() -> (usize, usize) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => (24, 80),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits() {
        let text = "one\ntwo\nthree\nfour\n";
        assert_eq!(fitting(text, (24, 80)), ["one", "two", "three", "four"]);
        assert_eq!(fitting(text, (9, 3)), ["one", "two", "thr", "ee", "fou", "r"]);
        assert_eq!(fitting(text, (4, 80)), ["one", "two", "… and 2 more lines"]);
        assert_eq!(fitting(text, (1, 4)), ["… an"]);
        assert_eq!((up(0), up(3)), ("\r".to_owned(), "\r\x1b[3A".to_owned()));
    }
}
