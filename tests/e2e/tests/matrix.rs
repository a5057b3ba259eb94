//! Every client version with every compression: what is pushed comes back, by `nix copy --from` and
//! by substitution, identical to the last bit; and the URLs that the pushing client remembers go
//! on answering in the compression that it chose.
//!
//! Runs with the small closure, or with some of it where Nix takes long to compress.
//! `GRANARY_E2E_FULL=1` runs it all with the large one, where Nix's level can be lowered at the
//! lowest: the format is the same, and xz alone would take hours.

use granary_e2e::codec::{self, Compression};
use granary_e2e::{Closure, Http, Nix, Server, Version, places};

fn round_trip(version: Version, compression: Compression) {
    let closure = match compression {
        _ if places::full_matrix() => Closure::full(),
        // Nix has one brotli level, and it takes two seconds a megabyte: once is enough for much of it.
        Compression::Br if version == Version::V2_8 => Closure::tiny().of_package("gcc"),
        Compression::Br => Closure::tiny().of_package("sed"),
        Compression::Xz | Compression::Bzip2 => Closure::tiny().of_package("bash"),
        _ => Closure::tiny(),
    };
    let data = places::scratch();
    let server = Server::start(data.path());

    let pusher = Nix::of(version, &server);
    let level = if places::full_matrix() { "&compression-level=1" } else { "" };
    let url = format!("{}?compression={}{level}", server.url(), compression.name());
    pusher.copy_to(&url, &closure);
    assert_own_urls_answer(&pusher, compression, &closure, &server.http());

    let puller = Nix::of(version, &server);
    let copied = puller.copy_from(&server.url(), &closure.top);
    puller.assert_same(&copied, &closure);
    drop(copied);

    let puller = Nix::of(version, &server);
    let substituted = puller.substitute(&server.url(), &closure.top);
    puller.assert_same(&substituted, &closure);
    server.stop();
}

fn assert_own_urls_answer(
    pusher: &Nix,
    compression: Compression,
    closure: &Closure,
    server: &Http,
) {
    let remembered = pusher.remembered_urls();
    for path in &closure.paths {
        let nar = remembered
            .get(path.hash_part())
            .unwrap_or_else(|| panic!("the client forgot that it pushed {}", path.path));
        assert_eq!(nar.compression, compression.name());
        assert!(nar.url.ends_with(&format!(".nar{}", compression.suffix())), "{}", nar.url);

        let answer = server.get(&nar.url);
        assert_eq!(answer.status, 200, "GET {}, as the client uploaded it", nar.url);
        assert_eq!(
            answer.content_length(),
            compression.expected_length(&answer.body),
            "{}",
            nar.url
        );
        assert_eq!(server.head(&nar.url).status, 200, "HEAD {}", nar.url);
        let decoded = compression
            .decompress(&answer.body)
            .unwrap_or_else(|error| panic!("{} of {}: {error}", nar.url, path.path));
        assert_eq!(codec::sha256_hex(&decoded), path.nar_hash, "{} of {}", nar.url, path.path);
    }
}

macro_rules! round_trips {
    ($($name:ident: $version:ident $compression:ident;)*) => {$(
        #[test]
        fn $name() {
            round_trip(Version::$version, Compression::$compression);
        }
    )*};
}

round_trips! {
    what_nix_2_8_pushes_as_xz_comes_back_the_same: V2_8 Xz;
    what_nix_2_8_pushes_as_zstd_comes_back_the_same: V2_8 Zstd;
    what_nix_2_8_pushes_as_none_comes_back_the_same: V2_8 None;
    what_nix_2_8_pushes_as_bzip2_comes_back_the_same: V2_8 Bzip2;
    what_nix_2_8_pushes_as_br_comes_back_the_same: V2_8 Br;
    // Of the one between, what most people have: the slow ones are pushed by the oldest and the newest.
    what_nix_2_26_pushes_as_zstd_comes_back_the_same: V2_26 Zstd;
    what_nix_2_26_pushes_as_none_comes_back_the_same: V2_26 None;
    what_nix_2_34_pushes_as_xz_comes_back_the_same: V2_34 Xz;
    what_nix_2_34_pushes_as_zstd_comes_back_the_same: V2_34 Zstd;
    what_nix_2_34_pushes_as_none_comes_back_the_same: V2_34 None;
    what_nix_2_34_pushes_as_bzip2_comes_back_the_same: V2_34 Bzip2;
    what_nix_2_34_pushes_as_br_comes_back_the_same: V2_34 Br;
}
