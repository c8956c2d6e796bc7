//! `top`: shows backlog, rates and dead letters live in the terminal.
//!
//! # Guarantees
//!
//! - The terminal is restored when the view ends by a key, a signal, an error or a panic.
//! - Only numbers that were read are shown. While Redis is unavailable the title says so, and the
//!   last numbers stay.

mod app;
mod feed;
mod model;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ToolSession;
use crate::cli::TopArgs;
use crate::exit_code::{RunOutcome, ToolError};
use app::{App, AppCommand, KeyPress, Overlay};
use feed::{Feed, Update};

/// Longest wait for a key before the end of the view is checked.
const KEY_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Returns an error unless stdin and stdout are a terminal.
pub(super) fn on_a_terminal() -> Result<(), ToolError> {
    if io::stdout().is_terminal() && io::stdin().is_terminal() {
        return Ok(());
    }
    Err(ToolError::Usage("top needs a terminal; stats and watch do without".to_owned()))
}

/// Shows the view until a key or a signal ends it.
pub(super) async fn run(session: &mut ToolSession, args: TopArgs) -> Result<RunOutcome, ToolError> {
    // An error of the first call must be readable, so the screen is taken over later.
    session.queue.now().await?;
    let stop = shared::shutdown::shutdown_token()?;
    let mut app = App::new(session.address.clone(), session.screen.is_colored());
    let ended = CancellationToken::new();
    // Also restores the terminal on a panic.
    let mut terminal = ratatui::try_init()?;
    let result =
        show(&mut terminal, &mut app, Feed::start(session, args, ended.clone()), &stop, &ended)
            .await;
    ended.cancel();
    ratatui::restore();
    result.map(|()| RunOutcome::Done)
}

async fn show(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    mut feed: Feed,
    stop: &CancellationToken,
    ended: &CancellationToken,
) -> Result<(), ToolError> {
    let mut keys = keys(ended.clone());
    loop {
        terminal.draw(|frame| view::draw(frame, app))?;
        let command = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            key = keys.recv() => match key {
                Some(Some(key)) => app.key(key),
                // The terminal was resized and is drawn again.
                Some(None) => None,
                // The terminal was closed.
                None => return Ok(()),
            },
            update = feed.next_update() => match update {
                Some(Update::Samples(samples)) => app.apply_samples(samples),
                Some(Update::ErrorCodeCounts(platform, reasons)) => {
                    app.apply_counts(&platform, reasons);
                    None
                }
                Some(Update::DeadLetterList(list)) => {
                    app.show_list(list);
                    None
                }
                Some(Update::DeadLetter(lines)) => {
                    app.overlay = Some(Overlay::DeadLetter { lines, top: 0 });
                    None
                }
                Some(Update::Notice(text)) => {
                    app.notice = Some(text);
                    None
                }
                Some(Update::Unavailable) => {
                    app.unavailable = true;
                    None
                }
                None => return Ok(()),
            },
        };
        match command {
            Some(AppCommand::Quit) => return Ok(()),
            Some(command) => feed.request(command),
            None => {}
        }
    }
}

/// Starts a thread that reads keys. `None` means that the terminal was resized.
fn keys(ended: CancellationToken) -> mpsc::Receiver<Option<KeyPress>> {
    let (sender, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !ended.is_cancelled() {
            let event = match event::poll(KEY_POLL_INTERVAL) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let key = match event {
                Ok(Event::Key(pressed)) if pressed.kind != KeyEventKind::Release => {
                    match key(pressed) {
                        Some(key) => Some(key),
                        None => continue,
                    }
                }
                Ok(Event::Resize(..)) => None,
                Ok(_) => continue,
                Err(_) => return,
            };
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
    });
    keys
}

fn key(pressed: KeyEvent) -> Option<KeyPress> {
    if pressed.modifiers.contains(KeyModifiers::CONTROL) {
        return (pressed.code == KeyCode::Char('c')).then_some(KeyPress::Interrupt);
    }
    Some(match pressed.code {
        KeyCode::Char(letter) => KeyPress::Char(letter),
        KeyCode::Up => KeyPress::Up,
        KeyCode::Down => KeyPress::Down,
        KeyCode::PageUp => KeyPress::PageUp,
        KeyCode::PageDown => KeyPress::PageDown,
        KeyCode::Home => KeyPress::Home,
        KeyCode::End => KeyPress::End,
        KeyCode::Enter => KeyPress::Enter,
        KeyCode::Tab | KeyCode::BackTab => KeyPress::Tab,
        KeyCode::Esc => KeyPress::Esc,
        KeyCode::Backspace => KeyPress::Backspace,
        _ => return None,
    })
}
