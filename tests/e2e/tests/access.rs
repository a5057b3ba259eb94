//! Who may write.

use granary_e2e::codec::Compression;
use granary_e2e::random::Random;
use granary_e2e::upload::Upload;
use granary_e2e::{Http, Server, places};

#[test]
fn without_a_good_token_nothing_is_written() {
    let data = places::scratch();
    let server = Server::start(data.path());
    let mut random = Random::from_environment();
    let upload = Upload::new(&random.hash_part(), &random.nar(), Compression::Zstd);

    let token = server.token();
    let (claims, signature) = token.rsplit_once('.').expect("a JWT");
    let flipped = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{claims}.{flipped}{}", &signature[1..]);
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJyb290In0.";
    let strangers = [
        ("no token", server.anonymous()),
        ("an empty token", Http::with_token(&server.url(), "")),
        ("no JWT", Http::with_token(&server.url(), "letmein")),
        ("a forged signature", Http::with_token(&server.url(), &forged)),
        ("an unsigned token", Http::with_token(&server.url(), unsigned)),
    ];
    for (who, http) in &strangers {
        assert_eq!(upload.put_nar(http).status, 401, "{who}: PUT of a NAR");
        assert_eq!(upload.put_narinfo(http).status, 401, "{who}: PUT of a narinfo");
        assert_eq!(http.put("nix-cache-info", b"StoreDir: /nix/store\n").status, 401, "{who}");
    }
    let owner = server.http();
    assert_eq!(owner.head(&upload.info.url).status, 404, "the NAR of a stranger was kept");
    assert_eq!(owner.head(&upload.narinfo_path()).status, 404);

    assert!(upload.put_nar(&owner).is_success());
    assert!(upload.put_narinfo(&owner).is_success());
    server.stop();
}
