//! What is wrong with a configuration, and where: rendered with the line itself, a caret and a suggestion.

use std::fmt;

/// Most problems that are shown; a file with more is of another kind altogether.
const MAX_SHOWN: usize = 50;
/// Widest part of a source line that is shown, in characters: the place and some text around it.
const MAX_SHOWN_LINE: usize = 120;
/// How a ticket's text begins; a source line that is shown hides the rest of it.
const TICKET_PREFIX: &str = "postern1_";

/// A place in a text: line and column count characters from 1, as editors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// A place, and how many characters of its line are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    pub start: Position,
    pub width: usize,
}

/// One fault of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// What is wrong, as one sentence without a full stop.
    pub message: String,
    /// What to try.
    pub suggestion: Option<String>,
}

impl Problem {
    pub(crate) fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into(), suggestion: None }
    }

    pub(crate) fn try_this(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    pub(crate) fn try_maybe(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion.or(self.suggestion);
        self
    }
}

/// Something to tell the author of a configuration that is accepted. Shown as `FILE:LINE:COLUMN: text`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub file: String,
    pub position: Position,
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, position: Position { line, column }, message } = self;
        write!(f, "{}:{line}:{column}: {}", printable(file), printable(message))
    }
}

/// All faults of one configuration, with what is needed to show them. Its text begins `FILE:LINE:COLUMN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    file: String,
    /// In the order of their places; never empty.
    problems: Vec<Problem>,
    /// The source lines of `problems`, as they may be shown.
    lines: Vec<String>,
}

impl Problems {
    /// `problems` of `text`, which came from `file`.
    pub(crate) fn new(file: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.place);
        let mut lines: Vec<String> = Vec::with_capacity(problems.len().min(MAX_SHOWN));
        // The problems are sorted, so one walk over the text finds all of their lines.
        let mut source = text.split('\n').enumerate().map(|(index, line)| (index + 1, line.strip_suffix('\r').unwrap_or(line)));
        let mut current: Option<(usize, &str)> = None;
        for problem in problems.iter().take(MAX_SHOWN) {
            while current.is_none_or(|(line, _)| line < problem.place.start.line) {
                match source.next() {
                    Some(next) => current = Some(next),
                    None => break,
                }
            }
            let line = current.filter(|(line, _)| *line == problem.place.start.line).map_or("", |(_, line)| line);
            lines.push(shown(line));
        }
        Self { file: file.to_owned(), problems, lines }
    }

    /// The faults, in the order of their places.
    #[must_use]
    pub fn all(&self) -> &[Problem] {
        &self.problems
    }

    /// The file that they are about, as it was named.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (problem, line)) in self.problems.iter().zip(&self.lines).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            let Place { start: Position { line: number, column }, width } = problem.place;
            write!(f, "{}:{number}:{column}: {}", printable(&self.file), printable(&problem.message))?;
            let (part, column) = around(line, column);
            let gutter = number.to_string();
            let blank = " ".repeat(gutter.len());
            let before = " ".repeat(column - 1);
            let carets = "^".repeat(width.clamp(1, (part.chars().count() + 1).saturating_sub(column - 1).max(1)));
            write!(f, "\n{blank} |\n{gutter} | {part}\n{blank} | {before}{carets}")?;
            if let Some(suggestion) = &problem.suggestion {
                write!(f, " {}", printable(suggestion))?;
            }
        }
        if let Some(more @ 1..) = self.problems.len().checked_sub(MAX_SHOWN) {
            write!(f, "\n… and {more} more")?;
        }
        Ok(())
    }
}

/// The part of `line` around `column`, and the column within that part.
fn around(line: &str, column: usize) -> (String, usize) {
    let skip = if column > MAX_SHOWN_LINE { column - MAX_SHOWN_LINE / 2 } else { 0 };
    (line.chars().skip(skip).take(MAX_SHOWN_LINE).collect(), column.saturating_sub(skip).max(1))
}

/// A source line as it may be shown: no ticket in it, nothing that a terminal would act on, and every column where it was.
fn shown(line: &str) -> String {
    let mut rest = line;
    let mut out = String::with_capacity(line.len());
    while let Some(at) = rest.find(TICKET_PREFIX) {
        let (before, ticket) = rest.split_at(at + TICKET_PREFIX.len());
        out.push_str(before);
        let end = ticket.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))).unwrap_or(ticket.len());
        out.extend(std::iter::repeat_n('*', end));
        rest = &ticket[end..];
    }
    out.push_str(rest);
    out.chars().map(inert).collect()
}

/// `text` without anything that a terminal would act on.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { c } else { inert(c) }).collect()
}

fn inert(c: char) -> char {
    match c {
        '\t' => ' ',
        // Marks that change the direction of text can make a line read as another.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize, width: usize) -> Place {
        Place { start: Position { line, column }, width }
    }

    #[test]
    fn shows_file_line_column_caret_and_suggestion() {
        let problems = Problems::new(
            "saas.yaml",
            "relay: r\ntcp-outlet:\n  alow: x\n",
            vec![
                Problem::new(at(3, 3, 4), "unknown key `alow`").try_this("did you mean `allow`?"),
                Problem::new(at(1, 1, 5), "first"),
            ],
        );
        assert_eq!(
            problems.to_string(),
            "saas.yaml:1:1: first\n  |\n1 | relay: r\n  | ^^^^^\n\
             saas.yaml:3:3: unknown key `alow`\n  |\n3 |   alow: x\n  |   ^^^^ did you mean `allow`?"
        );
    }

    #[test]
    fn hides_tickets_and_terminal_sequences_and_keeps_columns() {
        let line = "ticket: postern1_c2VjcmV0, to: \u{1b}[31m";
        let problems = Problems::new("f", line, vec![Problem::new(at(1, 28, 2), "x")]);
        let text = problems.to_string();
        assert!(!text.contains("c2VjcmV0") && !text.contains('\u{1b}'), "{text}");
        assert!(text.contains("postern1_********, to:"));
    }

    #[test]
    fn long_lines_and_many_problems_are_cut() {
        let line = format!("{}oops{}", " ".repeat(10_000), "x".repeat(10_000));
        let problems = Problems::new("f", &line, (0..80).map(|_| Problem::new(at(1, 10_001, 4), "x")).collect());
        let text = problems.to_string();
        assert!(text.contains("oops") && text.len() < 30_000);
        assert!(text.ends_with("and 30 more"));
    }

    #[test]
    fn a_place_beyond_the_text_is_shown_without_a_line() {
        let text = Problems::new("f", "a", vec![Problem::new(at(9, 40, 3), "x")]).to_string();
        assert!(text.starts_with("f:9:40: x"));
    }
}
