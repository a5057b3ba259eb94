//! A writable store on top of the view: `local-overlay-store` with this daemon as its lower store.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::nix::Nix;
use support::{Local, Running, scratch};

/// `%` and what else a store's name may not have in a parameter.
fn encoded(url: &str) -> String {
    url.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).into(),
            _ => format!("%{byte:02x}"),
        })
        .collect()
}

/// Mounts, and does the rest where only it sees the mount. Lines that start with `==` are for the
/// test to read.
const SCRIPT: &str = r#"
set -eu
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$B/upper,workdir=$B/work" "$B/merged/nix/store"
say() { echo "== $*"; }

# What is below is valid, and stays where it is.
nix-store --store "$STORE" --query --requisites "$TOP" | sort > "$B/requisites"
say requisites "$(wc -l < "$B/requisites")"
[ -z "$(ls "$B/upper")" ]

build() { nix-build --store "$STORE" --no-out-link --expr "$EXPR"; }
out=$(build)
say built "$out"
say says "$(cat "$B/merged$out")"
say references "$(nix-store --store "$STORE" --query --references "$out")"
say above "$(ls "$B/upper" | grep -v '\.drv$' | grep -v '^\.' | tr '\n' ' ')"
nix-store --store "$STORE" --verify --check-contents
say verified

# What refers to the shell: who is above, and who is below.
say referrers "$(nix-store --store "$STORE" --query --referrers "$BASH_PATH" | grep -c .)"

nix-store --store "$STORE" --delete "$out"
[ ! -e "$B/merged$out" ]
if nix-store --store "$STORE" --check-validity "$out" 2> /dev/null; then exit 1; fi
again=$(build)
[ "$again" = "$out" ]
say again "$(cat "$B/merged$out")"

# Collecting garbage takes what is above, and leaves what is below.
nix-store --store "$STORE" --gc > "$B/gc" 2>&1
[ ! -e "$B/upper${out#/nix/store}" ]
nix-store --store "$STORE" --check-validity "$TOP"
build > /dev/null
nix-store --store "$STORE" --verify --check-contents
say done
"#;

fn a_writable_store_on_top(nix: &Nix) {
    let (daemon, dir) = (Running::tiny(), scratch());
    let base = dir.path();
    for name in ["upper", "work", "merged/nix/store"] {
        fs::create_dir_all(base.join(name)).unwrap();
    }
    let top = Local::tiny_top();
    let infos = &daemon.view.infos;
    let mut closure = vec![&infos[&top.hash()]];
    let mut at = 0;
    while at < closure.len() {
        for reference in closure[at].other_references() {
            if !closure.iter().any(|info| info.store_path == *reference) {
                closure.push(&infos[&reference.hash()]);
            }
        }
        at += 1;
    }
    let bash = closure.iter().find(|info| info.store_path.name().starts_with("bash-")).unwrap();
    let bash = format!("/nix/store/{}", bash.store_path);
    let before = names(&daemon.view.real);
    let expression = format!(
        "derivation {{ name = \"on-top\"; system = builtins.currentSystem; \
         builder = (builtins.storePath {bash}) + \"/bin/bash\"; \
         args = [ \"-c\" \"echo built by {bash} > $out\" ]; }}"
    );
    let store = format!(
        "local-overlay://?root={}&lower-store={}&upper-layer={}",
        base.join("merged").display(),
        encoded(&daemon.url()),
        base.join("upper").display()
    );
    // The client's environment, in a namespace of its own.
    let client = nix.command("nix");
    let mut command = Command::new("/usr/bin/unshare");
    command.env_clear().envs(client.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
        .args(["-m", "/bin/sh", "-c", SCRIPT])
        .env("B", base)
        .env("LOWER", &daemon.view.real)
        .env("STORE", store)
        .env("TOP", format!("/nix/store/{top}"))
        .env("BASH_PATH", &bash)
        .env("EXPR", expression);
    let output = command.output().expect("unshare runs, as root");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "Nix {}: {said}\n{}",
        nix.version,
        String::from_utf8_lossy(&output.stderr)
    );
    let said: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("== ")).collect();
    let after = |word: &str| {
        let line = said.iter().find_map(|line| line.strip_prefix(word));
        line.unwrap_or_else(|| panic!("{word} in {said:?}")).trim().to_owned()
    };
    assert_eq!(after("requisites"), closure.len().to_string());
    let out = after("built");
    assert_eq!(after("says"), format!("built by {bash}"));
    assert_eq!(after("again"), format!("built by {bash}"));
    assert_eq!(after("references"), bash);
    assert_eq!(after("above"), out.strip_prefix("/nix/store/").unwrap(), "nothing was copied up");
    assert!(after("referrers").parse::<usize>().unwrap() > 1);
    assert!(said.contains(&"verified") && said.contains(&"done"));
    assert_eq!(names(&daemon.view.real), before, "the lower store is as it was");
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort_unstable();
    names
}

#[test]
fn nix_2_26_builds_verifies_deletes_and_builds_again_on_top() {
    a_writable_store_on_top(&Nix::v2_26());
}

#[test]
fn nix_2_34_builds_verifies_deletes_and_builds_again_on_top() {
    a_writable_store_on_top(&Nix::v2_34());
}
