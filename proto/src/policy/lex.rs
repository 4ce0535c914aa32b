//! The words of an expression, with their places.

use std::iter::Peekable;
use std::ops::Range;
use std::str::CharIndices;

use super::error::{Fault, MAX_QUOTED, ParseError, operator_help};
use super::expr::Comparison;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'s> {
    Open,
    Close,
    OpenSequence,
    CloseSequence,
    Comparison(Comparison),
    /// A keyword or a name; those of the prefix operators may end in `?`.
    Word(&'s str),
    Text(String),
    Integer(i64),
    End,
}

impl Token<'_> {
    /// How messages name it.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Open => "`(`".to_owned(),
            Self::Close => "`)`".to_owned(),
            Self::OpenSequence => "`[`".to_owned(),
            Self::CloseSequence => "`]`".to_owned(),
            Self::Comparison(comparison) => format!("`{comparison}`"),
            Self::Word(word) => format!("`{}`", shortened(word)),
            Self::Text(_) => "a string".to_owned(),
            Self::Integer(number) => format!("`{number}`"),
            Self::End => "the end".to_owned(),
        }
    }
}

pub(super) fn shortened(word: &str) -> String {
    word.chars().take(MAX_QUOTED).collect()
}

pub(super) const fn continues_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

const fn is_operator(c: char) -> bool {
    matches!(c, '=' | '!' | '<' | '>' | '&' | '|')
}

/// All words of `source`, then [`Token::End`].
pub(super) fn lex(source: &str) -> Result<Vec<(Token<'_>, Range<usize>)>, ParseError> {
    let mut lexer = Lexer { source, chars: source.char_indices().peekable() };
    let mut tokens = Vec::new();
    while let Some(token) = lexer.next()? {
        tokens.push(token);
    }
    tokens.push((Token::End, source.len()..source.len()));
    Ok(tokens)
}

struct Lexer<'s> {
    source: &'s str,
    chars: Peekable<CharIndices<'s>>,
}

impl<'s> Lexer<'s> {
    fn next(&mut self) -> Result<Option<(Token<'s>, Range<usize>)>, ParseError> {
        while self.chars.next_if(|(_, c)| matches!(c, ' ' | '\t' | '\r' | '\n')).is_some() {}
        let Some((start, c)) = self.chars.next() else { return Ok(None) };
        let token = match c {
            '(' => Token::Open,
            ')' => Token::Close,
            '[' => Token::OpenSequence,
            ']' => Token::CloseSequence,
            '"' => self.string(start)?,
            'A'..='Z' | 'a'..='z' | '_' => {
                self.skip_while(continues_name);
                self.chars.next_if(|(_, c)| *c == '?');
                Token::Word(&self.source[start..self.place()])
            }
            '0'..='9' | '-' => {
                self.skip_while(continues_name);
                let span = start..self.place();
                let word = &self.source[span.clone()];
                let digits = word.strip_prefix('-').unwrap_or(word);
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    let help = (c != '-').then(|| format!("an attribute of this name is `subject.{}`", shortened(word)));
                    return self.fail(span, Fault::NotAName(shortened(word)), help);
                }
                match word.parse() {
                    Ok(number) => Token::Integer(number),
                    Err(_) => return self.fail(span, Fault::IntegerRange(shortened(word)), None),
                }
            }
            _ if is_operator(c) => {
                self.skip_while(is_operator);
                let span = start..self.place();
                let word = &self.source[span.clone()];
                match Comparison::ALL.into_iter().find(|comparison| comparison.as_str() == word) {
                    Some(comparison) => Token::Comparison(comparison),
                    None => return self.fail(span, Fault::UnknownOperator(shortened(word)), Some(operator_help(word))),
                }
            }
            _ => {
                let help = match c {
                    '\'' | '`' | '\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}' => {
                        "strings stand in double quotes: `\"text\"`"
                    }
                    ',' => "the elements of a sequence are separated by spaces",
                    '{' | '}' => "expressions are grouped with `(` and `)`",
                    '?' => "the operators that end in `?` are `member?` and `exists?`",
                    _ => "names consist of A-Z a-z 0-9 . _ -, and any other text stands in double quotes",
                };
                return self.fail(start..start + c.len_utf8(), Fault::UnexpectedCharacter(c), Some(help.to_owned()));
            }
        };
        Ok(Some((token, start..self.place())))
    }

    /// A string whose opening quote was read.
    fn string(&mut self, start: usize) -> Result<Token<'s>, ParseError> {
        let mut text = String::new();
        while let Some((at, c)) = self.chars.next() {
            match c {
                '"' => return Ok(Token::Text(text)),
                '\\' => match self.escape() {
                    Some(c) => text.push(c),
                    None => {
                        let help = r#"the escapes are `\"` `\\` `\n` `\r` `\t` `\0` `\u{…}`"#.to_owned();
                        let end = self.place();
                        return self.fail(at..end, Fault::UnknownEscape, Some(help));
                    }
                },
                // A string that goes on over the end of its line has most often lost its closing quote.
                '\n' => return self.unterminated(start, at),
                _ if c.is_control() => {
                    let help = Some(format!("write `{}`", c.escape_debug()));
                    return self.fail(at..at + c.len_utf8(), Fault::RawControl(c), help);
                }
                _ => text.push(c),
            }
        }
        self.unterminated(start, self.source.len())
    }

    fn unterminated<T>(&self, start: usize, end: usize) -> Result<T, ParseError> {
        self.fail(start..end, Fault::UnterminatedString, Some("put `\"` behind its last character".to_owned()))
    }

    /// An escape whose backslash was read.
    fn escape(&mut self) -> Option<char> {
        match self.chars.next()?.1 {
            c @ ('"' | '\\') => Some(c),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            '0' => Some('\0'),
            'u' => {
                self.chars.next_if(|(_, c)| *c == '{')?;
                let start = self.place();
                self.skip_while(|c| c.is_ascii_hexdigit());
                let digits = &self.source[start..self.place()];
                self.chars.next_if(|(_, c)| *c == '}')?;
                u32::from_str_radix(digits, 16).ok().and_then(char::from_u32)
            }
            _ => None,
        }
    }

    fn skip_while(&mut self, take: impl Fn(char) -> bool) {
        while self.chars.next_if(|(_, c)| take(*c)).is_some() {}
    }

    /// The first byte that was not read.
    fn place(&mut self) -> usize {
        self.chars.peek().map_or(self.source.len(), |(at, _)| *at)
    }

    fn fail<T>(&self, span: Range<usize>, fault: Fault, help: Option<String>) -> Result<T, ParseError> {
        Err(ParseError::new(self.source, span, fault, help))
    }
}
