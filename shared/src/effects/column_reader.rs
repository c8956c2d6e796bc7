//! Reads column values from a body. The first usable value of several places counts.

use std::borrow::Cow;

use super::invalid_event::{InvalidEventError, RequiredValue};
use super::value;
use super::warning::{ColumnWarning, ColumnWarningReason, MAX_WARNINGS};
use crate::json::{Document, JsonNode};
use crate::platform::Pointer;

/// One value of the body, as read for a column.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ColumnValue<T> {
    /// A usable value.
    Value(T),
    /// A usable value, with U+FFFD in place of characters that databases refuse.
    Replaced(T),
    /// An explicit "unknown". A value in another place takes precedence.
    Unknown(T),
    /// A form of "absent".
    Absent,
    /// A value that cannot be stored.
    Unusable(ColumnWarningReason),
}

impl<T> ColumnValue<T> {
    /// Applies `make` to the value, if there is one.
    pub(super) fn map<U>(self, make: impl FnOnce(T) -> U) -> ColumnValue<U> {
        match self {
            Self::Value(value) => ColumnValue::Value(make(value)),
            Self::Replaced(value) => ColumnValue::Replaced(make(value)),
            Self::Unknown(value) => ColumnValue::Unknown(make(value)),
            Self::Absent => ColumnValue::Absent,
            Self::Unusable(reason) => ColumnValue::Unusable(reason),
        }
    }
}

/// Reads values from a body, and collects warnings about columns.
pub(super) struct ColumnReader<'a, 'b> {
    pub(super) document: &'a Document<'b>,
    pub(super) warnings: Vec<ColumnWarning>,
}

impl<'a, 'b> ColumnReader<'a, 'b> {
    pub(super) fn new(document: &'a Document<'b>) -> Self {
        Self { document, warnings: Vec::new() }
    }

    /// Records that `column` is not stored as sent.
    pub(super) fn warn(
        &mut self,
        column: impl Into<Cow<'static, str>>,
        reason: ColumnWarningReason,
    ) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(ColumnWarning { column: column.into(), reason });
        }
    }

    /// Finds the first usable id and its place.
    ///
    /// # Errors
    /// No place has a usable id. The reason is that of the first unusable value.
    pub(super) fn key<'p>(
        &self,
        at: &'p [Pointer],
    ) -> Result<Option<(&'p Pointer, String)>, ColumnWarningReason> {
        let mut unusable = None;
        for pointer in at {
            match self.document.find(pointer).map(value::key) {
                Some(Ok(Some(key))) => return Ok(Some((pointer, key))),
                Some(Err(reason)) => unusable = unusable.or(Some(reason)),
                Some(Ok(None)) | None => {}
            }
        }
        unusable.map_or(Ok(None), Err)
    }

    /// Finds the first usable id and its place, for an effect that requires one.
    ///
    /// # Errors
    /// No place has a usable id.
    pub(super) fn required<'p>(
        &self,
        at: &'p [Pointer],
        what: RequiredValue,
    ) -> Result<(&'p Pointer, String), InvalidEventError> {
        let found = self.key(at).map_err(|reason| InvalidEventError::key(what, reason))?;
        found.ok_or(InvalidEventError::Missing { what })
    }

    /// Finds the value of a column and its place. `None` keeps the stored value. Warns about a
    /// value that is not stored as sent.
    pub(super) fn column<'p, T>(
        &mut self,
        name: impl FnOnce() -> Cow<'static, str>,
        at: &'p [Pointer],
        read: impl Fn(&Pointer, &JsonNode<'_>) -> ColumnValue<T>,
    ) -> Option<(&'p Pointer, T)> {
        let (mut unknown, mut unusable) = (None, None);
        for pointer in at {
            let Some(node) = self.document.find(pointer) else { continue };
            match read(pointer, node) {
                ColumnValue::Value(value) => return Some((pointer, value)),
                ColumnValue::Replaced(value) => {
                    self.warn(name(), ColumnWarningReason::ReplacedCharacters);
                    return Some((pointer, value));
                }
                ColumnValue::Unknown(value) => unknown = unknown.or(Some((pointer, value))),
                ColumnValue::Absent => {}
                ColumnValue::Unusable(reason) => unusable = unusable.or(Some(reason)),
            }
        }
        if let (None, Some(reason)) = (&unknown, unusable) {
            self.warn(name(), reason);
        }
        unknown
    }

    /// Reads several columns of a table. The result has capacity for `more` further values.
    pub(super) fn columns<C: Copy, T>(
        &mut self,
        set: &[(C, Vec<Pointer>)],
        more: usize,
        name: fn(C) -> &'static str,
        read: impl Fn(C, &JsonNode<'_>) -> ColumnValue<T>,
    ) -> Vec<T> {
        let mut values = Vec::with_capacity(set.len() + more);
        for (column, at) in set {
            let found = self.column(|| name(*column).into(), at, |_, node| read(*column, node));
            values.extend(found.map(|(_, value)| value));
        }
        values
    }
}
