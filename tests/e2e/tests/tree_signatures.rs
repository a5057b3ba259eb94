//! What narinfos say to lazy readers is no matter to Nix: it reads them as ever, writes them again
//! without what it does not know, and the cache that gets them says it anew with its own key.

#![allow(clippy::expect_used, reason = "a helper that fails should fail its test")]

use granary_e2e::{Closure, Nix, Server, Version, narinfo, places, raw};

#[test]
fn every_nix_reads_verifies_and_copies_paths_whose_trees_are_signed() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let closure = Closure::tiny().of_package("sed");
    let url = |cache: &str| format!("{}/{cache}", server.origin());
    let fields = |cache: &str| {
        let path = format!("/{cache}/{}.narinfo", &closure.top["/nix/store/".len()..][..32]);
        let answer = raw::request(&server.origin(), "GET", &path, Some(server.token()), b"");
        assert_eq!(answer.status, 200, "{answer:?}");
        let fields = narinfo::parse(&answer.body);
        let count = answer.body.lines().filter(|line| line.starts_with("GranarySig: ")).count();
        assert_eq!(count, 1, "{}", answer.body);
        (fields["GranaryTree"].to_owned(), fields["GranarySig"].to_owned())
    };
    Nix::of(Version::V2_26, &server)
        .copy_to(&format!("{}?compression=zstd", server.url()), &closure);
    let (tree, signature) = fields("default");
    for (number, version) in Version::ALL.into_iter().enumerate() {
        let nix = Nix::of(version, &server);
        nix.verify(&server.url(), &closure.top);
        nix.assert_same(&nix.copy_from(&server.url(), &closure.top), &closure);
        nix.assert_same(&nix.substitute(&server.url(), &closure.top), &closure);

        let other = format!("copy-{number}");
        let path = format!("/_granary/v1/caches/{other}");
        let made = raw::request(&server.origin(), "PUT", &path, Some(server.token()), b"{}");
        assert_eq!(made.status, 201, "{made:?}");
        nix.copy_between(&server.url(), &url(&other), &closure.top);
        let (same, own) = fields(&other);
        assert_eq!(same, tree, "the same files make the same tree");
        assert!(own.starts_with(&format!("{other}-")) && own != signature, "{own}");
    }
    server.stop();
}
