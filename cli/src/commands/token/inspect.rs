//! `granary token inspect`

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use clap::Args;
use granary_http::token::{Claims, Jwt, Refusal, now};
use serde_json::{Value, json};

use super::secret;
use crate::clock::relative;
use crate::failure::{Context, Failure};
use crate::output::{print, print_json};
use crate::server_config::ServerConfig;
use crate::time::utc;

/// No token is longer.
const MAX_INPUT: u64 = 64 * 1024;

/// Options of `granary token inspect`.
#[derive(Args)]
pub struct Inspect {
    /// File with the token; - or nothing for stdin
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Say whether the server with this folder would believe it; revocations are not looked at
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Configuration of that server [default: config.toml in its folder]
    #[arg(long, value_name = "FILE", requires = "data")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Inspect {
    /// Prints what the token says.
    pub fn run(self) -> Result<(), Failure> {
        let token = self.read()?;
        let jwt = Jwt::parse(&token).context(|| "cannot show the token".to_owned())?;
        let context = || "cannot read the token's claims".to_owned();
        let claims: Claims = jwt.claims().context(context)?;
        let time = claims.check_time(now());
        let verdict = self.verdict(&token)?;
        if self.json {
            let raw: Value = jwt.claims().context(context)?;
            let why = verdict.and_then(Result::err).map(|refusal| refusal.to_string());
            return print_json(&json!({
                "algorithm": jwt.header().alg,
                "key": jwt.header().kid,
                "claims": raw,
                "caches": claims.grants.by_pattern(),
                "expired": time == Err(Refusal::Expired),
                "not_yet_valid": time == Err(Refusal::NotYet),
                "believed": verdict.map(|verdict| verdict.is_ok()),
                "why_not": why,
            }));
        }
        print(describe(&jwt, &claims, verdict).trim_end())
    }

    fn read(&self) -> Result<String, Failure> {
        let context = || format!("cannot read {}", self.file.display());
        let mut text = String::new();
        if self.file.as_os_str() == "-" {
            io::stdin().take(MAX_INPUT).read_to_string(&mut text).context(context)?;
        } else {
            let file = File::open(&self.file).context(context)?;
            file.take(MAX_INPUT).read_to_string(&mut text).context(context)?;
        }
        Ok(text.trim().to_owned())
    }

    fn verdict(&self, token: &str) -> Result<Option<Result<(), Refusal>>, Failure> {
        let Some(dir) = &self.data else { return Ok(None) };
        let config = ServerConfig::load(self.config.as_deref(), dir)?;
        let verifier = config.verifier(&secret(dir)?, dir)?;
        Ok(Some(verifier.verify_offline(token).map(drop)))
    }
}

fn describe(jwt: &Jwt<'_>, claims: &Claims, verdict: Option<Result<(), Refusal>>) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "{name:<11}{value}");
    };
    line("subject", &claims.subject);
    if let Some(id) = &claims.id {
        line("id", id);
    }
    if let Some(issuer) = &claims.issuer {
        line("issuer", issuer);
    }
    if !claims.audience.is_empty() {
        line("audience", &claims.audience.join(", "));
    }
    if let Some(issued) = claims.issued {
        line("issued", &utc(issued));
    }
    if let Some(start) = claims.not_before {
        line("not before", &utc(start));
    }
    let end = match claims.expires {
        None => "never".to_owned(),
        Some(end) => relative(end, now()),
    };
    line("expires", &end);
    let key = jwt.header().kid.as_deref().map(|kid| format!(", key {kid}")).unwrap_or_default();
    line("signed", &format!("{:?}{key}", jwt.header().alg));
    for (pattern, permissions) in claims.grants.by_pattern() {
        let names: Vec<&str> = permissions.iter().map(|permission| permission.name()).collect();
        line("permits", &format!("{} on {pattern}", names.join(", ")));
    }
    if claims.grants.are_none() {
        line("permits", "nothing by itself");
    }
    match verdict {
        None => line("believed", "not checked: --data names the server that could"),
        Some(Ok(())) => line("believed", "yes, unless it has been revoked"),
        Some(Err(refusal)) => line("believed", &format!("no: {refusal}")),
    }
    out
}
