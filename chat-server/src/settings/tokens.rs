//! Settings of the tokens that clients need.

use std::path::PathBuf;
use std::time::Duration;

use chat_server::{Secret, ServerConfig};
use clap::Args;

use super::source::Invalid;
use super::value::{MILLISECOND, YEAR, filled, secret, text, time};

/// A server would accept tokens for so long after their end.
const MAX_LEEWAY: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
#[command(next_help_heading = "Tokens")]
pub(crate) struct Tokens {
    /// Secret of 32 bytes or more that tokens (JWT) are signed with: HS256, HS384 or HS512. With
    /// it, or with --jwt-public-key, clients need a token [default: none; every client has access]
    #[arg(long, value_name = "SECRET", hide_env_values = true, value_parser = secret)]
    jwt_secret: Option<Secret>,

    /// File with the public key of tokens, in PEM: RSA (RS256 to RS512, PS256 to PS512), EC on
    /// P-256 (ES256) or P-384 (ES384), or Ed25519 (EdDSA, Ed25519) [default: none]
    #[arg(long, value_name = "FILE")]
    jwt_public_key: Option<PathBuf>,

    /// Audiences of which a token must name one (the claim aud), separated by commas [default: none;
    /// a token may name no audience]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = text)]
    jwt_audience: Vec<String>,

    /// Issuers of which a token must name one (the claim iss), separated by commas [default: any]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = text)]
    jwt_issuer: Vec<String>,

    /// How long a client may take to send a token
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time(MILLISECOND..=YEAR))]
    auth_timeout: Duration,

    /// How long after its token has expired a client may send a new one before it is closed
    /// with code 4004
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time(Duration::ZERO..=YEAR))]
    token_grace: Duration,

    /// How far the clocks of this server and of the issuer of tokens may be apart, 5m at most: a
    /// token is valid so long before its nbf and after its exp
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time(Duration::ZERO..=MAX_LEEWAY))]
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "of use to tokens alone"))]
    pub(crate) token_leeway: Duration,
}

/// What tokens are signed with.
#[derive(Debug)]
#[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "of use to tokens alone"))]
pub(crate) enum TokenKey {
    Secret(Secret),
    /// A file with a public key.
    Public(PathBuf),
}

impl Tokens {
    pub(super) fn add_to(&self, server: &mut ServerConfig) {
        server.auth_timeout = self.auth_timeout;
        server.token_grace = self.token_grace;
    }

    pub(crate) fn audience(&self) -> Vec<String> {
        filled(&self.jwt_audience)
    }

    pub(crate) fn issuer(&self) -> Vec<String> {
        filled(&self.jwt_issuer)
    }

    pub(super) fn secret(&self) -> Option<&Secret> {
        self.jwt_secret.as_ref().filter(|secret| !secret.reveal().is_empty())
    }

    /// The key of the tokens that clients need; `None` if they need none.
    ///
    /// # Errors
    /// There are two keys, or none where there should be one: a server that was meant to ask for
    /// tokens does not start without.
    pub(crate) fn key(&self) -> Result<Option<TokenKey>, Invalid> {
        match (self.secret(), &self.jwt_public_key) {
            (Some(_), Some(_)) => {
                let why = "jwt-secret is set as well, and tokens have one key";
                Err(Invalid::hidden("jwt-public-key", why))
            }
            (Some(secret), None) => Ok(Some(TokenKey::Secret(secret.clone()))),
            (None, Some(file)) if file.to_string_lossy().contains("-----BEGIN") => {
                let why = "it is the key itself, and the name of a file with it is needed";
                Err(Invalid::hidden("jwt-public-key", why))
            }
            (None, Some(file)) => Ok(Some(TokenKey::Public(file.clone()))),
            (None, None) => self.check_without_key(),
        }
    }

    fn check_without_key(&self) -> Result<Option<TokenKey>, Invalid> {
        let names = [("jwt-audience", self.audience()), ("jwt-issuer", self.issuer())];
        for (setting, names) in names {
            if let Some(name) = names.first() {
                let why = "it needs jwt-secret or jwt-public-key, and neither is set";
                return Err(Invalid::new(setting, name, why));
            }
        }
        Ok(None)
    }
}
