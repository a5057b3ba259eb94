//! Whether what a narinfo says is believed: somebody who is trusted has signed it, or the path's own
//! name proves its contents.

use nix_compat::narinfo::NarInfo;
use nix_compat::nixhash::{NixHash, Sha256};
use nix_compat::signature::VerifyingKey;
use nix_compat::store_path::{ContentAddress, IngestionMethod, StoreDir, build_ca_path};

/// Whose signatures count.
#[derive(Debug)]
pub enum Trust {
    /// Those by these keys.
    Keys(Vec<VerifyingKey>),
    /// What the source says is believed unsigned.
    Everything,
}

/// What makes a narinfo believable.
#[derive(Debug, PartialEq, Eq)]
pub enum Proof {
    /// A signature, or trust.
    Given,
    /// The path is one file with this hash, which has to be seen.
    File(Sha256),
}

impl Trust {
    /// Why the narinfo is believed, or why not.
    pub fn judge(&self, info: &NarInfo<'_>, store_dir: &StoreDir) -> Result<Proof, String> {
        let Self::Keys(keys) = self else { return Ok(Proof::Given) };
        if keys.iter().any(|key| info.is_signed_by(store_dir, key)) {
            return Ok(Proof::Given);
        }
        if let Some(proof) = content_addressed(info, store_dir) {
            return Ok(proof);
        }
        let names: Vec<&str> = info.signatures.iter().map(|signature| signature.name()).collect();
        let wrong = keys.iter().find(|key| names.contains(&key.name()));
        Err(match wrong {
            Some(key) => format!("its signature by {} is wrong", key.name()),
            None if names.is_empty() => {
                "it is not signed: --no-check-sigs takes it nevertheless".to_owned()
            }
            None => format!(
                "it is signed by {} and by no key that is trusted: name the source's public key \
                 with --trusted-public-keys",
                names.join(", ")
            ),
        })
    }
}

/// As Nix does, takes a path unsigned whose name was made from its contents.
fn content_addressed(info: &NarInfo<'_>, store_dir: &StoreDir) -> Option<Proof> {
    let (path, ca) = (&info.store_path, info.ca.as_ref()?);
    let to_itself = info.references.contains(path);
    let others = info.references.iter().filter(|reference| *reference != path);
    let built = build_ca_path(path.name(), ca, others, to_itself, store_dir).ok()?;
    if built != *path || to_itself {
        return None;
    }
    match ca {
        ContentAddress::Text(hash) => Some(Proof::File(*hash)),
        ContentAddress::Fixed { method: IngestionMethod::Flat, hash: NixHash::Sha256(hash) } => {
            Some(Proof::File(Sha256::from(*hash)))
        }
        ContentAddress::Fixed {
            method: IngestionMethod::Recursive,
            hash: NixHash::Sha256(hash),
        } if hash == info.nar_hash.as_bytes() => Some(Proof::Given),
        ContentAddress::Fixed { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix_compat::signature::SigningKey;

    fn text(ca: &str, path: &str) -> String {
        let hash = Sha256::of(b"nar");
        format!(
            "StorePath: {path}\nURL: nar/x.nar\nCompression: none\nNarHash: {hash}\nNarSize: 3\n\
             References: \n{ca}"
        )
    }

    #[test]
    fn a_signature_counts_if_its_key_is_trusted_and_it_is_right() {
        let dir = StoreDir::default();
        let text = text("", "/nix/store/00000000000000000000000000000000-x");
        let mut info = NarInfo::parse(&text, &dir).unwrap();
        let [ours, theirs] = [("ours", 1), ("theirs", 2)]
            .map(|(name, seed)| SigningKey::generate(name, [seed; 32]).unwrap());
        let trust = Trust::Keys(vec![ours.verifying_key()]);
        assert!(trust.judge(&info, &dir).unwrap_err().contains("not signed"));
        info.sign(&dir, &theirs);
        assert!(trust.judge(&info, &dir).unwrap_err().contains("by theirs"));
        info.sign(&dir, &ours);
        assert_eq!(trust.judge(&info, &dir), Ok(Proof::Given));
        info.nar_size += 1;
        assert!(trust.judge(&info, &dir).unwrap_err().contains("wrong"));
        assert_eq!(Trust::Everything.judge(&info, &dir), Ok(Proof::Given));
    }

    #[test]
    fn a_path_that_its_contents_name_needs_no_signature() {
        let dir = StoreDir::default();
        let trust = Trust::Keys(Vec::new());
        let file = Sha256::of(b"file");
        let recursive = Sha256::of(b"nar");
        for (ca, proof) in [
            (format!("text:{file}"), Proof::File(file)),
            (format!("fixed:{file}"), Proof::File(file)),
            (format!("fixed:r:{recursive}"), Proof::Given),
        ] {
            let address = ca.parse().unwrap();
            let path = build_ca_path("x", &address, [], false, &dir).unwrap();
            let info = text(&format!("CA: {ca}\n"), &path.to_absolute(&dir));
            let info = NarInfo::parse(&info, &dir).unwrap();
            assert_eq!(trust.judge(&info, &dir), Ok(proof), "{ca}");
            let other =
                text(&format!("CA: {ca}\n"), "/nix/store/00000000000000000000000000000000-x");
            assert!(trust.judge(&NarInfo::parse(&other, &dir).unwrap(), &dir).is_err(), "{ca}");
        }
        // A NAR other than the one that the name was made from.
        let address = format!("fixed:r:{file}").parse().unwrap();
        let path = build_ca_path("x", &address, [], false, &dir).unwrap();
        let info = text(&format!("CA: fixed:r:{file}\n"), &path.to_absolute(&dir));
        assert!(trust.judge(&NarInfo::parse(&info, &dir).unwrap(), &dir).is_err());
    }
}
