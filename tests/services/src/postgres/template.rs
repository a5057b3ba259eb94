//! An empty cluster to copy from: `initdb` takes longer than most tests.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{as_postgres, programs};

/// Copies the template to `data`, owners and modes included; makes it first where it is missing.
pub(super) fn copy_to(data: &Path) {
    let template = template();
    run(Command::new("cp").arg("-a").arg(&template).arg(data));
}

/// The template's folder, which is complete if it is there.
fn template() -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tools = std::env::var_os("GRANARY_TEST_TOOLS");
    let tools = top.join(tools.unwrap_or_else(|| "target/test-tools".into()));
    fs::create_dir_all(&tools).expect("a folder for tools");
    // One per version and owner: another user's cannot be read.
    let version = programs().parent().and_then(Path::file_name).map(|name| name.to_owned());
    let version = version.unwrap_or_default();
    let user = rustix::process::geteuid().as_raw();
    let name = format!("postgres-{}-{user}", version.to_string_lossy());
    let template = tools.join(&name);
    let lock = File::create(tools.join(format!("{name}.lock"))).expect("a lock file");
    lock.lock().expect("the lock");
    if !template.exists() {
        make(&template);
    }
    template
}

fn make(template: &Path) {
    // `postgres` may not be let in to where the repository lies.
    let dir = tempfile::Builder::new().prefix("granary-initdb-").tempdir().expect("a folder");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("permissions");
    let made = dir.path().join("data");
    let mut initdb = as_postgres(&[], "initdb");
    initdb.arg("-D").arg(&made).args(["-A", "trust", "-U", "postgres", "-E", "UTF8"]);
    run(initdb.args(["--locale=C.UTF-8", "--no-sync", "--no-instructions", "--wal-segsize=1"]));
    let copy = template.with_extension("tmp");
    let _ = fs::remove_dir_all(&copy);
    run(Command::new("cp").arg("-a").arg(&made).arg(&copy));
    fs::rename(&copy, template).expect("the template can be renamed");
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
