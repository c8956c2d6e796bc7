//! From bytes to a tree that borrows from them, in one walk.
//!
//! Guarantee: what the walk takes is JSON, and it takes all JSON but what [`JsonError`] names besides. What it does not
//! take is shown to serde_json, whose word holds on whether, and where, that is no JSON. The tests compare the two on any
//! bytes.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::{JsonError, JsonNode, MAX_DEPTH, Value};

type Member<'a> = (Cow<'a, str>, JsonNode<'a>);

/// Room for the members of an object before they are known; most have no more.
const USUAL_MEMBERS: usize = 8;

/// Up to so many members, comparing each with each is faster than sorting.
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

/// Another format that `text`, which is no JSON, is in.
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

/// How many bytes `text` begins with that stand for themselves in a string: neither `"` (0x22) nor `\` (0x5c) nor a
/// control character.
fn plain(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // Eight bytes at a time: each becomes a high bit if it is below 0x20, or zero once what is looked for was taken off.
    // A carry may mark a byte behind the first that is meant, never one before it.
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
    /// The whole text as one value.
    fn document(&mut self) -> Result<JsonNode<'a>, JsonError> {
        let root = self.value(0)?;
        self.peek();
        if self.at == self.text.len() { Ok(root) } else { Err(self.lost()) }
    }

    /// The byte here, or 0 at the end.
    fn here(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or_default()
    }

    /// The next byte that is not white space, or 0 at the end.
    fn peek(&mut self) -> u8 {
        loop {
            match self.here() {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                other => return other,
            }
        }
    }

    /// The text from `start` to here.
    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn value(&mut self, depth: usize) -> Result<JsonNode<'a>, JsonError> {
        let first = self.peek();
        let start = self.at;
        let value = match first {
            b'{' => self.object(depth)?,
            b'[' => self.array(depth)?,
            b'"' => Value::String(self.string()?),
            b'-' | b'0'..=b'9' => Value::Number(self.number()?),
            b'n' => self.word("null", Value::Null)?,
            b't' => self.word("true", Value::Bool(true))?,
            b'f' => self.word("false", Value::Bool(false))?,
            _ => return Err(self.lost()),
        };
        Ok(JsonNode { value, raw: self.since(start) })
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>, JsonError> {
        let start = self.at;
        let mut members: Vec<Member<'a>> = Vec::with_capacity(USUAL_MEMBERS);
        self.each(depth, b'}', |walk| {
            if walk.here() != b'"' {
                return Err(walk.lost());
            }
            let key = walk.string()?;
            if walk.peek() != b':' {
                return Err(walk.lost());
            }
            walk.at += 1;
            members.push((key, walk.value(depth + 1)?));
            Ok(())
        })?;
        if repeats(&members) {
            Err(JsonError::DuplicateKey { at: start })
        } else {
            Ok(Value::Object(members))
        }
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
            self.at += plain(bytes.get(self.at..).unwrap_or_default());
            match self.here() {
                b'"' => break,
                // What is behind it is looked at below.
                b'\\' => {
                    escaped = true;
                    self.at += 2;
                }
                _ => return Err(self.lost()),
            }
        }
        self.at += 1;
        if escaped {
            // Not JSON, or half of a surrogate pair: serde_json says which.
            let text: String = serde_json::from_str(self.since(start))
                .map_err(|_| JsonError::LoneSurrogate { at: start })?;
            Ok(Cow::Owned(text))
        } else {
            Ok(Cow::Borrowed(self.text.get(start + 1..self.at - 1).unwrap_or_default()))
        }
    }

    fn number(&mut self) -> Result<&'a str, JsonError> {
        let start = self.at;
        self.at += usize::from(self.here() == b'-');
        if self.here() == b'0' {
            self.at += 1
        } else {
            self.digits()?
        }
        if self.here() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.here(), b'e' | b'E') {
            self.at += 1;
            self.at += usize::from(matches!(self.here(), b'+' | b'-'));
            self.digits()?;
        }
        Ok(self.since(start))
    }

    /// One digit or more.
    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.here().is_ascii_digit() {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.lost()) }
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, JsonError> {
        if !self.text.as_bytes().get(self.at..).unwrap_or_default().starts_with(word.as_bytes()) {
            return Err(self.lost());
        }
        self.at += word.len();
        Ok(value)
    }

    fn lost(&self) -> JsonError {
        JsonError::Syntax { line: 1, column: self.at }
    }
}
