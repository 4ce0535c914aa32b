//! The canonical form of an expression.

use std::fmt::{self, Write as _};
use std::ops::Range;

use super::expr::Node;

pub(super) fn canonical(root: &Node) -> String {
    let mut printer = Printer { text: String::new(), on_node: |_: &Node, _| {} };
    printer.node(root);
    printer.text
}

/// The canonical form, with the place of each of `wanted` (nodes of that very tree) in it.
pub(super) fn canonical_with_places(root: &Node, wanted: &[&Node]) -> (String, Vec<Range<usize>>) {
    let mut places = vec![0..0; wanted.len()];
    let mut printer = Printer {
        text: String::new(),
        on_node: |node: &Node, place: Range<usize>| {
            for (_, slot) in wanted.iter().zip(&mut places).filter(|(wanted, _)| std::ptr::eq(**wanted, node)) {
                *slot = place.clone();
            }
        },
    };
    printer.node(root);
    let text = printer.text;
    (text, places)
}

/// Writes a string literal. What is not printable is escaped, so that a value from a credential or a file cannot steer a
/// terminal or forge a log line.
pub(super) fn quoted(text: &str, f: &mut impl fmt::Write) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '\'' => f.write_char(c)?,
            _ => write!(f, "{}", c.escape_debug())?,
        }
    }
    f.write_char('"')
}

struct Printer<F> {
    text: String,
    on_node: F,
}

impl<F: FnMut(&Node, Range<usize>)> Printer<F> {
    fn node(&mut self, node: &Node) {
        let start = self.text.len();
        match node {
            Node::Literal(value) => self.word(value),
            Node::HasCredential => self.word(super::Name::HasCredential),
            Node::And(all) => self.form("and", all),
            Node::Or(all) => self.form("or", all),
            Node::Not(inner) => self.form("not", [&**inner]),
            Node::If { condition, then, otherwise } => self.form("if", [&**condition, &**then, &**otherwise]),
            Node::Compare { comparison, left, right } => self.word(format_args!("({comparison} {left} {right})")),
            Node::Member { value, sequence } => {
                self.word(format_args!("(member? {value} ["));
                for (i, element) in sequence.iter().enumerate() {
                    self.word(format_args!("{}{element}", if i == 0 { "" } else { " " }));
                }
                self.text.push_str("])");
            }
            Node::Exists(names) => {
                self.text.push_str("(exists?");
                for name in names {
                    self.word(format_args!(" {name}"));
                }
                self.text.push(')');
            }
        }
        (self.on_node)(node, start..self.text.len());
    }

    fn form<'n>(&mut self, operator: &str, arguments: impl IntoIterator<Item = &'n Node>) {
        self.text.push('(');
        self.text.push_str(operator);
        for argument in arguments {
            self.text.push(' ');
            self.node(argument);
        }
        self.text.push(')');
    }

    fn word(&mut self, word: impl fmt::Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{word}");
    }
}
