//! `chat-server send`: one message to a room.

use std::collections::HashSet;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::time::Duration;

use chat_core::printable;
use chat_transport::client::{Client, ClientConfig, ClientError, Disconnect, Sent, State};
use serde_json::json;
use tokio::time::sleep;

use super::access::{Access, leave};
use super::{ended_by, json_text, listen_for_signals, print};
use crate::settings::{Exit, SendArgs, Settings, say};

/// How often the command looks whether it waits for something that it has not said yet.
const NOTICE_INTERVAL: Duration = Duration::from_secs(1);

/// Why the command does not wait for the outcome any longer.
enum Stop {
    Timeout,
    Signal(&'static str),
}

pub(super) async fn run(args: &SendArgs, settings: &Settings) -> Result<ExitCode, Exit> {
    let access = Access::new(&args.client, settings).await?;
    let mut signals = listen_for_signals()?;
    let config = ClientConfig::default().send_timeout(args.timeout);
    // Nothing that happens in the room is of interest.
    let (client, _) = access.connect(&args.client.user, config)?;
    let mut sending = pin!(send(&client, args));
    let stop = tokio::select! {
        outcome = &mut sending => {
            let code = match outcome {
                Ok(sent) => succeed(args, &sent),
                Err(error) => fail(&client, &access, outcome_of(&error)),
            };
            tokio::select! {
                () = leave(&client, &args.room) => {}
                _ = signals.recv() => {}
            }
            return Ok(code);
        }
        () = sleep(args.timeout) => Stop::Timeout,
        signal = signals.recv() => Stop::Signal(signal),
        never = show_notices(&client, &access) => match never {},
    };
    let loss = client.last_disconnect();
    let error = match give_up(&client, sending).await {
        Ok(sent) => return Ok(succeed(args, &sent)),
        Err(error) => error,
    };
    // Without the end of the connection: the server would have to answer that, too.
    Ok(match stop {
        Stop::Timeout => {
            let why = why_late(&client, &error, loss);
            fail(&client, &access, format!("{}: {why}", access.url))
        }
        Stop::Signal(signal) => {
            fail(&client, &access, format!("interrupted by {signal}: {}", known(&error)));
            ended_by(signal)
        }
    })
}

async fn send(client: &Client, args: &SendArgs) -> Result<Sent, ClientError> {
    client.join(&args.room, 0).await?;
    client.send(&args.room, &args.text).await
}

/// Says what the command waits for, if it does so for a second or longer: once for each reason. Never
/// returns.
async fn show_notices(client: &Client, access: &Access) -> Infallible {
    let mut shown = HashSet::new();
    loop {
        sleep(NOTICE_INTERVAL).await;
        let notice = access.explain(notice(client, access));
        if shown.insert(notice.clone()) {
            say(&notice);
        }
    }
}

fn notice(client: &Client, access: &Access) -> String {
    match (client.state(), client.last_disconnect()) {
        (State::Online, _) => with_refusal(client, "the server has not confirmed the message yet"),
        (_, Some(loss)) => format!("no connection: {loss}"),
        (_, None) => format!("no connection: {} has not answered yet", access.url),
    }
}

/// The outcome of a message that is not waited for any longer: when a client closes, each of its calls
/// ends.
async fn give_up(
    client: &Client,
    mut sending: Pin<&mut impl Future<Output = Result<Sent, ClientError>>>,
) -> Result<Sent, ClientError> {
    tokio::select! {
        outcome = &mut sending => outcome,
        () = client.close() => sending.await,
    }
}

fn succeed(args: &SendArgs, sent: &Sent) -> ExitCode {
    print(&line(args, sent));
    ExitCode::SUCCESS
}

fn fail(client: &Client, access: &Access, why: String) -> ExitCode {
    say(&with_refusal(client, &access.explain(why)));
    ExitCode::FAILURE
}

fn outcome_of(error: &ClientError) -> String {
    match error {
        ClientError::OutcomeUnknown { .. } => error.to_string(),
        _ => format!("{}: {error}", known(error)),
    }
}

/// What is known of a message that the server did not confirm.
fn known(error: &ClientError) -> &'static str {
    match error {
        ClientError::OutcomeUnknown { .. } => "it is unknown whether the message was sent",
        _ => "not sent",
    }
}

/// Why the message was not confirmed in time.
fn why_late(client: &Client, error: &ClientError, loss: Option<Disconnect>) -> String {
    // There were answers, and `with_refusal` has the latest of them.
    if client.last_refusal().is_some() && loss.is_none() {
        return "the server confirmed no attempt in time".to_owned();
    }
    let why = loss.map_or_else(|| "no answer in time".to_owned(), |loss| loss.to_string());
    format!("{}: {why}", known(error))
}

/// With what the server has answered to attempts that the client repeats.
fn with_refusal(client: &Client, why: &str) -> String {
    match client.last_refusal() {
        Some(refusal) => format!("{why}; the server's latest answer: {refusal}"),
        None => why.to_owned(),
    }
}

fn line(args: &SendArgs, sent: &Sent) -> String {
    let position = sent.position.map(|position| position.to_string());
    if args.json {
        return json_text(&json!({ "room": args.room, "position": position, "key": sent.key }));
    }
    match position {
        Some(position) => format!("sent to {} at {position}", printable(&args.room)),
        None => format!("sent to {}", printable(&args.room)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_of_unknown_outcome_is_not_reported_as_not_sent() {
        let unknown = ClientError::OutcomeUnknown { key: "k".to_owned() };
        assert_eq!(outcome_of(&unknown), "it is unknown whether the message was published");
        assert_eq!(outcome_of(&ClientError::NotInRoom), "not sent: not in the room");
    }
}
