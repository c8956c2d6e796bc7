//! State of `top` and its key bindings, without terminal and Redis.
//!
//! # Guarantees
//!
//! - A replay or purge runs only after `y`, and only on the dead letters that the dialogue named
//!   (`top_action_needs_a_confirming_key`).

use std::collections::{BTreeMap, BTreeSet};

use shared::event::StreamId;
use shared::platform::PlatformName;

use super::model::{DeadLetterList, ErrorCodeCounts, Filter, PlatformRow, PlatformSample};

/// Pane that has the keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Platforms,
    DeadLetters,
}

/// Action on dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BulkAction {
    Replay,
    Purge,
}

impl BulkAction {
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Purge => "purge",
        }
    }

    pub(super) fn done(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Purge => "purged",
        }
    }
}

/// Dialogue drawn over the panes.
#[derive(Clone, Debug)]
pub(super) enum Overlay {
    /// The text filter is being edited.
    FilterInput(String),
    /// Asks for confirmation; `y` runs the action.
    Confirm {
        action: BulkAction,
        platform: PlatformName,
        ids: Vec<StreamId>,
    },
    /// Details of a dead letter, and the first visible line.
    DeadLetter {
        lines: Vec<String>,
        top: usize,
    },
    Help,
}

/// Keys that `top` handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyPress {
    Char(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Tab,
    Esc,
    Backspace,
    Interrupt,
}

/// Request to the tasks that use Redis, or the end of the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AppCommand {
    Quit,
    /// Reads the list of the selected platform.
    ReadList(PlatformName, Filter),
    Show(PlatformName, StreamId),
    Do(BulkAction, PlatformName, Vec<StreamId>),
}

/// State of the whole screen.
#[derive(Debug)]
pub(super) struct App {
    pub(super) address: String,
    pub(super) color: bool,
    pub(super) rows: Vec<PlatformRow>,
    pub(super) row: usize,
    pub(super) list: Option<DeadLetterList>,
    pub(super) item: usize,
    pub(super) marked: BTreeSet<StreamId>,
    pub(super) filter: Filter,
    pub(super) pane: Pane,
    pub(super) overlay: Option<Overlay>,
    /// Result of the last action.
    pub(super) notice: Option<String>,
    /// True while Redis is unavailable.
    pub(super) unavailable: bool,
    /// Rows of the list that fit on the screen.
    pub(super) page: usize,
}

impl App {
    pub(super) fn new(address: String, color: bool) -> Self {
        Self {
            address,
            color,
            rows: Vec::new(),
            row: 0,
            list: None,
            item: 0,
            marked: BTreeSet::new(),
            filter: Filter::default(),
            pane: Pane::Platforms,
            overlay: None,
            notice: None,
            unavailable: false,
            page: 10,
        }
    }

    /// Returns the selected platform.
    pub(super) fn platform(&self) -> Option<&PlatformRow> {
        self.rows.get(self.row)
    }

    /// Applies new numbers of all platforms. Returns the list to read next.
    pub(super) fn apply_samples(
        &mut self,
        samples: Vec<(PlatformName, PlatformSample)>,
    ) -> Option<AppCommand> {
        self.unavailable = false;
        let under = self.platform().map(|row| row.platform.clone());
        let mut known: BTreeMap<_, _> =
            self.rows.drain(..).map(|row| (row.platform.clone(), row)).collect();
        for (platform, sample) in samples {
            let row = match known.remove(&platform) {
                Some(row) => row.next(sample),
                None => PlatformRow::first(platform, sample),
            };
            self.rows.push(row);
        }
        let place = under
            .as_ref()
            .and_then(|under| self.rows.iter().position(|row| row.platform == *under));
        self.row = place.unwrap_or(0);
        // Initially the first platform with dead letters is selected.
        if under.is_none()
            && let Some(dead) = self.rows.iter().position(|row| row.now.dead > 0)
        {
            self.row = dead;
        }
        self.list_command()
    }

    /// Applies new counts by error code. Partial counts do not replace complete ones.
    pub(super) fn apply_counts(&mut self, platform: &PlatformName, reasons: ErrorCodeCounts) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.platform == *platform)
            && (reasons.is_complete() || !row.reasons.is_complete() || row.reasons.total == 0)
        {
            row.reasons = reasons;
        }
    }

    /// Applies a list if it is still the requested one. The cursor stays on its dead letter.
    pub(super) fn show_list(&mut self, list: DeadLetterList) {
        let wanted = self.platform().is_some_and(|row| row.platform == list.platform)
            && self.filter == list.filter;
        if !wanted {
            return;
        }
        let same = self
            .list
            .as_ref()
            .is_some_and(|old| old.platform == list.platform && old.filter == list.filter);
        let under = self.id_under_cursor().filter(|_| same);
        self.item = under
            .and_then(|id| list.items.iter().position(|item| item.id == id))
            .unwrap_or(if same { self.item.min(list.items.len().saturating_sub(1)) } else { 0 });
        self.marked.retain(|id| list.items.iter().any(|item| item.id == *id));
        self.list = Some(list);
    }

    /// Handles a key. Returns the request that results from it.
    pub(super) fn key(&mut self, key: KeyPress) -> Option<AppCommand> {
        if key == KeyPress::Interrupt {
            return Some(AppCommand::Quit);
        }
        match self.overlay.take() {
            Some(overlay) => self.key_in_overlay(key, overlay),
            None => self.key_in_panes(key),
        }
    }

    fn key_in_overlay(&mut self, key: KeyPress, overlay: Overlay) -> Option<AppCommand> {
        match (overlay, key) {
            (Overlay::FilterInput(_), KeyPress::Esc) => None,
            (Overlay::FilterInput(text), KeyPress::Enter) => {
                self.filter.text = text;
                self.pane = Pane::DeadLetters;
                self.reload_list()
            }
            (Overlay::FilterInput(mut text), KeyPress::Backspace) => {
                text.pop();
                self.overlay = Some(Overlay::FilterInput(text));
                None
            }
            (Overlay::FilterInput(mut text), KeyPress::Char(letter)) => {
                text.push(letter);
                self.overlay = Some(Overlay::FilterInput(text));
                None
            }
            (overlay @ Overlay::FilterInput(_), _) => {
                self.overlay = Some(overlay);
                None
            }
            (Overlay::Confirm { action, platform, ids }, KeyPress::Char('y' | 'Y')) => {
                Some(AppCommand::Do(action, platform, ids))
            }
            (Overlay::Confirm { action, .. }, _) => {
                self.notice = Some(format!("nothing was {}", action.done()));
                None
            }
            (Overlay::DeadLetter { lines, top }, key) => {
                let last = lines.len().saturating_sub(1);
                let top = match key {
                    KeyPress::Up | KeyPress::Char('k') => top.saturating_sub(1),
                    KeyPress::Down | KeyPress::Char('j') => (top + 1).min(last),
                    KeyPress::PageUp => top.saturating_sub(10),
                    KeyPress::PageDown | KeyPress::Char(' ') => (top + 10).min(last),
                    KeyPress::Home => 0,
                    KeyPress::End => last,
                    _ => return None,
                };
                self.overlay = Some(Overlay::DeadLetter { lines, top });
                None
            }
            (Overlay::Help, _) => None,
        }
    }

    fn key_in_panes(&mut self, key: KeyPress) -> Option<AppCommand> {
        self.notice = None;
        match key {
            KeyPress::Char('q') => return Some(AppCommand::Quit),
            KeyPress::Char('?') => self.overlay = Some(Overlay::Help),
            KeyPress::Char('/') => {
                self.overlay = Some(Overlay::FilterInput(self.filter.text.clone()))
            }
            KeyPress::Char('e') => return self.next_error_code(),
            KeyPress::Esc => {
                if self.filter != Filter::default() || !self.marked.is_empty() {
                    self.filter = Filter::default();
                    self.marked.clear();
                    return self.reload_list();
                }
                self.pane = Pane::Platforms;
            }
            KeyPress::Tab => {
                self.pane =
                    if self.pane == Pane::Platforms { Pane::DeadLetters } else { Pane::Platforms };
            }
            KeyPress::Enter if self.pane == Pane::Platforms => self.pane = Pane::DeadLetters,
            KeyPress::Enter => return self.show(),
            KeyPress::Char(' ') if self.pane == Pane::DeadLetters => {
                if let Some(id) = self.id_under_cursor()
                    && !self.marked.remove(&id)
                {
                    self.marked.insert(id);
                }
                return self.move_cursor(1);
            }
            KeyPress::Char('a') if self.pane == Pane::DeadLetters => self.mark_all(),
            KeyPress::Char('r') => self.confirm_action(BulkAction::Replay),
            KeyPress::Char('p') => self.confirm_action(BulkAction::Purge),
            KeyPress::Up | KeyPress::Char('k') => return self.move_cursor(-1),
            KeyPress::Down | KeyPress::Char('j') => return self.move_cursor(1),
            KeyPress::PageUp => return self.move_cursor(-self.page_step()),
            KeyPress::PageDown => return self.move_cursor(self.page_step()),
            KeyPress::Home => return self.move_cursor(isize::MIN / 2),
            KeyPress::End => return self.move_cursor(isize::MAX / 2),
            _ => {}
        }
        None
    }

    fn page_step(&self) -> isize {
        isize::try_from(self.page.max(1)).unwrap_or(10)
    }

    fn move_cursor(&mut self, by: isize) -> Option<AppCommand> {
        let moved = |at: usize, len: usize| {
            let last = isize::try_from(len).unwrap_or(isize::MAX) - 1;
            usize::try_from(
                isize::try_from(at).unwrap_or(0).saturating_add(by).clamp(0, last.max(0)),
            )
            .unwrap_or(0)
        };
        match self.pane {
            Pane::Platforms => {
                let before = self.row;
                self.row = moved(self.row, self.rows.len());
                if before != self.row {
                    self.filter.code = None;
                    return self.reload_list();
                }
            }
            Pane::DeadLetters => {
                self.item = moved(self.item, self.list.as_ref().map_or(0, |list| list.items.len()))
            }
        }
        None
    }

    /// Clears the list and requests it for another platform or filter.
    fn reload_list(&mut self) -> Option<AppCommand> {
        self.marked.clear();
        self.list = None;
        self.item = 0;
        self.list_command()
    }

    fn list_command(&self) -> Option<AppCommand> {
        self.platform().map(|row| AppCommand::ReadList(row.platform.clone(), self.filter.clone()))
    }

    /// Selects the next error code as filter: all, each code in turn, then all again.
    fn next_error_code(&mut self) -> Option<AppCommand> {
        let codes: Vec<String> = self.platform()?.reasons.counts.keys().cloned().collect();
        let next = match &self.filter.code {
            None => codes.first().cloned(),
            Some(code) => codes.iter().skip_while(|one| *one != code).nth(1).cloned(),
        };
        self.filter.code = next;
        self.reload_list()
    }

    fn id_under_cursor(&self) -> Option<StreamId> {
        Some(self.list.as_ref()?.items.get(self.item)?.id)
    }

    fn mark_all(&mut self) {
        let Some(list) = &self.list else { return };
        let all: BTreeSet<_> = list.items.iter().map(|item| item.id).collect();
        self.marked = if self.marked == all { BTreeSet::new() } else { all };
    }

    fn show(&self) -> Option<AppCommand> {
        Some(AppCommand::Show(self.list.as_ref()?.platform.clone(), self.id_under_cursor()?))
    }

    fn confirm_action(&mut self, action: BulkAction) {
        let Some(list) = &self.list else { return };
        let ids: Vec<StreamId> = match self.marked.is_empty() {
            // Without the cursor in the list, the selected entry would be invisible.
            true if self.pane == Pane::DeadLetters => self.id_under_cursor().into_iter().collect(),
            true => Vec::new(),
            false => self.marked.iter().copied().collect(),
        };
        if ids.is_empty() {
            self.notice =
                Some("no dead letter is marked or selected (Tab switches to the list)".to_owned());
        } else {
            self.overlay = Some(Overlay::Confirm { action, platform: list.platform.clone(), ids });
        }
    }
}
