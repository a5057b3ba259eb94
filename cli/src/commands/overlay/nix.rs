//! Nix inside: its store is the overlay, and its state the layer's. Source: the manual of Nix 2.22,
//! "Experimental Local Overlay Store".

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use granary_client::nix_setup::nix_version;

use super::layer::Layer;
use super::mounts::in_user_namespace;
use crate::nix_version::number;
use crate::output::warn;

/// The first Nix that knows such stores.
const OLDEST: (u32, u32) = (2, 22);

const USUAL_STORE_DIR: &str = "/nix/store";

/// What Nix inside has to know.
pub struct Inside<'a> {
    pub store_dir: &'a str,
    /// Where the cache is mounted.
    pub cache: &'a Path,
    pub socket: &'a Path,
    pub layer: &'a Layer,
    /// Whether there is more below than the cache.
    pub more_below: bool,
}

impl Inside<'_> {
    /// The store's URL.
    fn store(&self) -> String {
        let lower = [("real", encoded(self.cache.as_os_str()))];
        let lower = format!("unix://{}?{}", self.socket.display(), self.parameters(lower));
        let mut parameters = vec![
            ("lower-store", encoded(OsStr::new(&lower))),
            ("upper-layer", encoded(self.layer.part("upper").as_os_str())),
            ("state", encoded(self.layer.part("state").as_os_str())),
            ("log", encoded(self.layer.part("log").as_os_str())),
        ];
        if self.more_below {
            // It knows of one directory below, and takes two for a mistake.
            parameters.push(("check-mount", "false".to_owned()));
        }
        format!("local-overlay://?{}", self.parameters(parameters))
    }

    fn parameters<'p>(&self, list: impl IntoIterator<Item = (&'p str, String)>) -> String {
        let elsewhere = self.store_dir != USUAL_STORE_DIR;
        let store = elsewhere.then(|| ("store", encoded(OsStr::new(self.store_dir))));
        let list = list.into_iter().chain(store);
        list.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
    }

    /// Tells Nix in the environment of a command.
    pub fn tell(&self, command: &mut Command) {
        let store = self.store();
        let mut config = env::var("NIX_CONFIG").unwrap_or_default();
        config.push_str(
            "\nextra-experimental-features = nix-command local-overlay-store read-only-local-store",
        );
        // The last word, whatever nix.conf says.
        config.push_str(&format!("\nstore = {store}"));
        if in_user_namespace() {
            config.push_str("\nbuild-users-group =");
        }
        command
            .env("NIX_REMOTE", store)
            .env("NIX_CONFIG", config)
            .env("NIX_STATE_DIR", self.layer.part("state"))
            .env("NIX_LOG_DIR", self.layer.part("log"));
        if self.store_dir != USUAL_STORE_DIR {
            command.env("NIX_STORE_DIR", self.store_dir);
        }
    }
}

/// Warns of a Nix that cannot use the overlay.
pub fn warn_if_old() {
    let Ok(version) = nix_version() else { return };
    if number(&version).is_some_and(|number| number < OLDEST) {
        warn(&format!(
            "{version} in PATH cannot build on top of the cache, its programs only run: 2.22 or \
             newer has local-overlay-store"
        ));
    }
}

/// With `%` for what has a meaning in a URL.
fn encoded(text: &OsStr) -> String {
    let one = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(*byte).into(),
        _ => format!("%{byte:02x}"),
    };
    text.as_bytes().iter().map(one).collect()
}
