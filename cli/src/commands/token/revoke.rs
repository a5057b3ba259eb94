//! `granary token revoke`

use std::fs;
use std::path::PathBuf;

use clap::Args;
use granary_client::http::Token;

use crate::failure::{Context, Failure};
use crate::remote::{RemoteArgs, block_on, connect};

/// Options of `granary token revoke`.
#[derive(Args)]
pub struct Revoke {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    remote: RemoteArgs,
    /// File with a token that permits everything, or with the one to revoke [default: the token of
    /// the server, as with the other commands]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct What {
    /// The token with this id (jti)
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// All tokens of this subject that were made until now
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
}

impl What {
    fn revoke(self) -> Option<granary_api::Revoke> {
        let id = self.id.map(granary_api::Revoke::Id);
        id.or_else(|| self.subject.map(granary_api::Revoke::Subject))
    }
}

impl Revoke {
    /// Asks the server to revoke.
    pub fn run(self) -> Result<(), Failure> {
        let revoke = self.what.revoke().ok_or_else(|| Failure::new("name --id or --subject"))?;
        let mut target = self.remote.target()?;
        if let Some(path) = &self.token_file {
            let context = || format!("cannot use the token in {}", path.display());
            let text = fs::read_to_string(path).context(context)?;
            target.token = Some(text.trim().parse::<Token>().context(context)?);
        }
        let context = || format!("cannot revoke at {}", target.url);
        let server = connect(target.clone())?;
        block_on(server.revoke(&revoke))?.context(context)
    }
}
