//! From the text of a filter to its tokens.

use super::{FilterError, Op};

/// A piece of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A name, a number, a state: letters, digits and a few signs.
    Word(String),
    /// Text in double or single quotes; a backslash takes the next character as it is.
    Quoted(String),
    /// A comparison.
    Op(Op),
}

/// Cuts a filter into tokens.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    chars: std::iter::Peekable<std::iter::Enumerate<std::str::Chars<'a>>>,
    len: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            chars: text.chars().enumerate().peekable(),
            len: text.chars().count(),
        }
    }

    /// Whether nothing but space is left.
    pub(super) fn at_end(&mut self) -> bool {
        while self.chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        self.chars.peek().is_none()
    }

    /// The next token and its position, from 1.
    pub(super) fn next(&mut self) -> Result<(usize, Token), FilterError> {
        if self.at_end() {
            return Err(self.error(self.len, "the filter ends too early"));
        }
        let Some((at, first)) = self.chars.next() else {
            return Err(self.error(self.len, "the filter ends too early"));
        };
        let token = match first {
            '"' | '\'' => Token::Quoted(self.quoted(at, first)?),
            '=' => Token::Op(Op::Eq),
            '!' if self.equals_sign() => Token::Op(Op::Ne),
            '<' if self.equals_sign() => Token::Op(Op::Le),
            '>' if self.equals_sign() => Token::Op(Op::Ge),
            '<' => Token::Op(Op::Lt),
            '>' => Token::Op(Op::Gt),
            c if is_word(c) => Token::Word(self.word(c)),
            c => return Err(self.error(at, &format!("{c:?} has no meaning here"))),
        };
        Ok((at + 1, token))
    }

    fn equals_sign(&mut self) -> bool {
        self.chars.next_if(|(_, c)| *c == '=').is_some()
    }

    fn word(&mut self, first: char) -> String {
        let mut word = String::from(first);
        while let Some((_, c)) = self.chars.next_if(|(_, c)| is_word(*c)) {
            word.push(c);
        }
        word
    }

    fn quoted(&mut self, at: usize, quote: char) -> Result<String, FilterError> {
        let mut text = String::new();
        while let Some((_, c)) = self.chars.next() {
            match c {
                c if c == quote => return Ok(text),
                '\\' => text.extend(self.chars.next().map(|(_, c)| c)),
                c => text.push(c),
            }
        }
        Err(self.error(at, "the quote is not closed"))
    }

    fn error(&self, at: usize, problem: &str) -> FilterError {
        FilterError {
            position: at + 1,
            problem: problem.to_owned(),
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "_-./:+@*".contains(c)
}
