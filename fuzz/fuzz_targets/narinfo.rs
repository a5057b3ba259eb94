//! Narinfos: what is read, once written, says the same and is written the same again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nix_compat::narinfo::{Flags, NarInfo};
use nix_compat::store_path::StoreDir;

fuzz_target!(|data: &[u8]| {
    let store_dir = StoreDir::default();
    let Ok(mut read) = NarInfo::parse(data, &store_dir) else {
        return;
    };
    let written = read.render(&store_dir);
    let again = NarInfo::parse(&written, &store_dir).expect("what was written is read");
    // What can still be odd is what cannot be written otherwise.
    let mut allowed = Flags::default();
    for flag in [Flags::NO_COMPRESSION, Flags::UNKNOWN_FIELDS] {
        if read.flags.contains(flag) {
            allowed |= flag;
        }
    }
    assert_eq!(again.flags, allowed);
    assert_eq!(again.fingerprint(&store_dir), read.fingerprint(&store_dir));
    read.references.sort();
    read.references.dedup();
    read.flags = allowed;
    assert_eq!(again, read);
    assert_eq!(again.render(&store_dir), written);
});
