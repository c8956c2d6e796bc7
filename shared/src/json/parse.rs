//! Parses a text in one pass into a tree that borrows from it.
//!
//! # Guarantees
//!
//! - The parser accepts exactly the JSON that serde_json accepts, except for the other cases of
//!   [`JsonError`] (`arbitrary_bytes_are_accepted_or_refused_as_serde_json_does`).
//! - serde_json reports the position of an error
//!   (`near_json_is_accepted_or_refused_as_serde_json_does`).

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::{JsonError, JsonNode, MAX_DEPTH, Value};

type Member<'a> = (Cow<'a, str>, JsonNode<'a>);

/// Initial capacity for the members of an object. Most objects have no more.
const USUAL_MEMBERS: usize = 8;

/// Number of members up to which pairwise comparison is faster than sorting.
const FEW_MEMBERS: usize = 16;

pub(super) fn parse(text: &str) -> Result<JsonNode<'_>, JsonError> {
    JsonParser { text, at: 0 }.document().map_err(|error| {
        match serde_json::from_str::<IgnoredAny>(text) {
            Err(syntax) => {
                let place = JsonError::Syntax { line: syntax.line(), column: syntax.column() };
                other_format(text).unwrap_or(place)
            }
            Ok(IgnoredAny) => error,
        }
    })
}

/// Detects another known format of `text`, which is not JSON.
fn other_format(text: &str) -> Option<JsonError> {
    let text = text.trim_start();
    let is_key = |b: u8| b.is_ascii_alphanumeric() || b"_.-~[]%+*".contains(&b);
    let is_form = || {
        let key = text.split_once('=').map(|(key, _)| key);
        let is_named = key.is_some_and(|key| !key.is_empty() && key.bytes().all(is_key));
        is_named && text.bytes().all(|b| b.is_ascii_graphic())
    };
    if text.starts_with('<') {
        Some(JsonError::Markup)
    } else if is_form() || text.starts_with("--") && text.contains("Content-Disposition: form-data")
    {
        Some(JsonError::Form)
    } else {
        None
    }
}

/// Returns true if two members have the same key.
fn has_duplicate_key(members: &[Member<'_>]) -> bool {
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

/// Length of the prefix of `text` that needs no unescaping in a string. The prefix ends before a
/// quote (0x22), a backslash (0x5c) or a control character.
fn plain_prefix_len(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // Reads eight bytes at a time. A byte below 0x20 sets its high bit, and so does a byte that is
    // zero after XOR with the searched one. A carry may mark a later byte by mistake, never an
    // earlier one.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut rest = text;
    while let Some((word, next)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let ends = (control | zero(word ^ (ONES * 0x22)) | zero(word ^ (ONES * 0x5c))) & HIGHS;
        if ends != 0 {
            return text.len() - rest.len() + (ends.trailing_zeros() / 8) as usize;
        }
        rest = next;
    }
    let ends = |b: &u8| matches!(b, 0..=0x1f | b'"' | b'\\');
    text.len() - rest.len() + rest.iter().position(ends).unwrap_or(rest.len())
}

struct JsonParser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> JsonParser<'a> {
    /// Parses the whole text as one value.
    fn document(&mut self) -> Result<JsonNode<'a>, JsonError> {
        let root = self.value(0)?;
        self.skip_whitespace();
        if self.at == self.text.len() { Ok(root) } else { Err(self.syntax_error()) }
    }

    /// The current byte, or 0 at the end.
    fn current(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or_default()
    }

    /// Skips white space. Returns the next byte, or 0 at the end.
    fn skip_whitespace(&mut self) -> u8 {
        loop {
            match self.current() {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                other => return other,
            }
        }
    }

    /// The text from `start` to the current position.
    fn text_from(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn value(&mut self, depth: usize) -> Result<JsonNode<'a>, JsonError> {
        let first = self.skip_whitespace();
        let start = self.at;
        let value = match first {
            b'{' => self.object(depth)?,
            b'[' => self.array(depth)?,
            b'"' => Value::String(self.string()?),
            b'-' | b'0'..=b'9' => Value::Number(self.number()?),
            b'n' => self.literal("null", Value::Null)?,
            b't' => self.literal("true", Value::Bool(true))?,
            b'f' => self.literal("false", Value::Bool(false))?,
            _ => return Err(self.syntax_error()),
        };
        Ok(JsonNode { value, raw: self.text_from(start) })
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>, JsonError> {
        let start = self.at;
        let mut members: Vec<Member<'a>> = Vec::with_capacity(USUAL_MEMBERS);
        self.elements(depth, b'}', |parser| {
            if parser.current() != b'"' {
                return Err(parser.syntax_error());
            }
            let key = parser.string()?;
            if parser.skip_whitespace() != b':' {
                return Err(parser.syntax_error());
            }
            parser.at += 1;
            members.push((key, parser.value(depth + 1)?));
            Ok(())
        })?;
        if has_duplicate_key(&members) {
            Err(JsonError::DuplicateKey { at: start })
        } else {
            Ok(Value::Object(members))
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value<'a>, JsonError> {
        let mut items = Vec::new();
        self.elements(depth, b']', |parser| {
            items.push(parser.value(depth + 1)?);
            Ok(())
        })?;
        Ok(Value::Array(items))
    }

    /// Parses the opening bracket, `one` for each element between commas, and `close`.
    fn elements(
        &mut self,
        depth: usize,
        close: u8,
        mut one: impl FnMut(&mut Self) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        if depth >= MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        self.at += 1;
        if self.skip_whitespace() != close {
            loop {
                self.skip_whitespace();
                one(self)?;
                match self.skip_whitespace() {
                    b',' => self.at += 1,
                    byte if byte == close => break,
                    _ => return Err(self.syntax_error()),
                }
            }
        }
        self.at += 1;
        Ok(())
    }

    /// Parses a string, with both quotes.
    fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at += plain_prefix_len(bytes.get(self.at..).unwrap_or_default());
            match self.current() {
                b'"' => break,
                // The escape is decoded below.
                b'\\' => {
                    escaped = true;
                    self.at += 2;
                }
                _ => return Err(self.syntax_error()),
            }
        }
        self.at += 1;
        if escaped {
            // The error is invalid JSON or a lone surrogate. serde_json distinguishes them in
            // `parse`.
            let text: String = serde_json::from_str(self.text_from(start))
                .map_err(|_| JsonError::LoneSurrogate { at: start })?;
            Ok(Cow::Owned(text))
        } else {
            Ok(Cow::Borrowed(self.text.get(start + 1..self.at - 1).unwrap_or_default()))
        }
    }

    fn number(&mut self) -> Result<&'a str, JsonError> {
        let start = self.at;
        self.at += usize::from(self.current() == b'-');
        if self.current() == b'0' {
            self.at += 1
        } else {
            self.digits()?
        }
        if self.current() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.current(), b'e' | b'E') {
            self.at += 1;
            self.at += usize::from(matches!(self.current(), b'+' | b'-'));
            self.digits()?;
        }
        Ok(self.text_from(start))
    }

    /// Parses one digit or more.
    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.current().is_ascii_digit() {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.syntax_error()) }
    }

    fn literal(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, JsonError> {
        if !self.text.as_bytes().get(self.at..).unwrap_or_default().starts_with(word.as_bytes()) {
            return Err(self.syntax_error());
        }
        self.at += word.len();
        Ok(value)
    }

    fn syntax_error(&self) -> JsonError {
        JsonError::Syntax { line: 1, column: self.at }
    }
}
