//! `granary use|unuse`

use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;
use granary_api::CacheInfo;
use granary_client::config::CacheRef;
use granary_client::http::RemoteCache;
use granary_client::nix_setup::{
    NETRC_LOGIN, NixSettings, Outcome, Places, Scope, Use, apply, undo,
};

use crate::failure::{Context, Failure};
use crate::output::{note, print, warn};
use crate::remote::{RemoteArgs, block_on};

const DAEMON_SOCKET: &str = "/nix/var/nix/daemon-socket/socket";

/// Options of `granary use`.
#[derive(Args)]
pub struct UseCache {
    /// The cache: CACHE, SERVER:CACHE or https://HOST/CACHE
    cache: CacheRef,
    #[command(flatten)]
    remote: RemoteArgs,
    /// For all users of the machine: /etc/nix instead of ~/.config/nix
    #[arg(long, conflicts_with = "print")]
    system: bool,
    /// Show the lines and change nothing
    #[arg(long)]
    print: bool,
}

/// Options of `granary unuse`.
#[derive(Args)]
pub struct Unuse {
    /// The cache: CACHE, SERVER:CACHE or https://HOST/CACHE
    cache: CacheRef,
    #[command(flatten)]
    remote: RemoteArgs,
    /// For all users of the machine: /etc/nix instead of ~/.config/nix
    #[arg(long)]
    system: bool,
}

fn places(system: bool) -> Result<Places, Failure> {
    let scope = if system { Scope::System } else { Scope::User };
    Places::of_process(scope).context(|| "cannot find Nix's files".to_owned())
}

impl UseCache {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let cache = self.remote.cache(&self.cache)?;
        let context = || format!("cannot use {}", cache.name());
        let info = block_on(cache.info())?.context(context)?;
        if self.print {
            return print(&lines(&cache, &info));
        }
        let host = cache.server().base().host();
        let private = match cache.server().token() {
            _ if info.public => None,
            Some(token) => Some((host, token)),
            None => return Err(Failure::new(format!("{} is private: log in first", cache.name()))),
        };
        let (url, keys) = (cache.url(), &info.public_keys);
        let mut places = places(self.system)?;
        // The system's nix.conf, or what it includes, may name another.
        if private.is_some()
            && let Ok(settings) = NixSettings::of_system()
            && let Some(path) = settings.text("netrc-file").filter(|path| !path.is_empty())
        {
            places.default_netrc = path.into();
        }
        let outcome = apply(&places, &Use { url: &url, keys, private }).context(context)?;
        tell(&outcome);
        if let Some(path) = &outcome.shadowed {
            let (own, path) = (places.netrc.display(), path.display());
            warn(&format!("Nix reads {own} for you from now on, and no longer {path}"));
        }
        if info.store_dir != "/nix/store" {
            warn(&format!(
                "its paths live in {}: only a Nix with that store uses them",
                info.store_dir
            ));
        }
        note(&format!("Nix uses {url} from now on"));
        advise(&self, &cache, &info)
    }
}

impl Unuse {
    /// Runs the command. The server is not asked, so it may be gone.
    pub fn run(self) -> Result<(), Failure> {
        let cache = self.remote.cache(&self.cache)?;
        let places = places(self.system)?;
        let outcome = undo(&places, &cache.url());
        match outcome.context(|| format!("cannot stop using {}", cache.name()))? {
            Some(outcome) => {
                tell(&outcome);
                note(&format!("Nix no longer uses {}", cache.url()));
                if self.system {
                    restart_daemon();
                }
                Ok(())
            }
            None => {
                let (url, conf) = (cache.url(), places.nix_conf.display());
                note(&format!("{conf} does not name {url}: nothing to undo"));
                Ok(())
            }
        }
    }
}

/// The lines for nix.conf, and what a netrc needs, without the token.
fn lines(cache: &RemoteCache, info: &CacheInfo) -> String {
    let mut text = format!(
        "# nix.conf\nextra-substituters = {}\nextra-trusted-public-keys = {}",
        cache.url(),
        info.public_keys.join(" ")
    );
    if !info.public {
        let host = cache.server().base().host();
        text.push_str(&format!(
            "\n# netrc, mode 0600, which netrc-file in nix.conf names\nmachine {host} login \
             {NETRC_LOGIN} password <token>"
        ));
    }
    text
}

fn tell(outcome: &Outcome) {
    for path in &outcome.changed {
        note(&format!("edited {}", path.display()));
    }
}

/// Says what remains to be done by somebody else.
fn advise(wanted: &UseCache, cache: &RemoteCache, info: &CacheInfo) -> Result<(), Failure> {
    if wanted.system {
        restart_daemon();
        return Ok(());
    }
    match ignored_by_daemon(&cache.url(), &info.public_keys) {
        Some(user) => {
            warn(&format!(
                "the Nix daemon does not let {user} choose caches: let an administrator run\n  \
                 sudo granary use --system {}\nor add {user} to trusted-users in \
                 /etc/nix/nix.conf and restart the daemon",
                cache.url()
            ));
            Ok(())
        }
        None => Ok(()),
    }
}

fn restart_daemon() {
    if has_daemon() {
        note("the Nix daemon reads it when it starts: systemctl restart nix-daemon");
    }
}

/// Whether a daemon builds for this machine's users.
pub fn has_daemon() -> bool {
    Path::new(DAEMON_SOCKET).exists()
}

/// The user's name, if a daemon builds for them that will not take this cache from them.
pub fn ignored_by_daemon(url: &str, keys: &[String]) -> Option<String> {
    let user = id("-un")?;
    if user == "root" || !has_daemon() {
        return None;
    }
    let settings = NixSettings::of_system().ok()?;
    let groups: Vec<String> = id("-Gn")?.split_whitespace().map(str::to_owned).collect();
    let lists = ["substituters", "trusted-substituters"];
    let allowed = lists.iter().any(|list| settings.lists(list, url));
    let trusted_keys = settings.words("trusted-public-keys");
    let keys_known = keys.iter().any(|key| trusted_keys.contains(&key.as_str()));
    (!(settings.trusts(&user, &groups) || allowed && keys_known)).then_some(user)
}

fn id(argument: &str) -> Option<String> {
    let output = Command::new("id").arg(argument).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
