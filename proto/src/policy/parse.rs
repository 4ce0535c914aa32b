//! The parser: one grammar for both notations, decided by the next word alone.
//!
//! It is written by hand, rather than with a combinator library, because half of it is finding the place and the remedy of a
//! fault. It recurses once per parenthesis or `not`, at most [`MAX_NESTING`] deep.

use std::ops::Range;

use super::check::{self, Kind};
use super::error::{Fault, ParseError, meant_operator, operator_help};
use super::expr::{Comparison, Name, Node, Operand};
use super::lex::{Token, continues_name, lex, shortened};
use super::{MAX_ATTRIBUTE_NAME, MAX_DEPTH, MAX_NESTING, MAX_NODES, MAX_TEXT, print};

type Result<T> = std::result::Result<T, ParseError>;

pub(super) fn parse(source: &str) -> Result<Node> {
    let whole = |fault, help: Option<&str>| ParseError::new(source, 0..0, fault, help.map(str::to_owned));
    if source.len() > MAX_TEXT {
        return Err(whole(Fault::TooLong(source.len()), None));
    }
    let mut parser = Parser { source, tokens: lex(source)?, next: 0, nesting: 0 };
    if parser.tokens.len() == 1 {
        return Err(whole(Fault::Empty, Some("`subject.has_credential` admits every member")));
    }
    let root = parser.condition()?;
    if *parser.peek() != Token::End {
        return Err(parser.misplaced(0, None));
    }
    // These are limits of the tree and of its canonical form, so that what infix could still say in few words parses again.
    let (depth, size, length) = (root.depth(), root.size(), print::canonical(&root).len());
    if depth > MAX_DEPTH {
        Err(whole(Fault::TooDeep(depth), None))
    } else if size > MAX_NODES {
        Err(whole(Fault::TooManyNodes(size), None))
    } else if length > MAX_TEXT {
        Err(whole(Fault::CanonicalTooLong(length), None))
    } else {
        Ok(root)
    }
}

/// The operators that open a form: `(operator …)`. `not` is missing because `(not …)` is read alike in both notations.
#[derive(Clone, Copy)]
enum Form {
    And,
    Or,
    If,
    Member,
    Exists,
    Compare(Comparison),
}

impl Form {
    fn of(token: &Token<'_>) -> Option<Self> {
        Some(match token {
            Token::Word("and") => Self::And,
            Token::Word("or") => Self::Or,
            Token::Word("if") => Self::If,
            Token::Word("member?") => Self::Member,
            Token::Word("exists?") => Self::Exists,
            Token::Comparison(comparison) => Self::Compare(*comparison),
            _ => return None,
        })
    }

    const fn operator(self) -> &'static str {
        match self {
            Self::And => "and",
            Self::Or => "or",
            Self::If => "if",
            Self::Member => "member?",
            Self::Exists => "exists?",
            Self::Compare(comparison) => comparison.as_str(),
        }
    }

    const fn takes(self) -> &'static str {
        match self {
            Self::And | Self::Or => "one or more conditions",
            Self::If => "three conditions: what is asked, what holds if it is true, and what holds if not",
            Self::Member => "a value and a sequence: `(member? subject.role [\"dev\" \"ops\"])`",
            Self::Exists => "one or more names: `(exists? subject.role)`",
            Self::Compare(_) => "two values",
        }
    }
}

struct Parser<'s> {
    source: &'s str,
    tokens: Vec<(Token<'s>, Range<usize>)>,
    next: usize,
    nesting: usize,
}

impl<'s> Parser<'s> {
    /// `conjunction { "or" conjunction }`
    fn condition(&mut self) -> Result<Node> {
        let first = self.conjunction()?;
        if *self.peek() != Token::Word("or") {
            return Ok(first);
        }
        let mut all = vec![first];
        while *self.peek() == Token::Word("or") {
            self.bump();
            all.push(self.conjunction()?);
        }
        Ok(Node::Or(all))
    }

    /// `negation { "and" negation }`
    fn conjunction(&mut self) -> Result<Node> {
        let first = self.negation()?;
        if *self.peek() != Token::Word("and") {
            return Ok(first);
        }
        let mut all = vec![first];
        while *self.peek() == Token::Word("and") {
            self.bump();
            all.push(self.negation()?);
        }
        Ok(Node::And(all))
    }

    /// `"not" negation | atom`
    fn negation(&mut self) -> Result<Node> {
        if *self.peek() != Token::Word("not") {
            return self.atom();
        }
        self.descend()?;
        self.bump();
        let inner = self.negation()?;
        self.nesting -= 1;
        Ok(Node::Not(Box::new(inner)))
    }

    /// A condition that needs no parentheses around it: all that an argument of a form can be.
    fn atom(&mut self) -> Result<Node> {
        match self.peek().clone() {
            Token::Open => self.parenthesis(),
            Token::Word(word @ ("true" | "false")) => {
                self.bump();
                Ok(Node::Literal(word == "true"))
            }
            Token::Word(word) if !is_reserved(word) => self.name_as_condition(word),
            Token::Text(_) => {
                Err(self.here(Fault::NotACondition(Kind::Text), Some("compare it with an attribute: `name = \"text\"`")))
            }
            Token::Integer(_) => {
                Err(self.here(Fault::NotACondition(Kind::Integer), Some("compare it with an attribute: `(= subject.name 5)`")))
            }
            Token::OpenSequence => {
                Err(self.here(Fault::NotACondition(Kind::Sequence), Some("write `(member? subject.name [\"one\" \"two\"])`")))
            }
            token => {
                let help = match token {
                    Token::Word("not") => Some("put parentheses around it: `(not …)`"),
                    Token::Word("and" | "or") => Some("put parentheses around it, or add what stands on its left"),
                    Token::Word(_) => Some("put parentheses around it and what belongs to it: `(operator …)`"),
                    Token::Comparison(_) => Some("write `name = \"text\"` or `(= subject.name \"text\")`"),
                    _ => None,
                };
                Err(self.here(Fault::Expected { expected: "a condition", found: token.describe() }, help))
            }
        }
    }

    /// `name`, `name = "text"`, `name != "text"`
    fn name_as_condition(&mut self, word: &'s str) -> Result<Node> {
        let span = self.span();
        let name = self.name(word)?;
        let Token::Comparison(comparison) = *self.peek() else {
            return match name {
                Name::HasCredential => Ok(Node::HasCredential),
                Name::Attribute(_) => Ok(Node::Compare {
                    comparison: Comparison::Equal,
                    left: Operand::Name(name),
                    right: Operand::Text("true".to_owned()),
                }),
                Name::Identifier | Name::ResourceId | Name::ActionId => {
                    let help = format!("compare it: `{word} = \"…\"`");
                    Err(self.error(span, Fault::NotACondition(Kind::Text), Some(help)))
                }
            };
        };
        let comparison_span = self.span();
        if matches!(comparison, Comparison::Less | Comparison::Greater) {
            let help = format!("write `({comparison} {name} 5)`");
            let fault = Fault::Expected { expected: "`=` or `!=`", found: format!("`{comparison}`") };
            return Err(self.error(comparison_span, fault, Some(help)));
        }
        self.bump();
        let Token::Text(text) = self.peek().clone() else {
            let help = match self.peek() {
                Token::Word(value) => Some(format!("write `{word} {comparison} \"{}\"`", shortened(value))),
                Token::Integer(value) => {
                    Some(format!("write `{word} {comparison} \"{value}\"` or `({comparison} {name} {value})`"))
                }
                _ => Some(format!("write `{word} {comparison} \"text\"`")),
            };
            let place = if *self.peek() == Token::End { comparison_span } else { self.span() };
            return Err(self.error(place, Fault::StringExpected(comparison), help));
        };
        self.bump();
        self.compare(comparison, comparison_span, Operand::Name(name), Operand::Text(text))
    }

    /// `( condition )` or a form
    fn parenthesis(&mut self) -> Result<Node> {
        let open = self.span();
        self.descend()?;
        self.bump();
        let head = self.next;
        let inner = match Form::of(self.peek()) {
            Some(form) => self.form(form, &open)?,
            None => {
                let inner = self.condition()?;
                if *self.peek() != Token::Close {
                    return Err(self.misplaced(head, Some(open)));
                }
                inner
            }
        };
        self.bump();
        self.nesting -= 1;
        Ok(inner)
    }

    /// A form up to its closing parenthesis.
    fn form(&mut self, form: Form, open: &Range<usize>) -> Result<Node> {
        let operator = self.span();
        self.bump();
        let node = match form {
            Form::And => Node::And(self.conditions(form, open)?),
            Form::Or => Node::Or(self.conditions(form, open)?),
            Form::If => {
                let mut arguments = self.conditions(form, open)?.into_iter().map(Box::new);
                match (arguments.next(), arguments.next(), arguments.next(), arguments.next()) {
                    (Some(condition), Some(then), Some(otherwise), None) => Node::If { condition, then, otherwise },
                    _ => return Err(self.count(operator, form)),
                }
            }
            Form::Member => {
                self.more(form, open)?;
                let value = self.operand()?;
                self.more(form, open)?;
                Node::Member { sequence: self.sequence(&value)?, value }
            }
            Form::Exists => {
                let mut names = Vec::new();
                self.more(form, open)?;
                while *self.peek() != Token::Close {
                    self.more(form, open)?;
                    match *self.peek() {
                        Token::Word(word) if !is_reserved(word) && !is_literal(word) => names.push(self.name(word)?),
                        ref other => {
                            let fault = Fault::Expected { expected: "a name", found: other.describe() };
                            return Err(self.here(fault, Some("`(exists? subject.role)` asks whether the peer has `role`")));
                        }
                    }
                }
                Node::Exists(names)
            }
            Form::Compare(comparison) => {
                self.more(form, open)?;
                let left = self.operand()?;
                self.more(form, open)?;
                let right = self.operand()?;
                self.compare(comparison, operator.clone(), left, right)?
            }
        };
        match self.peek() {
            Token::Close => Ok(node),
            Token::End => Err(self.unclosed(open)),
            _ => Err(self.count(self.span(), form)),
        }
    }

    /// The conditions of a form, at least one.
    fn conditions(&mut self, form: Form, open: &Range<usize>) -> Result<Vec<Node>> {
        self.more(form, open)?;
        let mut all = Vec::new();
        while *self.peek() != Token::Close {
            self.more(form, open)?;
            all.push(self.atom()?);
        }
        Ok(all)
    }

    /// Whether a form goes on.
    fn more(&self, form: Form, open: &Range<usize>) -> Result<()> {
        match self.peek() {
            Token::End => Err(self.unclosed(open)),
            Token::Close => Err(self.count(self.span(), form)),
            _ => Ok(()),
        }
    }

    fn sequence(&mut self, value: &Operand) -> Result<Vec<Operand>> {
        let open = self.span();
        if *self.peek() != Token::OpenSequence {
            let fault = Fault::Expected { expected: "a sequence", found: self.peek().describe() };
            return Err(self.here(fault, Some("a sequence is written `[\"one\" \"two\"]`; attributes are text, never sequences")));
        }
        self.bump();
        let (mut elements, mut kind) = (Vec::new(), None);
        while *self.peek() != Token::CloseSequence {
            if *self.peek() == Token::End {
                return Err(self.error(open, Fault::UnclosedBracket, Some("add `]`".to_owned())));
            }
            let span = self.span();
            let element = self.operand()?;
            check::element(value.kind(), kind, element.kind()).map_err(|fault| self.error(span, fault, None))?;
            if element.kind() != Kind::Attribute {
                kind = Some(element.kind());
            }
            elements.push(element);
        }
        self.bump();
        Ok(elements)
    }

    fn operand(&mut self) -> Result<Operand> {
        let operand = match self.peek().clone() {
            Token::Text(text) => Operand::Text(text),
            Token::Integer(number) => Operand::Integer(number),
            Token::Word(word) if is_literal(word) => Operand::Boolean(word == "true"),
            Token::Word(word) if !is_reserved(word) => return self.name(word).map(Operand::Name),
            other => {
                let help = match other {
                    Token::Open => Some("values are strings, integers, `true`, `false` and names; conditions cannot be compared"),
                    Token::OpenSequence => Some("`(member? value [\"one\" \"two\"])` looks for a value in a sequence"),
                    _ => None,
                };
                return Err(self.here(Fault::Expected { expected: "a value", found: other.describe() }, help));
            }
        };
        self.bump();
        Ok(operand)
    }

    /// Reads `word`, which comes next, as a name.
    fn name(&mut self, word: &'s str) -> Result<Name> {
        if !word.ends_with(continues_name) {
            let help = Some(operator_help(word));
            return Err(self.error(self.span(), Fault::UnknownOperator(shortened(word)), help));
        }
        let name = match word {
            "identifier" | "subject.identifier" => Name::Identifier,
            "has_credential" | "subject.has_credential" => Name::HasCredential,
            "resource.id" => Name::ResourceId,
            "action.id" => Name::ActionId,
            "subject." => return Err(self.unknown_name(word, "write the attribute's name behind `subject.`")),
            _ if word.starts_with("resource.") => return Err(self.unknown_name(word, "a resource has only `resource.id`")),
            _ if word.starts_with("action.") => return Err(self.unknown_name(word, "an action has only `action.id`")),
            _ => Name::Attribute(word.strip_prefix("subject.").unwrap_or(word).to_owned()),
        };
        match &name {
            Name::Attribute(attribute) if attribute.len() > MAX_ATTRIBUTE_NAME => Err(self.here(Fault::NameTooLong, None)),
            _ => {
                self.bump();
                Ok(name)
            }
        }
    }

    fn compare(&self, comparison: Comparison, span: Range<usize>, left: Operand, right: Operand) -> Result<Node> {
        match check::comparable(comparison, left.kind(), right.kind()) {
            Ok(()) => Ok(Node::Compare { comparison, left, right }),
            Err(fault) => {
                let help = match (&left, &right) {
                    (Operand::Name(Name::HasCredential), _) | (_, Operand::Name(Name::HasCredential)) => {
                        Some("`subject.has_credential` is a condition by itself".to_owned())
                    }
                    (Operand::Name(_), Operand::Integer(number)) | (Operand::Integer(number), Operand::Name(_)) => {
                        Some(format!("write the number as text: `\"{number}\"`"))
                    }
                    (Operand::Name(Name::Attribute(_)), Operand::Name(_)) => Some("compare each with a literal".to_owned()),
                    (Operand::Text(_), Operand::Integer(number)) | (Operand::Integer(number), Operand::Text(_)) => {
                        Some(format!("write both alike: `{number}` is a number, `\"{number}\"` is text"))
                    }
                    _ => None,
                };
                Err(self.error(span, fault, help))
            }
        }
    }

    /// What comes next stands where an expression ends, or goes on with `and` or `or`. The expression began with the token
    /// `head`, behind the parenthesis `open`.
    fn misplaced(&self, head: usize, open: Option<Range<usize>>) -> ParseError {
        let next = self.peek().clone();
        let word_at = |i: usize| match self.tokens.get(i) {
            Some((Token::Word(word), _)) => Some(*word),
            _ => None,
        };
        // `a adn b`: the unknown word stands second. `(adn a b)`, `nto a`: it stands first.
        let second = word_at(self.next).filter(|word| meant_operator(word).is_some()).map(|word| (word, self.span()));
        let first = || {
            let starts_value = !matches!(next, Token::Close | Token::CloseSequence | Token::Comparison(_) | Token::End);
            let lonely = self.next == head + 1 && starts_value;
            let word = word_at(head).filter(|word| lonely && (open.is_some() || meant_operator(word).is_some()))?;
            Some((word, self.tokens[head].1.clone()))
        };
        if next == Token::Word("not") {
            let fault = Fault::Expected { expected: "`and` or `or`", found: "`not`".to_owned() };
            return self.here(fault, Some("write `and not`"));
        }
        if let Some((word, span)) = second.or_else(first) {
            return self.error(span, Fault::UnknownOperator(shortened(word)), Some(operator_help(word)));
        }
        match (next, open) {
            (Token::End, Some(open)) => self.unclosed(&open),
            (Token::Close, None) => self.here(Fault::UnopenedParenthesis, Some("remove it, or add the `(` it belongs to")),
            (_, Some(_)) if word_at(head) == Some("not") => self.here(
                Fault::ArgumentCount { operator: "not", takes: "one condition" },
                Some("join conditions with `and` or `or`"),
            ),
            (other, open) => {
                let expected = if open.is_some() { "`and`, `or` or `)`" } else { "`and`, `or` or the end" };
                self.here(Fault::Expected { expected, found: other.describe() }, None)
            }
        }
    }

    fn unclosed(&self, open: &Range<usize>) -> ParseError {
        self.error(open.clone(), Fault::UnclosedParenthesis, Some("add `)`".to_owned()))
    }

    fn count(&self, span: Range<usize>, form: Form) -> ParseError {
        self.error(span, Fault::ArgumentCount { operator: form.operator(), takes: form.takes() }, None)
    }

    fn unknown_name(&self, word: &str, help: &str) -> ParseError {
        self.here(Fault::UnknownName(shortened(word)), Some(help))
    }

    fn peek(&self) -> &Token<'s> {
        self.tokens.get(self.next).map_or(&Token::End, |(token, _)| token)
    }

    fn span(&self) -> Range<usize> {
        self.tokens.get(self.next).map_or(self.source.len()..self.source.len(), |(_, span)| span.clone())
    }

    fn bump(&mut self) {
        self.next += 1;
    }

    fn descend(&mut self) -> Result<()> {
        if self.nesting == MAX_NESTING {
            return Err(self.here(Fault::NestedTooDeep, None));
        }
        self.nesting += 1;
        Ok(())
    }

    fn here(&self, fault: Fault, help: Option<&str>) -> ParseError {
        self.error(self.span(), fault, help.map(str::to_owned))
    }

    fn error(&self, span: Range<usize>, fault: Fault, help: Option<String>) -> ParseError {
        ParseError::new(self.source, span, fault, help)
    }
}

fn is_literal(word: &str) -> bool {
    matches!(word, "true" | "false")
}

/// Words that are operators wherever they stand; `subject.and` is an attribute of that name.
fn is_reserved(word: &str) -> bool {
    matches!(word, "and" | "or" | "not" | "if" | "member?" | "exists?")
}
