//! Checks bodies against JSON Schemas, which are compiled once at start.
//!
//! # Guarantees
//!
//! - An error names the place in the body and the broken rule, never a value
//!   (`schema_error_holds_no_value_of_the_body`).
//! - References to other documents are refused at start, and patterns run in linear time
//!   (`invalid_schemas_are_refused`).

use std::collections::HashMap;
use std::fmt;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;
use serde_json::value::RawValue;

/// Longest path in an error, in bytes. Its segments come from the body.
const MAX_PATH_BYTES: usize = 200;

/// Error of a body that does not match its schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The body is not JSON.
    #[error("the body is not JSON")]
    NotJson,
    /// The body violates a rule of the schema.
    #[error("{path}: {rule}")]
    Violated {
        /// JSON pointer of the value or of the missing one. `/` stands for the whole body.
        path: String,
        /// The rule in the terms of the schema.
        rule: String,
    },
}

/// Compiled schemas of a platform: one for all bodies, and others by event type.
#[derive(Clone, Default)]
pub struct Schemas {
    all: Option<Validator>,
    by_type: HashMap<String, Validator>,
}

impl fmt::Debug for Schemas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut types: Vec<_> = self.by_type.keys().collect();
        types.sort();
        f.debug_struct("Schemas")
            .field("all", &self.all.is_some())
            .field("by_type", &types)
            .finish()
    }
}

impl Schemas {
    /// Combines compiled schemas: `all` for every body, and `by_type` for bodies of that event
    /// type.
    #[must_use]
    pub(super) fn new(all: Option<Validator>, by_type: HashMap<String, Validator>) -> Self {
        Self { all, by_type }
    }

    /// Returns true if every body passes, so that callers need not parse it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_none() && self.by_type.is_empty()
    }

    /// Checks a body against the schema of the platform and that of its event type. Without schemas
    /// the body is not parsed.
    ///
    /// # Errors
    /// Returns the first violation, or an error if the body is not JSON.
    pub fn check(&self, event_type: &str, body: &str) -> Result<(), PayloadError> {
        let typed = self.by_type.get(event_type);
        if self.all.is_none() && typed.is_none() {
            return Ok(());
        }
        let body: Value = match serde_json::from_str(body) {
            Ok(body) => body,
            // Valid JSON with a number that does not fit. The provider cannot correct that.
            Err(_) if serde_json::from_str::<&RawValue>(body).is_ok() => return Ok(()),
            Err(_) => return Err(PayloadError::NotJson),
        };
        for validator in self.all.iter().chain(typed) {
            validator.validate(&body).map_err(|error| violation(&error))?;
        }
        Ok(())
    }
}

/// Compiles a schema. An error describes only the schema.
pub(super) fn compile(schema: &Value) -> Result<Validator, String> {
    jsonschema::options()
        .offline()
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|error| {
            format!(
                "not a JSON Schema: {error} (at {})",
                display_path(error.instance_path().as_str())
            )
        })
}

fn display_path(path: &str) -> String {
    let mut path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
    if path.len() > MAX_PATH_BYTES {
        path.truncate(path.floor_char_boundary(MAX_PATH_BYTES));
        path.push('…');
    }
    path
}

fn violation(error: &ValidationError<'_>) -> PayloadError {
    let path = error.instance_path().as_str();
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            let property =
                property.as_str().unwrap_or_default().replace('~', "~0").replace('/', "~1");
            PayloadError::Violated {
                path: display_path(&format!("{path}/{property}")),
                rule: "is required".to_owned(),
            }
        }
        ValidationErrorKind::Type { kind } => {
            PayloadError::Violated { path: display_path(path), rule: type_rule(kind) }
        }
        kind => PayloadError::Violated {
            path: display_path(path),
            rule: format!("violates `{}` of the schema", kind.keyword()),
        },
    }
}

fn type_rule(kind: &TypeKind) -> String {
    let names: Vec<String> = match kind {
        TypeKind::Single(one) => vec![one.to_string()],
        TypeKind::Multiple(several) => several.iter().map(|one| one.to_string()).collect(),
    };
    format!("must be of type {}", names.join(" or "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use serde_json::json;

    use super::*;

    fn schemas(all: Value) -> Schemas {
        Schemas::new(Some(compile(&all).unwrap()), HashMap::new())
    }

    fn error_text(schemas: &Schemas, body: &str) -> String {
        schemas.check("any", body).unwrap_err().to_string()
    }

    #[test]
    fn huge_number_passes_and_invalid_json_is_refused() {
        let schemas = schemas(json!({"type": "object"}));
        assert_eq!(schemas.check("any", r#"{"n": 1e400}"#), Ok(()));
        assert_eq!(schemas.check("any", r#"{"n": 1e400"#), Err(PayloadError::NotJson));
    }

    #[test]
    fn no_schema_accepts_any_body_unparsed() {
        let none = Schemas::default();
        assert!(none.is_empty());
        assert_eq!(none.check("any", "not json"), Ok(()));
    }

    #[test]
    fn missing_property_is_named_by_its_own_path() {
        let schemas = schemas(
            json!({"properties": {"payload": {"required": ["a/b"]}}, "required": ["payload"]}),
        );
        assert_eq!(error_text(&schemas, "{}"), "/payload: is required");
        assert_eq!(error_text(&schemas, r#"{"payload": {}}"#), "/payload/a~1b: is required");
        assert_eq!(schemas.check("any", r#"{"payload": {"a/b": 1}}"#), Ok(()));
    }

    #[test]
    fn schema_error_holds_no_value_of_the_body() {
        let schemas = schemas(json!({
            "additionalProperties": false,
            "properties": {
                "text": {"type": ["string", "null"], "maxLength": 3, "pattern": "^a"},
                "one": {"enum": [1]},
                "any": {"anyOf": [{"type": "integer"}]},
                "whole": {"type": "object"}
            }
        }));
        for body in [
            r#"{"text": "hunter2"}"#,
            r#"{"one": "hunter2"}"#,
            r#"{"any": "hunter2"}"#,
            r#"{"whole": "hunter2"}"#,
            r#"{"hunter2": 1}"#,
        ] {
            assert!(
                !error_text(&schemas, body).contains("hunter2"),
                "{body}: {}",
                error_text(&schemas, body)
            );
        }
        assert_eq!(error_text(&schemas, r#"{"text": 1}"#), "/text: must be of type null or string");
        assert_eq!(
            error_text(&schemas, r#"{"text": "abcd"}"#),
            "/text: violates `maxLength` of the schema"
        );
    }

    #[test]
    fn whole_body_is_named_by_a_slash() {
        assert_eq!(
            error_text(&schemas(json!({"type": "object"})), "[]"),
            "/: must be of type object"
        );
    }

    #[test]
    fn long_path_is_truncated() {
        let schemas = schemas(json!({"patternProperties": {"": {"type": "null"}}}));
        let message = error_text(&schemas, &format!(r#"{{"{}": 1}}"#, "é".repeat(400)));
        assert!(message.len() < 300, "{message}");
    }

    #[test]
    fn type_schema_applies_beside_the_common_one() {
        let typed =
            HashMap::from([("a".to_owned(), compile(&json!({"required": ["x"]})).unwrap())]);
        let schemas = Schemas::new(Some(compile(&json!({"type": "object"})).unwrap()), typed);
        assert!(!schemas.is_empty());
        assert_eq!(schemas.check("b", "{}"), Ok(()));
        assert_eq!(schemas.check("a", "{}").unwrap_err().to_string(), "/x: is required");
        assert!(schemas.check("a", "[]").is_err());
    }

    #[test]
    fn non_json_is_refused_if_a_schema_applies() {
        assert_eq!(schemas(json!(true)).check("any", "{"), Err(PayloadError::NotJson));
    }

    #[test]
    fn a_schema_that_is_none_is_refused() {
        for wrong in [
            json!({"type": "strin"}),
            json!({"required": "kind"}),
            json!({"pattern": "("}),
            json!({"pattern": "(?=a)b"}),
            json!({"$ref": "https://example.com/other.json"}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"$ref": "#/$defs/missing"}),
            json!(7),
        ] {
            assert!(compile(&wrong).is_err(), "{wrong}");
        }
    }
}
