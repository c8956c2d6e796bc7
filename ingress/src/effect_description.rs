//! Describes the columns that an effect sets, for `check-platform` and `send-test`.

use shared::platform::{Effect, Pointer};

/// Effect with its columns.
pub(crate) struct EffectDescription<'p> {
    /// Name in definitions.
    pub(crate) name: &'static str,
    /// Columns with a fixed value.
    pub(crate) fixed: Vec<(&'static str, String)>,
    /// Columns that are read from the body, and their pointers. The first pointer with a value
    /// counts.
    pub(crate) read: Vec<(String, &'p [Pointer])>,
}

/// Describes `effect`.
pub(crate) fn describe_effect(effect: &Effect) -> EffectDescription<'_> {
    let mut parts = EffectDescription { name: "log", fixed: Vec::new(), read: Vec::new() };
    match effect {
        Effect::SessionStatus { status, set, data } => {
            parts.name = "session.status";
            parts.fixed.push(("status", status.to_string()));
            parts.columns(set);
            parts.members(data);
        }
        Effect::SessionViewers { set, data } => {
            parts.name = "session.viewers";
            parts.columns(set);
            parts.members(data);
        }
        Effect::Recording { state, id, set } => {
            parts.name = "recording";
            parts.fixed.push(("state", state.to_string()));
            parts.read.push(("recording_id".to_owned(), id));
            parts.columns(set);
        }
        Effect::Content { state, id, set } => {
            parts.name = "content";
            parts.fixed.push(("state", state.to_string()));
            parts.read.push(("content_id".to_owned(), id));
            parts.columns(set);
        }
        Effect::Job { status, id, set } => {
            parts.name = "job";
            parts.fixed.push(("status", status.clone()));
            parts.read.push(("job_id".to_owned(), id));
            parts.columns(set);
        }
        Effect::Chat { id, set } => {
            parts.name = "chat";
            parts.read.push(("message_id".to_owned(), id));
            parts.columns(set);
        }
        Effect::SessionAnnounce => parts.name = "session.announce",
        Effect::Log => {}
    }
    parts
}

impl<'p> EffectDescription<'p> {
    fn columns<C: ToString>(&mut self, set: &'p [(C, Vec<Pointer>)]) {
        self.read.extend(set.iter().map(|(column, at)| (column.to_string(), at.as_slice())));
    }

    fn members(&mut self, data: &'p [(String, Vec<Pointer>)]) {
        self.read.extend(data.iter().map(|(name, at)| (format!("data.{name}"), at.as_slice())));
    }
}
