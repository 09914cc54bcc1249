//! `chat-server token`: a token for trying out.

use std::collections::BTreeMap;
#[cfg(feature = "jwt")]
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::exit::Exit;
use super::tokens::Tokens;
use super::value::{Invalid, MILLISECOND, YEAR, time};

/// What the token is to say.
#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    /// Who its bearer is: the claim `sub`
    #[arg(long, value_name = "ID")]
    user: String,

    /// What the bearer is called
    #[arg(long)]
    name: Option<String>,

    /// What the bearer may do where: PATTERN=CAPABILITY,… such as team-*=join,send; may be
    /// given several times [default: all that members do, in every room]
    #[arg(long = "room", value_name = "RULE")]
    rooms: Vec<String>,

    /// How many times as much as others the bearer may use, for bots: 1 to 1000 [default: 1]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit_factor: Option<u32>,

    /// How long it is good for
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time(MILLISECOND..=YEAR))]
    ttl: Duration,

    /// For whom it is: the claim `aud` [default: the first of CHAT_JWT_AUDIENCE]
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,

    /// Who says so: the claim `iss` [default: the first of CHAT_JWT_ISSUER]
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,

    /// A file with a private key in PEM to sign with, instead of the secret in CHAT_JWT_SECRET
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,

    /// The id of the key in a JWKS: the header `kid` [default: none]
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
}

impl TokenArgs {
    /// The token.
    #[cfg(feature = "jwt")]
    pub(super) fn token(&self, tokens: &Tokens) -> Result<String, Exit> {
        use chat_core::{UserId, UserName};
        use chat_server::{InvalidKey, JwtSigner, TokenClaims};

        let signer = match (&self.private_key, tokens.secret()?) {
            (Some(file), _) => read(file).and_then(|pem| {
                let wrong = |error: InvalidKey| {
                    Invalid::new("private-key", file.display(), error.to_string())
                };
                JwtSigner::with_private_key(&pem).map_err(wrong)
            }),
            (None, Some(secret)) => JwtSigner::with_secret(secret.reveal().as_bytes())
                .map_err(|error| Invalid::hidden("jwt-secret", error.to_string())),
            (None, None) => {
                let needed = "a token needs CHAT_JWT_SECRET (32 bytes or more) or --private-key";
                return Err(Exit::System(needed.to_owned()));
            }
        };
        let mut signer = signer?;
        if let Some(id) = &self.key_id {
            signer = signer.key_id(id);
        }
        let user = UserId::new(&self.user)
            .map_err(|why| Invalid::new("user", &self.user, format!("it {why}")))?;
        if user.is_backend() {
            return Err(Invalid::new("user", &self.user, "ids of backends begin with @").into());
        }
        if let Some(name) = &self.name {
            UserName::new(name).map_err(|why| Invalid::new("name", name, format!("it {why}")))?;
        }
        let mut claims = TokenClaims::new(&user, self.ttl);
        claims.name.clone_from(&self.name);
        let audience = self.audience.clone().or_else(|| tokens.audience().into_iter().next());
        claims.aud = audience.into_iter().collect();
        claims.iss = self.issuer.clone().or_else(|| tokens.issuer().into_iter().next());
        claims.rooms = self.rules()?;
        claims.limit_factor = self.limit_factor;
        signer.sign(&claims).map_err(|error| Exit::System(error.to_string()))
    }

    #[cfg(not(feature = "jwt"))]
    pub(super) fn token(&self, _: &Tokens) -> Result<String, Exit> {
        Err(Exit::System("this chat-server was built without the feature \"jwt\"".to_owned()))
    }

    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "of use to tokens alone"))]
    fn rules(&self) -> Result<Option<BTreeMap<String, Vec<String>>>, Invalid> {
        if self.rooms.is_empty() {
            return Ok(None);
        }
        let rule = |rule: &String| {
            // A pattern may hold the sign itself.
            let (pattern, capabilities) = rule
                .rsplit_once('=')
                .ok_or_else(|| Invalid::new("room", rule, "expected PATTERN=CAPABILITY,…"))?;
            let capabilities = capabilities.split(',').map(|name| name.trim().to_owned());
            for name in capabilities.clone() {
                if name != "*" && chat_core::Capability::parse(&name).is_none() {
                    return Err(Invalid::new("room", name, "no such capability"));
                }
            }
            Ok((pattern.to_owned(), capabilities.collect()))
        };
        self.rooms.iter().map(rule).collect::<Result<_, _>>().map(Some)
    }
}

#[cfg(feature = "jwt")]
fn read(file: &Path) -> Result<Vec<u8>, Invalid> {
    let wrong =
        |error| Invalid::new("private-key", file.display(), format!("cannot read it: {error}"));
    super::files::read(file).map_err(wrong)
}
