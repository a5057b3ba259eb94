//! `granary token create`

use std::path::PathBuf;

use clap::Args;
use granary_api::Permission;
use granary_http::new_id;
use granary_http::token::{Claims, Grants, SigningKey, now};
use narbridge::CacheName;

use super::{data_dir, secret};
use crate::duration;
use crate::failure::{Context, Failure};
use crate::output::print;

/// Options of `granary token create`.
#[derive(Args)]
pub struct Create {
    /// Whose token it is; what it is revoked by, with all others of the name
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    sub: String,
    /// How long it is valid: 30s, 15m, 12h, 30d, 2w, 1y, or never
    #[arg(long, value_name = "TIME", default_value = "1y", value_parser = parse_validity)]
    validity: Validity,
    /// When it starts to be valid: from now (such as 2h), or in seconds since 1970
    #[arg(long, value_name = "TIME", value_parser = parse_start)]
    not_before: Option<Start>,
    /// Folder of the server whose key signs [default: $XDG_STATE_HOME/granary]
    #[arg(long, value_name = "DIR", env = "GRANARY_DATA", conflicts_with = "signing_key")]
    data: Option<PathBuf>,
    /// Sign with this instead: a private key as PEM, or a secret for HS256 as base64
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
    /// Who makes it (iss)
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Whom it is meant for (aud)
    #[arg(long, value_name = "NAME")]
    audience: Vec<String>,
    #[command(flatten)]
    permissions: Permissions,
}

/// What is permitted on which caches.
#[derive(Args)]
#[command(next_help_heading = "Permissions (each on the caches that fit a pattern, as alice-*)")]
struct Permissions {
    /// Read
    #[arg(long, value_name = "PATTERN", num_args = 1.., value_parser = parse_pattern)]
    pull: Vec<String>,
    /// Upload paths
    #[arg(long, value_name = "PATTERN", num_args = 1.., value_parser = parse_pattern)]
    push: Vec<String>,
    /// Delete paths
    #[arg(long, value_name = "PATTERN", num_args = 1.., value_parser = parse_pattern)]
    delete: Vec<String>,
    /// Pin paths
    #[arg(long, value_name = "PATTERN", num_args = 1.., value_parser = parse_pattern)]
    pin: Vec<String>,
    /// Make caches
    #[arg(long, value_name = "PATTERN", num_args = 1.., value_parser = parse_pattern)]
    #[arg(alias = "create-cache")]
    create: Vec<String>,
    /// Change settings and keys
    #[arg(long, value_name = "PATTERN", num_args = 1.., value_parser = parse_pattern)]
    #[arg(alias = "configure-cache")]
    configure: Vec<String>,
    /// Change how long paths are kept
    #[arg(long, value_name = "PATTERN", num_args = 1.., value_parser = parse_pattern)]
    #[arg(alias = "configure-cache-retention")]
    configure_retention: Vec<String>,
    /// Remove caches
    #[arg(long, value_name = "PATTERN", num_args = 1.., value_parser = parse_pattern)]
    #[arg(alias = "destroy-cache")]
    destroy: Vec<String>,
}

#[derive(Clone, Copy)]
enum Validity {
    Seconds(u64),
    Forever,
}

fn parse_validity(text: &str) -> Result<Validity, String> {
    match text {
        "never" => Ok(Validity::Forever),
        _ => match duration::parse(text)? {
            0 => Err("a token that is never valid is of no use".to_owned()),
            seconds => Ok(Validity::Seconds(seconds)),
        },
    }
}

#[derive(Clone, Copy)]
enum Start {
    In(u64),
    At(u64),
}

fn parse_start(text: &str) -> Result<Start, String> {
    match text.parse() {
        Ok(seconds) => Ok(Start::At(seconds)),
        Err(_) => duration::parse(text).map(Start::In),
    }
}

/// A pattern is a cache's name in which some characters may be stars.
fn parse_pattern(text: &str) -> Result<String, String> {
    let fits = text == "*" || text.replace('*', "a").parse::<CacheName>().is_ok();
    match fits {
        true => Ok(text.to_owned()),
        false => Err("a pattern is a cache's name, in which * stands for anything".to_owned()),
    }
}

impl Permissions {
    fn grants(&self) -> Grants {
        let mut grants = Grants::default();
        for (patterns, permission) in [
            (&self.pull, Permission::Pull),
            (&self.push, Permission::Push),
            (&self.delete, Permission::Delete),
            (&self.pin, Permission::Pin),
            (&self.create, Permission::Create),
            (&self.configure, Permission::Configure),
            (&self.configure_retention, Permission::ConfigureRetention),
            (&self.destroy, Permission::Destroy),
        ] {
            for pattern in patterns {
                grants.add(pattern.as_str(), permission);
            }
        }
        grants
    }
}

impl Create {
    /// Prints the token.
    pub fn run(self) -> Result<(), Failure> {
        let grants = self.permissions.grants();
        if grants.are_none() {
            let text = "the token would permit nothing: add --pull '*', --push 'ci-*' or others";
            return Err(Failure::new(text));
        }
        let signer = match &self.signing_key {
            Some(path) => SigningKey::from_file(path).context(|| "cannot sign".to_owned())?,
            None => SigningKey::from_secret(&secret(&data_dir(self.data)?)?),
        };
        let id = new_id().context(|| "cannot make an id".to_owned())?;
        let mut claims = Claims::new(self.sub, id, grants);
        claims.not_before = self.not_before.map(|start| match start {
            Start::At(time) => time,
            Start::In(seconds) => now().saturating_add(seconds),
        });
        let start = claims.not_before.unwrap_or_else(now);
        claims.expires = match self.validity {
            Validity::Seconds(seconds) => Some(start.saturating_add(seconds)),
            Validity::Forever => None,
        };
        claims.issuer = self.issuer;
        claims.audience = self.audience;
        let token = signer.sign(&claims).context(|| "cannot sign".to_owned())?;
        print(&token)
    }
}
