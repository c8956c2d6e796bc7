//! From bytes to a tree that borrows from them.
//!
//! serde_json decides what JSON is; the walk after it trusts that, and only finds where each value begins and ends,
//! which serde_json does not tell. A walk that lost its way would end in an error, never in a panic or another tree.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::{JsonError, MAX_DEPTH, Node, Value};

type Member<'a> = (Cow<'a, str>, Node<'a>);

/// Up to so many members, comparing each with each is faster than sorting.
const FEW_MEMBERS: usize = 16;

pub(super) fn parse(body: &[u8]) -> Result<Node<'_>, JsonError> {
    let text = std::str::from_utf8(body).map_err(|_| JsonError::NotUtf8)?;
    serde_json::from_str::<IgnoredAny>(text)
        .map_err(|error| JsonError::Syntax { line: error.line(), column: error.column() })?;
    Walk { text, at: 0 }.value(0)
}

/// Whether a key stands twice.
fn repeats(members: &[Member<'_>]) -> bool {
    if members.len() <= FEW_MEMBERS {
        let mut rest = members;
        while let Some(((key, _), others)) = rest.split_first() {
            if others.iter().any(|(other, _)| other == key) {
                return true;
            }
            rest = others;
        }
        return false;
    }
    let mut keys: Vec<&str> = members.iter().map(|(key, _)| key.as_ref()).collect();
    keys.sort_unstable();
    keys.windows(2).any(|pair| matches!(pair, [one, next] if one == next))
}

struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    /// The next byte that is not white space, or 0 at the end.
    fn peek(&mut self) -> u8 {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let blank = rest.iter().position(|b| !matches!(b, b' ' | b'\t' | b'\n' | b'\r')).unwrap_or(rest.len());
        self.at += blank;
        rest.get(blank).copied().unwrap_or_default()
    }

    /// The text from `start` to here.
    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn value(&mut self, depth: usize) -> Result<Node<'a>, JsonError> {
        let first = self.peek();
        let start = self.at;
        let value = match first {
            b'{' => self.object(depth)?,
            b'[' => self.array(depth)?,
            b'"' => Value::String(self.string()?),
            b'-' | b'0'..=b'9' => Value::Number(self.scalar()),
            _ => match self.scalar() {
                "null" => Value::Null,
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => return Err(self.lost()),
            },
        };
        Ok(Node { value, raw: self.since(start) })
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>, JsonError> {
        let start = self.at;
        let mut members: Vec<Member<'a>> = Vec::new();
        self.each(depth, b'}', |walk| {
            let key = walk.string()?;
            if walk.peek() != b':' {
                return Err(walk.lost());
            }
            walk.at += 1;
            members.push((key, walk.value(depth + 1)?));
            Ok(())
        })?;
        if repeats(&members) { Err(JsonError::DuplicateKey { at: start }) } else { Ok(Value::Object(members)) }
    }

    fn array(&mut self, depth: usize) -> Result<Value<'a>, JsonError> {
        let mut items = Vec::new();
        self.each(depth, b']', |walk| {
            items.push(walk.value(depth + 1)?);
            Ok(())
        })?;
        Ok(Value::Array(items))
    }

    /// Steps over an opening bracket, then `one` per comma-separated element, then over `close`.
    fn each(
        &mut self,
        depth: usize,
        close: u8,
        mut one: impl FnMut(&mut Self) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        if depth >= MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        self.at += 1;
        if self.peek() != close {
            loop {
                self.peek();
                one(self)?;
                match self.peek() {
                    b',' => self.at += 1,
                    byte if byte == close => break,
                    _ => return Err(self.lost()),
                }
            }
        }
        self.at += 1;
        Ok(())
    }

    /// A string, from its opening to behind its closing quote.
    fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        self.at += 1;
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let Some(step) = rest.iter().position(|b| matches!(b, b'"' | b'\\')) else {
                return Err(self.lost());
            };
            if rest.get(step) == Some(&b'"') {
                self.at += step + 1;
                break;
            }
            escaped = true;
            self.at += step + 2;
        }
        if escaped {
            let text: String =
                serde_json::from_str(self.since(start)).map_err(|_| JsonError::LoneSurrogate { at: start })?;
            Ok(Cow::Owned(text))
        } else {
            Ok(Cow::Borrowed(self.text.get(start + 1..self.at - 1).unwrap_or_default()))
        }
    }

    /// A number or a word.
    fn scalar(&mut self) -> &'a str {
        let start = self.at;
        let rest = self.text.as_bytes().get(start..).unwrap_or_default();
        let inside = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        self.at += rest.iter().position(|b| !inside(b)).unwrap_or(rest.len());
        self.since(start)
    }

    fn lost(&self) -> JsonError {
        JsonError::Syntax { line: 1, column: self.at }
    }
}
