//! How commands reach a server as clients.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use chat_transport::client::{Client, ClientConfig, ClientError, Events};
use tokio::time::timeout;

use super::address_for_clients;
use crate::settings::{ClientArgs, Exit, Invalid, Settings, read_text};

/// How long a token is valid that a command signs. The client fetches another one in time.
#[cfg(feature = "jwt")]
const TOKEN_TTL: Duration = Duration::from_secs(300);

/// How long the server may take to confirm that a user has left a room.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// A server, and how it knows clients.
pub(super) struct Access {
    pub(super) url: String,
    credentials: Credentials,
}

enum Credentials {
    /// Every client has access under any name.
    Name,
    /// The same token for each client.
    Token(String),
    #[cfg(feature = "jwt")]
    Signer(Box<signing::Signer>),
}

impl Access {
    /// # Errors
    /// A setting is not valid, or the file with the token cannot be read.
    pub(super) async fn new(args: &ClientArgs, settings: &Settings) -> Result<Self, Exit> {
        let url = match &args.url {
            Some(url) => url.clone(),
            None => format!("ws://{}/ws", address_for_clients(&settings.listen).await?),
        };
        let credentials = match &args.token_file {
            Some(file) => Credentials::Token(token_in(file)?),
            None => Credentials::of(settings)?,
        };
        Ok(Self { url, credentials })
    }

    /// Why the server does not want the client, with what to give if it asks for a token and the
    /// settings of the command have none.
    pub(super) fn explain(&self, why: impl fmt::Display) -> String {
        let why = why.to_string();
        if !matches!(self.credentials, Credentials::Name) || !why.contains("credentials are needed")
        {
            return why;
        }
        format!(
            "{}: give a token with --token-file, or the settings of the server (--config, \
             JWT_SECRET) before the command, which then signs one",
            why.trim_end_matches('.')
        )
    }

    /// Starts a client as `user`. It connects by itself.
    ///
    /// # Errors
    /// The address, or the name of the user, is not valid.
    pub(super) fn connect(
        &self,
        user: &str,
        config: ClientConfig,
    ) -> Result<(Client, Events), Exit> {
        let config = match &self.credentials {
            Credentials::Name => config.name(user),
            Credentials::Token(token) => config.token(token),
            #[cfg(feature = "jwt")]
            Credentials::Signer(signer) => config.token_from(signer.tokens_of(user)?),
        };
        Client::connect([&self.url], config).map_err(|error| match error {
            ClientError::UserName => Invalid::new("user", user, error.to_string()).into(),
            error => Invalid::new("url", &self.url, error.to_string()).into(),
        })
    }
}

/// Ends the presence of the user at once, and the connection.
pub(super) async fn leave(client: &Client, room: &str) {
    // It fails without a connection.
    let _ = timeout(LEAVE_TIMEOUT, client.leave(room)).await;
    client.close().await;
}

fn token_in(file: &Path) -> Result<String, Invalid> {
    let token = read_text(file).map_err(|error| {
        Invalid::new("token-file", file.display(), format!("cannot read it: {error}"))
    })?;
    Ok(token.trim().to_owned())
}

#[cfg(not(feature = "jwt"))]
impl Credentials {
    fn of(_: &Settings) -> Result<Self, Exit> {
        Ok(Self::Name)
    }
}

#[cfg(feature = "jwt")]
mod signing {
    use std::future::{Ready, ready};

    use chat_core::{UserId, UserName};
    use chat_server::{InvalidClaims, JwtSigner, TokenClaims};

    use super::{Credentials, Exit, Invalid, Settings, TOKEN_TTL};

    /// Signs tokens with the secret that the server checks them with.
    pub(super) struct Signer {
        signer: JwtSigner,
        audience: Option<String>,
        issuer: Option<String>,
    }

    impl Credentials {
        pub(super) fn of(settings: &Settings) -> Result<Self, Exit> {
            let tokens = &settings.tokens;
            let Some(secret) = tokens.secret()? else { return Ok(Self::Name) };
            let signer = JwtSigner::with_secret(secret.reveal().as_bytes())
                .map_err(|error| Invalid::hidden("jwt-secret", error.to_string()))?;
            let audience = tokens.audience().into_iter().next();
            let issuer = tokens.issuer().into_iter().next();
            Ok(Self::Signer(Box::new(Signer { signer, audience, issuer })))
        }
    }

    impl Signer {
        /// A source of tokens for `user`.
        ///
        /// # Errors
        /// No user can have this id.
        pub(super) fn tokens_of(
            &self,
            user: &str,
        ) -> Result<impl Fn() -> Ready<Result<String, InvalidClaims>> + Send + Sync + use<>, Invalid>
        {
            let id =
                UserId::new(user).map_err(|why| Invalid::new("user", user, format!("it {why}")))?;
            let (signer, audience) = (self.signer.clone(), self.audience.clone());
            let issuer = self.issuer.clone();
            // Without a name the server derives one from the id.
            let name = UserName::new(user).is_ok().then(|| user.to_owned());
            Ok(move || {
                let mut claims = TokenClaims::new(&id, TOKEN_TTL);
                claims.name.clone_from(&name);
                claims.aud = audience.iter().cloned().collect();
                claims.iss.clone_from(&issuer);
                ready(signer.sign(&claims))
            })
        }
    }
}
