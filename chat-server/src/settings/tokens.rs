//! Settings of the tokens that clients need.

use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use chat_server::{Secret, ServerConfig};
use clap::{Args, Parser};

use super::files;
#[cfg(feature = "jwks")]
use super::value::url_without_secrets;
use super::value::{Invalid, MILLISECOND, YEAR, date, file, filled, secret, text, time};

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
    #[arg(long, value_name = "FILE", value_delimiter = ',', value_parser = file)]
    jwt_secret_file: Vec<PathBuf>,

    /// Files with a public key of tokens each, in PEM, separated by commas: RSA (RS256 to RS512,
    /// PS256 to PS512), EC on P-256 (ES256) or P-384 (ES384), or Ed25519 (EdDSA, Ed25519)
    /// [default: none]
    #[arg(long, value_name = "FILE", value_delimiter = ',', value_parser = file)]
    jwt_public_key: Vec<PathBuf>,

    /// Files with keys of tokens as a JWKS each, separated by commas: public keys of these kinds, or
    /// secrets [default: none]
    #[arg(long, value_name = "FILE", value_delimiter = ',', value_parser = file)]
    jwt_jwks_file: Vec<PathBuf>,

    /// URL of a JWKS with public keys of tokens, such as
    /// https://accounts.example/.well-known/jwks.json: fetched at the start, again each hour or as
    /// often as its Cache-Control says, and for a token of an unknown key [default: none]
    #[arg(long, value_name = "URL", hide_env_values = true, value_parser = text)]
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

    #[arg(skip)]
    pub(super) tables: Vec<JwtKeyTable>,
}

/// A key of tokens that may have an end: a table `[[jwt_keys]]` of the file, and in no other source.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
#[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "of use to tokens alone"))]
pub(super) struct JwtKeyTable {
    /// As --jwt-secret, for one; a table has this or one of the next three
    #[arg(long, value_name = "SECRET", value_parser = secret)]
    secret: Option<Secret>,

    /// As --jwt-secret-file, for one
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,

    /// As --jwt-public-key, for one
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,

    /// As --jwt-jwks-file, for one
    #[arg(long, value_name = "FILE")]
    jwks_file: Option<PathBuf>,

    /// When the key ends, in UTC: the beginning of a day, such as 2027-06-30, or a time, such as
    /// 2027-06-30T12:00:00Z. Tokens that it signs are refused from then on [default: never]
    #[arg(long, value_name = "DATE", value_parser = date)]
    until: Option<SystemTime>,
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
        let has_key = self.has_key_without_end() || !self.tables.is_empty();
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

    /// Whether a table has a secret in the configuration file itself.
    pub(crate) fn tables_have_secrets(&self) -> bool {
        self.tables.iter().any(|table| table.secret.is_some())
    }

    /// The files with a secret each.
    pub(crate) fn secret_files(&self) -> impl Iterator<Item = &Path> {
        let of_tables = self.tables.iter().filter_map(|table| table.secret_file.as_ref());
        self.jwt_secret_file.iter().chain(of_tables).map(PathBuf::as_path)
    }

    fn has_key_without_end(&self) -> bool {
        let files = [&self.jwt_secret_file, &self.jwt_public_key, &self.jwt_jwks_file];
        self.secrets().next().is_some()
            || files.iter().any(|files| !files.is_empty())
            || self.jwks_url().is_some()
    }

    /// Whether a key has ended.
    pub(super) fn has_ended_key(&self) -> bool {
        self.tables.iter().any(JwtKeyTable::has_ended)
    }

    /// Whether there were keys and each has ended, so that no token is valid.
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "of use to tokens alone"))]
    pub(crate) fn all_keys_have_ended(&self) -> bool {
        !self.has_key_without_end()
            && self.has_ended_key()
            && self.tables.iter().all(JwtKeyTable::has_ended)
    }

    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.jwt_secret.iter().filter(|secret| !secret.reveal().is_empty())
    }

    pub(crate) fn jwks_url(&self) -> Option<&str> {
        self.jwt_jwks_url.as_deref().filter(|url| !url.is_empty())
    }
}

/// An error about `jwt-jwks-url` without what may be secret in it.
#[cfg(feature = "jwks")]
pub(crate) fn invalid_jwks_url(url: &str, why: String) -> Invalid {
    Invalid::new("jwt-jwks-url", url_without_secrets(url), why)
}

impl JwtKeyTable {
    /// What it says, and what its file has.
    pub(super) fn value(&self) -> impl Hash {
        let secret = self.secret.as_ref().map(Secret::reveal);
        let files = [&self.secret_file, &self.public_key, &self.jwks_file];
        let contents = files.map(|file| file.as_ref().map(|file| (file, files::contents(file))));
        (secret, contents, self.until)
    }

    fn has_ended(&self) -> bool {
        self.until.is_some_and(|until| until <= SystemTime::now())
    }
}

#[cfg(feature = "jwt")]
mod keys {
    use std::path::Path;

    use chat_server::{InvalidKey, JwtKeys, Secret};

    use super::super::files;
    use super::super::value::{Invalid, check_no_example, secret};
    #[cfg(feature = "jwks")]
    use super::invalid_jwks_url;
    use super::{JwtKeyTable, Tokens};

    impl Tokens {
        /// The keys that are in settings and files.
        ///
        /// # Errors
        /// One cannot be used, or its file cannot be read.
        pub(crate) fn keys(&self) -> Result<JwtKeys, Invalid> {
            let mut keys = JwtKeys::new();
            // An end is that of all keys before it that have none.
            let (ending, lasting): (Vec<_>, Vec<_>) =
                self.tables.iter().partition(|table| table.until.is_some());
            for table in ending.into_iter().chain(lasting) {
                keys = table.add_to(keys)?;
                if let Some(until) = table.until {
                    keys = keys.until(until);
                }
            }
            for secret in self.secrets() {
                keys = with_secret(keys, "jwt-secret", secret)?;
            }
            for file in &self.jwt_secret_file {
                keys = with_secret_file(keys, "jwt-secret-file", file)?;
            }
            for file in &self.jwt_public_key {
                keys = with_public_key(keys, "jwt-public-key", file)?;
            }
            for file in &self.jwt_jwks_file {
                keys = with_jwks(keys, "jwt-jwks-file", file)?;
            }
            Ok(keys)
        }

        /// The secret that tokens for trying out and for backends are signed with; `None` if there is
        /// none, or none that has not ended: the server would refuse what it has signed.
        pub(crate) fn secret(&self) -> Result<Option<Secret>, Invalid> {
            match (self.secrets().next(), self.jwt_secret_file.first()) {
                (Some(secret), _) => Ok(Some(secret.clone())),
                (None, Some(file)) => secret_in("jwt-secret-file", file).map(Some),
                (None, None) => {
                    // The one that lasts longest.
                    let secrets = self.tables.iter();
                    let secrets = secrets.filter(|table| table.has_secret() && !table.has_ended());
                    let table = secrets.max_by_key(|table| (table.until.is_none(), table.until));
                    table.map_or(Ok(None), JwtKeyTable::secret)
                }
            }
        }
    }

    impl JwtKeyTable {
        fn add_to(&self, keys: JwtKeys) -> Result<JwtKeys, Invalid> {
            match (&self.secret, &self.secret_file, &self.public_key, &self.jwks_file) {
                (Some(secret), None, None, None) => with_secret(keys, TABLE, secret),
                (None, Some(file), None, None) => with_secret_file(keys, TABLE, file),
                (None, None, Some(file), None) => with_public_key(keys, TABLE, file),
                (None, None, None, Some(file)) => with_jwks(keys, TABLE, file),
                _ => {
                    let why = "a table has one of secret, secret-file, public-key and jwks-file";
                    Err(Invalid::hidden(TABLE, why))
                }
            }
        }

        fn has_secret(&self) -> bool {
            self.secret.is_some() || self.secret_file.is_some()
        }

        fn secret(&self) -> Result<Option<Secret>, Invalid> {
            match (&self.secret, &self.secret_file) {
                (None, Some(file)) => secret_in(TABLE, file).map(Some),
                (secret, _) => Ok(secret.clone()),
            }
        }
    }

    const TABLE: &str = "jwt_keys";

    fn with_secret(keys: JwtKeys, setting: &str, secret: &Secret) -> Result<JwtKeys, Invalid> {
        add_secret(keys, secret).map_err(|why| Invalid::hidden(setting, why))
    }

    fn with_secret_file(keys: JwtKeys, setting: &str, file: &Path) -> Result<JwtKeys, Invalid> {
        let secret = secret_in(setting, file)?;
        add_secret(keys, &secret).map_err(|why| Invalid::new(setting, file.display(), why))
    }

    fn add_secret(keys: JwtKeys, secret: &Secret) -> Result<JwtKeys, String> {
        check_no_example(secret.reveal())?;
        keys.secret(secret.reveal().as_bytes()).map_err(|error| error.to_string())
    }

    fn with_public_key(keys: JwtKeys, setting: &str, file: &Path) -> Result<JwtKeys, Invalid> {
        if file.to_string_lossy().contains("-----BEGIN") {
            let why = "it is the key itself, and the name of a file with it is needed";
            return Err(Invalid::hidden(setting, why));
        }
        keys.public_key(&read(setting, file)?).map_err(|error| wrong(setting, file, &error))
    }

    fn with_jwks(keys: JwtKeys, setting: &str, file: &Path) -> Result<JwtKeys, Invalid> {
        keys.jwks(&read(setting, file)?).map_err(|error| wrong(setting, file, &error))
    }

    /// The secret in a file, without the line feed at its end.
    fn secret_in(setting: &str, file: &Path) -> Result<Secret, Invalid> {
        let why = |_| Invalid::new(setting, file.display(), "it is not UTF-8");
        let text = String::from_utf8(read(setting, file)?).map_err(why)?;
        let Ok(secret) = secret(&text);
        Ok(secret)
    }

    fn read(setting: &str, file: &Path) -> Result<Vec<u8>, Invalid> {
        let why = |error| Invalid::new(setting, file.display(), format!("cannot read it: {error}"));
        files::read(file).map_err(why)
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
            config.check().map_err(|error| invalid_jwks_url(url, error.to_string()))?;
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
