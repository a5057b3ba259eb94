//! Mounting from fstab: `mount -t granary` calls `mount.granary CACHE MOUNTPOINT [-sfnv] [-N NS]
//! [-t TYPE] [-o OPTIONS]`, which is this program under that name. See mount(8), "External helpers".

use std::ffi::OsString;
use std::path::Path;

use clap::{Args, FromArgMatches};

use super::Mount;
use crate::failure::{Context, Failure};

/// The name under which mount(8) calls.
const HELPER: &str = "mount.granary";

/// Options that mean something to mount(8), to systemd, or to every file system; here they mean
/// nothing, or what is so anyway.
const IGNORED: [&str; 21] = [
    "defaults",
    "ro",
    "rw",
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "exec",
    "suid",
    "dev",
    "atime",
    "noatime",
    "relatime",
    "nodiratime",
    "async",
    "sync",
];

/// What mount(8) may say besides.
#[derive(Args)]
pub struct FromMount {
    /// Do everything but mount
    #[arg(short = 'f', hide = true)]
    pub fake: bool,
    #[arg(short = 's', hide = true)]
    sloppy: bool,
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,
    #[arg(short = 'v', hide = true)]
    verbose: bool,
    #[arg(short = 'N', hide = true, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[arg(short = 't', hide = true, value_name = "TYPE")]
    kind: Option<String>,
}

/// The command line as if the program had been called by its own name.
pub fn arguments(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name =
        arguments.first().and_then(|name| Path::new(name).file_name().map(ToOwned::to_owned));
    if name.is_some_and(|name| name == HELPER) {
        arguments.insert(1, "mount".into());
    }
    arguments
}

impl Mount {
    /// Takes what stands behind `-o` as options.
    pub(super) fn with_fstab_options(self) -> Result<Self, Failure> {
        if self.options.is_empty() {
            return Ok(self);
        }
        let words = self.options.iter().flat_map(|options| options.split(','));
        let is_ours = |word: &&str| {
            !word.is_empty()
                && !IGNORED.contains(word)
                && !word.starts_with("x-")
                && !word.starts_with("comment=")
        };
        let options: Vec<String> = words.filter(is_ours).map(|word| format!("--{word}")).collect();
        let place = [self.cache.clone().into(), self.mountpoint.clone().into_os_string()];
        let command = Mount::augment_args(clap::Command::new("mount").no_binary_name(true));
        let ours = options.iter().map(OsString::from).chain(place);
        let parsed = command.try_get_matches_from(ours);
        let parsed = parsed.and_then(|matches| Mount::from_arg_matches(&matches));
        let mut mount = parsed.context(|| format!("the options {}", self.options.join(",")))?;
        mount.foreground |= self.foreground;
        mount.tell_ready |= self.tell_ready;
        mount.from_mount = self.from_mount;
        Ok(mount)
    }
}
