//! A closure as people have them: more than 220 paths, compilers, Python trees, and one file above
//! 300 MB. Pushed by one version of Nix, pulled by others, over the life of a server.

use granary_e2e::{Closure, Nix, Server, Version, packs, places};

fn pull_by_copy(version: Version, server: &Server, closure: &Closure) {
    let puller = Nix::of(version, server);
    let store = puller.copy_from(&server.url(), &closure.top);
    puller.assert_same(&store, closure);
}

fn pull_by_substitution(version: Version, server: &Server, closure: &Closure) {
    let puller = Nix::of(version, server);
    let store = puller.substitute(&server.url(), &closure.top);
    puller.assert_same(&store, closure);
}

#[test]
fn a_closure_outlives_a_restart_and_the_loss_of_the_index() {
    let closure = Closure::full();
    let data = places::scratch();
    let server = Server::start(data.path());
    Nix::of(Version::V2_34, &server)
        .copy_to(&format!("{}?compression=zstd", server.url()), &closure);
    pull_by_copy(Version::V2_8, &server, &closure);

    let server = server.restart();
    pull_by_substitution(Version::V2_26, &server, &closure);

    let server = server.restart_without_its_index();
    pull_by_substitution(Version::V2_34, &server, &closure);
    server.stop();
    let found = packs::decode_all(data.path());
    assert!(found.sealed > 0, "no pack was ever sealed: {found:?}");
}

#[test]
fn a_closure_pushed_uncompressed_comes_back_the_same() {
    let closure = Closure::full();
    let data = places::scratch();
    let server = Server::start(data.path());
    Nix::of(Version::V2_8, &server)
        .copy_to(&format!("{}?compression=none", server.url()), &closure);
    pull_by_substitution(Version::V2_34, &server, &closure);
    server.stop();
}

#[test]
fn a_rebuilt_closure_beside_the_first_comes_back_the_same() {
    let (closure, rebuilt) = (Closure::full(), Closure::full_rebuilt());
    let data = places::scratch();
    let server = Server::start(data.path());
    let url = format!("{}?compression=zstd", server.url());
    Nix::of(Version::V2_26, &server).copy_to(&url, &closure);
    Nix::of(Version::V2_26, &server).copy_to(&url, &rebuilt);
    pull_by_copy(Version::V2_34, &server, &rebuilt);
    pull_by_copy(Version::V2_8, &server, &closure);
    server.stop();
}
