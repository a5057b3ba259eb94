//! `granary login`

use std::io::{self, Read};
use std::path::PathBuf;
use std::{env, fs};

use clap::Args;
use granary_client::config::{ServerEntry, ServerRef, Target, config_path, update};
use granary_client::http::{BaseUrl, Token};

use crate::failure::{Context, Failure};
use crate::output::{note, warn};
use crate::prompt::ask_hidden;
use crate::remote::{block_on, connect};

/// Longer than any token; whatever feeds us more is not feeding us one.
const LONGEST_TOKEN: u64 = 64 * 1024;

/// Options of `granary login`.
#[derive(Args)]
pub struct Login {
    /// What to call the server from now on
    name: ServerRef,
    /// Its address, such as https://cache.example.org
    url: BaseUrl,
    /// Read the token from this file
    #[arg(long, value_name = "FILE", group = "from")]
    token_file: Option<PathBuf>,
    /// Read the token from stdin
    #[arg(long, group = "from")]
    token_stdin: bool,
    /// Log in without a token, to read public caches
    #[arg(long, group = "from")]
    no_token: bool,
    /// Make it the server that is meant when none is named
    #[arg(long)]
    set_default: bool,
    /// Do not ask the server whether it takes the token
    #[arg(long)]
    no_check: bool,
}

impl Login {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let ServerRef::Name(name) = &self.name else {
            return Err(Failure::new("first the name, then the address: granary login NAME URL"));
        };
        let token = self.token()?;
        if token.is_some() && !self.url.is_secure() && !self.url.is_loopback() {
            warn(&format!("the token travels to {} unencrypted: use https", self.url));
        }
        if !self.no_check {
            self.check(name, token.clone())?;
        }
        let path = config_path().context(|| "cannot log in".to_owned())?;
        let mut default = false;
        update(&path, |config| {
            // The first server is the default.
            if self.set_default || config.servers.is_empty() {
                config.default = Some(name.clone());
            }
            default = config.default.as_ref() == Some(name);
            let token = token.map(|token| token.secret().to_owned());
            config.servers.insert(name.clone(), ServerEntry { url: self.url.to_string(), token });
        })
        .context(|| "cannot log in".to_owned())?;
        let default = if default { ", the default" } else { "" };
        note(&format!("{} is {name} from now on{default}", self.url));
        Ok(())
    }

    fn token(&self) -> Result<Option<Token>, Failure> {
        if self.no_token {
            return Ok(None);
        }
        let (place, text) = if let Some(path) = &self.token_file {
            let text = fs::read_to_string(path);
            let place = path.display().to_string();
            (place.clone(), text.context(|| format!("cannot read the token from {place}"))?)
        } else if self.token_stdin {
            let mut text = String::new();
            let read = io::stdin().take(LONGEST_TOKEN).read_to_string(&mut text);
            read.context(|| "cannot read the token from stdin".to_owned())?;
            ("stdin".to_owned(), text)
        } else if let Some(text) = env::var_os("GRANARY_TOKEN").filter(|text| !text.is_empty()) {
            ("GRANARY_TOKEN".to_owned(), text.to_string_lossy().into_owned())
        } else {
            let asked = ask_hidden(&format!("Token for {}: ", self.url));
            let asked = asked.context(|| "cannot ask for the token".to_owned())?;
            let ways = "no token: give --token-file, --token-stdin, GRANARY_TOKEN or --no-token";
            ("the terminal".to_owned(), asked.ok_or_else(|| Failure::new(ways))?)
        };
        text.parse().map(Some).context(|| format!("the token from {place}"))
    }

    fn check(&self, name: &str, token: Option<Token>) -> Result<(), Failure> {
        let anonymous = token.is_none();
        let url = self.url.clone();
        let server = connect(Target { name: Some(name.to_owned()), url, token })?;
        let whoami = block_on(server.whoami())?.context(|| "cannot log in".to_owned())?;
        match whoami.subject {
            Some(subject) => note(&format!("logged in as {subject}")),
            None if anonymous => {}
            None => {
                let text = "takes us for nobody in spite of the token: a proxy may drop it";
                return Err(Failure::new(format!("cannot log in: {} {text}", self.url)));
            }
        }
        Ok(())
    }
}
