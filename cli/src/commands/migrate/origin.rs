//! What is copied from: how to get in, and whom to believe.

use std::env;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use granary_client::http::{RetryPolicy, Token};
use granary_client::migrate::{Source, Trust};
use nix_compat::signature::VerifyingKey;

use crate::binary_cache::{self, nix_keys};
use crate::failure::{Context, Failure};

const TOKEN: &str = "GRANARY_FROM_TOKEN";

/// Options about the source.
#[derive(Args)]
pub struct Origin {
    /// Read the token for the source from this file [default: $GRANARY_FROM_TOKEN]
    #[arg(long, value_name = "FILE")]
    from_token_file: Option<PathBuf>,
    /// Take the password for the source's host from this netrc
    #[arg(long, value_name = "FILE", conflicts_with = "from_token_file")]
    netrc_file: Option<PathBuf>,
    /// Public keys of those whose signatures count, `name:base64` [default: those of nix.conf]
    #[arg(long, value_name = "KEYS", value_delimiter = ' ')]
    trusted_public_keys: Vec<VerifyingKey>,
    /// Believe the source without signatures
    #[arg(long, conflicts_with = "trusted_public_keys")]
    no_check_sigs: bool,
}

impl Origin {
    /// Whose signatures count.
    pub fn trust(&self) -> Result<Trust, Failure> {
        if self.no_check_sigs {
            return Ok(Trust::Everything);
        }
        if !self.trusted_public_keys.is_empty() {
            return Ok(Trust::Keys(self.trusted_public_keys.clone()));
        }
        nix_keys().map(Trust::Keys)
    }

    /// Opens the source.
    pub async fn open(&self, address: &str) -> Result<Source, Failure> {
        let token = self.token()?;
        let netrc = self.netrc_file.as_deref();
        binary_cache::open(address, netrc, token, RetryPolicy::stubborn()).await
    }

    fn token(&self) -> Result<Option<Token>, Failure> {
        let (place, text) = match &self.from_token_file {
            Some(path) => {
                let place = path.display().to_string();
                let text = fs::read_to_string(path);
                (place.clone(), text.context(|| format!("cannot read the token from {place}"))?)
            }
            None => match env::var_os(TOKEN).filter(|text| !text.is_empty()) {
                Some(text) => (TOKEN.to_owned(), text.to_string_lossy().into_owned()),
                None => return Ok(None),
            },
        };
        text.parse().map(Some).context(|| format!("the token from {place}"))
    }
}
