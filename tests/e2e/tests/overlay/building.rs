//! Building on top of a cache: what it has is valid, and only what is touched travels.

use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;

use granary_e2e::Statistics;
use granary_e2e::{ChrootStore, Nix, Version};

use crate::{World, after, said, text};

/// The first run: builds, with both commands.
const BUILD: &str = r#"
nix-store --check-validity $PATHS
say known "$(nix path-info -r "$TOP" | wc -l)"
[ -z "$(ls "$LAYER/upper")" ]
out=$(nix-build --no-out-link --expr "$EXPR")
say built "$out"
say says "$(cat "$out")"
say again "$(nix build --impure --no-link --print-out-paths --expr "$EXPR")"
say references "$(nix-store --query --references "$out")"
say runs "$("$TOP/bin/jq" -n 6*7)"
exit 7"#;

/// The second, on the same layer.
/// What is in a program's environment is alive: the result's name comes from a file.
const GO_ON: &str = r#"
OUT=$(cat "$OUT_FILE")
nix-store --check-validity "$OUT" "$TOP"
say rebuilt "$(nix-build --no-out-link --expr "$EXPR" 2>&1)"
nix-store --verify --check-contents
say verified
nix-store --delete "$OUT"
[ ! -e "$OUT" ]
if nix-store --check-validity "$OUT" 2> /dev/null; then exit 1; fi
say redone "$(nix-build --no-out-link --expr "$EXPR")"
nix-store --gc > /dev/null
[ ! -e "$OUT" ]
nix-store --check-validity $PATHS
nix-build --no-out-link --expr "$EXPR" > /dev/null
nix-store --verify --check-contents
say done"#;

fn a_build_touches_little_and_its_layer_goes_on(version: Version) {
    let world = World::new(version);
    let (layer, bash) = (world.layer(), world.bash());
    let layer = layer.to_str().expect("UTF-8");
    let out_file = world.home.path("out");
    let run = |option: &str, script: &str| {
        let script = format!("set -eu; say() {{ echo \"== $*\"; }}; {script}");
        let arguments = [option, layer, "--", "/bin/sh", "-c", &script];
        let mut command = world.overlay(&arguments);
        command.env("LAYER", layer).env("OUT_FILE", &out_file).output().expect("granary runs")
    };

    let first = run("--keep", BUILD);
    let said_first = said(&first, 7);
    let out = after(&said_first, "built");
    assert_eq!(after(&said_first, "known"), world.closure.paths.len().to_string());
    assert_eq!(after(&said_first, "says"), format!("built by {bash}"));
    assert_eq!(after(&said_first, "again"), out);
    assert_eq!(after(&said_first, "references"), bash);
    assert_eq!(after(&said_first, "runs"), "42");

    // What it did is above, nothing of the cache is, and little of the cache has come.
    let above = names(&Path::new(layer).join("upper"));
    let above: Vec<_> = above.iter().filter(|name| !name.starts_with('.')).collect();
    let name = out.strip_prefix("/nix/store/").expect("a store path");
    assert!(above.iter().any(|above| *above == name), "{above:?}");
    assert!(above.iter().all(|name| name.contains("on-top")), "{above:?}");
    let errors = text(&first.stderr);
    let fetched = Statistics::read(&errors.lines().collect::<Vec<_>>());
    let on_disk = size(&world.home.path(".cache/granary/lazy"));
    assert!(fetched.bytes > 100_000, "a shell ran: {fetched:?}");
    assert!(fetched.bytes < world.size() / 10, "{fetched:?} of {}", world.size());
    assert!(on_disk < world.size() / 5, "{on_disk} of {} are in the cache folder", world.size());
    world.assert_nothing_left();

    std::fs::write(&out_file, &out).expect("written");
    let said_next = said(&run("--upper", GO_ON), 0);
    assert_eq!(after(&said_next, "rebuilt"), out, "and it was not built again");
    assert_eq!(after(&said_next, "redone"), out);
    assert!(["verified", "done"].iter().all(|word| said_next.iter().any(|line| line == word)));
    world.assert_nothing_left();

    // The server's paths are as they were, for everybody else.
    let nix = Nix::of(version, &world.server);
    nix.assert_same(&nix.substitute(&world.server.url(), &world.closure.top), &world.closure);
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a folder");
    entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// Bytes of all files below.
fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("a folder").flatten();
    let sizes = entries.map(|entry| match entry.file_type().expect("a type").is_dir() {
        true => size(&entry.path()),
        false => entry.metadata().expect("metadata").len(),
    });
    sizes.sum()
}

#[test]
fn nix_2_26_builds_on_a_cache_and_fetches_what_it_touches() {
    a_build_touches_little_and_its_layer_goes_on(Version::V2_26);
}

#[test]
fn nix_2_34_builds_on_a_cache_and_fetches_what_it_touches() {
    a_build_touches_little_and_its_layer_goes_on(Version::V2_34);
}

/// In a store elsewhere: `nix-store` and `nix` are to know it by their environment alone.
const ELSEWHERE: &str = r#"
say says "$(cat "$FILE")"
nix-store --check-validity "$FILE"
say known "$(nix path-info "$FILE")"
say built "$(nix-build --no-out-link --expr 'derivation {
  name = "x"; system = builtins.currentSystem; builder = "/bin/sh";
  args = [ "-c" "echo built > $out" ];
}')"
nix-store --verify --check-contents"#;

#[test]
fn a_store_that_is_elsewhere_stays_there() {
    let world = World::new(Version::V2_34);
    let path = |name: &str| world.home.path(name).display().to_string();
    let (store_dir, file) = (path("elsewhere/store"), path("file"));
    std::fs::write(&file, "hello\n").expect("written");
    let local = format!("local?store={store_dir}&state={0}&log={0}", path("state"));
    let url = format!("{}/other", world.server.origin());
    let netrc = format!("machine 127.0.0.1 login any password {}\n", world.server.token());
    std::fs::write(world.home.path("netrc"), netrc).expect("written");
    world.home.granary_ok(&["cache", "create", "other", "--store-dir", &store_dir]);
    let nix = |program: &str, arguments: &[&str]| {
        let mut command = world.command(program, arguments);
        let output = command.env("NIX_STORE_DIR", &store_dir).output().expect("Nix runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    };
    let added = nix("nix-store", &["--store", &local, "--add", &file]);
    let (netrc, to) = (path("netrc"), format!("{url}?compression=none"));
    nix("nix", &["copy", "--store", &local, "--netrc-file", &netrc, "--to", &to, &added]);
    std::fs::rename(world.home.path("elsewhere"), world.home.path("away")).expect("it moves");

    let script = format!("set -eu; say() {{ echo \"== $*\"; }}; {ELSEWHERE}");
    let arguments = ["overlay", "other", "--", "/bin/sh", "-c", &script];
    let mut command =
        world.command(&granary_e2e::places::granary().display().to_string(), &arguments);
    let said = said(&command.env("FILE", &added).output().expect("granary runs"), 0);
    assert_eq!(after(&said, "says"), "hello");
    assert_eq!(after(&said, "known"), added);
    assert!(after(&said, "built").starts_with(&format!("{store_dir}/")), "{said:?}");
    world.assert_nothing_left();
}

#[test]
fn a_path_that_comes_later_is_neither_valid_nor_there() {
    let world = World::new(Version::V2_34);
    let file = world.home.path("later");
    std::fs::write(&file, "later\n").expect("written");
    let store = ChrootStore::empty();
    let added = world.home.add_to_store(store.root(), &file);
    let script = "echo begun >&2; read -r _; [ ! -e \"$LATER\" ] || exit 3; \
                  ! nix-store --check-validity \"$LATER\" || exit 4; \
                  nix-store --check-validity $PATHS";
    let mut command = world.overlay(&["--", "/bin/sh", "-c", script]);
    command.env("LATER", &added).stdin(Stdio::piped());
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut overlay = command.stderr(writer).spawn().expect("granary runs");
    drop(command);
    let mut begun = [0; 5];
    reader.read_exact(&mut begun).expect("it says that it has begun");
    let root = store.root().display().to_string();
    world.home.granary_ok(&["push", "default", &added, "--store", &root]);
    drop(overlay.stdin.take());
    let mut rest = String::new();
    reader.read_to_string(&mut rest).expect("its words");
    assert_eq!(overlay.wait().expect("its end").code(), Some(0), "{rest}");
    let next = world.overlay(&["--", "cat", &added]).output().expect("granary runs");
    assert_eq!(text(&next.stdout), "later\n", "the next overlay has it: {}", text(&next.stderr));
    world.assert_nothing_left();
}

#[test]
fn an_older_nix_is_told_what_it_cannot_do() {
    let world = World::new(Version::V2_8);
    let output = world.script(&[], "say runs $(\"$TOP/bin/jq\" -n 6*7)");
    assert_eq!(after(&said(&output, 0), "runs"), "42", "programs of the cache run all the same");
    let errors = text(&output.stderr);
    assert!(errors.contains("2.8.0 in PATH cannot build on top of the cache"), "{errors}");
    assert!(errors.contains("2.22"), "{errors}");
}
