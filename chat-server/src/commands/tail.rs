//! `chat-server tail`: the messages of a room as they arrive.

use std::io::{self, Write};
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use chat_core::printable;
use chat_transport::client::{
    ClientConfig, ClientError, Event, Events, Joined, Message, State, User,
};
use serde_json::{Value, json};

use super::access::{Access, leave};
use super::{json_text, listen_for_signals};
use crate::settings::{Exit, Settings, TailArgs, say};

pub(super) async fn run(args: &TailArgs, settings: &Settings) -> Result<ExitCode, Exit> {
    let mut signals = listen_for_signals()?;
    let access = Access::new(&args.client, settings).await?;
    let (client, mut events) = access.connect(&args.client.user, ClientConfig::default())?;
    let code = tokio::select! {
        _ = signals.recv() => ExitCode::SUCCESS,
        code = follow(client.join(&args.room, args.history), &mut events, args.json, &access) => code,
    };
    leave(&client, &args.room).await;
    Ok(code)
}

/// Prints what happens until the server does not want the client any longer.
async fn follow(
    join: impl Future<Output = Result<Joined, ClientError>>,
    events: &mut Events,
    as_json: bool,
    access: &Access,
) -> ExitCode {
    let mut join = pin!(join);
    let mut has_joined = false;
    loop {
        let event = tokio::select! {
            // What precedes the answer is printed first.
            biased;
            event = events.recv() => event,
            joined = &mut join, if !has_joined => match joined {
                Ok(_) => {
                    has_joined = true;
                    continue;
                }
                Err(error) => {
                    say(&access.explain(error));
                    return ExitCode::FAILURE;
                }
            },
        };
        let Some(event) = event else { return ExitCode::FAILURE };
        let is_over = matches!(
            event,
            Event::Left { .. } | Event::Refused { .. } | Event::State(State::Closed { .. })
        );
        let line = if as_json { json_line(event) } else { text_line(event, access) };
        let written = match line {
            Some(Line::Printed(line)) => writeln!(io::stdout(), "{line}"),
            Some(Line::Notice(line)) => {
                say(&line);
                Ok(())
            }
            None => Ok(()),
        };
        match written {
            // The reader of a pipe has ended: `tail general | head`.
            Err(_) => return ExitCode::SUCCESS,
            Ok(()) if is_over => return ExitCode::FAILURE,
            Ok(()) => {}
        }
    }
}

enum Line {
    Printed(String),
    /// On stderr, where it does not mix with messages.
    Notice(String),
}

fn text_line(event: Event, access: &Access) -> Option<Line> {
    Some(match event {
        Event::Message(message) => {
            let at = UNIX_EPOCH + Duration::from_millis(message.at);
            let at = humantime::format_rfc3339_seconds(at);
            Line::Printed(format!("{at} {}: {}", sender(&message.user), printable(&message.text)))
        }
        Event::Gap { .. } => Line::Printed("--- messages are missing here ---".to_owned()),
        Event::Joined { rejoined: true, .. } => Line::Notice("connected again".to_owned()),
        // In a quiet room nothing else says that the command works.
        Event::Joined { room, .. } => Line::Notice(format!("joined {room}")),
        Event::State(State::Waiting { retry_in, loss }) => {
            let why = access.explain(loss);
            Line::Notice(format!("no connection: {why}; next attempt in {retry_in:.1?}"))
        }
        Event::State(State::Closed { loss }) => {
            Line::Notice(format!("closed: {}", access.explain(loss)))
        }
        Event::Left { reason, message, .. } => {
            let message = message.map(|message| format!(": {message}"));
            Line::Notice(format!("removed from the room: {reason}{}", message.unwrap_or_default()))
        }
        Event::Refused { error, .. } => {
            Line::Notice(format!("not in the room any longer: {error}"))
        }
        _ => return None,
    })
}

/// The id, by which a user is found and banned, and the name, which anyone may have.
fn sender(user: &User) -> String {
    let id = quoted_if_ambiguous(&user.id);
    if user.name == user.id { id } else { format!("{id} ({})", quoted_if_ambiguous(&user.name)) }
}

/// Quotes what could be read as the end of the sender and the text of a message.
fn quoted_if_ambiguous(name: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | '+' | '|');
    match name.chars().all(is_plain) {
        true => name.to_owned(),
        false => format!("\"{}\"", printable(&name.replace('\\', r"\\").replace('"', r#"\""#))),
    }
}

fn json_line(event: Event) -> Option<Line> {
    let line = match event {
        Event::Message(message) => message_json(message),
        Event::Gap { position, .. } => {
            json!({ "type": "gap", "position": position.map(|position| position.to_string()) })
        }
        Event::Joined { rejoined, recovered, .. } => {
            json!({ "type": "joined", "rejoined": rejoined, "recovered": recovered })
        }
        Event::State(State::Waiting { retry_in, loss }) => json!({
            "type": "disconnected",
            "reason": loss.to_string(),
            "retry_in_ms": u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX),
        }),
        Event::State(State::Closed { loss }) => {
            json!({ "type": "closed", "reason": loss.to_string() })
        }
        Event::Left { reason, message, .. } => {
            json!({ "type": "left", "reason": reason, "message": message })
        }
        Event::Refused { error, .. } => json!({ "type": "left", "reason": error.to_string() }),
        _ => return None,
    };
    Some(Line::Printed(json_text(&line)))
}

fn message_json(message: Message) -> Value {
    json!({
        "type": "message",
        "position": message.position.map(|position| position.to_string()),
        "at": message.at,
        "user": { "id": message.user.id, "name": message.user.name },
        "text": message.text,
        "data": message.data,
        "key": message.key,
    })
}
