//! A storehouse with one cache, and small paths to put into it.

#![allow(dead_code, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use castore::{Clock, Options};
use narbridge::cache::CacheSettings;
use narbridge::{Cache, Storehouse};
use nix_compat::nar::Writer;
use nix_compat::nixhash::Sha256;
use nix_compat::store_path::StorePathHash;
use sha2::Digest;

pub fn open(dir: &Path) -> Storehouse {
    open_at(dir, Clock::default())
}

pub fn open_at(dir: &Path, clock: Clock) -> Storehouse {
    Storehouse::open(dir, Options { clock, ..Options::new(&mut |_| ()) }).unwrap()
}

/// One with a cache called team.
pub fn house(dir: &Path) -> Storehouse {
    house_at(dir, Clock::default())
}

pub fn house_at(dir: &Path, clock: Clock) -> Storehouse {
    let house = open_at(dir, clock);
    house.create_cache(&"team".parse().unwrap(), &CacheSettings::default(), None).unwrap();
    house
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// By its bytes it sorts among others the other way round than by its text.
pub fn hash(number: u16) -> StorePathHash {
    let [high, low] = number.to_be_bytes();
    let mut bytes = [!low; 20];
    bytes[..2].copy_from_slice(&[high, low]);
    bytes[18..].copy_from_slice(&[!low, !high]);
    bytes.into()
}

/// The number that a hash was made from.
pub fn number(hash: &StorePathHash) -> u16 {
    let bytes = hash.as_bytes();
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// Puts a path of a single file into the cache.
pub fn publish(cache: &Cache, number: u16, references: &[u16]) {
    let mut nar = Writer::new(Vec::new());
    nar.file(b"", false, 2, &mut &number.to_be_bytes()[..]).unwrap();
    let nar = nar.finish().unwrap();
    let nar_hash = Sha256::from(<[u8; 32]>::from(sha2::Sha256::digest(&nar)));
    let url = format!("{}.nar", nar_hash.to_nix32());
    cache.upload_nar(url.parse().unwrap(), &nar[..], 1 << 20, None).unwrap();
    let references: Vec<String> =
        references.iter().map(|number| format!("{}-p{number}", hash(*number))).collect();
    let text = format!(
        "StorePath: {}/{}-p{number}\nURL: nar/{url}\nCompression: none\n\
         NarHash: sha256:{}\nNarSize: {}\nReferences: {}\n",
        cache.store_dir(),
        hash(number),
        nar_hash.to_nix32(),
        nar.len(),
        references.join(" "),
    );
    cache.publish(hash(number), text.as_bytes(), None).unwrap();
}
