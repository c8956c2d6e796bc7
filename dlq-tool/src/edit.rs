//! `--set '/json/pointer=value'`: edits a body.
//!
//! # Guarantees
//!
//! - Only the text at the pointer changes. Order, spelling, white space and every digit of the rest
//!   stay as the provider sent them (`edit_changes_only_the_named_value`).
//! - An edit whose pointer leads nowhere fails (`edit_without_a_place_is_refused`).

use std::ops::Range;
use std::str::FromStr;

use serde::de::IgnoredAny;
use shared::json::{self, Document, JsonError, JsonNode, Value};

/// One `--set` option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    /// The pointer as typed.
    pointer: String,
    /// Unescaped reference tokens, outermost first; never empty.
    tokens: Vec<String>,
    /// New value as JSON text.
    value: String,
}

/// Text that is not an edit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum EditParseError {
    /// The `=` is missing.
    #[error("must be a JSON pointer, '=' and a value, such as /data/room=r-1")]
    MissingEquals,
    /// The pointer is invalid.
    #[error("must begin with a JSON pointer such as /data/id, with ~0 for ~ and ~1 for /")]
    Pointer,
}

/// Reason why an edit cannot be applied to a body.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum EditApplyError {
    /// The body is not JSON.
    #[error("the body is {0}")]
    Body(#[from] JsonError),
    /// The pointer leads to nothing that can be changed or extended.
    #[error("the pointer {0} leads nowhere in the body")]
    NoSuchPath(String),
}

impl FromStr for Edit {
    type Err = EditParseError;

    fn from_str(text: &str) -> Result<Self, EditParseError> {
        let (pointer, value) = text.split_once('=').ok_or(EditParseError::MissingEquals)?;
        let tokens: Option<Vec<String>> = pointer
            .strip_prefix('/')
            .map(|rest| rest.split('/').map(unescaped).collect())
            .unwrap_or(None);
        let tokens = tokens.ok_or(EditParseError::Pointer)?;
        let value = match serde_json::from_str::<IgnoredAny>(value) {
            Ok(_) => value.to_owned(),
            Err(_) => quoted(value),
        };
        Ok(Self { pointer: pointer.to_owned(), tokens, value })
    }
}

/// Returns the unescaped reference token, or `None` if `~` is followed by anything other than 0 or
/// 1.
fn unescaped(token: &str) -> Option<String> {
    let mut parts = token.split('~');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (escaped, rest) = match (part.strip_prefix('0'), part.strip_prefix('1')) {
            (Some(rest), _) => ('~', rest),
            (_, Some(rest)) => ('/', rest),
            _ => return None,
        };
        out.push(escaped);
        out.push_str(rest);
    }
    Some(out)
}

fn quoted(text: &str) -> String {
    // A string can always be serialized.
    serde_json::to_string(text).unwrap_or_default()
}

/// Applies `edits` to `body` in their order.
///
/// # Errors
/// [`EditApplyError`] if the body is not JSON, or if a pointer leads nowhere.
pub(crate) fn apply(body: &[u8], edits: &[Edit]) -> Result<Vec<u8>, EditApplyError> {
    let mut body = json::text(body).into_owned().into_bytes();
    for edit in edits {
        let (place, text) = {
            let document = Document::parse(&body)?;
            splice(&document, &body, edit)
                .ok_or_else(|| EditApplyError::NoSuchPath(edit.pointer.clone()))?
        };
        body.splice(place, text.into_bytes());
    }
    Ok(body)
}

/// Returns the range to replace, and its new text.
fn splice(document: &Document<'_>, body: &[u8], edit: &Edit) -> Option<(Range<usize>, String)> {
    let (last, parents) = edit.tokens.split_last()?;
    let mut node = document.root();
    for token in parents {
        node = child(node, token)?;
    }
    if let Some(old) = child(node, last) {
        return Some((span(old, body)?, edit.value.clone()));
    }
    let (empty, text) = match node.value() {
        Value::Object(members) => (members.is_empty(), format!("{}:{}", quoted(last), edit.value)),
        Value::Array(items)
            if last == "-" || last.parse() == Ok(items.len()) && index(last).is_some() =>
        {
            (items.is_empty(), edit.value.clone())
        }
        _ => return None,
    };
    // Inserts before the closing bracket, directly after the last member.
    let inside = span(node, body)?;
    let before = body.get(inside.start..inside.end.checked_sub(1)?)?;
    let blank = before.iter().rev().take_while(|byte| byte.is_ascii_whitespace()).count();
    let at = inside.end.checked_sub(1 + blank)?;
    Some((at..at, if empty { text } else { format!(",{text}") }))
}

fn child<'n, 'b>(node: &'n JsonNode<'b>, token: &str) -> Option<&'n JsonNode<'b>> {
    match node.value() {
        Value::Object(_) => node.get(token),
        Value::Array(items) => items.get(index(token)?),
        _ => None,
    }
}

fn index(token: &str) -> Option<usize> {
    let plain =
        token == "0" || (!token.starts_with('0') && token.bytes().all(|b| b.is_ascii_digit()));
    if plain { token.parse().ok() } else { None }
}

/// Returns the range of `node` in `body`, from which the node borrows.
fn span(node: &JsonNode<'_>, body: &[u8]) -> Option<Range<usize>> {
    let start = (node.raw().as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    let end = start.checked_add(node.raw().len())?;
    (end <= body.len()).then_some(start..end)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const BODY: &str =
        r#"{ "z": 1.10e2, "a": {"b~/c": "x"} ,"list":[1, 2 ], "none": {}, "n": [ ] }"#;

    #[track_caller]
    fn check(edits: &[&str], expected: &str) {
        let edits: Vec<Edit> = edits.iter().map(|edit| edit.parse().unwrap()).collect();
        let edited = apply(BODY.as_bytes(), &edits).unwrap();
        assert_eq!(String::from_utf8(edited).unwrap(), expected);
    }

    #[test]
    fn edit_changes_only_the_named_value() {
        check(&["/z=7"], &BODY.replace("1.10e2", "7"));
        check(&["/a/b~0~1c=y"], &BODY.replace("\"x\"", "\"y\""));
        check(&["/list/1={\"k\":[null]}"], &BODY.replace("2 ]", "{\"k\":[null]} ]"));
        check(&["/a=null"], &BODY.replace(r#"{"b~/c": "x"}"#, "null"));
    }

    #[test]
    fn edit_appends_new_members_and_items() {
        check(&["/a/new=true"], &BODY.replace("\"x\"}", "\"x\",\"new\":true}"));
        check(&["/none/a=1", "/none/b=2"], &BODY.replace("{}", "{\"a\":1,\"b\":2}"));
        check(&["/list/-=3", "/list/3=4"], &BODY.replace("2 ]", "2,3,4 ]"));
        check(&["/n/-=\"x\""], &BODY.replace("[ ]", "[\"x\" ]"));
        check(&["/top=a"], &BODY.replace("[ ] }", "[ ],\"top\":\"a\" }"));
    }

    #[test]
    fn edit_value_is_json_or_a_string() {
        let value = |edit: &str| edit.parse::<Edit>().unwrap().value;
        assert_eq!(value("/a=1"), "1");
        assert_eq!(value("/a=\"1\""), "\"1\"");
        assert_eq!(value("/a=one"), "\"one\"");
        assert_eq!(value("/a="), "\"\"");
        assert_eq!(value("/a=b=c"), "\"b=c\"");
        assert_eq!(value("/a={\"b\":1"), "\"{\\\"b\\\":1\"");
    }

    #[test]
    fn edit_without_a_place_is_refused() {
        for edit in ["/z/a=1", "/no/a=1", "/list/5=1", "/list/01=1", "/list/x=1", "/a/b~0~1c/d=1"] {
            let edit: Edit = edit.parse().unwrap();
            let refused = apply(BODY.as_bytes(), std::slice::from_ref(&edit));
            assert_eq!(refused, Err(EditApplyError::NoSuchPath(edit.pointer.clone())));
        }
        assert!(matches!(apply(b"\xff", &["/a=1".parse().unwrap()]), Err(EditApplyError::Body(_))));
        assert_eq!("/a".parse::<Edit>(), Err(EditParseError::MissingEquals));
        assert_eq!("a=1".parse::<Edit>(), Err(EditParseError::Pointer));
        assert_eq!("=1".parse::<Edit>(), Err(EditParseError::Pointer));
        assert_eq!("/a~2=1".parse::<Edit>(), Err(EditParseError::Pointer));
    }
}
