//! Parses the signed content of a definition, such as `{timestamp}.{body}`.

use std::fmt;
use std::str::FromStr;

/// Part of the signed content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePart {
    /// Fixed text.
    Literal(String),
    /// `{body}`: the raw body.
    Body,
    /// `{timestamp}`: its text as received.
    Timestamp,
    /// `{id}`: its text as received.
    Id,
}

/// Signed content: fixed text with `{body}`, `{timestamp}` and `{id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<TemplatePart>,
}

/// Error of an unusable template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// An unknown placeholder, or a brace without its partner.
    #[error("may hold {{body}}, {{timestamp}} and {{id}}, and no other brace")]
    Placeholder,
    /// A placeholder that occurs twice.
    #[error("must not name a placeholder twice")]
    Repeated,
    /// A template without `{body}`.
    #[error("must contain {{body}}")]
    NoBody,
}

impl Template {
    /// Returns the template `{body}`.
    #[must_use]
    pub fn body() -> Self {
        Self { parts: vec![TemplatePart::Body] }
    }

    pub(super) fn new(parts: Vec<TemplatePart>) -> Self {
        Self { parts }
    }

    /// Parts in order.
    #[must_use]
    pub fn parts(&self) -> &[TemplatePart] {
        &self.parts
    }

    /// Returns true if `part` is signed.
    #[must_use]
    pub fn has(&self, part: &TemplatePart) -> bool {
        self.parts.contains(part)
    }
}

impl Default for Template {
    fn default() -> Self {
        Self::body()
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut parts: Vec<TemplatePart> = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (literal, tail) = rest.split_once('{').unwrap_or((rest, ""));
            if literal.contains('}') || (tail.is_empty() && rest.len() != literal.len()) {
                return Err(TemplateError::Placeholder);
            }
            if !literal.is_empty() {
                parts.push(TemplatePart::Literal(literal.to_owned()));
            }
            if tail.is_empty() {
                break;
            }
            let (name, tail) = tail.split_once('}').ok_or(TemplateError::Placeholder)?;
            let part = match name {
                "body" => TemplatePart::Body,
                "timestamp" => TemplatePart::Timestamp,
                "id" => TemplatePart::Id,
                _ => return Err(TemplateError::Placeholder),
            };
            if parts.contains(&part) {
                return Err(TemplateError::Repeated);
            }
            parts.push(part);
            rest = tail;
        }
        if parts.contains(&TemplatePart::Body) {
            Ok(Self { parts })
        } else {
            Err(TemplateError::NoBody)
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| {
            f.write_str(match part {
                TemplatePart::Literal(text) => text,
                TemplatePart::Body => "{body}",
                TemplatePart::Timestamp => "{timestamp}",
                TemplatePart::Id => "{id}",
            })
        })
    }
}
