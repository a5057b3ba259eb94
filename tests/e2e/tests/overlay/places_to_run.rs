//! Where an overlay can run: beside a store of this machine's own, and without being root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use granary_e2e::Version;
use granary_e2e::namespace::in_namespace;

use crate::{World, after, said, text};

const TOOL: &str = "/nix/store/00000000000000000000000000000000-tool/bin/tool";

#[test]
fn programs_of_the_machines_own_store_are_shown_on_demand() {
    let world = World::new(Version::V2_34);
    let bin = world.home.path("own/00000000000000000000000000000000-tool/bin");
    fs::create_dir_all(&bin).expect("folders");
    let script = "#!/bin/sh\necho == tool\nnix-store --check-validity $PATHS\n\
                  echo == built $(nix-build --no-out-link --expr \"$EXPR\")\n";
    fs::write(bin.join("tool"), script).expect("written");
    fs::set_permissions(bin.join("tool"), fs::Permissions::from_mode(0o555)).expect("its owner");
    let run = |arguments: &[&str]| {
        let command = world.overlay(&[arguments, &["--", TOOL]].concat());
        let own = world.home.path("own");
        let prelude = format!("mkdir -p /nix/store; mount --bind {} /nix/store", own.display());
        in_namespace(&command, &prelude).output().expect("unshare runs, as root")
    };
    let refused = run(&[]);
    assert_eq!(refused.status.code(), Some(1));
    let errors = text(&refused.stderr);
    assert!(errors.contains("own store") && errors.contains("--host-store"), "{errors}");
    let said = said(&run(&["--host-store"]), 0);
    assert!(after(&said, "built").ends_with("-on-top"));
    let own = fs::read_dir(world.home.path("own")).expect("a folder").count();
    assert_eq!(own, 1, "nothing was written to it");
    world.assert_nothing_left();
}

const AS_USER: &str = r#"
say user "$(id -u)"
nix-store --check-validity $PATHS
out=$(nix-build --no-out-link --expr "$EXPR")
nix-store --verify --check-contents
nix-store --delete "$out"
[ ! -e "$out" ]
say built "$(nix-build --no-out-link --expr "$EXPR")"
mkdir -m 555 /nix/store/closed
exit 6"#;

fn a_user_builds(version: Version) {
    const USER: u32 = 65_534;
    let world = World::new(version);
    let tmp = world.home.path("tmp");
    for dir in ["", "etc", "tmp"] {
        fs::set_permissions(world.home.path(dir), fs::Permissions::from_mode(0o755)).expect("ours");
    }
    chown(&tmp, Some(USER), Some(USER)).expect("as root");
    let (device, home) = (world.home.path("fuse"), tmp.join("home"));
    let run = |arguments: &[&str]| {
        let script = format!("set -eu; say() {{ echo \"== $*\"; }}; {AS_USER}");
        let arguments = [arguments, &["--", "/bin/sh", "-c", &script]].concat();
        let overlay = world.overlay(&arguments);
        let device = device.display();
        // Where the device is not open to everybody, it is here.
        let prelude = format!(
            "mkdir -p /nix/store; [ -e {device} ] || mknod {device} c 10 229; chmod 666 {device}; \
             mount --bind {device} /dev/fuse; \
             set -- setpriv --reuid {USER} --regid {USER} --clear-groups \"$@\""
        );
        let mut command = in_namespace(&overlay, &prelude);
        command.env("HOME", &home).output().expect("unshare runs, as root")
    };
    for arguments in [&[][..], &["--tmpfs"]] {
        let said = said(&run(arguments), 6);
        assert_eq!(after(&said, "user"), "0", "inside the user is root");
        assert!(after(&said, "built").ends_with("-on-top"));
        fs::remove_dir_all(&home).expect("the fetched data went there");
        world.assert_nothing_left();
    }
}

#[test]
fn nix_2_26_builds_on_a_cache_without_being_root() {
    a_user_builds(Version::V2_26);
}

#[test]
fn nix_2_34_builds_on_a_cache_without_being_root() {
    a_user_builds(Version::V2_34);
}

#[test]
fn a_machine_without_namespaces_is_told_what_is_needed() {
    let world = World::new(Version::V2_34);
    let programs = world.home.path("programs");
    fs::create_dir(&programs).expect("a folder");
    fs::write(programs.join("unshare"), "#!/bin/sh\necho 'unshare failed' >&2; exit 1\n")
        .expect("ok");
    fs::set_permissions(programs.join("unshare"), fs::Permissions::from_mode(0o755)).expect("ours");
    for (path, told) in [(programs.as_path(), "CAP_SYS_ADMIN"), (&world.layer(), "util-linux")] {
        let output = world.overlay(&["--", "true"]).env("PATH", path).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        let errors = text(&output.stderr);
        assert!(errors.contains(told), "{errors}");
        world.assert_nothing_left();
    }
}
