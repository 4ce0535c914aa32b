//! YAML text as a tree of positioned nodes. Scalars stay text: what a value means is decided by the key it stands under, so that `no`,
//! `0o17`, `1e3` and `22:22` never become another host or port.
//!
//! A node's configuration may come from somebody else, so everything is bounded, and what the tree cannot say plainly is refused:
//! anchors and aliases (one line can stand for gigabytes), tags, several documents.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};

use super::problem::{Place, Position, Problem};

/// Longest configuration, in bytes: hundreds of times what a node of a thousand portals needs.
pub const MAX_TEXT: usize = 1024 * 1024;
/// Deepest nesting; the deepest shape that means anything is 4.
pub const MAX_DEPTH: usize = 32;
/// Most nodes in one tree; bounds memory where a text is all punctuation.
pub const MAX_NODES: usize = 50_000;

/// How a scalar was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    /// In quotes, or as a block.
    Marked,
}

/// A scalar, a list or a map, and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub text: String,
    pub style: Style,
    /// Whether a variable's value is part of `text`, so that places within it are not places in the source.
    pub substituted: bool,
}

/// A key of a map; keys are always scalars.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub place: Place,
    pub text: String,
}

impl Node {
    /// Whether nothing was written here: an empty plain scalar, `~` or `null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(Scalar { text, style: Style::Plain, substituted: false })
            if matches!(text.as_str(), "" | "~" | "null"))
    }
}

/// Reads one document.
///
/// # Errors
/// The first place where the text is not YAML or is YAML that is refused: a parser cannot go on behind a syntax error.
pub(crate) fn parse(text: &str) -> Result<Node, Problem> {
    if text.len() > MAX_TEXT {
        let message = format!("the configuration is longer than {MAX_TEXT} bytes");
        return Err(Problem::new(place_at(1, 1), message));
    }
    refuse_unprintable(text)?;
    let mut parser = Parser::new_from_str(text);
    let mut builder = Builder { open: Vec::new(), root: None, nodes: 0 };
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| syntax_problem(error.info(), *error.marker()))?;
        builder.take(event, span)?;
    }
    let empty = || {
        Problem::new(place_at(1, 1), "the configuration is empty")
            .try_this("write at least `name:`, or `{}` for a node without portals")
    };
    let root = builder.root.ok_or_else(empty)?;
    if root.is_null() { Err(empty()) } else { Ok(root) }
}

/// Characters that no YAML text may hold (YAML 1.2.2, section 5.1), which could hide something from a reader.
fn refuse_unprintable(text: &str) -> Result<(), Problem> {
    let (mut line, mut column) = (1, 1);
    for c in text.chars() {
        match c {
            '\n' => (line, column) = (line + 1, 1),
            '\t' | '\r' => column += 1,
            c if c.is_control() && c != '\u{85}' => {
                return Err(Problem::new(place_at(line, column), format!("U+{:04X} is not allowed here", u32::from(c)))
                    .try_this("remove this control character"));
            }
            _ => column += 1,
        }
    }
    Ok(())
}

fn syntax_problem(info: &str, marker: Marker) -> Problem {
    // The parser has a limit of its own, which it can meet before the tree does: it reads ahead.
    let message = if info.contains("recursion limit") {
        format!("nested deeper than {MAX_DEPTH} levels")
    } else {
        format!("this is not YAML: {info}")
    };
    let problem = Problem::new(place_at(marker.line(), marker.col() + 1), message);
    if info.contains("tab") { problem.try_this("indent with spaces") } else { problem }
}

const fn place_at(line: usize, column: usize) -> Place {
    Place { start: Position { line, column }, width: 1 }
}

fn place_of(span: Span) -> Place {
    let width = if span.start.line() == span.end.line() { span.end.col().saturating_sub(span.start.col()).max(1) } else { 1 };
    Place { start: Position { line: span.start.line(), column: span.start.col() + 1 }, width }
}

/// A list or map that is not closed yet.
enum Open {
    List(Place, Vec<Node>),
    Map(Place, Vec<(Key, Node)>, Option<Key>),
}

struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let place = place_of(span);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(Problem::new(place, "a configuration is one document").try_this("put each node in a file of its own"))
            }
            Event::DocumentStart(_) => Ok(()),
            Event::Alias(_) => Err(refused_anchor(place)),
            Event::Scalar(text, style, anchor, tag) => {
                refuse_properties(place, anchor, tag.is_some())?;
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    _ => Style::Marked,
                };
                self.add(Node { place, value: Value::Scalar(Scalar { text: text.into_owned(), style, substituted: false }) })
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_properties(place, anchor, tag.is_some())?;
                self.descend(Open::List(place, Vec::new()), place)
            }
            Event::MappingStart(anchor, tag) => {
                refuse_properties(place, anchor, tag.is_some())?;
                self.descend(Open::Map(place, Vec::new(), None), place)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(place, items)) => self.add(Node { place, value: Value::List(items) }),
                Some(Open::Map(place, entries, _)) => self.add(Node { place, value: Value::Map(entries) }),
                None => Ok(()),
            },
        }
    }

    fn descend(&mut self, open: Open, place: Place) -> Result<(), Problem> {
        if let Some(Open::Map(_, _, key @ None)) = self.open.last_mut() {
            // A list or map in the place of a key. Noted so that what follows is not taken for one.
            *key = None;
            return Err(Problem::new(place, "a key must be a plain text"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(Problem::new(place, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.open.push(open);
        Ok(())
    }

    fn add(&mut self, node: Node) -> Result<(), Problem> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Problem::new(node.place, format!("more than {MAX_NODES} values in one configuration")));
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries, key)) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => match node.value {
                    Value::Scalar(scalar) => *key = Some(Key { place: node.place, text: scalar.text }),
                    Value::List(_) | Value::Map(_) => return Err(Problem::new(node.place, "a key must be a plain text")),
                },
            },
        }
        Ok(())
    }
}

fn refuse_properties(place: Place, anchor: usize, tag: bool) -> Result<(), Problem> {
    if anchor != 0 {
        Err(refused_anchor(place))
    } else if tag {
        Err(Problem::new(place, "tags (`!…`) are not supported").try_this("remove the tag: every value is read as text"))
    } else {
        Ok(())
    }
}

fn refused_anchor(place: Place) -> Problem {
    Problem::new(place, "anchors and aliases (`&…`, `*…`) are not supported").try_this("write the value out, or use `variables:`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> (usize, usize, String) {
        let problem = parse(text).unwrap_err();
        (problem.place.start.line, problem.place.start.column, problem.message)
    }

    #[test]
    fn places_are_those_of_an_editor() {
        let root = parse("# c\nname: n1\ntcp-outlet:\n  to: \"80\"\n").unwrap();
        let Value::Map(entries) = root.value else { panic!() };
        assert_eq!(entries[0].0.place, Place { start: Position { line: 2, column: 1 }, width: 4 });
        assert_eq!(entries[0].1.place, Place { start: Position { line: 2, column: 7 }, width: 2 });
        let Value::Map(inner) = &entries[1].1.value else { panic!() };
        assert_eq!(inner[0].0.place.start, Position { line: 4, column: 3 });
        assert_eq!(inner[0].1.place, Place { start: Position { line: 4, column: 7 }, width: 4 });
    }

    #[test]
    fn scalars_are_text() {
        for text in ["no", "0o17", "1e3", "22:22", "0x1F", "1_000", "2024-01-01", "true", ".inf"] {
            let Value::Map(entries) = parse(&format!("a: {text}")).unwrap().value else { panic!() };
            assert!(matches!(&entries[0].1.value, Value::Scalar(scalar) if scalar.text == text));
        }
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(fault("a: &x 1"), (1, 4, "anchors and aliases (`&…`, `*…`) are not supported".into()));
        assert!(fault("a: *x").2.contains("unknown anchor") || fault("a: *x").2.contains("aliases"));
        assert_eq!(fault("a: !!int 1").2, "tags (`!…`) are not supported");
        assert_eq!(fault("a: 1\n---\nb: 2").2, "a configuration is one document");
        assert_eq!(fault("? [a]\n: 1").2, "a key must be a plain text");
        assert_eq!(fault("a: \u{7}"), (1, 4, "U+0007 is not allowed here".into()));
        assert_eq!(fault("").2, "the configuration is empty");
        assert_eq!(fault("# only a comment\n").2, "the configuration is empty");
        assert!(fault(&"[".repeat(1_000)).2.contains("deeper than 32"));
        let block: String = (0..100).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        assert!(fault(&block).2.contains("deeper than 32"));
        assert!(fault(&format!("a: {}", "x".repeat(MAX_TEXT))).2.contains("longer than"));
        assert!(fault(&format!("[{}]", "1,".repeat(MAX_NODES + 1))).2.contains("values"));
        assert!(fault("a: 1\n\tb: 2").2.contains("not YAML"));
        assert!(fault("a: [1").2.contains("not YAML"));
        assert!(fault("a: \"x").2.contains("not YAML"));
    }

    #[test]
    fn explicit_documents_and_json_are_fine() {
        for text in
            ["---\na: 1\n", "---\na: 1\n...\n", "%YAML 1.2\n---\na: 1\n", "{\"a\": 1}", "{\"a\":\"1\"}", "a: 1\r\nb: 2\r\n"]
        {
            assert!(parse(text).is_ok(), "{text}");
        }
    }
}
