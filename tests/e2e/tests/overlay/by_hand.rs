//! The same by hand, as docs/daemon.md says: a mount, its socket, overlayfs, and Nix told of them.

use std::fs;

use granary_e2e::background::Background;
use granary_e2e::namespace::in_namespace;
use granary_e2e::{ChrootStore, Mount, Nix, Version, places};

use crate::{World, after, said};

const BUILD: &str = r#"
say() { echo "== $*"; }
nix-store --store "$STORE" --check-validity $PATHS
[ -z "$(ls "$B/upper")" ]
out=$(nix-build --store "$STORE" --no-out-link --expr "$EXPR")
say built "$out"
say says "$(cat "$B/merged$out")"
[ -e "$B/upper/${out#/nix/store/}" ]
nix-store --store "$STORE" --verify --check-contents
nix-store --store "$STORE" --delete "$out"
[ ! -e "$B/merged$out" ]
say again "$(nix-build --store "$STORE" --no-out-link --expr "$EXPR")"
"#;

/// `%` for what has a meaning in a URL.
fn encoded(url: &str) -> String {
    url.replace('%', "%25")
        .replace(':', "%3a")
        .replace('/', "%2f")
        .replace('?', "%3f")
        .replace('=', "%3d")
}

fn building_on(world: &World, mount: &Mount, socket: &str, base: &str) {
    let base = world.home.path(base);
    for name in ["upper", "work", "merged/nix/store"] {
        fs::create_dir_all(base.join(name)).expect("folders");
    }
    let (base, lower) = (base.display(), mount.place().display());
    let lower_store = encoded(&format!("unix://{socket}?real={lower}"));
    let store = format!(
        "local-overlay://?root={base}/merged&lower-store={lower_store}&upper-layer={base}/upper"
    );
    let mut command = world.command("/bin/sh", &["-eu", "-c", BUILD]);
    // A store that is not where it says it is builds in a sandbox, which has to be this machine's.
    let settings = "extra-experimental-features = local-overlay-store read-only-local-store\n\
                    sandbox-paths =";
    command.env("NIX_CONFIG", settings).env("STORE", store).env("B", base.to_string());
    let prelude = format!(
        "mount -t overlay overlay -o lowerdir={lower},upperdir={base}/upper,workdir={base}/work \
         {base}/merged/nix/store"
    );
    let output = in_namespace(&command, &prelude).output().expect("unshare runs, as root");
    let said = said(&output, 0);
    assert_eq!(after(&said, "says"), format!("built by {}", world.bash()));
    assert_eq!(after(&said, "again"), after(&said, "built"));
}

fn asking_and_copying(world: &World, version: Version, mount: &Mount, socket: &str) {
    let url = format!("unix://{socket}?real={}", mount.place().display());
    let ask = |program: &str, arguments: &[&str]| {
        let output = world.command(program, arguments).output().expect("Nix runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let top = world.closure.top.as_str();
    let listed = ask("nix", &["path-info", "--store", &url, "-r", top]);
    assert_eq!(listed.lines().count(), world.closure.paths.len());
    let to = ChrootStore::empty();
    let local = format!("local?root={}", to.root().display());
    ask("nix", &["copy", "--from", &url, "--to", &local, "--no-check-sigs", top]);
    Nix::of(version, &world.server).assert_same(&to, &world.closure);
}

fn a_mount_its_socket_and_overlayfs(version: Version) {
    let world = World::new(version);
    let path = |name: &str| world.home.path(name).display().to_string();
    let (own, apart) = (path("own.sock"), path("apart.sock"));
    let place = world.home.path("cache");
    fs::create_dir_all(&place).expect("a folder");
    let at = place.to_str().expect("UTF-8");
    let arguments = ["mount", "default", at, "--foreground", "--socket", &own];
    let mount = Mount::start(&mut world.home.command(&places::granary(), &arguments), &place);
    building_on(&world, &mount, &own, "first");
    asking_and_copying(&world, version, &mount, &own);

    // A daemon of its own, which finds out what is mounted.
    let arguments = ["daemon", "--socket", &apart, "--mount", &path("cache")];
    let mut command = world.home.command(&places::granary(), &arguments);
    let daemon = Background::start(&mut command);
    daemon.wait_for("answering for");
    building_on(&world, &mount, &apart, "second");
    asking_and_copying(&world, version, &mount, &apart);
    daemon.stop();
    let fetched = mount.stop();
    assert!(fetched.chunks > 0 && fetched.bytes < world.size(), "{fetched:?}");
    assert!(!world.home.path("own.sock").exists() && !world.home.path("apart.sock").exists());
}

#[test]
fn nix_2_26_works_on_a_mount_and_its_socket() {
    a_mount_its_socket_and_overlayfs(Version::V2_26);
}

#[test]
fn nix_2_34_works_on_a_mount_and_its_socket() {
    a_mount_its_socket_and_overlayfs(Version::V2_34);
}
