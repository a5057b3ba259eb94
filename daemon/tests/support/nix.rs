//! Real Nix clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::support::tools;

/// A client, whose home is new.
pub struct Nix {
    pub version: &'static str,
    pub bin: PathBuf,
    home: TempDir,
}

impl Nix {
    pub fn v2_8() -> Self {
        Self::new("2.8.", "/usr/bin".into())
    }

    pub fn v2_26() -> Self {
        Self::new("2.26.", tools().join("nix-trixie/bin"))
    }

    pub fn v2_34() -> Self {
        Self::new("2.34.", tools().join("nix-forky/bin"))
    }

    pub fn all() -> [Self; 3] {
        [Self::v2_8(), Self::v2_26(), Self::v2_34()]
    }

    fn new(version: &'static str, bin: PathBuf) -> Self {
        let home = crate::support::scratch();
        let features = match version {
            "2.8." => "nix-command",
            _ => "nix-command local-overlay-store read-only-local-store",
        };
        let conf = format!(
            "experimental-features = {features}\nsubstituters =\nsandbox = false\n\
             build-users-group =\nrequire-sigs = false\nfsync-metadata = false\n\
             sandbox-paths = /bin /usr /lib /lib64\n"
        );
        fs::write(home.path().join("nix.conf"), conf).unwrap();
        let nix = Nix { version, bin, home };
        let said = nix.ok("nix", &["--version"]);
        assert!(said.contains(version), "{said} is not {version}: run tests/setup");
        nix
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", self.bin.display()))
            .env("HOME", self.home.path())
            .env("NIX_CONF_DIR", self.home.path())
            .env("NIX_STATE_DIR", self.home.path().join("state"))
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program).args(arguments).output().expect("it runs: run tests/setup")
    }

    /// What it says.
    pub fn ok(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        assert!(
            output.status.success(),
            "Nix {}: {program} {}: {}",
            self.version,
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says when it fails.
    pub fn fails(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        assert!(!output.status.success(), "{program} {} did not fail", arguments.join(" "));
        String::from_utf8(output.stderr).unwrap()
    }
}
