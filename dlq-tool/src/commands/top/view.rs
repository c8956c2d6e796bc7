//! Draws the state of `top`.
//!
//! Without colour, the cursor is reversed and marked rows have a star.

use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Block, Cell, Clear, Paragraph, Row as Cells, Sparkline, Table, TableState, Wrap,
};

use super::app::{App, Overlay, Pane};
use super::model::{Filter, PlatformRow};
use crate::output::{count_noun, escaped};
use crate::time_arg;

/// Smallest usable screen, in columns and rows.
const MIN_SIZE: (u16, u16) = (60, 15);
/// Width in columns from which a chart is drawn.
const CHART_MIN_WIDTH: u16 = 100;

/// Draws the screen, and stores the number of visible list rows in `app`.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let area = frame.area();
    if area.width < MIN_SIZE.0 || area.height < MIN_SIZE.1 {
        let text = format!(
            "The terminal is too small: {} columns and {} rows are needed.",
            MIN_SIZE.0, MIN_SIZE.1
        );
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let most = (area.height / 3).max(4);
    let rows = u16::try_from(app.rows.len()).unwrap_or(u16::MAX).saturating_add(1).clamp(2, most);
    let [title, platforms, reasons, list, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(rows),
        Constraint::Length(2),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(area);
    app.page = usize::from(list.height.saturating_sub(1));
    let theme = Theme { color: app.color };
    frame.render_widget(title_line(app, theme), title);
    draw_platforms(frame, platforms, app, theme);
    frame.render_widget(reasons_line(app, theme), reasons);
    draw_list(frame, list, app, theme);
    frame.render_widget(foot_line(app, theme), foot);
    draw_overlay(frame, area, app, theme);
}

/// Styles, with or without colour.
#[derive(Clone, Copy)]
struct Theme {
    color: bool,
}

impl Theme {
    fn fg(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    fn head(self) -> Style {
        self.fg(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    fn bad(self) -> Style {
        self.fg(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn cursor(self, here: bool) -> Style {
        if here {
            Style::new().add_modifier(Modifier::REVERSED)
        } else {
            Style::new().add_modifier(Modifier::UNDERLINED)
        }
    }
}

fn title_line(app: &App, theme: Theme) -> Line<'static> {
    let at = app
        .rows
        .iter()
        .map(|row| row.now.at)
        .max()
        .map(time_arg::format_seconds)
        .unwrap_or_default();
    let dead: u64 = app.rows.iter().map(|row| row.now.dead).sum();
    let mut spans = vec![
        Span::styled("dlq-tool top", theme.head()),
        Span::raw(format!("  {}  {at}  ", escaped(&app.address))),
        Span::styled(
            count_noun(dead, "dead letter", "dead letters"),
            if dead > 0 { theme.bad() } else { Style::new() },
        ),
    ];
    if app.unavailable {
        spans.push(Span::styled(
            "  REDIS IS UNAVAILABLE",
            theme.bad().add_modifier(Modifier::REVERSED),
        ));
    }
    Line::from(spans)
}

fn draw_platforms(frame: &mut Frame<'_>, area: Rect, app: &App, theme: Theme) {
    let wide = area.width >= CHART_MIN_WIDTH;
    let (table, curves) = if wide {
        let [table, curves] =
            Layout::horizontal([Constraint::Length(82), Constraint::Min(10)]).areas(area);
        (table, Some(curves))
    } else {
        (area, None)
    };
    let head = ["PLATFORM", "BACKLOG", "PENDING", "RETRYING", "OLDEST", "IN/s", "DONE/s", "DEAD"];
    let head = head.iter().enumerate().map(|(at, name)| cell((*name).to_owned(), at > 0));
    let rows = app.rows.iter().map(|row| {
        let rate = |which: fn((f64, f64)) -> f64| {
            row.per_second.map_or_else(|| "-".to_owned(), |r| per_second(which(r)))
        };
        let numbers = [
            row.now.backlog.to_string(),
            row.now.pending.to_string(),
            row.now.retrying.to_string(),
            row.now.oldest_ms.map_or_else(|| "-".to_owned(), age),
            rate(|(accepted, _)| accepted),
            rate(|(_, finished)| finished),
        ];
        let name = std::iter::once(cell(row.platform.to_string(), false));
        let dead = cell(row.now.dead.to_string(), true);
        let dead = if row.now.dead > 0 { dead.style(theme.bad()) } else { dead };
        Cells::new(name.chain(numbers.into_iter().map(|number| cell(number, true))).chain([dead]))
    });
    let widths = [
        Constraint::Min(12),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(9),
    ];
    let table_widget = Table::new(rows, widths)
        .header(Cells::new(head).style(theme.head()))
        .column_spacing(1)
        .row_highlight_style(theme.cursor(app.pane == Pane::Platforms));
    let mut state = TableState::default().with_selected((!app.rows.is_empty()).then_some(app.row));
    frame.render_stateful_widget(table_widget, table, &mut state);
    if let Some(curves) = curves {
        draw_curves(frame, curves, app, state.offset(), theme);
    }
}

/// Draws a chart of finished events per second for each platform, each on its own scale.
fn draw_curves(frame: &mut Frame<'_>, area: Rect, app: &App, offset: usize, theme: Theme) {
    let head = Rect { height: 1, ..area };
    frame.render_widget(Line::styled(" DONE/s, newest on the right", theme.head()), head);
    for (line, row) in (1..area.height).zip(app.rows.iter().skip(offset)) {
        let place = Rect {
            x: area.x + 1,
            y: area.y + line,
            width: area.width.saturating_sub(1),
            height: 1,
        };
        let shown = usize::from(place.width).min(row.history.len());
        let latest: Vec<u64> =
            row.history.iter().skip(row.history.len() - shown).copied().collect();
        let place = Rect { x: place.x + place.width - u16::try_from(shown).unwrap_or(0), ..place };
        frame.render_widget(Sparkline::default().data(latest).style(theme.fg(Color::Green)), place);
    }
}

fn reasons_line(app: &App, theme: Theme) -> Paragraph<'static> {
    let Some(row) = app.platform() else {
        return Paragraph::new("no platform has received an event yet");
    };
    let mut counts: Vec<_> = row.reasons.counts.iter().collect();
    counts.sort_by_key(|(code, count)| (std::cmp::Reverse(**count), code.as_str()));
    let text: Vec<_> =
        counts.iter().map(|(code, count)| format!("{count} {}", escaped(code))).collect();
    let text = if text.is_empty() { "none".to_owned() } else { text.join(", ") };
    let mut spans = vec![
        Span::styled(format!("{} by error code: ", row.platform), theme.head()),
        Span::raw(text),
    ];
    let as_of = as_of(row);
    spans.push(Span::styled(as_of, Style::new().add_modifier(Modifier::DIM)));
    Paragraph::new(Line::from(spans)).wrap(Wrap { trim: true })
}

/// Describes the age or the progress of the counts.
fn as_of(row: &PlatformRow) -> String {
    let reasons = &row.reasons;
    if reasons.counted < reasons.total {
        return format!("  ({} of {} counted)", reasons.counted, reasons.total);
    }
    let late = row.now.at.saturating_sub(reasons.at) / 1000;
    if reasons.total > 0 && late > 5 { format!("  (counted {late} s ago)") } else { String::new() }
}

fn draw_list(frame: &mut Frame<'_>, area: Rect, app: &App, theme: Theme) {
    let Some(list) = &app.list else {
        let text = if app.rows.is_empty() { "" } else { "reading …" };
        frame.render_widget(Paragraph::new(text), area);
        return;
    };
    let head = ["", "DIED", "ERROR CODE", "EVENT TYPE", "EVENT ID"]
        .map(|name| cell(name.to_owned(), false));
    let rows = list.items.iter().map(|item| {
        let mark = if app.marked.contains(&item.id) { "*" } else { " " };
        let texts = [
            mark.to_owned(),
            short(item.died_at),
            item.code.clone(),
            item.kind.clone(),
            item.event_id.clone(),
        ];
        Cells::new(texts.map(|text| cell(text, false)))
    });
    let widths = [
        Constraint::Length(1),
        Constraint::Length(14),
        Constraint::Length(19),
        Constraint::Fill(3),
        Constraint::Fill(2),
    ];
    let table = Table::new(rows, widths)
        .header(Cells::new(head).style(theme.head()))
        .column_spacing(1)
        .row_highlight_style(theme.cursor(app.pane == Pane::DeadLetters));
    let mut state =
        TableState::default().with_selected((!list.items.is_empty()).then_some(app.item));
    frame.render_stateful_widget(table, area, &mut state);
    if list.items.is_empty() {
        let place = Rect { y: area.y + 1, height: 1, ..area };
        let filtered = app.filter != Filter::default();
        frame.render_widget(
            Line::raw(match (filtered, list.more) {
                (true, true) => "no match among the newest dead letters; older ones were not read",
                (true, false) => "no dead letter matches the filter (Esc clears it)",
                (false, _) => "no dead letters",
            }),
            place,
        );
    }
}

fn foot_line(app: &App, theme: Theme) -> Line<'static> {
    if let Some(Overlay::FilterInput(text)) = &app.overlay {
        return Line::from(vec![
            Span::styled("filter by text: ", theme.head()),
            Span::raw(format!("{}▏", escaped(text))),
        ]);
    }
    if let Some(notice) = &app.notice {
        return Line::styled(escaped(notice), Style::new().add_modifier(Modifier::BOLD));
    }
    let mut text = String::new();
    if let Some(list) = &app.list {
        text = format!("{}{} shown", list.items.len(), if list.more { " newest" } else { "" });
        if !app.marked.is_empty() {
            text.push_str(&format!(", {} marked", app.marked.len()));
        }
    }
    if let Some(code) = &app.filter.code {
        text.push_str(&format!(
            ", only {}",
            if code.is_empty() { "without error code" } else { code }
        ));
    }
    if !app.filter.text.is_empty() {
        text.push_str(&format!(", with \"{}\"", app.filter.text));
    }
    let keys = "?:help Tab /:filter e:code space:mark r:replay p:purge q:quit";
    Line::from(vec![Span::styled(keys, theme.head()), Span::raw(format!("  {}", escaped(&text)))])
}

fn draw_overlay(frame: &mut Frame<'_>, area: Rect, app: &App, theme: Theme) {
    match &app.overlay {
        Some(Overlay::Confirm { action, platform, ids }) => {
            let what = count_noun(ids.len() as u64, "dead letter", "dead letters");
            let text = format!(
                "{} {what} of {platform}?\n\ny: yes   any other key: no",
                capital(action.verb())
            );
            popup(
                frame,
                area,
                (text.lines().map(str::len).max().unwrap_or(0) + 4, 5),
                "",
                text,
                0,
                theme,
            );
        }
        Some(Overlay::DeadLetter { lines, top }) => {
            let size = (usize::from(area.width) - 4, usize::from(area.height) - 2);
            popup(
                frame,
                area,
                size,
                " up, down: scroll   Esc: back ",
                lines.join("\n"),
                *top,
                theme,
            );
        }
        Some(Overlay::Help) => {
            let lines = crate::cli::TOP_KEYS.lines().count();
            popup(
                frame,
                area,
                (80, lines + 2),
                " any key: back ",
                crate::cli::TOP_KEYS.to_owned(),
                0,
                theme,
            );
        }
        Some(Overlay::FilterInput(_)) | None => {}
    }
}

fn popup(
    frame: &mut Frame<'_>,
    area: Rect,
    size: (usize, usize),
    title: &'static str,
    text: String,
    top: usize,
    theme: Theme,
) {
    let length = |size: usize| Constraint::Length(u16::try_from(size).unwrap_or(u16::MAX));
    let [across] = Layout::horizontal([length(size.0)]).flex(Flex::Center).areas(area);
    let [place] = Layout::vertical([length(size.1)]).flex(Flex::Center).areas(across);
    let block = Block::bordered().title(title).border_style(theme.head());
    let text =
        Paragraph::new(text).block(block).scroll((u16::try_from(top).unwrap_or(u16::MAX), 0));
    frame.render_widget(Clear, place);
    frame.render_widget(text, place);
}

fn cell(text: String, number: bool) -> Cell<'static> {
    let line = Line::raw(escaped(&text));
    Cell::new(if number { line.right_aligned() } else { line })
}

/// Formats a time as `01-31 12:00:00`. The year is in the details of the dead letter.
fn short(at: shared::event::Millis) -> String {
    let text = time_arg::format_seconds(at);
    match (text.get(5..10), text.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time}"),
        _ => text,
    }
}

fn capital(verb: &str) -> String {
    let mut letters = verb.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// Formats an age as `850ms`, `12s`, `3m`, `5h` or `2d`.
fn age(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..120_000 => format!("{}s", ms / 1_000),
        120_000..7_200_000 => format!("{}m", ms / 60_000),
        7_200_000..172_800_000 => format!("{}h", ms / 3_600_000),
        _ => format!("{}d", ms / 86_400_000),
    }
}

fn per_second(rate: f64) -> String {
    if rate < 9.95 && rate > 0.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}
