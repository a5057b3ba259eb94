//! The worker protocol: whatever a daemon says, a client ends with an answer or an error.
//!
//! The first byte is the protocol's minor version to speak at most, the second the question, the
//! third how the bytes are cut; what follows is said after the daemon's greeting.

#![no_main]

use granary_fuzz::Pieces;
use libfuzzer_sys::fuzz_target;
use nix_compat::store_path::{StoreDir, StorePath};
use nix_compat::worker::{Client, Error, Version};
use std::io::Read;

fuzz_target!(|data: &[u8]| {
    let [minor, question, cuts, said @ ..] = data else { return };
    // As it is, too: the greeting is read like all else.
    let reader: Box<dyn Read> = if question & 0x80 == 0 {
        Box::new(greeting(*minor).chain(Pieces::new(said, *cuts)))
    } else {
        Box::new(Pieces::new(said, *cuts))
    };
    let minor = Version::MIN.minor.max(*minor & 63).min(Version::MAX.minor);
    let newest = Version { major: 1, minor };
    let mut sent = Vec::new();
    let Ok(mut client) = Client::connect_as(reader, &mut sent, StoreDir::default(), newest) else {
        return;
    };
    let path = |name: &str| -> StorePath { name.parse().expect("a store path") };
    let paths = [
        path("3dvgkdw6dhw4vh0ya73g64bh4mwxk56c-a"),
        path("6s0pvdmzlpnqh5972il76vl09lknd67c-b"),
    ];
    // Until the daemon has no more to say.
    for question in u32::from(*question & 0x7f).. {
        match ask(&mut client, question, &paths) {
            Ok(()) => {}
            Err(Error::Broken) => panic!("an error was followed by a question"),
            Err(_) => break,
        }
    }
    let again = client.is_valid_path(&paths[0]);
    assert!(matches!(again, Err(Error::Broken)), "a broken connection was used again");
});

fn ask<R: Read, W: std::io::Write>(
    client: &mut Client<R, W>,
    question: u32,
    paths: &[StorePath; 2],
) -> Result<(), Error> {
    match question % 8 {
        0 => client.is_valid_path(&paths[0]).map(drop),
        1 => {
            let infos = client.query_path_infos(paths)?;
            assert_eq!(infos.len(), paths.len());
            for (info, path) in infos.iter().zip(paths) {
                let Some(info) = info else { continue };
                assert_eq!(info.store_path, *path);
                assert!(info.references.is_sorted() && info.signatures.is_sorted());
            }
            Ok(())
        }
        2 => client.query_valid_paths(paths).map(drop),
        3 => client.query_all_valid_paths().map(drop),
        4 => client.query_path_from_hash_part(paths[0].hash()).map(drop),
        5 => client.query_referrers(&paths[0]).map(drop),
        6 => client.query_valid_derivers(paths).map(drop),
        _ => client.query_derivation_outputs(paths).map(drop),
    }
}

/// The greeting of a daemon that speaks this version, or 1.16 if that is newer.
fn greeting(minor: u8) -> std::io::Cursor<Vec<u8>> {
    let minor = (minor & 63).max(16);
    let mut out = b"oixd\0\0\0\0".to_vec();
    out.extend([minor, 1, 0, 0, 0, 0, 0, 0]);
    if minor >= 38 {
        out.extend([0; 8]);
    }
    if minor >= 33 {
        out.extend(b"\x06\0\0\0\0\0\0\x002.34.8\0\0");
    }
    if minor >= 35 {
        out.extend([0; 8]);
    }
    out.extend(b"stla\0\0\0\0");
    std::io::Cursor::new(out)
}
