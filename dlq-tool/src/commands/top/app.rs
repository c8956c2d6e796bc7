//! What `top` shows and what a key does, without a terminal and without Redis. Pure.
//!
//! Guarantee: nothing is replayed or purged but what the dialogue named, and only after `y`.

use std::collections::{BTreeMap, BTreeSet};

use shared::event::StreamId;
use shared::platform::PlatformName;

use super::model::{Filter, List, Reasons, Row, Sample};

/// Which part the keys move in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Platforms,
    Letters,
}

/// What to do with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Replay,
    Purge,
}

impl Deed {
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

/// What lies over the screen.
#[derive(Clone, Debug)]
pub(super) enum Over {
    /// The filter is being typed.
    Typing(String),
    /// `y` does it.
    Asking {
        deed: Deed,
        platform: PlatformName,
        ids: Vec<StreamId>,
    },
    /// A dead letter, and the first line shown.
    Letter {
        lines: Vec<String>,
        top: usize,
    },
    Help,
}

/// What the keys can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
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

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Quit,
    /// Read the list of the platform under the cursor.
    List(PlatformName, Filter),
    Show(PlatformName, StreamId),
    Do(Deed, PlatformName, Vec<StreamId>),
}

/// Everything on the screen.
#[derive(Debug)]
pub(super) struct App {
    pub(super) address: String,
    pub(super) color: bool,
    pub(super) rows: Vec<Row>,
    pub(super) row: usize,
    pub(super) list: Option<List>,
    pub(super) item: usize,
    pub(super) marked: BTreeSet<StreamId>,
    pub(super) filter: Filter,
    pub(super) pane: Pane,
    pub(super) over: Option<Over>,
    /// What the last deed came to.
    pub(super) notice: Option<String>,
    /// Redis is away since then.
    pub(super) away: bool,
    /// Lines of the list that fit on the screen.
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
            over: None,
            notice: None,
            away: false,
            page: 10,
        }
    }

    /// The platform under the cursor.
    pub(super) fn platform(&self) -> Option<&Row> {
        self.rows.get(self.row)
    }

    /// Takes in a reading of all platforms; what to read besides.
    pub(super) fn read(&mut self, samples: Vec<(PlatformName, Sample)>) -> Option<Command> {
        self.away = false;
        let under = self.platform().map(|row| row.platform.clone());
        let mut known: BTreeMap<_, _> = self.rows.drain(..).map(|row| (row.platform.clone(), row)).collect();
        for (platform, sample) in samples {
            let row = match known.remove(&platform) {
                Some(row) => row.next(sample),
                None => Row::first(platform, sample),
            };
            self.rows.push(row);
        }
        let place = under.as_ref().and_then(|under| self.rows.iter().position(|row| row.platform == *under));
        self.row = place.unwrap_or(0);
        // The first reading chooses what has dead letters.
        if under.is_none()
            && let Some(dead) = self.rows.iter().position(|row| row.now.dead > 0)
        {
            self.row = dead;
        }
        self.list_command()
    }

    /// Takes in how many died of what. Half a count is better than none, and worse than the whole one before it.
    pub(super) fn count(&mut self, platform: &PlatformName, reasons: Reasons) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.platform == *platform)
            && (reasons.is_whole() || !row.reasons.is_whole() || row.reasons.total == 0)
        {
            row.reasons = reasons;
        }
    }

    /// Takes in a list, if it is still what is wanted; the cursor stays on its dead letter.
    pub(super) fn show_list(&mut self, list: List) {
        let wanted = self.platform().is_some_and(|row| row.platform == list.platform) && self.filter == list.filter;
        if !wanted {
            return;
        }
        let same = self.list.as_ref().is_some_and(|old| old.platform == list.platform && old.filter == list.filter);
        let under = self.under_cursor().filter(|_| same);
        self.item = under.and_then(|id| list.items.iter().position(|item| item.id == id)).unwrap_or(if same {
            self.item.min(list.items.len().saturating_sub(1))
        } else {
            0
        });
        self.marked.retain(|id| list.items.iter().any(|item| item.id == *id));
        self.list = Some(list);
    }

    /// What a key does.
    pub(super) fn key(&mut self, key: Key) -> Option<Command> {
        if key == Key::Interrupt {
            return Some(Command::Quit);
        }
        match self.over.take() {
            Some(over) => self.key_over(key, over),
            None => self.key_main(key),
        }
    }

    fn key_over(&mut self, key: Key, over: Over) -> Option<Command> {
        match (over, key) {
            (Over::Typing(_), Key::Esc) => None,
            (Over::Typing(text), Key::Enter) => {
                self.filter.text = text;
                self.pane = Pane::Letters;
                self.relist()
            }
            (Over::Typing(mut text), Key::Backspace) => {
                text.pop();
                self.over = Some(Over::Typing(text));
                None
            }
            (Over::Typing(mut text), Key::Char(letter)) => {
                text.push(letter);
                self.over = Some(Over::Typing(text));
                None
            }
            (over @ Over::Typing(_), _) => {
                self.over = Some(over);
                None
            }
            (Over::Asking { deed, platform, ids }, Key::Char('y' | 'Y')) => Some(Command::Do(deed, platform, ids)),
            (Over::Asking { deed, .. }, _) => {
                self.notice = Some(format!("nothing was {}", deed.done()));
                None
            }
            (Over::Letter { lines, top }, key) => {
                let last = lines.len().saturating_sub(1);
                let top = match key {
                    Key::Up | Key::Char('k') => top.saturating_sub(1),
                    Key::Down | Key::Char('j') => (top + 1).min(last),
                    Key::PageUp => top.saturating_sub(10),
                    Key::PageDown | Key::Char(' ') => (top + 10).min(last),
                    Key::Home => 0,
                    Key::End => last,
                    _ => return None,
                };
                self.over = Some(Over::Letter { lines, top });
                None
            }
            (Over::Help, _) => None,
        }
    }

    fn key_main(&mut self, key: Key) -> Option<Command> {
        self.notice = None;
        match key {
            Key::Char('q') => return Some(Command::Quit),
            Key::Char('?') => self.over = Some(Over::Help),
            Key::Char('/') => self.over = Some(Over::Typing(self.filter.text.clone())),
            Key::Char('e') => return self.next_code(),
            Key::Esc => {
                if self.filter != Filter::default() || !self.marked.is_empty() {
                    self.filter = Filter::default();
                    self.marked.clear();
                    return self.relist();
                }
                self.pane = Pane::Platforms;
            }
            Key::Tab => {
                self.pane = if self.pane == Pane::Platforms { Pane::Letters } else { Pane::Platforms };
            }
            Key::Enter if self.pane == Pane::Platforms => self.pane = Pane::Letters,
            Key::Enter => return self.show(),
            Key::Char(' ') if self.pane == Pane::Letters => {
                if let Some(id) = self.under_cursor()
                    && !self.marked.remove(&id)
                {
                    self.marked.insert(id);
                }
                return self.go(1);
            }
            Key::Char('a') if self.pane == Pane::Letters => self.mark_all(),
            Key::Char('r') => self.ask(Deed::Replay),
            Key::Char('p') => self.ask(Deed::Purge),
            Key::Up | Key::Char('k') => return self.go(-1),
            Key::Down | Key::Char('j') => return self.go(1),
            Key::PageUp => return self.go(-self.page_step()),
            Key::PageDown => return self.go(self.page_step()),
            Key::Home => return self.go(isize::MIN / 2),
            Key::End => return self.go(isize::MAX / 2),
            _ => {}
        }
        None
    }

    fn page_step(&self) -> isize {
        isize::try_from(self.page.max(1)).unwrap_or(10)
    }

    fn go(&mut self, by: isize) -> Option<Command> {
        let moved = |at: usize, len: usize| {
            let last = isize::try_from(len).unwrap_or(isize::MAX) - 1;
            usize::try_from(isize::try_from(at).unwrap_or(0).saturating_add(by).clamp(0, last.max(0))).unwrap_or(0)
        };
        match self.pane {
            Pane::Platforms => {
                let before = self.row;
                self.row = moved(self.row, self.rows.len());
                if before != self.row {
                    self.filter.code = None;
                    return self.relist();
                }
            }
            Pane::Letters => self.item = moved(self.item, self.list.as_ref().map_or(0, |list| list.items.len())),
        }
        None
    }

    /// The list of another platform, or by another filter.
    fn relist(&mut self) -> Option<Command> {
        self.marked.clear();
        self.list = None;
        self.item = 0;
        self.list_command()
    }

    fn list_command(&self) -> Option<Command> {
        self.platform().map(|row| Command::List(row.platform.clone(), self.filter.clone()))
    }

    /// All, then each code that there is, then all again.
    fn next_code(&mut self) -> Option<Command> {
        let codes: Vec<String> = self.platform()?.reasons.counts.keys().cloned().collect();
        let next = match &self.filter.code {
            None => codes.first().cloned(),
            Some(code) => codes.iter().skip_while(|one| *one != code).nth(1).cloned(),
        };
        self.filter.code = next;
        self.relist()
    }

    fn under_cursor(&self) -> Option<StreamId> {
        Some(self.list.as_ref()?.items.get(self.item)?.id)
    }

    fn mark_all(&mut self) {
        let Some(list) = &self.list else { return };
        let all: BTreeSet<_> = list.items.iter().map(|item| item.id).collect();
        self.marked = if self.marked == all { BTreeSet::new() } else { all };
    }

    fn show(&self) -> Option<Command> {
        Some(Command::Show(self.list.as_ref()?.platform.clone(), self.under_cursor()?))
    }

    fn ask(&mut self, deed: Deed) {
        let Some(list) = &self.list else { return };
        let ids: Vec<StreamId> = match self.marked.is_empty() {
            // Without the cursor in the list nobody can see which one it would be.
            true if self.pane == Pane::Letters => self.under_cursor().into_iter().collect(),
            true => Vec::new(),
            false => self.marked.iter().copied().collect(),
        };
        if ids.is_empty() {
            self.notice = Some("no dead letter is marked, and the cursor is on none (Tab goes there)".to_owned());
        } else {
            self.over = Some(Over::Asking { deed, platform: list.platform.clone(), ids });
        }
    }
}
