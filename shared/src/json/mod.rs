//! JSON as signed: values are found, compared and hashed without being re-printed.
//!
//! Guarantee: a [`Document`] is well-formed JSON (as serde_json sees it) without duplicate keys, and numbers stay as
//! written, so two documents have one canonical form only if no reader could tell their values apart.

mod canonical;
mod parse;
mod text;
pub mod time;

use std::borrow::Cow;

use crate::platform::Pointer;

pub use text::text;

/// Deepest nesting that is accepted; the same as serde_json's, which schemas and stores read bodies with.
pub const MAX_DEPTH: usize = 127;

/// Why a body is no document. Names a place, never a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// A form, as browsers and some senders encode it.
    #[error("form-encoded, but only JSON is accepted; choose application/json at the sender")]
    Form,
    /// XML or HTML.
    #[error("XML or HTML, but only JSON is accepted; choose JSON at the sender")]
    Markup,
    /// Not JSON.
    #[error("not JSON at line {line}, column {column}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// A string with half of a surrogate pair, which stands for no character.
    #[error("lone surrogate in the string at byte {at}")]
    LoneSurrogate {
        /// Where the string begins.
        at: usize,
    },
    /// A key that stands twice in one object.
    #[error("duplicate key in the object at byte {at}")]
    DuplicateKey {
        /// Where the object begins.
        at: usize,
    },
    /// Nested too deep.
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// A value as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// The number as written.
    Number(&'a str),
    /// The text, unescaped.
    String(Cow<'a, str>),
    /// The items in order.
    Array(Vec<JsonNode<'a>>),
    /// The members in order; no key stands twice.
    Object(Vec<(Cow<'a, str>, JsonNode<'a>)>),
}

/// A value and the text that it was written as.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonNode<'a> {
    value: Value<'a>,
    raw: &'a str,
}

/// A parsed body.
#[derive(Clone, Debug, PartialEq)]
pub struct Document<'a> {
    root: JsonNode<'a>,
}

impl<'a> JsonNode<'a> {
    /// The value.
    #[must_use]
    pub fn value(&self) -> &Value<'a> {
        &self.value
    }

    /// The JSON text of this value, verbatim.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// Whether it is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// A string's text or a number as written, else `None`.
    #[must_use]
    pub fn as_text(&self) -> Option<Cow<'_, str>> {
        match &self.value {
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Number(lexeme) => Some(Cow::Borrowed(lexeme)),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// A string's text, else `None`.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// An object's member.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&JsonNode<'a>> {
        match &self.value {
            Value::Object(members) => {
                members.iter().find(|(one, _)| one == key).map(|(_, node)| node)
            }
            _ => None,
        }
    }

    /// What one reference token of a JSON pointer names: an object's member, or an array's item by its index.
    fn child(&self, token: &str) -> Option<&JsonNode<'a>> {
        match &self.value {
            Value::Object(_) => self.get(token),
            Value::Array(items) => items.get(index(token)?),
            _ => None,
        }
    }
}

/// An array index as RFC 6901 has it: digits without a leading zero.
fn index(token: &str) -> Option<usize> {
    let plain =
        token == "0" || (!token.starts_with('0') && token.bytes().all(|b| b.is_ascii_digit()));
    if plain { token.parse().ok() } else { None }
}

impl<'a> Document<'a> {
    /// Parses `body`.
    ///
    /// # Errors
    /// When it is not UTF-8 JSON, has duplicate keys or half characters, or is nested deeper than [`MAX_DEPTH`].
    pub fn parse(body: &'a [u8]) -> Result<Self, JsonError> {
        Self::parse_text(std::str::from_utf8(body).map_err(|_| JsonError::NotUtf8)?)
    }

    /// Parses the [`text()`] of a body.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_text(text: &'a str) -> Result<Self, JsonError> {
        parse::parse(text).map(|root| Self { root })
    }

    /// The whole value.
    #[must_use]
    pub fn root(&self) -> &JsonNode<'a> {
        &self.root
    }

    /// The value at `pointer`, be it `null`.
    #[must_use]
    pub fn find(&self, pointer: &Pointer) -> Option<&JsonNode<'a>> {
        pointer.segments.iter().try_fold(&self.root, |node, token| node.child(token))
    }

    /// The first value that is present and not `null`.
    #[must_use]
    pub fn first(&self, pointers: &[Pointer]) -> Option<&JsonNode<'a>> {
        pointers.iter().filter_map(|pointer| self.find(pointer)).find(|node| !node.is_null())
    }

    /// Feeds the canonical form, without what `ignore` points to, into `sink` piece by piece.
    ///
    /// Key order, white space and escapes do not show in it; everything else does, numbers as written. No two
    /// different documents (after leaving out `ignore`) have the same form.
    pub fn canonical_hash_into(&self, sink: &mut impl FnMut(&[u8]), ignore: &[Pointer]) {
        canonical::feed(&self.root, sink, ignore);
    }
}

#[cfg(test)]
mod tests;
