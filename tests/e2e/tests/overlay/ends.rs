//! How an overlay ends: with its command's exit code, and with nothing left, even if it is killed.

use granary_e2e::Version;
use granary_e2e::background::{Background, eventually};
use rustix::process::{Pid, Signal, kill_process};

use crate::{World, said, text};

/// Goes on, with processes beside and away from it, until it is ended.
const GOES_ON: &str = "sleep 1000 & setsid sleep 1000 & echo begun >&2; sleep 1000 & wait";

fn begun(world: &World, script: &str) -> Background {
    let overlay = Background::start(&mut world.overlay(&["--", "/bin/sh", "-c", script]));
    overlay.wait_for("begun");
    overlay
}

#[test]
fn the_exit_code_is_that_of_the_command() {
    let world = World::new(Version::V2_34);
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)] {
        said(&world.script(&[], script), code);
        world.assert_nothing_left();
    }
    let output = world.overlay(&["--", "no-such-program"]).output().expect("granary runs");
    assert_eq!(output.status.code(), Some(127));
    let errors = text(&output.stderr);
    assert!(errors.contains("cannot run no-such-program"), "{errors}");
    world.assert_nothing_left();
}

#[test]
fn what_the_command_leaves_running_ends_with_it() {
    let world = World::new(Version::V2_34);
    said(&world.script(&[], "sleep 1000 & setsid sleep 1000 & exit 4"), 4);
    world.assert_nothing_left();
}

#[test]
fn signals_reach_the_command() {
    let world = World::new(Version::V2_34);
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT"), (Signal::HUP, "HUP")] {
        let script = format!("trap 'echo heard >&2; exit 5' {name}; {GOES_ON}");
        let overlay = begun(&world, &script);
        overlay.signal(signal);
        let (status, lines) = overlay.end();
        assert_eq!(status.code(), Some(5), "{name}: {lines:#?}");
        assert!(lines.iter().any(|line| line == "heard"), "{name}: {lines:#?}");
        world.assert_nothing_left();
    }
}

#[test]
fn sigterm_ends_even_a_command_that_does_not_listen() {
    let world = World::new(Version::V2_34);
    let overlay = begun(&world, &format!("trap '' TERM; {GOES_ON}"));
    overlay.signal(Signal::TERM);
    let (status, lines) = overlay.end();
    assert_eq!(status.code(), Some(137), "{lines:#?}");
    world.assert_nothing_left();
}

#[test]
fn a_killed_overlay_leaves_nothing_behind() {
    let world = World::new(Version::V2_34);
    let overlay = begun(&world, GOES_ON);
    assert!(!world.processes().is_empty());
    overlay.signal(Signal::KILL);
    // The process inside takes all away.
    eventually("all its processes have ended", || world.processes().is_empty());
    world.assert_nothing_left();
    assert!(!overlay.end().0.success());

    let overlay = begun(&world, GOES_ON);
    let inside = inside(&world);
    kill_process(inside, Signal::KILL).expect("it runs");
    let (status, lines) = overlay.end();
    assert_eq!(status.code(), Some(137), "{lines:#?}");
    world.assert_nothing_left();
}

/// The process of an overlay that has the mounts.
fn inside(world: &World) -> Pid {
    let folder = world.home.path("tmp").display().to_string();
    let found = std::fs::read_dir("/proc").expect("Linux").flatten().find_map(|process| {
        let arguments = std::fs::read(process.path().join("cmdline")).ok()?;
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        let pid = process.file_name().to_str()?.parse().ok()?;
        (arguments.contains("--inside") && arguments.contains(&folder)).then_some(pid)
    });
    found.and_then(Pid::from_raw).expect("there is one")
}

#[test]
fn a_server_that_is_not_there_is_told_and_leaves_nothing() {
    let world = World::new(Version::V2_34);
    let mut overlay = world.overlay(&["--timeout", "1", "--", "true"]);
    let output = overlay.env("GRANARY_SERVER", "http://127.0.0.1:9").output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(errors.contains("http://127.0.0.1:9"), "{errors}");
    world.assert_nothing_left();
}
