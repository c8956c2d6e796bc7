//! Applies events to rows of `chat_messages`.
//!
//! # Guarantees
//! - Each column has a version guard of its own (`chat_message_keeps_newer_values`).
//! - Without an explicit time, a message was sent at the time of its oldest event, in any order of
//!   arrival (`chat_message_time_comes_from_its_oldest_event`).

use shared::event::{Millis, OrderKey};
use shared::platform::ChatColumn;

use super::ChatField;
use super::guards::VersionGuards;

/// Row of `chat_messages`. The batch has its platform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ChatRow {
    pub message_id: String,
    pub room_id: Option<String>,
    pub user_id: Option<String>,
    pub user_name: Option<String>,
    pub message: Option<String>,
    pub sent_at: Millis,
    pub guards: VersionGuards,
}

impl ChatRow {
    /// Creates a message without any values.
    pub(super) fn new(message_id: &str) -> Self {
        Self { message_id: message_id.to_owned(), sent_at: Millis::MAX, ..Self::default() }
    }

    /// Applies a `chat` effect. Returns true if the event changed anything.
    pub(super) fn apply(&mut self, room: Option<&str>, set: &[ChatField], key: OrderKey) -> bool {
        let mut won = false;
        if let Some(room) = room
            && self.guards.advance("room_id", key)
        {
            self.room_id = Some(room.to_owned());
            won = true;
        }
        for field in set {
            won |= self.set(field, key);
        }
        if self.guards.get(ChatColumn::SentAt.as_str()).is_none()
            && key.display_time() < self.sent_at
        {
            self.sent_at = key.display_time();
            won = true;
        }
        won
    }

    fn set(&mut self, field: &ChatField, key: OrderKey) -> bool {
        if !self.guards.advance(field.column().as_str(), key) {
            return false;
        }
        match field.clone() {
            ChatField::UserId(id) => self.user_id = Some(id),
            ChatField::UserName(name) => self.user_name = Some(name),
            ChatField::Message(text) => self.message = Some(text),
            ChatField::SentAt(at) => self.sent_at = at,
        }
        true
    }
}
