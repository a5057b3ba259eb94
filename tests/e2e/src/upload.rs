//! Store paths that exist only for a test, and how they are pushed by hand.

use crate::codec::{self, Compression};
use crate::http::{Answer, Http};
use crate::narinfo::NarInfo;

/// What is PUT for one store path: the compressed NAR and its narinfo.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The hash in the narinfo's URL.
    pub hash_part: String,
    /// The body of the NAR's PUT.
    pub body: Vec<u8>,
    /// The narinfo. It is right at first.
    pub info: NarInfo,
}

impl Upload {
    /// A store path of that hash with that NAR and no references.
    pub fn new(hash_part: &str, nar: &[u8], compression: Compression) -> Self {
        let body = compression.compress(nar);
        let file_hash = codec::sha256_nix32(&body);
        let info = NarInfo {
            store_path: format!("/nix/store/{hash_part}-e2e"),
            url: format!("nar/{file_hash}.nar{}", compression.suffix()),
            compression: compression.name().to_owned(),
            file_hash: format!("sha256:{file_hash}"),
            file_size: body.len() as u64,
            nar_hash: format!("sha256:{}", codec::sha256_nix32(nar)),
            nar_size: nar.len() as u64,
            references: Vec::new(),
        };
        Self { hash_part: hash_part.to_owned(), body, info }
    }

    /// Where the narinfo goes.
    pub fn narinfo_path(&self) -> String {
        format!("{}.narinfo", self.hash_part)
    }

    /// PUTs the NAR.
    pub fn put_nar(&self, http: &Http) -> Answer {
        http.put(&self.info.url, &self.body)
    }

    /// PUTs the narinfo.
    pub fn put_narinfo(&self, http: &Http) -> Answer {
        http.put(&self.narinfo_path(), self.info.to_text().as_bytes())
    }
}
