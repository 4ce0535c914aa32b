//! What can be wrong with the text of an expression, and where.

use std::fmt;
use std::ops::Range;

use super::check::Kind;
use super::{Comparison, MAX_ATTRIBUTE_NAME, MAX_DEPTH, MAX_NESTING, MAX_NODES, MAX_TEXT};

/// Characters of the line that are shown around the fault.
const SHOWN_WIDTH: usize = 96;

/// Characters of an unknown word that a message repeats.
pub(super) const MAX_QUOTED: usize = 64;

/// One fault in the text of an expression. `Display` is several lines: the place and the fault, the line, a caret under the
/// place, and what to write instead, if that can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError(Box<Inner>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inner {
    fault: Fault,
    help: Option<String>,
    span: Range<usize>,
    line: usize,
    column: usize,
    /// The part of the line that is shown, and the place of the fault in it, in characters.
    shown: String,
    caret: Range<usize>,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the expression is empty")]
    Empty,
    #[error("the expression has {0} bytes, more than {MAX_TEXT}")]
    TooLong(usize),
    #[error("the canonical form of the expression has {0} bytes, more than {MAX_TEXT}")]
    CanonicalTooLong(usize),
    #[error("parentheses and `not` are nested more than {MAX_NESTING} deep")]
    NestedTooDeep,
    #[error("operators are nested {0} deep, more than {MAX_DEPTH}")]
    TooDeep(usize),
    #[error("the expression has {0} operators, values and names, more than {MAX_NODES}")]
    TooManyNodes(usize),
    #[error("unexpected character {0:?}")]
    UnexpectedCharacter(char),
    #[error("this string is not closed")]
    UnterminatedString,
    #[error("a string cannot contain {0:?} as it is")]
    RawControl(char),
    #[error("unknown escape in a string")]
    UnknownEscape,
    #[error("`{0}` is not an integer of 64 bits")]
    IntegerRange(String),
    #[error("`{0}` is not a name: a name begins with a letter or `_`")]
    NotAName(String),
    #[error("an attribute's name has at most {MAX_ATTRIBUTE_NAME} bytes")]
    NameTooLong,
    #[error("unknown name `{0}`")]
    UnknownName(String),
    #[error("unknown operator `{0}`")]
    UnknownOperator(String),
    #[error("this `(` is not closed")]
    UnclosedParenthesis,
    #[error("this `[` is not closed")]
    UnclosedBracket,
    #[error("this `)` closes nothing")]
    UnopenedParenthesis,
    #[error("expected {expected}, found {found}")]
    Expected { expected: &'static str, found: String },
    #[error("`{0}` needs a string in double quotes on its right")]
    StringExpected(Comparison),
    #[error("`{operator}` takes {takes}")]
    ArgumentCount { operator: &'static str, takes: &'static str },
    #[error("{0} is not a condition")]
    NotACondition(Kind),
    #[error("`{comparison}` cannot compare {left} with {right}")]
    NotComparable { comparison: Comparison, left: Kind, right: Kind },
    #[error("`{0}` cannot order two attributes: whether they are numbers or text is not known")]
    OrderUnknown(Comparison),
    #[error("a sequence cannot hold both {0} and {1}")]
    MixedSequence(Kind, Kind),
}

impl ParseError {
    pub(super) fn new(source: &str, span: Range<usize>, fault: Fault, help: Option<String>) -> Self {
        let line_start = source[..span.start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = source[span.start..].find('\n').map_or(source.len(), |at| span.start + at);
        let before = source[line_start..span.start].chars().count();
        let marked = source[span.start..span.end.min(line_end).max(span.start)].chars().count().max(1);
        let skipped = before.saturating_sub(SHOWN_WIDTH / 2);
        let shown: String = source[line_start..line_end].chars().skip(skipped).take(SHOWN_WIDTH).map(shown_as).collect();
        let caret = before - skipped..(before - skipped + marked).min(SHOWN_WIDTH);
        Self(Box::new(Inner {
            fault,
            help,
            line: 1 + source[..line_start].matches('\n').count(),
            column: 1 + before,
            span,
            shown: shown.trim_end().to_owned(),
            caret,
        }))
    }

    /// The same error, its text standing at `line` and `column` of a larger document. Only the first line of a text can begin
    /// behind something else, so the columns of further lines stay.
    pub(super) fn moved_to(mut self, line: usize, column: usize) -> Self {
        if self.0.line == 1 {
            self.0.column += column.saturating_sub(1);
        }
        self.0.line += line.saturating_sub(1);
        self
    }

    #[must_use]
    pub fn fault(&self) -> &Fault {
        &self.0.fault
    }

    /// What to write instead, where that can be told.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        self.0.help.as_deref()
    }

    /// The line, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.0.line
    }

    /// The column in characters, from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        self.0.column
    }

    /// The first byte of the place, from 0, in the text that was parsed.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.0.span.start
    }

    /// The place in the text that was parsed, in bytes; empty at the end of the text.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.0.span.clone()
    }

    /// The fault and what to write instead, in one line without the place.
    #[must_use]
    pub fn message(&self) -> String {
        match &self.0.help {
            Some(help) => format!("{}: {help}", self.0.fault),
            None => self.0.fault.to_string(),
        }
    }

    /// The place and [`ParseError::message`], in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        format!("policy, line {}, column {}: {}", self.0.line, self.0.column, self.message())
    }
}

impl std::error::Error for ParseError {}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "line {}, column {}: {}", self.0.line, self.0.column, self.0.fault)?;
        writeln!(f, "  {}", self.0.shown)?;
        write!(f, "  {:indent$}{}", "", "^".repeat(self.0.caret.len()), indent = self.0.caret.start)?;
        match &self.0.help {
            Some(help) => write!(f, "\n  {help}"),
            None => Ok(()),
        }
    }
}

/// A character as an excerpt shows it: one column, and nothing that steers a terminal or turns the line around.
const fn shown_as(c: char) -> char {
    match c {
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => ' ',
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => {
            '\u{fffd}'
        }
        _ => c,
    }
}

const OPERATORS: [&str; 10] = ["and", "or", "not", "if", "=", "!=", "<", ">", "member?", "exists?"];

/// What to write instead of an operator that does not exist, where one is meant for sure.
pub(super) fn meant_operator(word: &str) -> Option<String> {
    let instead = match word {
        "&" | "&&" => "`and`",
        "|" | "||" => "`or`",
        "!" => "`not`",
        "==" | "===" | "eq" => "`=`",
        "!==" | "<>" | "ne" => "`!=`",
        "<=" | "=<" => "`(not (> …))`",
        ">=" | "=>" => "`(not (< …))`",
        "in" | "contains" => "`(member? value [\"one\" \"two\"])`",
        _ => {
            let lower = word.to_lowercase();
            let near = |operator: &&&str| distance(&lower, operator) <= if operator.len() > 3 { 2 } else { 1 };
            let word_operators = OPERATORS.iter().filter(|operator| operator.starts_with(|c: char| c.is_ascii_alphabetic()));
            return word_operators
                .filter(near)
                .min_by_key(|operator| distance(&lower, operator))
                .map(|operator| format!("did you mean `{operator}`?"));
        }
    };
    Some(format!("write {instead}"))
}

/// [`meant_operator`], or the list of those that exist.
pub(super) fn operator_help(word: &str) -> String {
    meant_operator(word).unwrap_or_else(|| format!("the operators are {}", OPERATORS.map(|o| format!("`{o}`")).join(" ")))
}

/// Edits between two short words: insertions, deletions, replacements, and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(MAX_QUOTED).collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let mut best = (row[j - 1] + 1).min(rows[i - 1][j] + 1).min(rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
