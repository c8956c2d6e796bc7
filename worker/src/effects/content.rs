//! Applies events to rows of `contents`.
//!
//! # Guarantees
//! - The state and each column have a version guard of their own (`content_is_added_and_removed`).

use shared::event::OrderKey;
use shared::platform::ContentState;

use super::ContentField;
use super::guards::VersionGuards;

/// Row of `contents`. The batch has its platform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ContentRow {
    pub content_id: String,
    pub title: Option<String>,
    pub content_type: Option<String>,
    /// `None` if unset, or if an application wrote another text.
    pub state: Option<ContentState>,
    /// JSON that replaces the stored one. `None` keeps it.
    pub data: Option<String>,
    pub guards: VersionGuards,
}

impl ContentRow {
    /// Creates a content without any values.
    pub(super) fn new(content_id: &str) -> Self {
        Self { content_id: content_id.to_owned(), ..Self::default() }
    }

    /// Applies a `content` effect. Returns true if the event changed anything.
    pub(super) fn apply(
        &mut self,
        state: ContentState,
        set: &[ContentField],
        key: OrderKey,
    ) -> bool {
        let mut won = self.guards.advance("state", key);
        if won {
            self.state = Some(state);
        }
        for field in set {
            won |= self.set(field, key);
        }
        won
    }

    fn set(&mut self, field: &ContentField, key: OrderKey) -> bool {
        let column = match field {
            ContentField::Title(_) => "title",
            ContentField::ContentType(_) => "content_type",
            ContentField::Data(_) => "data",
        };
        if !self.guards.advance(column, key) {
            return false;
        }
        match field {
            ContentField::Title(title) => self.title = Some(title.clone()),
            ContentField::ContentType(kind) => self.content_type = Some(kind.clone()),
            ContentField::Data(data) => self.data = Some(data.clone()),
        }
        true
    }
}
