//! `top`: all of it, live, in the terminal.
//!
//! Guarantee: the terminal is given back as it was, whatever ends the view: a key, a signal, an error or a panic. What is
//! shown is read, never guessed: while Redis is away that is said, and the last numbers stay.

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

/// How long to wait for a key before it is looked whether the view has ended.
const KEY_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Whether there is a terminal to show it on.
pub(super) fn on_a_terminal() -> Result<(), ToolError> {
    if io::stdout().is_terminal() && io::stdin().is_terminal() {
        return Ok(());
    }
    Err(ToolError::Usage("top needs a terminal; stats and watch do without".to_owned()))
}

/// Shows everything until it is told to stop.
pub(super) async fn run(session: &mut ToolSession, args: TopArgs) -> Result<RunOutcome, ToolError> {
    // Before the screen is taken over, so that what is wrong can be read.
    session.queue.now().await?;
    let stop = shared::shutdown::shutdown_token()?;
    let mut app = App::new(session.address.clone(), session.screen.is_colored());
    let ended = CancellationToken::new();
    // Restores the terminal on a panic, too.
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
                // The size has changed: draw anew.
                Some(None) => None,
                // The terminal has gone.
                None => return Ok(()),
            },
            news = feed.next_update() => match news {
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

/// Keys as they are pressed, read by a thread of its own; `None`: the screen has another size.
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
