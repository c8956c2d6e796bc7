//! What is signed, as a definition writes it: `{timestamp}.{body}`.

use std::fmt;
use std::str::FromStr;

/// A piece of what is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Fixed text.
    Literal(String),
    /// `{body}`: the raw body.
    Body,
    /// `{timestamp}`: its text as received.
    Timestamp,
    /// `{id}`: its text as received.
    Id,
}

/// What is signed: fixed text around `{body}`, `{timestamp}` and `{id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

/// A template that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// A `{…}` that stands for nothing, or a brace without its partner.
    #[error("may hold {{body}}, {{timestamp}} and {{id}}, and no other brace")]
    Placeholder,
    /// Twice the same placeholder.
    #[error("must not name a placeholder twice")]
    Repeated,
    /// The body is not signed.
    #[error("must contain {{body}}")]
    NoBody,
}

impl Template {
    /// `{body}`.
    #[must_use]
    pub fn body() -> Self {
        Self { parts: vec![Part::Body] }
    }

    pub(super) fn new(parts: Vec<Part>) -> Self {
        Self { parts }
    }

    /// The pieces, in order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether `part` is signed.
    #[must_use]
    pub fn has(&self, part: &Part) -> bool {
        self.parts.contains(part)
    }
}

impl Default for Template {
    fn default() -> Self {
        Self::body()
    }
}

impl FromStr for Template {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, InvalidTemplate> {
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (literal, tail) = rest.split_once('{').unwrap_or((rest, ""));
            if literal.contains('}') || (tail.is_empty() && rest.len() != literal.len()) {
                return Err(InvalidTemplate::Placeholder);
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            if tail.is_empty() {
                break;
            }
            let (name, tail) = tail.split_once('}').ok_or(InvalidTemplate::Placeholder)?;
            let part = match name {
                "body" => Part::Body,
                "timestamp" => Part::Timestamp,
                "id" => Part::Id,
                _ => return Err(InvalidTemplate::Placeholder),
            };
            if parts.contains(&part) {
                return Err(InvalidTemplate::Repeated);
            }
            parts.push(part);
            rest = tail;
        }
        if parts.contains(&Part::Body) { Ok(Self { parts }) } else { Err(InvalidTemplate::NoBody) }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| {
            f.write_str(match part {
                Part::Literal(text) => text,
                Part::Body => "{body}",
                Part::Timestamp => "{timestamp}",
                Part::Id => "{id}",
            })
        })
    }
}
