//! `granary logout`

use clap::Args;
use granary_client::config::{Config, config_path, update};

use crate::failure::{Context, Failure};
use crate::output::note;

/// Options of `granary logout`.
#[derive(Args)]
pub struct Logout {
    /// The server, as it was called at granary login
    name: String,
}

impl Logout {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let context = || "cannot log out".to_owned();
        let path = config_path().context(context)?;
        if !Config::load(&path).context(context)?.servers.contains_key(&self.name) {
            return Err(Failure::new(format!("no server is called `{}`", self.name)));
        }
        update(&path, |config| {
            config.servers.remove(&self.name);
            config.default.take_if(|default| *default == self.name);
        })
        .context(context)?;
        note(&format!(
            "forgot {} and its token; Nix's netrc keeps what granary use put there",
            self.name
        ));
        Ok(())
    }
}
