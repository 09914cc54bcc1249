//! Signing tokens for backends that ask for them.

use super::claims::TokenClaims;
use super::signer::{InvalidClaims, JwtSigner};

/// Signs the tokens of `POST /api/tokens`; see
/// [`ServerBuilder::token_issuer`](crate::ServerBuilder::token_issuer).
///
/// ```
/// use chat_server::{JwtAuthenticator, JwtSigner, Server, TokenIssuer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), chat_server::InvalidKey> {
/// let secret = b"0123456789abcdef0123456789abcdef";
/// let server = Server::builder()
///     .authenticator(JwtAuthenticator::with_secret(secret)?.audience(["chat"]))
///     .token_issuer(TokenIssuer::new(JwtSigner::with_secret(secret)?).audience("chat".to_owned()))
///     .start();
/// # drop(server);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TokenIssuer {
    signer: JwtSigner,
    audience: Option<String>,
    issuer: Option<String>,
}

impl TokenIssuer {
    /// Issues tokens without an audience and an issuer.
    #[must_use]
    pub fn new(signer: JwtSigner) -> Self {
        Self { signer, audience: None, issuer: None }
    }

    /// Sets the audience of the tokens, which must be one of the authenticator. Default: none.
    #[must_use]
    pub fn audience(mut self, audience: impl Into<Option<String>>) -> Self {
        self.audience = audience.into();
        self
    }

    /// Sets the issuer of the tokens, which must be one of the authenticator. Default: none.
    #[must_use]
    pub fn issuer(mut self, issuer: impl Into<Option<String>>) -> Self {
        self.issuer = issuer.into();
        self
    }

    /// A token with these claims, and the audience and the issuer.
    pub(crate) fn issue(&self, mut claims: TokenClaims) -> Result<String, InvalidClaims> {
        claims.aud.extend(self.audience.clone());
        claims.iss.clone_from(&self.issuer);
        self.signer.sign(&claims)
    }
}
