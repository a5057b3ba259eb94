//! `granary whoami`

use std::fmt::Write;

use clap::Args;
use granary_api::Permission;

use crate::clock;
use crate::failure::{Context, Failure};
use crate::output::{print, print_json};
use crate::remote::{RemoteArgs, block_on};

/// Options of `granary whoami`.
#[derive(Args)]
pub struct Whoami {
    #[command(flatten)]
    remote: RemoteArgs,
    /// Write what the server says as JSON
    #[arg(long)]
    json: bool,
}

impl Whoami {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let server = self.remote.server()?;
        let whoami = block_on(server.whoami())?.context(|| "cannot ask".to_owned())?;
        if self.json {
            return print_json(&whoami);
        }
        let mut text = format!("server   {} (Granary {})", server.base(), whoami.version);
        let subject = whoami.subject.as_deref().unwrap_or("nobody: no token was sent");
        let _ = write!(text, "\nsubject  {subject}");
        if let Some(id) = &whoami.id {
            let _ = write!(text, "\ntoken    {id}");
        }
        if let Some(expires) = whoami.expires {
            let _ = write!(text, "\nends     {}", clock::relative(expires, whoami.now));
        }
        for (pattern, permissions) in &whoami.caches {
            let _ = write!(text, "\n{pattern}: {}", names(permissions));
        }
        print(&text)
    }
}

/// Permissions as a list.
pub fn names(permissions: &[Permission]) -> String {
    permissions.iter().map(|permission| permission.name()).collect::<Vec<_>>().join(", ")
}
