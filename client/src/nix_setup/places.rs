//! Where Nix's files are.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Error;

/// For whom Nix is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// For this user.
    User,
    /// For all users of the machine, and its daemon.
    System,
}

/// The files to edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// For whom they are.
    pub scope: Scope,
    /// The `nix.conf`.
    pub nix_conf: PathBuf,
    /// The `netrc` to make where no `netrc-file` is set.
    pub netrc: PathBuf,
    /// The `netrc` that Nix reads when no `netrc-file` is set.
    pub default_netrc: PathBuf,
}

impl Places {
    /// By the rules of Nix: `NIX_CONF_DIR` for the system's, the first of `NIX_USER_CONF_FILES`,
    /// which comes before the others, or `$XDG_CONFIG_HOME/nix/nix.conf` for the user's.
    pub fn of_process(scope: Scope) -> Result<Self, Error> {
        Self::find(scope, |name| env::var_os(name))
    }

    /// The same with an environment.
    pub fn find(scope: Scope, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let dir = set("NIX_CONF_DIR").map_or_else(|| PathBuf::from("/etc/nix"), PathBuf::from);
        let default_netrc = dir.join("netrc");
        let nix_conf = match scope {
            Scope::System => dir.join("nix.conf"),
            Scope::User => match set("NIX_USER_CONF_FILES") {
                Some(files) => env::split_paths(&files).next().ok_or(Error::NoHome)?,
                None => {
                    let home = || set("HOME").map(|home| Path::new(&home).join(".config"));
                    let config = set("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
                    config.ok_or(Error::NoHome)?.join("nix/nix.conf")
                }
            },
        };
        let netrc = nix_conf.with_file_name("netrc");
        Ok(Self { scope, nix_conf, netrc, default_netrc })
    }

    /// Our notes.
    pub(super) fn record(&self) -> PathBuf {
        self.nix_conf.with_file_name("granary-uses.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_where_nix_looks_for_them() {
        let find = |scope, variables: &[(&str, &str)]| {
            let value = |name: &str| variables.iter().find(|(known, _)| *known == name);
            let places = Places::find(scope, |name| value(name).map(|(_, value)| value.into()));
            places.map(|places| (places.nix_conf, places.netrc)).ok()
        };
        let pair = |conf: &str, netrc: &str| Some((PathBuf::from(conf), PathBuf::from(netrc)));
        let home = ("HOME", "/home/a");
        assert_eq!(find(Scope::System, &[home]), pair("/etc/nix/nix.conf", "/etc/nix/netrc"));
        let conf_dir = [home, ("NIX_CONF_DIR", "/x")];
        assert_eq!(find(Scope::System, &conf_dir), pair("/x/nix.conf", "/x/netrc"));
        let user = pair("/home/a/.config/nix/nix.conf", "/home/a/.config/nix/netrc");
        assert_eq!(find(Scope::User, &conf_dir), user);
        let xdg = [home, ("XDG_CONFIG_HOME", "/c")];
        assert_eq!(find(Scope::User, &xdg), pair("/c/nix/nix.conf", "/c/nix/netrc"));
        let files = [home, ("NIX_USER_CONF_FILES", "/u/first.conf:/u/second.conf")];
        assert_eq!(find(Scope::User, &files), pair("/u/first.conf", "/u/netrc"));
        assert_eq!(find(Scope::User, &[]), None);
    }
}
