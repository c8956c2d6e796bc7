//! Looks values up in a body: of several places, the first one whose value can be used counts.

use std::borrow::Cow;

use super::invalid_event::{InvalidEventError, RequiredValue};
use super::value;
use super::warning::{ColumnWarning, ColumnWarningReason, MAX_WARNINGS};
use crate::json::{Document, JsonNode};
use crate::platform::Pointer;

/// Meaning of one value for a column.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ColumnValue<T> {
    /// A value.
    Value(T),
    /// A value with U+FFFD in place of what databases refuse.
    Replaced(T),
    /// The sender says that it does not know the value; another place may.
    Unknown(T),
    /// A way of writing "absent".
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

/// A body, and the columns that it cannot set.
pub(super) struct ColumnReader<'a, 'b> {
    pub(super) document: &'a Document<'b>,
    pub(super) warnings: Vec<ColumnWarning>,
}

impl<'a, 'b> ColumnReader<'a, 'b> {
    pub(super) fn new(document: &'a Document<'b>) -> Self {
        Self { document, warnings: Vec::new() }
    }

    /// Notes that `column` is not stored as sent.
    pub(super) fn warn(
        &mut self,
        column: impl Into<Cow<'static, str>>,
        reason: ColumnWarningReason,
    ) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(ColumnWarning { column: column.into(), reason });
        }
    }

    /// The first usable id and its place.
    ///
    /// # Errors
    /// The first unusable value, where no place has a usable one.
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

    /// The same of an id that the effect means nothing without.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn required<'p>(
        &self,
        at: &'p [Pointer],
        what: RequiredValue,
    ) -> Result<(&'p Pointer, String), InvalidEventError> {
        let found = self.key(at).map_err(|reason| InvalidEventError::key(what, reason))?;
        found.ok_or(InvalidEventError::Missing { what })
    }

    /// The value of a column and its place; `None` leaves the column alone. A value that is not
    /// stored as sent is noted.
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

    /// The values of several columns of a table, with room for `more` of them.
    pub(super) fn columns<C: Copy, T>(
        &mut self,
        set: &[(C, Vec<Pointer>)],
        more: usize,
        name: fn(C) -> &'static str,
        read: impl Fn(C, &JsonNode<'_>) -> ColumnValue<T>,
    ) -> Vec<T> {
        let mut all = Vec::with_capacity(set.len() + more);
        for (column, at) in set {
            let found = self.column(|| name(*column).into(), at, |_, node| read(*column, node));
            all.extend(found.map(|(_, value)| value));
        }
        all
    }
}
