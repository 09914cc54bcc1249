//! `chat-server send`: one message to a room.

use std::process::ExitCode;

use chat_core::printable;
use chat_transport::client::{Client, ClientConfig, ClientError, Sent};
use serde_json::json;
use tokio::time::timeout;

use super::access::Access;
use super::{json_text, print};
use crate::settings::{Exit, SendArgs, Settings, say};

pub(super) async fn run(args: &SendArgs, settings: &Settings) -> Result<ExitCode, Exit> {
    let access = Access::new(&args.client, settings).await?;
    let config = ClientConfig::default().send_timeout(args.timeout);
    // Nothing that happens in the room is of interest.
    let (client, _) = access.connect(&args.client.user, config)?;
    let outcome = timeout(args.timeout, send(&client, args)).await;
    let code = match outcome {
        Ok(Ok(sent)) => {
            print(&line(args, &sent));
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            say(&with_refusal(&client, &format!("not sent: {}", access.explain(error))));
            ExitCode::FAILURE
        }
        Err(_) => {
            let why = with_refusal(&client, &access.explain(why_late(&client)));
            say(&format!("{}: {why}", access.url));
            // Without a close of the connection: the server would have to answer that, too.
            return Ok(ExitCode::FAILURE);
        }
    };
    client.close().await;
    Ok(code)
}

async fn send(client: &Client, args: &SendArgs) -> Result<Sent, ClientError> {
    client.join(&args.room, 0).await?;
    let sent = client.send(&args.room, &args.text).await?;
    // The message is in the room, whether the client leaves it now or when its connection ends.
    let _ = client.leave(&args.room).await;
    Ok(sent)
}

/// Why the message was not confirmed in time.
fn why_late(client: &Client) -> String {
    // There were answers, and `with_refusal` has the latest of them.
    if client.last_refusal().is_some() && client.last_disconnect().is_none() {
        return "the server confirmed no attempt in time".to_owned();
    }
    let loss = client.last_disconnect().map(|loss| loss.to_string());
    let why = loss.unwrap_or_else(|| "no answer in time".to_owned());
    let outcome = match client.welcome() {
        None => "not sent",
        Some(_) => "it is unknown whether the message was sent",
    };
    format!("{outcome}: {why}")
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
