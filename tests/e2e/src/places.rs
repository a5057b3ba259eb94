//! Where things are.

use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The top of the repository.
pub fn workspace() -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    top.canonicalize().expect("the repository is still there")
}

/// Where `tests/setup` puts Nix clients and closures: `GRANARY_TEST_TOOLS`, relative to the
/// repository, else `target/test-tools`.
pub fn tools() -> PathBuf {
    let given = std::env::var_os("GRANARY_TEST_TOOLS");
    let tools = workspace().join(given.unwrap_or_else(|| "target/test-tools".into()));
    assert!(tools.is_dir(), "{} is missing: run tests/setup", tools.display());
    tools
}

/// The server's binary: `GRANARY_BIN`, else what was built last, for release or for debugging.
pub fn granary() -> PathBuf {
    if let Some(given) = std::env::var_os("GRANARY_BIN") {
        let given = workspace().join(given);
        assert!(given.is_file(), "GRANARY_BIN: there is no {}", given.display());
        return given;
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let target = workspace().join(target);
    let built = |profile: &str| {
        let path = target.join(profile).join("granary");
        Some((path.metadata().ok()?.modified().ok()?, path))
    };
    let newest = built("release").max(built("debug"));
    let Some((_, path)) = newest else {
        panic!("no granary in {}: run cargo build --release -p granary", target.display())
    };
    path
}

/// A directory for one test, on the disk of the tools: chroot stores are too big for a `/tmp` in
/// memory. Gone when dropped.
pub fn scratch() -> TempDir {
    let parent = tools().join("tmp");
    std::fs::create_dir_all(&parent).expect("the tools directory is writable");
    tempfile::Builder::new().prefix("e2e-").tempdir_in(parent).expect("a scratch directory")
}

/// Whether the whole client and compression matrix runs with the large closure
/// (`GRANARY_E2E_FULL=1`), which takes hours on a small machine.
pub fn full_matrix() -> bool {
    std::env::var_os("GRANARY_E2E_FULL").is_some_and(|value| value == "1")
}
