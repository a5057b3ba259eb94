//! Binary caches other than Granary's: how to get in, and whom to believe.

use std::fs;
use std::path::Path;

use granary_client::http::{RetryPolicy, Token};
use granary_client::migrate::{Secret, Source};
use granary_client::nix_setup::NixSettings;
use nix_compat::netrc::Netrc;
use nix_compat::signature::VerifyingKey;

use crate::failure::{Context, Failure};

/// The keys that Nix trusts on this machine.
pub fn nix_keys() -> Result<Vec<VerifyingKey>, Failure> {
    let settings = NixSettings::of_user().context(|| {
        "cannot ask Nix for its trusted-public-keys: name the cache's keys with \
         --trusted-public-keys, or believe it with --no-check-sigs"
            .to_owned()
    })?;
    let words = settings.words("trusted-public-keys").into_iter();
    let keys = words
        .map(|word| word.parse().context(|| format!("trusted-public-keys in nix.conf: `{word}`")));
    keys.collect()
}

/// Opens a binary cache with the password that a netrc has for its host, or a token.
pub async fn open(
    address: &str,
    netrc: Option<&Path>,
    token: Option<Token>,
    retry: RetryPolicy,
) -> Result<Source, Failure> {
    let netrc = match netrc {
        Some(path) => {
            let context = || format!("cannot use the netrc {}", path.display());
            Some(Netrc::parse(fs::read(path).context(context)?).context(context)?)
        }
        None => None,
    };
    let secret = |host: &str| match (netrc, token) {
        (Some(netrc), _) => netrc.credentials(host).map(Secret::Login),
        (None, token) => token.map(Secret::Token),
    };
    // The address may have a password in it, which its own error leaves out.
    let source = Source::open(address, secret, retry).await;
    source.context(|| "cannot open the binary cache".to_owned())
}
