//! A chat with the users of an application: its own table authenticates them, and
//! its own rule authorizes them. Every user reads `news`; only editors write there.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use chat_core::{Capability, UserId, UserName};
use chat_server::{Action, AuthError, Authenticator, Authorizer, Credentials, Identity, Server};

/// What the application knows of a user.
#[derive(Debug)]
struct Account {
    id: &'static str,
    name: &'static str,
    is_editor: bool,
}

/// Accounts by session key: in earnest a database, or its cache.
#[derive(Debug)]
struct Accounts(HashMap<&'static str, Account>);

/// Says who a client is.
#[derive(Debug)]
struct Sessions(Arc<Accounts>);

#[async_trait]
impl Authenticator for Sessions {
    async fn authenticate(&self, client: &Credentials<'_>) -> Result<Identity, AuthError> {
        let key = client.token.ok_or(AuthError::Missing)?;
        let account = self.0.0.get(key).ok_or_else(|| AuthError::invalid("no such session"))?;
        let invalid = |why: chat_core::InvalidName| AuthError::invalid(why.to_string());
        let name = UserName::new(account.name).map_err(invalid)?;
        Ok(Identity::new(UserId::new(account.id).map_err(invalid)?).name(Some(name)))
    }
}

/// Decides what a user may do.
#[derive(Debug)]
struct Rules(Arc<Accounts>);

#[async_trait]
impl Authorizer for Rules {
    async fn allows(&self, who: &Identity, what: Action<'_>) -> bool {
        let is_editor = self.0.0.values().any(|one| one.id == who.user.as_str() && one.is_editor);
        match what {
            Action::InRoom(Capability::Moderate, _) => is_editor,
            Action::InRoom(Capability::Send, room) if room.as_str() == "news" => is_editor,
            _ => true,
        }
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let accounts = Arc::new(Accounts(HashMap::from([
        ("key-of-ann", Account { id: "1", name: "Ann", is_editor: true }),
        ("key-of-bob", Account { id: "2", name: "Bob", is_editor: false }),
    ])));
    let chat = Server::builder()
        .authenticator(Sessions(Arc::clone(&accounts)))
        .authorizer(Rules(accounts))
        .start();

    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(3000);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, chat.router()).await
}
