//! What real Nix clients get from the socket: the same as from the store that the view was made of.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use nix_compat::store_path::{StoreDir, StorePath};
use support::nix::Nix;
use support::{Local, Running, scratch, tools};

fn absolute(path: &StorePath) -> String {
    path.to_absolute(&StoreDir::default())
}

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

/// The store that the view was made of, read by Nix itself.
fn original() -> String {
    format!("local?root={}", tools().join("closures/tiny/root").display())
}

#[test]
fn path_infos_are_those_of_the_store() {
    let (daemon, top) = (Running::tiny(), absolute(&Local::tiny_top()));
    for nix in Nix::all() {
        let from = |store: &str, arguments: &[&str]| {
            nix.ok("nix", &[&["path-info", "--store", store], arguments].concat())
        };
        for arguments in
            [&["-rsSh", &top][..], &["--json", "-r", &top], &["--all", "--sigs", "--size"]]
        {
            let (ours, theirs) = (from(&daemon.url(), arguments), from(&original(), arguments));
            assert_eq!(lines(&ours), lines(&theirs), "{} {arguments:?}", nix.version);
            assert!(ours.contains(&top));
        }
        let missing = "/nix/store/00000000000000000000000000000000-nothing";
        let said = nix.fails("nix", &["path-info", "--store", &daemon.url(), missing]);
        assert!(said.contains("is not valid"), "{}: {said}", nix.version);
    }
}

#[test]
fn nix_store_queries_are_those_of_the_store() {
    let (daemon, top) = (Running::tiny(), Local::tiny_top());
    let info = &daemon.view.infos[&top.hash()];
    let below = absolute(info.other_references().next().unwrap());
    let built = daemon.view.infos.values().find(|info| info.deriver.is_some()).unwrap();
    let (built, deriver) = (absolute(&built.store_path), absolute(built.deriver.as_ref().unwrap()));
    let top = absolute(&top);
    for nix in Nix::all() {
        for arguments in [
            ["--references", &top],
            ["--referrers", &below],
            ["--referrers-closure", &below],
            ["--requisites", &top],
            ["--deriver", &built],
            ["--hash", &top],
            ["--size", &top],
            ["--outputs", &deriver],
            ["--tree", &below],
        ] {
            let query = |store: &str| {
                nix.ok("nix-store", &[&["--store", store, "--query"], &arguments[..]].concat())
            };
            let (ours, theirs) = (query(&daemon.url()), query(&original()));
            assert_eq!(lines(&ours), lines(&theirs), "{} {arguments:?}", nix.version);
            assert!(!ours.trim().is_empty(), "{arguments:?}");
        }
        // It keeps nothing alive, and says so.
        let roots = nix.ok("nix-store", &["--store", &daemon.url(), "--query", "--roots", &below]);
        assert_eq!(roots.trim(), "", "{}", nix.version);
    }
}

#[test]
fn the_store_introduces_itself() {
    let daemon = Running::tiny();
    for nix in Nix::all() {
        let output = nix.run("nix", &["store", "ping", "--store", &daemon.url()]);
        assert!(output.status.success());
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("unix://"), "{said}");
        assert!(said.contains("Granary"), "{}: {said}", nix.version);
    }
}

#[test]
fn a_closure_is_copied_out_of_it_whole() {
    let (daemon, top) = (Running::tiny(), absolute(&Local::tiny_top()));
    for nix in Nix::all() {
        let target = scratch();
        let root = format!("local?root={}", target.path().display());
        nix.ok("nix", &["copy", "--from", &daemon.url(), "--to", &root, "--no-check-sigs", &top]);
        let copied = nix.ok("nix-store", &["--store", &root, "-qR", &top]);
        let expected = nix.ok("nix-store", &["--store", &original(), "-qR", &top]);
        assert_eq!(lines(&copied), lines(&expected), "{}", nix.version);
        nix.ok("nix-store", &["--store", &root, "--verify", "--check-contents"]);
    }
}

#[test]
fn a_write_is_refused_with_a_reason() {
    let daemon = Running::tiny();
    for nix in Nix::all() {
        // Much, so that it is not sent before it is refused.
        let big = nix.home().join("big");
        std::fs::write(&big, vec![7; 20_000_000]).unwrap();
        let big = big.to_str().unwrap();
        let said = nix.fails("nix-store", &["--store", &daemon.url(), "--add", big]);
        assert!(
            said.contains("cannot add a path") && said.contains("is read-only"),
            "{}: {said}",
            nix.version
        );
        for (arguments, reason) in [
            (&["--gc"][..], "cannot collect garbage"),
            (&["--optimise"], "cannot optimise the store"),
            (&["--verify"], "cannot verify the store"),
            (
                &["--realise", "/nix/store/00000000000000000000000000000000-nothing"],
                "00000000000000000000000000000000-nothing",
            ),
        ] {
            let said = nix.fails("nix-store", &[&["--store", &daemon.url()], arguments].concat());
            assert!(said.contains(reason), "{} {arguments:?}: {said}", nix.version);
        }
        let top = absolute(&Local::tiny_top());
        let realised = nix.ok("nix-store", &["--store", &daemon.url(), "--realise", &top]);
        assert_eq!(realised.trim(), top);
    }
}

#[test]
fn a_source_that_refuses_is_told_and_forgotten() {
    let (daemon, top) = (Running::tiny(), absolute(&Local::tiny_top()));
    daemon.view.fails.store(true, Ordering::Relaxed);
    for nix in Nix::all() {
        let said = nix.fails("nix", &["path-info", "--store", &daemon.url(), &top]);
        assert!(said.contains("https://cache.example/tiny: connection refused"), "{said}");
    }
    daemon.view.fails.store(false, Ordering::Relaxed);
    Nix::v2_34().ok("nix", &["path-info", "--store", &daemon.url(), &top]);
}
