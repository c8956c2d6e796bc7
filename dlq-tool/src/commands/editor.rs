//! Edited replays: computes the fields that an edited dead letter gets.
//!
//! # Guarantees
//!
//! - Event id and origin stay, so the event keeps its identity and its place. Event type and time
//!   are derived from the edited body by the platform's definition
//!   (`edited_event_takes_effect_once`).
//! - An edit that cannot be applied is reported and changes nothing
//!   (`invalid_edit_is_reported_and_changes_nothing`).
//!
//! # Design
//!
//! Without a definition of the platform, event type and time stay as they are, and the tool says so
//! once per platform.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use shared::config::{Env, report};
use shared::platform::PlatformName;
use shared::platform::derive::{DerivedFields, derive};
use shared::platform::registry::Registry;
use shared::queue::{DeadLetter, Queue};
use shared::registration::RegistrationStore;
use tokio_util::sync::CancellationToken;

use crate::edit::{Edit, apply};
use crate::exit_code::ToolError;
use crate::output::eprint_line;

/// Edits, and the definitions by which type and time are derived.
#[derive(Debug)]
pub(super) struct Editor {
    edits: Vec<Edit>,
    registry: Registry,
    /// Platforms whose missing definition was reported.
    unknown: RefCell<BTreeSet<PlatformName>>,
}

impl Editor {
    /// Reads the definitions: bundled, from `PLATFORMS_FILE`, and registered in Redis.
    pub(super) async fn new(queue: &Queue, edits: Vec<Edit>) -> Result<Self, ToolError> {
        let env = Env::from_process();
        let file = env.opt("PLATFORMS_FILE").map(PathBuf::from);
        let registry = Registry::load(file.as_deref())
            .map_err(|problems| ToolError::Usage(report(&problems).trim_end().to_owned()))?;
        let once = CancellationToken::new();
        let _over = once.clone().drop_guard();
        let registry = RegistrationStore::start(queue.clone(), registry, None, once)
            .refresh()
            .await?
            .registry
            .clone();
        Ok(Self { edits, registry, unknown: RefCell::default() })
    }

    /// Returns the fields that change in `letter`, or why it cannot be edited. The reason quotes
    /// nothing of the body.
    pub(super) fn fields(&self, letter: &DeadLetter) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let body = letter.body.as_ref().ok_or("the field body is missing")?;
        let edited = apply(&body.0, &self.edits).map_err(|error| error.to_string())?;
        let mut fields = BTreeMap::from([("edited".to_owned(), b"1".to_vec())]);
        match self
            .registry
            .get(letter.platform.as_str())
            .filter(|found| found.name == letter.platform)
        {
            Some(platform) => {
                let received_at = letter.received_at.ok_or("the field received_at is missing")?;
                let was = DerivedFields {
                    event_type: letter.event_type.clone().unwrap_or_default(),
                    occurred_at: letter.occurred_at.unwrap_or(received_at),
                };
                let now = derive(platform, &edited, &was, received_at)
                    .map_err(|error| format!("the edited body is not a valid event: {error}"))?;
                fields.insert("event_type".to_owned(), now.event_type.into_bytes());
                fields.insert("occurred_at".to_owned(), now.occurred_at.to_string().into_bytes());
            }
            None => {
                if self.unknown.borrow_mut().insert(letter.platform.clone()) {
                    eprint_line(&format!(
                        "{}: no definition found (is PLATFORMS_FILE set?); event type and time \
                         stay as they are",
                        letter.platform
                    ));
                }
            }
        }
        fields.insert("body".to_owned(), edited);
        Ok(fields)
    }
}
