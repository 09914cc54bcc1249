//! `chat-server token`: a token for trying out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;

#[cfg(feature = "jwt")]
use super::build::names;
use super::layer::Layer;
use super::period::Period;

/// What the token is to say.
#[derive(Debug, Args)]
pub(super) struct Wish {
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
    #[arg(long, value_name = "TIME", default_value = "1h")]
    ttl: Period,

    /// For whom it is: the claim `aud` [default: the first of JWT_AUDIENCE]
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,

    /// Who says so: the claim `iss` [default: the first of JWT_ISSUER]
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,

    /// A file with a private key in PEM to sign with, instead of the secret in JWT_SECRET
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
}

impl Wish {
    /// The token.
    #[cfg(feature = "jwt")]
    pub(super) fn grant(&self, settings: &Layer) -> Result<String, String> {
        use chat_core::UserId;
        use chat_server::{Audience, JwtSigner, TokenClaims};

        if self.ttl.0.is_zero() {
            return Err("invalid value '0s' for --ttl: longer than nothing".to_owned());
        }
        let secret = settings.jwt_secret.as_deref().filter(|secret| !secret.is_empty());
        let first = |given| names(given).into_iter().next();
        let signer = match (&self.private_key, secret) {
            (Some(file), _) => {
                let pem = std::fs::read(file)
                    .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
                JwtSigner::with_private_key(&pem)
            }
            (None, Some(secret)) => JwtSigner::with_secret(secret.as_bytes()),
            (None, None) => {
                return Err(
                    "a token needs JWT_SECRET (32 bytes or more) or --private-key".to_owned()
                );
            }
        };
        let signer = signer.map_err(|error| error.why().to_owned())?;
        let user = UserId::new(&self.user)
            .map_err(|why| format!("invalid value '{}' for --user: it {why}", self.user))?;
        let mut claims = TokenClaims::new(&user, self.ttl.0);
        claims.name.clone_from(&self.name);
        let audience = self.audience.clone().or_else(|| first(&settings.jwt_audience));
        claims.aud = audience.map(Audience::One);
        claims.iss = self.issuer.clone().or_else(|| first(&settings.jwt_issuer));
        claims.rooms = self.rules()?;
        claims.limit_factor = self.limit_factor;
        signer.sign(&claims).map_err(|error| error.why().to_owned())
    }

    #[cfg(not(feature = "jwt"))]
    pub(super) fn grant(&self, _: &Layer) -> Result<String, String> {
        Err("this chat-server was built without the feature \"jwt\"".to_owned())
    }

    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "of use to tokens alone"))]
    fn rules(&self) -> Result<Option<BTreeMap<String, Vec<String>>>, String> {
        if self.rooms.is_empty() {
            return Ok(None);
        }
        let rule = |rule: &String| {
            // A pattern may hold the sign itself.
            let (pattern, capabilities) = rule.rsplit_once('=').ok_or_else(|| {
                format!("invalid value '{rule}' for --room: expected PATTERN=CAPABILITY,…")
            })?;
            let capabilities = capabilities.split(',').map(|name| name.trim().to_owned());
            for name in capabilities.clone() {
                if name != "*" && chat_core::Capability::parse(&name).is_none() {
                    return Err(format!("invalid value '{name}' for --room: no such capability"));
                }
            }
            Ok((pattern.to_owned(), capabilities.collect()))
        };
        self.rooms.iter().map(rule).collect::<Result<_, _>>().map(Some)
    }
}
