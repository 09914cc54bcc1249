//! Settings of the tokens that clients need.

use std::path::PathBuf;
use std::time::Duration;

use chat_server::{Secret, ServerConfig};
use clap::Args;

use super::value::{Invalid, MILLISECOND, YEAR, filled, secret, text, time};

/// A server would accept tokens for so long after their end.
const MAX_LEEWAY: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
#[command(next_help_heading = "Tokens")]
pub(crate) struct Tokens {
    /// Secret of 32 bytes or more that tokens (JWT) are signed with: HS256, HS384 or HS512. In the
    /// file, a list of several that count at the same time. With it, or with another key of tokens,
    /// clients need a token [default: none; every client has access]
    #[arg(long, value_name = "SECRET", hide_env_values = true, value_parser = secret)]
    jwt_secret: Vec<Secret>,

    /// Files with such a secret each, separated by commas [default: none]
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    jwt_secret_file: Vec<PathBuf>,

    /// Files with a public key of tokens each, in PEM, separated by commas: RSA (RS256 to RS512,
    /// PS256 to PS512), EC on P-256 (ES256) or P-384 (ES384), or Ed25519 (EdDSA, Ed25519)
    /// [default: none]
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    jwt_public_key: Vec<PathBuf>,

    /// Files with keys of tokens as a JWKS each, separated by commas: public keys of these kinds, or
    /// secrets [default: none]
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    jwt_jwks_file: Vec<PathBuf>,

    /// URL of a JWKS with public keys of tokens, such as
    /// https://accounts.example/.well-known/jwks.json: fetched at the start, again each hour or as
    /// often as its Cache-Control says, and for a token of an unknown key [default: none]
    #[arg(long, value_name = "URL", value_parser = text)]
    jwt_jwks_url: Option<String>,

    /// File with the certificates of the authorities that sign the certificate of that host, in PEM
    /// [default: those of the operating system, or of the file in SSL_CERT_FILE]
    #[arg(long, value_name = "FILE")]
    #[cfg_attr(not(feature = "jwks"), allow(dead_code, reason = "of use to the URL alone"))]
    jwt_jwks_ca: Option<PathBuf>,

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

    /// What should be equal on all servers, but for the keys: some are secrets, and others are in
    /// files, whose names may differ.
    pub(super) fn shared(&self) -> Result<String, Invalid> {
        let (are_needed, audience, issuer) = (self.are_needed()?, self.audience(), self.issuer());
        Ok(format!("tokens={are_needed} {audience:?} {issuer:?} {:?}", self.token_leeway))
    }

    /// Whether clients need a token.
    ///
    /// # Errors
    /// There is no key where there should be one: a server that was meant to ask for tokens does
    /// not start without.
    pub(crate) fn are_needed(&self) -> Result<bool, Invalid> {
        let files = [&self.jwt_secret_file, &self.jwt_public_key, &self.jwt_jwks_file];
        let has_key = self.secrets().next().is_some()
            || files.iter().any(|files| !files.is_empty())
            || self.jwks_url().is_some();
        let names = [("jwt-audience", self.audience()), ("jwt-issuer", self.issuer())];
        for (setting, names) in names {
            if let (false, Some(name)) = (has_key, names.first()) {
                let why = "it needs a key of tokens, such as jwt-secret or jwt-public-key, and none \
                           is set";
                return Err(Invalid::new(setting, name, why));
            }
        }
        if let (None, Some(file)) = (self.jwks_url(), &self.jwt_jwks_ca) {
            return Err(Invalid::new("jwt-jwks-ca", file.display(), "it needs jwt-jwks-url"));
        }
        Ok(has_key)
    }

    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.jwt_secret.iter().filter(|secret| !secret.reveal().is_empty())
    }

    pub(crate) fn jwks_url(&self) -> Option<&str> {
        self.jwt_jwks_url.as_deref().filter(|url| !url.is_empty())
    }
}

#[cfg(feature = "jwt")]
mod keys {
    use std::path::Path;

    use chat_server::{InvalidKey, JwtKeys, Secret};

    use super::super::value::Invalid;
    use super::super::value::secret;
    use super::Tokens;

    impl Tokens {
        /// The keys that are in settings and files.
        ///
        /// # Errors
        /// One cannot be used, or its file cannot be read.
        pub(crate) fn keys(&self) -> Result<JwtKeys, Invalid> {
            let mut keys = JwtKeys::new();
            for secret in self.secrets() {
                keys = keys
                    .secret(secret.reveal().as_bytes())
                    .map_err(|error| Invalid::hidden("jwt-secret", error.to_string()))?;
            }
            for file in &self.jwt_secret_file {
                let secret = secret_in(file)?;
                keys = keys
                    .secret(secret.reveal().as_bytes())
                    .map_err(|error| wrong("jwt-secret-file", file, &error))?;
            }
            for file in &self.jwt_public_key {
                if file.to_string_lossy().contains("-----BEGIN") {
                    let why = "it is the key itself, and the name of a file with it is needed";
                    return Err(Invalid::hidden("jwt-public-key", why));
                }
                let pem = read("jwt-public-key", file)?;
                keys =
                    keys.public_key(&pem).map_err(|error| wrong("jwt-public-key", file, &error))?;
            }
            for file in &self.jwt_jwks_file {
                let json = read("jwt-jwks-file", file)?;
                keys = keys.jwks(&json).map_err(|error| wrong("jwt-jwks-file", file, &error))?;
            }
            Ok(keys)
        }

        /// The secret that tokens for trying out and for backends are signed with.
        pub(crate) fn secret(&self) -> Result<Option<Secret>, Invalid> {
            match (self.secrets().next(), self.jwt_secret_file.first()) {
                (Some(secret), _) => Ok(Some(secret.clone())),
                (None, Some(file)) => secret_in(file).map(Some),
                (None, None) => Ok(None),
            }
        }
    }

    /// The secret in a file, without the line feed at its end.
    fn secret_in(file: &Path) -> Result<Secret, Invalid> {
        let why = |_| Invalid::new("jwt-secret-file", file.display(), "it is not UTF-8");
        let text = String::from_utf8(read("jwt-secret-file", file)?).map_err(why)?;
        let Ok(secret) = secret(&text);
        Ok(secret)
    }

    fn read(setting: &str, file: &Path) -> Result<Vec<u8>, Invalid> {
        let why = |error| Invalid::new(setting, file.display(), format!("cannot read it: {error}"));
        std::fs::read(file).map_err(why)
    }

    fn wrong(setting: &str, file: &Path, error: &InvalidKey) -> Invalid {
        Invalid::new(setting, file.display(), error.to_string())
    }

    #[cfg(feature = "jwks")]
    impl Tokens {
        /// Where keys are fetched. The settings are checked one by one, so that an error names the
        /// one that is wrong.
        ///
        /// # Errors
        /// One cannot be used, or its file cannot be read.
        pub(crate) fn remote_keys(&self) -> Result<Option<chat_server::RemoteKeysConfig>, Invalid> {
            let Some(url) = self.jwks_url() else { return Ok(None) };
            let mut config = chat_server::RemoteKeysConfig::new(url);
            config.check().map_err(|error| Invalid::new("jwt-jwks-url", url, error.to_string()))?;
            if let Some(file) = &self.jwt_jwks_ca {
                config = config.ca_certificate(read("jwt-jwks-ca", file)?);
                config.check().map_err(|error| {
                    Invalid::new("jwt-jwks-ca", file.display(), error.to_string())
                })?;
            }
            Ok(Some(config))
        }
    }
}
