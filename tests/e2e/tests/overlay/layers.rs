//! Where what is written goes.

use std::fs;
use std::path::Path;

use granary_e2e::Version;
use granary_e2e::background::Background;
use rustix::process::Signal;

use crate::{World, after, said, text};

const WRITES: &str = "echo x > /nix/store/written; [ -e /nix/store/written ]";

#[test]
fn nobody_else_sees_what_is_written() {
    let world = World::new(Version::V2_34);
    let before = Path::new("/nix/store").read_dir().map(Iterator::count).ok();
    for arguments in [&[][..], &["--tmpfs"]] {
        said(&world.script(arguments, WRITES), 0);
        said(&world.script(arguments, "[ ! -e /nix/store/written ]"), 0);
        world.assert_nothing_left();
    }
    assert!(!Path::new("/nix/store/written").exists());
    let after = Path::new("/nix/store").read_dir().map(Iterator::count).ok();
    assert_eq!(after.or(Some(0)), before.or(Some(0)));
}

#[test]
fn memory_holds_a_build() {
    let world = World::new(Version::V2_34);
    let build = "say built \"$(nix-build --no-out-link --expr \"$EXPR\")\"; \
                 say on \"$(stat -f -c %T \"$NIX_STATE_DIR\")\"; nix-store --verify --check-contents";
    let said = said(&world.script(&["--tmpfs"], build), 0);
    assert_eq!(after(&said, "on"), "tmpfs");
    assert!(after(&said, "built").ends_with("-on-top"));
    world.assert_nothing_left();
}

#[test]
fn a_new_layer_wants_an_empty_folder_and_an_old_one_a_layer() {
    let world = World::new(Version::V2_34);
    let layer = world.layer();
    let named = layer.to_str().expect("UTF-8");
    let refused = |option: &str| {
        let output = world.script(&[option, named], "true");
        assert_eq!(output.status.code(), Some(1));
        world.assert_nothing_left();
        text(&output.stderr)
    };
    fs::create_dir(&layer).expect("a folder");
    fs::write(layer.join("letter"), "x").expect("written");
    assert!(refused("--keep").contains("is not empty"));
    assert!(refused("--upper").contains("holds something else than a layer"));
    assert_eq!(fs::read_dir(&layer).expect("a folder").count(), 1, "nothing was written there");
    fs::remove_file(layer.join("letter")).expect("removed");

    said(&world.script(&["--upper", named], WRITES), 0);
    said(&world.script(&["--upper", named], "[ -e /nix/store/written ]"), 0);
    assert!(refused("--keep").contains("go on with the layer in it with --upper"));
}

#[test]
fn a_layer_is_used_by_one_at_a_time() {
    let world = World::new(Version::V2_34);
    let layer = world.layer();
    let named = layer.to_str().expect("UTF-8");
    let script = ["--upper", named, "--", "/bin/sh", "-c", "echo begun >&2; sleep 1000"];
    let first = Background::start(&mut world.overlay(&script));
    first.wait_for("begun");
    let second = world.script(&["--upper", named], "true");
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("is in use"), "{}", text(&second.stderr));
    first.signal(Signal::TERM);
    assert_eq!(first.end().0.code(), Some(143));
    said(&world.script(&["--upper", named], "true"), 0);
}

#[test]
fn two_overlays_of_a_cache_do_not_meet() {
    let world = World::new(Version::V2_34);
    let build = "nix-build --no-out-link --expr \"$EXPR\"; sleep 0.3";
    std::thread::scope(|scope| {
        let other = scope.spawn(|| said(&world.script(&[], build), 0));
        said(&world.script(&[], build), 0);
        other.join().expect("it builds as well");
    });
    world.assert_nothing_left();
}
