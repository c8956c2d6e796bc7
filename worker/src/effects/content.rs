//! What events do to a row of `contents`. Guarantee: state and every other column is its own last-writer register.

use shared::event::OrderKey;
use shared::platform::ContentState;

use super::ContentField;
use super::guards::VersionGuards;

/// A row of `contents`; its platform is the batch's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ContentRow {
    pub content_id: String,
    pub title: Option<String>,
    pub content_type: Option<String>,
    /// `None`: unset, or a text that only an application knows.
    pub state: Option<ContentState>,
    /// JSON that replaces the stored one; `None` leaves it.
    pub data: Option<String>,
    pub guards: VersionGuards,
}

impl ContentRow {
    /// A content that nothing is known of yet.
    pub(super) fn new(content_id: &str) -> Self {
        Self { content_id: content_id.to_owned(), ..Self::default() }
    }

    /// `content`. Whether the event won any register.
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
