//! The worker protocol: whatever a client says, a server ends with requests or an error.
//!
//! The first byte is the minor version of the protocol that the client greets with, or says by its upper
//! bit that the greeting is among the bytes; the second is how the bytes are cut.

#![no_main]

use granary_fuzz::Pieces;
use libfuzzer_sys::fuzz_target;
use nix_compat::store_path::StoreDir;
use nix_compat::worker::request::ReadError;
use nix_compat::worker::server::{Error, Hello, Server};
use nix_compat::worker::{Request, Trust, Version};
use std::io::Read;

fuzz_target!(|data: &[u8]| {
    let [minor, cuts, said @ ..] = data else { return };
    let said = Pieces::new(said, *cuts);
    let reader: Box<dyn Read> =
        if minor & 0x80 == 0 { Box::new(greeting(*minor).chain(said)) } else { Box::new(said) };
    let hello = Hello { newest: Version::MAX, name: "Granary", trust: Trust::NotTrusted };
    let dir = StoreDir::default();
    let Ok(mut server) = Server::accept(reader, Vec::new(), dir.clone(), &hello) else { return };
    let version = server.version();
    while server.wait().is_ok_and(|more| more) {
        match server.request() {
            Ok(request) => assert_means_the_same(&request, version, &dir),
            // The place in the stream is kept.
            Err(Error::Request(ReadError::Argument(_))) => {}
            Err(_) => return,
        }
    }
});

/// What was understood can be said, and is understood again.
fn assert_means_the_same(request: &Request, version: Version, dir: &StoreDir) {
    let mut bytes = Vec::new();
    request.write(&mut bytes, version, dir).expect("memory takes all");
    let mut rest = bytes.as_slice();
    let again = Request::read(&mut rest, version, dir).expect("it was understood once");
    assert_eq!(again, *request);
    assert!(rest.is_empty(), "{} bytes were left", rest.len());
}

/// The greeting of a client that speaks this version, or 1.16 if that is newer.
fn greeting(minor: u8) -> std::io::Cursor<Vec<u8>> {
    let minor = (minor & 63).max(16);
    let mut out = b"cxin\0\0\0\0".to_vec();
    out.extend([minor, 1, 0, 0, 0, 0, 0, 0]);
    out.extend(vec![0; if minor >= 38 { 24 } else { 16 }]);
    std::io::Cursor::new(out)
}
