//! `granary overlay`, and the same by hand: a writable store on top of a mounted cache, with real
//! Nix clients.

#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

mod building;
mod by_hand;
mod ends;
mod layers;
mod places_to_run;

use std::path::PathBuf;
use std::process::{Command, Output};

use granary_e2e::namespace::is_mounted_below;
use granary_e2e::{Closure, Home, Server, Version, places};
use tempfile::TempDir;

/// A server whose cache holds the tiny closure, and a user of it.
struct World {
    home: Home,
    server: Server,
    closure: Closure,
    _data: TempDir,
}

impl World {
    fn new(version: Version) -> Self {
        let data = places::scratch();
        let server = Server::start(data.path());
        let home = Home::with_token(version, &server.origin(), server.token());
        std::fs::create_dir(home.path("tmp")).expect("a folder");
        let closure = Closure::tiny();
        home.push("default", &closure);
        Self { home, server, closure, _data: data }
    }

    /// `granary overlay default` with these arguments.
    fn overlay(&self, arguments: &[&str]) -> Command {
        let arguments = [&["overlay", "default"], arguments].concat();
        self.command(&places::granary().display().to_string(), &arguments)
    }

    /// A program that finds in its environment what the scripts here need.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.home.command(program.as_ref(), arguments);
        let paths: Vec<_> = self.closure.paths.iter().map(|path| path.path.as_str()).collect();
        command
            .env("TMPDIR", self.home.path("tmp"))
            .env("TOP", &self.closure.top)
            .env("PATHS", paths.join(" "))
            .env("EXPR", self.expression());
        command
    }

    /// The same with a script for the shell of this machine.
    fn script(&self, arguments: &[&str], script: &str) -> Output {
        let script = format!("set -eu; say() {{ echo \"== $*\"; }}; {script}");
        let arguments = [arguments, &["--", "/bin/sh", "-c", &script]].concat();
        self.overlay(&arguments).output().expect("granary runs")
    }

    /// A derivation that is built by a shell of the closure.
    fn expression(&self) -> String {
        let bash = self.bash();
        format!(
            "derivation {{ name = \"on-top\"; system = builtins.currentSystem; \
             builder = (builtins.storePath {bash}) + \"/bin/bash\"; \
             args = [ \"-c\" \"echo built by {bash} > $out\" ]; }}"
        )
    }

    fn bash(&self) -> String {
        self.closure.of_package("bash").top
    }

    fn layer(&self) -> PathBuf {
        self.home.path("layer")
    }

    /// How many bytes the closure's NARs have.
    fn size(&self) -> u64 {
        self.closure.paths.iter().map(|path| path.nar_size).sum()
    }

    /// Fails if an overlay has left anything: mounts, temporary files, processes.
    fn assert_nothing_left(&self) {
        let home = self.home.path("");
        assert!(!is_mounted_below(&home), "something is still mounted");
        let tmp = std::fs::read_dir(self.home.path("tmp")).expect("a folder");
        let left: Vec<_> = tmp.map(|entry| entry.expect("an entry").file_name()).collect();
        assert!(left.is_empty(), "{left:?}");
        let left = self.processes();
        assert!(left.is_empty(), "{left:?}");
    }

    /// The processes of this home, by what its path is in: arguments or environment. The server is
    /// none of them.
    fn processes(&self) -> Vec<String> {
        let home = self.home.path("tmp").display().to_string();
        let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
        let text = |path: PathBuf| {
            let bytes = std::fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let named = processes.filter_map(|process| {
            let arguments = text(process.path().join("cmdline"));
            let environment = text(process.path().join("environ"));
            (arguments.contains(&home) || environment.contains(&home)).then_some(arguments)
        });
        named.collect()
    }
}

/// What a script said, which had to end with this code.
fn said(output: &Output, code: i32) -> Vec<String> {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    out.lines().filter_map(|line| line.strip_prefix("== ")).map(str::to_owned).collect()
}

/// What stands behind a word in it.
fn after(said: &[String], word: &str) -> String {
    let line = said.iter().find_map(|line| line.strip_prefix(word));
    line.unwrap_or_else(|| panic!("{word} in {said:?}")).trim().to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
