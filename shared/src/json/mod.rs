//! Parses JSON bodies into trees that keep each value as it was written.
//!
//! # Guarantees
//!
//! - A [`Document`] is valid JSON by serde_json's rules, without duplicate keys
//!   (`arbitrary_bytes_are_accepted_or_refused_as_serde_json_does`,
//!   `duplicate_keys_are_refused_at_any_level_and_in_any_spelling`).
//! - Numbers stay as written (`values_are_found_as_written`).
//! - Two documents share a canonical form only if no reader can distinguish their values
//!   (`canonical_form_differs_for_distinguishable_documents`).

mod canonical;
mod parse;
mod text;
pub mod time;

use std::borrow::Cow;

use crate::platform::Pointer;

pub use text::text;

/// Deepest accepted nesting. Equal to serde_json's bound, since schemas and stores use serde_json.
pub const MAX_DEPTH: usize = 127;

/// Reason for which a body is not a document. Names a position, but no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The body is not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// The body is a form, which some senders use by default.
    #[error("form-encoded, but only JSON is accepted; choose application/json at the sender")]
    Form,
    /// The body is XML or HTML.
    #[error("XML or HTML, but only JSON is accepted; choose JSON at the sender")]
    Markup,
    /// The body is not JSON.
    #[error("not JSON at line {line}, column {column}")]
    Syntax {
        /// Line of the error, from 1.
        line: usize,
        /// Column of the error, from 1.
        column: usize,
    },
    /// A string has half of a surrogate pair, which is not a character.
    #[error("lone surrogate in the string at byte {at}")]
    LoneSurrogate {
        /// Position of the string, in bytes.
        at: usize,
    },
    /// An object has a key twice.
    #[error("duplicate key in the object at byte {at}")]
    DuplicateKey {
        /// Position of the object, in bytes.
        at: usize,
    },
    /// The nesting is deeper than [`MAX_DEPTH`].
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
    /// A number as written.
    Number(&'a str),
    /// A string, unescaped.
    String(Cow<'a, str>),
    /// The items of an array, in order.
    Array(Vec<JsonNode<'a>>),
    /// The members of an object, in order and with unique keys.
    Object(Vec<(Cow<'a, str>, JsonNode<'a>)>),
}

/// A value with its JSON text.
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

    /// JSON text of this value, verbatim.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// Returns true if the value is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// Text of a string, or a number as written. `None` for other values.
    #[must_use]
    pub fn as_text(&self) -> Option<Cow<'_, str>> {
        match &self.value {
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Number(lexeme) => Some(Cow::Borrowed(lexeme)),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// Text of a string. `None` for other values.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Member of an object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&JsonNode<'a>> {
        match &self.value {
            Value::Object(members) => {
                members.iter().find(|(one, _)| one == key).map(|(_, node)| node)
            }
            _ => None,
        }
    }

    /// Child that one token of a JSON pointer selects: a member by key, or an item by index.
    fn child(&self, token: &str) -> Option<&JsonNode<'a>> {
        match &self.value {
            Value::Object(_) => self.get(token),
            Value::Array(items) => items.get(index(token)?),
            _ => None,
        }
    }
}

/// Parses an array index by RFC 6901: digits without a leading zero.
fn index(token: &str) -> Option<usize> {
    let plain =
        token == "0" || (!token.starts_with('0') && token.bytes().all(|b| b.is_ascii_digit()));
    if plain { token.parse().ok() } else { None }
}

impl<'a> Document<'a> {
    /// Parses `body`.
    ///
    /// # Errors
    /// The body is not UTF-8 JSON, has duplicate keys or lone surrogates, or is nested deeper than
    /// [`MAX_DEPTH`].
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

    /// The outermost value.
    #[must_use]
    pub fn root(&self) -> &JsonNode<'a> {
        &self.root
    }

    /// The value at `pointer`. It may be `null`.
    #[must_use]
    pub fn find(&self, pointer: &Pointer) -> Option<&JsonNode<'a>> {
        pointer.segments.iter().try_fold(&self.root, |node, token| node.child(token))
    }

    /// The first value that is present and not `null`.
    #[must_use]
    pub fn first(&self, pointers: &[Pointer]) -> Option<&JsonNode<'a>> {
        pointers.iter().filter_map(|pointer| self.find(pointer)).find(|node| !node.is_null())
    }

    /// Writes the canonical form to `sink` in pieces, without the values at `ignore`.
    ///
    /// Key order, white space and escapes do not affect the form. Everything else does, and numbers
    /// count as written. Different documents (after removal of `ignore`) have different forms.
    pub fn canonical_hash_into(&self, sink: &mut impl FnMut(&[u8]), ignore: &[Pointer]) {
        canonical::feed(&self.root, sink, ignore);
    }
}

#[cfg(test)]
mod tests;
