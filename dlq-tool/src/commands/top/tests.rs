//! Tests of the screen and the key bindings of `top`, without a terminal.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;
use shared::event::StreamId;
use shared::platform::PlatformName;

use super::app::{App, AppCommand, BulkAction, KeyPress, Overlay, Pane};
use super::model::{DeadLetterList, ErrorCodeCounts, Filter, ListItem, PlatformSample};
use super::view;

const NOW: i64 = 1_767_225_660_000;

fn name(text: &str) -> PlatformName {
    PlatformName::new(text).unwrap()
}

fn id(seq: u64) -> StreamId {
    StreamId { ms: 1_767_225_600_000, seq }
}

fn samples(at: i64, done: u64) -> Vec<(PlatformName, PlatformSample)> {
    let sample = |backlog, dead, finished| PlatformSample {
        at,
        backlog,
        pending: 2,
        retrying: 1,
        dead,
        oldest_ms: (backlog > 0).then_some(95_000),
        accepted: finished + 20,
        finished,
    };
    vec![
        (name("livekit"), sample(0, 0, 0)),
        (name("mux"), sample(1234, 3, done)),
        (name("sessions"), sample(0, 0, done / 10)),
    ]
}

fn list(items: u64) -> DeadLetterList {
    let item = |seq| ListItem {
        id: id(seq),
        code: "session_not_found".to_owned(),
        kind: "video.live_stream.active".to_owned(),
        event_id: format!("evt-{seq}\u{1b}[2J"),
        died_at: NOW - 1000 * i64::try_from(seq).unwrap(),
    };
    DeadLetterList {
        platform: name("mux"),
        filter: Filter::default(),
        items: (0..items).map(item).collect(),
        more: items > 10,
    }
}

/// Returns a view that has applied many samples.
fn app() -> App {
    let mut app = App::new("127.0.0.1:6379".to_owned(), false);
    assert_eq!(
        app.apply_samples(samples(NOW - 1000, 100)),
        Some(AppCommand::ReadList(name("mux"), Filter::default()))
    );
    for second in 0..60 {
        app.apply_samples(samples(
            NOW + 1000 * second,
            100 + u64::try_from(second * second).unwrap(),
        ));
    }
    let counts = [("session_not_found".to_owned(), 2), ("invalid_event".to_owned(), 1)].into();
    app.apply_counts(
        &name("mux"),
        ErrorCodeCounts { counts, counted: 3, total: 3, at: NOW + 58_000 },
    );
    app.show_list(list(3));
    app
}

fn drawn(app: &mut App, width: u16, height: u16) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, app)).unwrap();
    terminal.backend().clone()
}

fn press(app: &mut App, keys: &str) -> Option<AppCommand> {
    keys.chars().fold(None, |_, letter| app.key(KeyPress::Char(letter)))
}

#[test]
fn top_fits_on_80_by_24() {
    insta::assert_snapshot!("80x24", drawn(&mut app(), 80, 24));
}

#[test]
fn top_on_a_wide_screen_shows_curves() {
    insta::assert_snapshot!("140x40", drawn(&mut app(), 140, 40));
}

#[test]
fn top_on_a_small_screen_names_the_minimum() {
    insta::assert_snapshot!("40x8", drawn(&mut app(), 40, 8));
    // Drawing must not panic at any size.
    for (width, height) in [(1, 1), (60, 15), (61, 200), (300, 15), (0, 0)] {
        let _ = drawn(&mut app(), width, height);
    }
}

#[test]
fn top_overlays_are_drawn() {
    let mut app = app();
    press(&mut app, "?");
    insta::assert_snapshot!("help", drawn(&mut app, 80, 24));
    press(&mut app, "?");
    app.pane = Pane::DeadLetters;
    press(&mut app, "ap");
    insta::assert_snapshot!("purge", drawn(&mut app, 80, 24));
    press(&mut app, "n/room");
    insta::assert_snapshot!("typing", drawn(&mut app, 80, 24));
    app.key(KeyPress::Esc);
    let lines = (0..40).map(|line| format!("line {line}")).collect();
    app.overlay = Some(Overlay::DeadLetter { lines, top: 5 });
    insta::assert_snapshot!("letter", drawn(&mut app, 80, 24));
}

#[test]
fn top_without_color_draws_no_color() {
    let colored = |color| {
        let mut app = app();
        app.color = color;
        let backend = drawn(&mut app, 120, 30);
        backend
            .buffer()
            .content()
            .iter()
            .filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
            .count()
    };
    assert_eq!(colored(false), 0);
    assert!(colored(true) > 0);
}

#[test]
fn top_action_needs_a_confirming_key() {
    let mut app = app();
    assert_eq!(press(&mut app, "r"), None);
    assert!(app.overlay.is_none() && app.notice.is_some(), "nothing is selected outside the list");
    app.key(KeyPress::Tab);
    for no in ["pn", "rq", "r "] {
        assert_eq!(press(&mut app, no), None, "{no:?}");
        assert!(app.overlay.is_none());
    }
    app.key(KeyPress::Down);
    assert_eq!(
        press(&mut app, "py"),
        Some(AppCommand::Do(BulkAction::Purge, name("mux"), vec![id(1)]))
    );
    press(&mut app, " ");
    assert_eq!(app.marked.iter().copied().collect::<Vec<_>>(), [id(1)]);
    press(&mut app, " ");
    assert_eq!(
        press(&mut app, "ry"),
        Some(AppCommand::Do(BulkAction::Replay, name("mux"), vec![id(1), id(2)]))
    );
    assert_eq!(app.key(KeyPress::Interrupt), Some(AppCommand::Quit));
    press(&mut app, "p");
    assert_eq!(
        app.key(KeyPress::Interrupt),
        Some(AppCommand::Quit),
        "Ctrl-C must also quit a dialogue"
    );
}

#[test]
fn top_removed_items_lose_their_mark() {
    let mut app = app();
    app.key(KeyPress::Tab);
    press(&mut app, "a");
    app.key(KeyPress::End);
    let mut shorter = list(3);
    shorter.items.remove(0);
    app.show_list(shorter);
    assert_eq!((app.item, app.marked.len()), (1, 2));
    app.show_list(list(1));
    assert_eq!((app.item, app.marked.len()), (0, 0));
}

#[test]
fn top_partial_count_does_not_replace_a_complete_one() {
    let mut app = app();
    let half = ErrorCodeCounts {
        counts: [("crash_loop".to_owned(), 1)].into(),
        counted: 1,
        total: 9,
        at: NOW + 59_000,
    };
    app.apply_counts(&name("mux"), half.clone());
    assert_eq!(app.platform().unwrap().reasons.counted, 3);
    app.apply_counts(&name("livekit"), half);
    assert_eq!(app.rows[0].reasons.counted, 1, "a partial count must show if there is no other");
}

#[test]
fn top_list_for_an_old_filter_is_dropped() {
    let mut app = app();
    let code = |code: &str| Filter { code: Some(code.to_owned()), text: String::new() };
    assert_eq!(
        press(&mut app, "e"),
        Some(AppCommand::ReadList(name("mux"), code("invalid_event")))
    );
    app.show_list(list(3));
    assert!(app.list.is_none(), "a list for another filter must be dropped");
    assert_eq!(
        press(&mut app, "e"),
        Some(AppCommand::ReadList(name("mux"), code("session_not_found")))
    );
    assert_eq!(press(&mut app, "e"), Some(AppCommand::ReadList(name("mux"), Filter::default())));
    press(&mut app, "/roox");
    app.key(KeyPress::Backspace);
    press(&mut app, "m");
    let text = Filter { code: None, text: "room".to_owned() };
    assert_eq!(app.key(KeyPress::Enter), Some(AppCommand::ReadList(name("mux"), text)));
    assert_eq!(app.key(KeyPress::Esc), Some(AppCommand::ReadList(name("mux"), Filter::default())));
}

#[test]
fn top_cursor_keeps_its_platform_when_one_appears() {
    let mut app = app();
    let mut more = samples(NOW + 61_000, 4000);
    more.insert(0, (name("acme"), PlatformSample::default()));
    app.apply_samples(more);
    assert_eq!(app.platform().unwrap().platform, name("mux"));
    app.key(KeyPress::Home);
    assert_eq!(app.platform().unwrap().platform, name("acme"));
    app.apply_samples(Vec::new());
    assert!(app.platform().is_none());
    press(&mut app, "jkrpae ");
}
