//! What `top` shows, and what keys do, without a terminal.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;
use shared::event::StreamId;
use shared::platform::PlatformName;

use super::app::{App, Command, Deed, Key, Over, Pane};
use super::model::{Filter, Item, List, Reasons, Sample};
use super::view;

const NOW: i64 = 1_767_225_660_000;

fn name(text: &str) -> PlatformName {
    PlatformName::new(text).unwrap()
}

fn id(seq: u64) -> StreamId {
    StreamId { ms: 1_767_225_600_000, seq }
}

fn samples(at: i64, done: u64) -> Vec<(PlatformName, Sample)> {
    let sample = |backlog, dead, finished| Sample {
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

fn list(items: u64) -> List {
    let item = |seq| Item {
        id: id(seq),
        code: "session_not_found".to_owned(),
        kind: "video.live_stream.active".to_owned(),
        event_id: format!("evt-{seq}\u{1b}[2J"),
        died_at: NOW - 1000 * i64::try_from(seq).unwrap(),
    };
    List {
        platform: name("mux"),
        filter: Filter::default(),
        items: (0..items).map(item).collect(),
        more: items > 10,
    }
}

/// A view that has read twice.
fn app() -> App {
    let mut app = App::new("127.0.0.1:6379".to_owned(), false);
    assert_eq!(app.read(samples(NOW - 1000, 100)), Some(Command::List(name("mux"), Filter::default())));
    for second in 0..60 {
        app.read(samples(NOW + 1000 * second, 100 + u64::try_from(second * second).unwrap()));
    }
    let counts = [("session_not_found".to_owned(), 2), ("invalid_event".to_owned(), 1)].into();
    app.count(&name("mux"), Reasons { counts, counted: 3, total: 3, at: NOW + 58_000 });
    app.show_list(list(3));
    app
}

fn drawn(app: &mut App, width: u16, height: u16) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, app)).unwrap();
    terminal.backend().clone()
}

fn press(app: &mut App, keys: &str) -> Option<Command> {
    keys.chars().fold(None, |_, letter| app.key(Key::Char(letter)))
}

#[test]
fn everything_fits_on_the_smallest_usual_screen() {
    insta::assert_snapshot!("80x24", drawn(&mut app(), 80, 24));
}

#[test]
fn a_wide_screen_has_room_for_curves() {
    insta::assert_snapshot!("140x40", drawn(&mut app(), 140, 40));
}

#[test]
fn a_screen_that_is_too_small_says_so() {
    insta::assert_snapshot!("40x8", drawn(&mut app(), 40, 8));
    // Whatever the size, drawing does not fail.
    for (width, height) in [(1, 1), (60, 15), (61, 200), (300, 15), (0, 0)] {
        let _ = drawn(&mut app(), width, height);
    }
}

#[test]
fn help_dialogue_filter_and_letter_lie_over_it() {
    let mut app = app();
    press(&mut app, "?");
    insta::assert_snapshot!("help", drawn(&mut app, 80, 24));
    press(&mut app, "?");
    app.pane = Pane::Letters;
    press(&mut app, "ap");
    insta::assert_snapshot!("purge", drawn(&mut app, 80, 24));
    press(&mut app, "n/room");
    insta::assert_snapshot!("typing", drawn(&mut app, 80, 24));
    app.key(Key::Esc);
    let lines = (0..40).map(|line| format!("line {line}")).collect();
    app.over = Some(Over::Letter { lines, top: 5 });
    insta::assert_snapshot!("letter", drawn(&mut app, 80, 24));
}

#[test]
fn colour_only_where_it_is_wanted() {
    let colored = |color| {
        let mut app = app();
        app.color = color;
        let backend = drawn(&mut app, 120, 30);
        backend.buffer().content().iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert_eq!(colored(false), 0);
    assert!(colored(true) > 0);
}

#[test]
fn nothing_is_done_without_a_yes() {
    let mut app = app();
    assert_eq!(press(&mut app, "r"), None);
    assert!(app.over.is_none() && app.notice.is_some(), "the cursor is not in the list");
    app.key(Key::Tab);
    for no in ["pn", "rq", "r "] {
        assert_eq!(press(&mut app, no), None, "{no:?}");
        assert!(app.over.is_none());
    }
    app.key(Key::Down);
    assert_eq!(press(&mut app, "py"), Some(Command::Do(Deed::Purge, name("mux"), vec![id(1)])));
    press(&mut app, " ");
    assert_eq!(app.marked.iter().copied().collect::<Vec<_>>(), [id(1)]);
    press(&mut app, " ");
    assert_eq!(press(&mut app, "ry"), Some(Command::Do(Deed::Replay, name("mux"), vec![id(1), id(2)])));
    assert_eq!(app.key(Key::Interrupt), Some(Command::Quit));
    press(&mut app, "p");
    assert_eq!(app.key(Key::Interrupt), Some(Command::Quit), "also out of a dialogue");
}

#[test]
fn what_went_away_is_not_marked_any_more_and_the_cursor_keeps_its_place() {
    let mut app = app();
    app.key(Key::Tab);
    press(&mut app, "a");
    app.key(Key::End);
    let mut shorter = list(3);
    shorter.items.remove(0);
    app.show_list(shorter);
    assert_eq!((app.item, app.marked.len()), (1, 2));
    app.show_list(list(1));
    assert_eq!((app.item, app.marked.len()), (0, 0));
}

#[test]
fn half_a_count_does_not_replace_a_whole_one() {
    let mut app = app();
    let half = Reasons { counts: [("crash_loop".to_owned(), 1)].into(), counted: 1, total: 9, at: NOW + 59_000 };
    app.count(&name("mux"), half.clone());
    assert_eq!(app.platform().unwrap().reasons.counted, 3);
    app.count(&name("livekit"), half);
    assert_eq!(app.rows[0].reasons.counted, 1, "where there was none it is shown");
}

#[test]
fn filters_are_asked_for_and_answers_to_old_ones_are_dropped() {
    let mut app = app();
    let code = |code: &str| Filter { code: Some(code.to_owned()), text: String::new() };
    assert_eq!(press(&mut app, "e"), Some(Command::List(name("mux"), code("invalid_event"))));
    app.show_list(list(3));
    assert!(app.list.is_none(), "that was not asked for");
    assert_eq!(press(&mut app, "e"), Some(Command::List(name("mux"), code("session_not_found"))));
    assert_eq!(press(&mut app, "e"), Some(Command::List(name("mux"), Filter::default())));
    press(&mut app, "/roox");
    app.key(Key::Backspace);
    press(&mut app, "m");
    let text = Filter { code: None, text: "room".to_owned() };
    assert_eq!(app.key(Key::Enter), Some(Command::List(name("mux"), text)));
    assert_eq!(app.key(Key::Esc), Some(Command::List(name("mux"), Filter::default())));
}

#[test]
fn the_cursor_stays_on_its_platform_when_one_appears() {
    let mut app = app();
    let mut more = samples(NOW + 61_000, 4000);
    more.insert(0, (name("acme"), Sample::default()));
    app.read(more);
    assert_eq!(app.platform().unwrap().platform, name("mux"));
    app.key(Key::Home);
    assert_eq!(app.platform().unwrap().platform, name("acme"));
    app.read(Vec::new());
    assert!(app.platform().is_none());
    press(&mut app, "jkrpae ");
}
