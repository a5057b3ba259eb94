//! What a Nix store knows about one of its valid paths.
//!
//! The daemon's protocol and the database spell it alike: names as absolute
//! store paths, the NAR hash in hex (after `sha256:` in the database, alone on
//! the wire), content addresses and signatures as in narinfos. Both readers
//! hand the texts to one place, here, so that the same path gives the same
//! value from either.

use crate::nixhash::{self, HashAlgo, NixHash, Sha256};
use crate::signature::Signature;
use crate::store_path::{self, CaParseError, ContentAddress, StoreDir, StorePath};

/// What a store knows about a path. Two of them from different sources are
/// equal when the sources say the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// The path.
    pub store_path: StorePath,
    /// Hash of its NAR.
    pub nar_hash: Sha256,
    /// Bytes of its NAR; 0 where the store does not know.
    pub nar_size: u64,
    /// The paths it refers to, itself too if it does; sorted, each once.
    pub references: Vec<StorePath>,
    /// The derivation it was built by. Need not be valid, or be there at all.
    pub deriver: Option<StorePath>,
    /// Its signatures, sorted, each once.
    pub signatures: Vec<Signature>,
    /// What stands in place of signatures and is none. Nothing is refused for
    /// it: what cannot be verified counts for nothing.
    pub odd_signatures: Vec<String>,
    /// The content address, if that is what its hash was made from.
    pub ca: Option<ContentAddress>,
    /// Whether this store built it itself.
    pub ultimate: bool,
    /// When it became valid in this store, in seconds since 1970.
    pub registration_time: u64,
}

impl PathInfo {
    /// The references but for the path itself.
    pub fn other_references(&self) -> impl Iterator<Item = &StorePath> {
        self.references.iter().filter(|reference| **reference != self.store_path)
    }
}

/// Why a store's answer about a path makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("what the Nix store knows about {store_path} is wrong: {problem}")]
pub struct Error {
    /// The path that was asked about.
    pub store_path: StorePath,
    /// What is wrong.
    #[source]
    pub problem: Problem,
}

/// What is wrong with a store's answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The NAR hash.
    #[error("the NAR hash {text:?}: {source}")]
    NarHash {
        /// What is there.
        text: String,
        /// What is wrong with it.
        source: nixhash::Error,
    },
    /// The deriver.
    #[error("the deriver: {0}")]
    Deriver(#[source] store_path::Error),
    /// A reference.
    #[error("a reference: {0}")]
    Reference(#[source] store_path::Error),
    /// The content address.
    #[error("the content address {text:?}: {source}")]
    ContentAddress {
        /// What is there.
        text: String,
        /// What is wrong with it.
        source: CaParseError,
    },
}

/// A path info as the texts that either source has. Empty texts say nothing.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    pub nar_hash: String,
    pub nar_size: u64,
    pub references: Vec<String>,
    pub deriver: String,
    pub signatures: Vec<String>,
    pub ca: String,
    pub ultimate: bool,
    pub registration_time: u64,
}

impl Texts {
    /// The values the texts stand for.
    pub fn check(self, store_path: &StorePath, store_dir: &StoreDir) -> Result<PathInfo, Error> {
        self.values(store_path, store_dir)
            .map_err(|problem| Error { store_path: store_path.clone(), problem })
    }

    fn values(self, store_path: &StorePath, store_dir: &StoreDir) -> Result<PathInfo, Problem> {
        let mut references = self
            .references
            .iter()
            .map(|text| StorePath::from_absolute(text, store_dir).map_err(Problem::Reference))
            .collect::<Result<Vec<_>, _>>()?;
        references.sort_unstable();
        references.dedup();
        let (mut signatures, mut odd_signatures) = (Vec::new(), Vec::new());
        for text in self.signatures {
            match text.parse() {
                Ok(signature) => signatures.push(signature),
                Err(_) => odd_signatures.push(text),
            }
        }
        signatures.sort_unstable();
        signatures.dedup();
        Ok(PathInfo {
            store_path: store_path.clone(),
            nar_hash: nar_hash(self.nar_hash)?,
            nar_size: self.nar_size,
            references,
            deriver: deriver(&self.deriver, store_dir)?,
            signatures,
            odd_signatures,
            ca: content_address(self.ca)?,
            ultimate: self.ultimate,
            registration_time: self.registration_time,
        })
    }
}

fn nar_hash(text: String) -> Result<Sha256, Problem> {
    match NixHash::parse(&text, Some(HashAlgo::Sha256)) {
        Ok((NixHash::Sha256(digest), _)) => Ok(digest.into()),
        Ok((other, _)) => {
            let (found, expected) = (other.algo(), HashAlgo::Sha256);
            let source = nixhash::Error::WrongAlgo { found, expected };
            Err(Problem::NarHash { text, source })
        }
        Err(source) => Err(Problem::NarHash { text, source }),
    }
}

/// Old stores hold `unknown-deriver` for none.
fn deriver(text: &str, store_dir: &StoreDir) -> Result<Option<StorePath>, Problem> {
    if text.is_empty() || text == "unknown-deriver" {
        return Ok(None);
    }
    StorePath::from_absolute(text, store_dir).map(Some).map_err(Problem::Deriver)
}

fn content_address(text: String) -> Result<Option<ContentAddress>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|source| Problem::ContentAddress { text, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "eaa287c4ec819f5594f60af9cc26ca3c0fdd2649527f515288e62e34901c1c47";
    const PATH: &str = "3dvgkdw6dhw4vh0ya73g64bh4mwxk56c-farm.py";
    const OTHER: &str = "/nix/store/6s0pvdmzlpnqh5972il76vl09lknd67c-unpack.py";

    fn texts() -> Texts {
        Texts { nar_hash: DIGEST.to_owned(), ..Texts::default() }
    }

    fn check(texts: Texts) -> Result<PathInfo, Problem> {
        let path = PATH.parse().unwrap();
        texts.check(&path, &StoreDir::default()).map_err(|error| {
            assert_eq!(error.store_path, path);
            error.problem
        })
    }

    #[test]
    fn every_spelling_of_the_nar_hash_means_the_same() {
        let expected = check(texts()).unwrap().nar_hash;
        for spelling in [format!("sha256:{DIGEST}"), expected.to_string(), expected.to_nix32()] {
            let info = check(Texts { nar_hash: spelling, ..texts() }).unwrap();
            assert_eq!(info.nar_hash, expected);
        }
        for wrong in ["", "sha256:", "md5:b1946ac92492d2347c6235b4d2611184", "nonsense"] {
            let texts = Texts { nar_hash: wrong.to_owned(), ..texts() };
            assert!(matches!(check(texts), Err(Problem::NarHash { text, .. }) if text == wrong));
        }
    }

    #[test]
    fn signatures_that_are_none_are_set_aside() {
        let good = format!("k-1:{}", "A".repeat(86) + "==");
        let signatures = vec!["odd".to_owned(), good.clone(), good.clone()];
        let info = check(Texts { signatures, ..texts() }).unwrap();
        assert_eq!(info.signatures, [good.parse().unwrap()]);
        assert_eq!(info.odd_signatures, ["odd"]);
    }

    #[test]
    fn references_are_sorted_and_counted_once() {
        let own = format!("/nix/store/{PATH}");
        let references = vec![OTHER.to_owned(), own.clone(), OTHER.to_owned(), own];
        let info = check(Texts { references, ..texts() }).unwrap();
        let names: Vec<_> = info.references.iter().map(ToString::to_string).collect();
        assert_eq!(names, [PATH, &OTHER["/nix/store/".len()..]]);
        assert_eq!(info.other_references().count(), 1);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = Texts { references: vec!["/elsewhere/x".to_owned()], ..texts() };
        assert!(matches!(check(wrong), Err(Problem::Reference(_))));
        let wrong = Texts { deriver: "x".to_owned(), ..texts() };
        assert!(matches!(check(wrong), Err(Problem::Deriver(_))));
        let wrong = Texts { ca: "x".to_owned(), ..texts() };
        assert!(matches!(check(wrong), Err(Problem::ContentAddress { .. })));
        let none = Texts { deriver: "unknown-deriver".to_owned(), ..texts() };
        assert_eq!(check(none).unwrap().deriver, None);
    }
}
