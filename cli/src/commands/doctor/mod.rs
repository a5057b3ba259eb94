//! `granary doctor`: looks at everything between this machine's Nix and a cache, in the order in
//! which it matters, and says what to do about what is not well.

mod cache;
mod nix;
mod server;

use std::io::{self, IsTerminal};

use clap::Args;
use granary_client::config::CacheRef;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::remote::{RemoteArgs, connect};
use granary_client::config::Settings;

/// Options of `granary doctor`.
#[derive(Args)]
pub struct Doctor {
    /// A cache to look at, too: CACHE, SERVER:CACHE or https://HOST/CACHE
    cache: Option<CacheRef>,
    #[command(flatten)]
    remote: RemoteArgs,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// How something is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    check: &'static str,
    health: Health,
    message: String,
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, health: Health, check: &'static str, message: impl Into<String>) {
        self.0.push(Finding { check, health, message: message.into() });
    }

    fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(Health::Ok, check, message);
    }

    fn warn(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(Health::Warn, check, message);
    }

    fn fail(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(Health::Fail, check, message);
    }

    /// An error with its causes.
    fn error(&mut self, check: &'static str, error: &dyn std::error::Error) {
        self.fail(check, granary_api::error::with_causes(error));
    }
}

impl Doctor {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let mut findings = Findings::default();
        self.look(&mut findings)?;
        let failures = findings.0.iter().filter(|one| one.health == Health::Fail).count();
        if self.json {
            print_json(&findings.0)?;
        } else {
            findings.0.iter().try_for_each(|finding| print(&line(finding)))?;
        }
        match failures {
            0 => Ok(()),
            1 => Err(Failure::new("one check failed")),
            many => Err(Failure::new(format!("{many} checks failed"))),
        }
    }

    fn look(&self, findings: &mut Findings) -> Result<(), Failure> {
        let settings = match Settings::load() {
            Ok(settings) => settings,
            Err(error) => {
                findings.error("config", &error);
                return Ok(());
            }
        };
        settings.warnings().iter().for_each(|warning| findings.warn("config", warning));
        let target = match &self.cache {
            Some(cache) => settings.server_of(cache, self.remote.chosen()),
            None => settings.server(self.remote.chosen()),
        };
        let target = match target {
            Ok(target) => target,
            Err(error) => {
                findings.error("config", &error);
                return Ok(());
            }
        };
        let name = target.name.as_deref().map(|name| format!("{name}, ")).unwrap_or_default();
        findings.ok("config", format!("the server is {name}{}", target.url));
        let server = connect(target)?;
        let reached = server::look(&server, findings)?;
        let nix = nix::look(findings);
        if let (true, Some(cache)) = (reached, &self.cache) {
            cache::look(&server.cache(&cache.cache), nix.as_ref(), findings)?;
        }
        Ok(())
    }
}

fn line(finding: &Finding) -> String {
    let (word, colour) = match finding.health {
        Health::Ok => ("ok  ", 32),
        Health::Warn => ("warn", 33),
        Health::Fail => ("fail", 31),
    };
    let Finding { check, message, .. } = finding;
    if io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{colour}m{word}\x1b[0m {check:<10} {message}")
    } else {
        format!("{word} {check:<10} {message}")
    }
}
