//! What authenticates clients by tokens, from the settings: at the start, and when they are read
//! again.

use chat_server::{Server, ServerBuilder};

use crate::settings::{Exit, Tokens};

#[cfg(feature = "jwt")]
pub(crate) use with_jwt::TokenAuth;
#[cfg(not(feature = "jwt"))]
pub(crate) use without_jwt::TokenAuth;

impl TokenAuth {
    /// `None` if clients need no token.
    ///
    /// # Errors
    /// A key cannot be used. Keys at a URL that does not answer are no error: the server is not
    /// ready until it does, as without Redis. So a pod that starts during an outage serves as soon
    /// as the outage ends, where one that exits would wait for the end of its back-off as well.
    pub(crate) async fn start(tokens: &Tokens) -> Result<Option<Self>, Exit> {
        if !tokens.are_needed()? {
            return Ok(None);
        }
        Self::read(tokens, None).await.map(Some)
    }

    /// What the settings have for a server that is `running`, to [replace](Self::replace) it.
    ///
    /// # Errors
    /// A key cannot be used or fetched, or clients would need tokens and did not before, or the
    /// other way round.
    pub(crate) async fn read_again(
        running: Option<&Self>,
        tokens: &Tokens,
    ) -> Result<Option<Self>, Exit> {
        match (running, tokens.are_needed()?) {
            (None, false) => Ok(None),
            (Some(running), true) => Self::read(tokens, Some(running)).await.map(Some),
            // Open connections were admitted by the other rule.
            (None, true) => Err(needs_restart("keys of tokens are set, and were not at the start")),
            (Some(_), false) => Err(needs_restart("no key of tokens is set any longer")),
        }
    }
}

fn needs_restart(what: &str) -> Exit {
    Exit::System(format!("{what}: that needs a restart"))
}

#[cfg(not(feature = "jwt"))]
mod without_jwt {
    use super::{Exit, Server, ServerBuilder, Tokens};

    /// There is none.
    pub(crate) enum TokenAuth {}

    impl TokenAuth {
        #[allow(clippy::unused_async, reason = "as with the feature")]
        pub(super) async fn read(_: &Tokens, _: Option<&Self>) -> Result<Self, Exit> {
            Err(Exit::without("jwt"))
        }

        pub(crate) fn replace(&mut self, read: Self, _: &Server) {
            *self = read;
        }

        pub(crate) fn add_to(&self, _: ServerBuilder) -> ServerBuilder {
            match *self {}
        }
    }
}

#[cfg(feature = "jwt")]
mod with_jwt {
    use chat_server::{JwtAuthenticator, JwtSigner, TokenIssuer};
    use tracing::error;

    use super::remote::Remote;
    use super::{Exit, Server, ServerBuilder, Tokens};
    use crate::settings::Invalid;

    /// The authenticator of a running server, and what signs tokens for backends.
    pub(crate) struct TokenAuth {
        authenticator: JwtAuthenticator,
        issuer: Option<TokenIssuer>,
        remote: Option<Remote>,
    }

    impl TokenAuth {
        /// The authenticator by the settings. Keys at a URL that `running` has as well are its own.
        pub(super) async fn read(tokens: &Tokens, running: Option<&Self>) -> Result<Self, Exit> {
            let mut keys = tokens.keys()?;
            if tokens.all_keys_have_ended() {
                error!(
                    "every key of tokens has ended: no client can connect until there is a new one"
                );
            }
            let is_start = running.is_none();
            let kept = running.and_then(|running| running.remote.as_ref());
            let remote = Remote::read(tokens, kept, is_start).await?;
            if let Some(remote) = &remote {
                keys = remote.add_to(keys);
            }
            let authenticator = JwtAuthenticator::with_keys(keys)
                .leeway(tokens.token_leeway)
                .audience(tokens.audience())
                .issuer(tokens.issuer());
            Ok(Self { authenticator, issuer: issuer(tokens)?, remote })
        }

        /// Replaces the keys, what tokens must claim, and what signs tokens for backends.
        pub(crate) fn replace(&mut self, read: Self, server: &Server) {
            self.authenticator.replace(&read.authenticator);
            server.set_token_issuer(read.issuer.clone());
            (self.issuer, self.remote) = (read.issuer, read.remote);
        }

        pub(crate) fn add_to(&self, builder: ServerBuilder) -> ServerBuilder {
            let builder = builder.authenticator(self.authenticator.clone());
            match self.issuer.clone() {
                Some(issuer) => builder.token_issuer(issuer),
                None => builder,
            }
        }
    }

    /// A server that knows a secret of tokens can sign them.
    fn issuer(tokens: &Tokens) -> Result<Option<TokenIssuer>, Exit> {
        let Some(secret) = tokens.secret()? else { return Ok(None) };
        let signer = JwtSigner::with_secret(secret.reveal().as_bytes())
            .map_err(|error| Invalid::hidden("jwt-secret", error.to_string()))?;
        let issuer = TokenIssuer::new(signer)
            .audience(tokens.audience().into_iter().next())
            .issuer(tokens.issuer().into_iter().next());
        Ok(Some(issuer))
    }
}

#[cfg(feature = "jwks")]
mod remote {
    use chat_server::{FetchError, JwtKeys, RemoteKeys, RemoteKeysConfig};
    use tracing::warn;

    use super::{Exit, Tokens};
    use crate::settings::invalid_jwks_url;

    /// Keys that are fetched, and the settings by which they are.
    #[derive(Clone)]
    pub(super) struct Remote {
        config: RemoteKeysConfig,
        keys: RemoteKeys,
    }

    impl Remote {
        /// Fetches the keys at the URL in the settings. Keys of the same settings are `kept` if that
        /// fails; at the start they may follow later.
        pub(super) async fn read(
            tokens: &Tokens,
            kept: Option<&Self>,
            is_start: bool,
        ) -> Result<Option<Self>, Exit> {
            let Some(config) = tokens.remote_keys()? else { return Ok(None) };
            if let Some(kept) = kept.filter(|kept| kept.config == config) {
                if let Err(error) = kept.keys.fetch().await {
                    warn!(%error, "SIGHUP: keys of tokens not fetched, known ones stay valid");
                }
                return Ok(Some(kept.clone()));
            }
            let wrong = |error: FetchError| invalid_jwks_url(&config.url, error.to_string());
            let keys = RemoteKeys::start(config.clone()).map_err(wrong)?;
            match keys.fetch().await {
                Err(FetchError::Unavailable(_)) if is_start => {}
                outcome => outcome.map_err(wrong)?,
            }
            Ok(Some(Self { config, keys }))
        }

        pub(super) fn add_to(&self, keys: JwtKeys) -> JwtKeys {
            keys.remote(self.keys.clone())
        }
    }
}

#[cfg(all(feature = "jwt", not(feature = "jwks")))]
mod remote {
    use chat_server::JwtKeys;

    use super::{Exit, Tokens};

    /// There are none.
    pub(super) enum Remote {}

    impl Remote {
        #[allow(clippy::unused_async, reason = "as with the feature")]
        pub(super) async fn read(
            tokens: &Tokens,
            _: Option<&Self>,
            _: bool,
        ) -> Result<Option<Self>, Exit> {
            match tokens.jwks_url() {
                Some(_) => Err(Exit::without("jwks")),
                None => Ok(None),
            }
        }

        pub(super) fn add_to(&self, _: JwtKeys) -> JwtKeys {
            match *self {}
        }
    }
}
