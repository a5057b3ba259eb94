//! Mounting from fstab: `mount -t granary` calls `mount.granary CACHE MOUNTPOINT [-sfnv] [-N NS]
//! [-t TYPE] [-o OPTIONS]`, which is this program under that name. See mount(8), "External helpers".

use std::ffi::OsString;
use std::path::Path;

use clap::Args;

/// The name under which mount(8) calls.
const HELPER: &str = "mount.granary";

/// Options that mean something to mount(8), to systemd, or to every file system; here they mean
/// nothing, or what is so anyway.
const IGNORED: [&str; 33] = [
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
    "nosuid",
    "dev",
    "nodev",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "iversion",
    "noiversion",
    "async",
    "sync",
    "silent",
    "loud",
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

/// The command line as if the program had been called by its own name, and had been given what stands
/// behind `-o` as options of its own.
pub fn arguments(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name =
        arguments.first().and_then(|name| Path::new(name).file_name().map(ToOwned::to_owned));
    if name.is_some_and(|name| name == HELPER) {
        arguments.insert(1, "mount".into());
    }
    if arguments.get(1).is_none_or(|command| command != "mount") {
        return arguments;
    }
    let mut out = Vec::with_capacity(arguments.len());
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let text = argument.to_str();
        let options = match text.and_then(|text| text.strip_prefix("-o")) {
            Some("") => rest.next().unwrap_or_default().to_string_lossy().into_owned(),
            Some(options) => options.to_owned(),
            None => {
                out.push(argument);
                continue;
            }
        };
        out.extend(options.split(',').filter_map(option));
    }
    out
}

/// An option of fstab as one of ours, if it is.
fn option(word: &str) -> Option<OsString> {
    let ignored = word.is_empty()
        || IGNORED.contains(&word)
        || word.starts_with("x-")
        || word.starts_with("comment=");
    let (name, value) =
        word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
    let name = name.replace('_', "-");
    let value = value.map(|value| format!("={value}")).unwrap_or_default();
    (!ignored).then(|| format!("--{name}{value}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(arguments: &[&str]) -> Vec<String> {
        let arguments = super::arguments(arguments.iter().map(OsString::from).collect());
        arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn what_mount_says_becomes_a_command_line() {
        let said = ["/sbin/mount.granary", "team", "/nix/store", "-o"];
        let options = "rw,_netdev,nosuid,x-systemd.automount,allow_other,cache-size=50GiB";
        let ours = after(&[&said[..], &[options]].concat());
        assert_eq!(
            ours[1..],
            ["mount", "team", "/nix/store", "--allow-other", "--cache-size=50GiB"]
        );
    }

    #[test]
    fn other_options_stay_beside_them_and_other_commands_as_they_are() {
        let ours = after(&["granary", "mount", "team", "/m", "--timeout", "3", "-oby-name"]);
        assert_eq!(ours[2..], ["team", "/m", "--timeout", "3", "--by-name"]);
        let other = ["granary", "push", "-o", "x"];
        assert_eq!(after(&other), other);
    }
}
