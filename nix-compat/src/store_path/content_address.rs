//! Content addresses, and the store paths that follow from them.
//!
//! A content address says how a path's hash was made from its contents:
//!
//! | text | what was hashed |
//! |---|---|
//! | `text:sha256:<nix32>` | the bytes of one file (`builtins.toFile`, derivations) |
//! | `fixed:<algo>:<nix32>` | the bytes of one file |
//! | `fixed:r:<algo>:<nix32>` | the path's NAR |
//! | `fixed:git:<algo>:<nix32>` | the path as Git hashes it (experimental) |
//!
//! A path's own hash is the first 160 bits, folded by exclusive or, of the
//! SHA-256 of `<type>:sha256:<hex>:<store dir>:<name>`. For text and for
//! recursive SHA-256 the type is `text` or `source` with the references after
//! it, and the hex is the content's hash. For all others the type is
//! `output:out`, and the hex is the SHA-256 of `fixed:out:<method><algo>:<hex>:`.
//!
//! Source: the Nix manual, "Store Path Specification" and "Content-addressing
//! store objects"; the vectors below are from Nix 2.8.0 and 2.34.8.

use std::fmt::{self, Write};
use std::str::FromStr;

use super::{StoreDir, StorePath, StorePathHash};
use crate::nixhash::{self, HashAlgo, NixHash, Sha256};

/// What of a path was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IngestionMethod {
    /// The bytes of one file.
    Flat,
    /// The NAR.
    Recursive,
    /// The path as Git hashes it.
    Git,
}

impl IngestionMethod {
    /// What comes before the algorithm, in content addresses and in what is
    /// hashed for a path.
    const fn prefix(self) -> &'static str {
        match self {
            IngestionMethod::Flat => "",
            IngestionMethod::Recursive => "r:",
            IngestionMethod::Git => "git:",
        }
    }
}

/// The content address of a store path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentAddress {
    /// One file, which may refer to other paths. Always SHA-256.
    Text(Sha256),
    /// What is given by its hash beforehand.
    Fixed {
        /// What was hashed.
        method: IngestionMethod,
        /// The hash.
        hash: NixHash,
    },
}

/// Why a text is not a content address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Neither `text:` nor `fixed:` before the hash.
    #[error("{0:?} starts with neither \"text:\" nor \"fixed:\"")]
    Method(String),
    /// The hash after it.
    #[error(transparent)]
    Hash(#[from] nixhash::Error),
}

/// Why there is no store path for a content address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaPathError {
    /// The name cannot be that of a store path.
    #[error(transparent)]
    Name(#[from] super::Error),
    /// Only text and recursive SHA-256 paths can refer to other paths.
    #[error("a path with the content address {0} cannot have references")]
    References(ContentAddress),
    /// Only recursive SHA-256 paths can refer to themselves.
    #[error("a path with the content address {0} cannot refer to itself")]
    SelfReference(ContentAddress),
}

impl FromStr for ContentAddress {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        if let Some(hash) = s.strip_prefix("text:") {
            return Ok(ContentAddress::Text(hash.parse()?));
        }
        let fixed = s.strip_prefix("fixed:").ok_or_else(|| ParseError::Method(s.to_owned()))?;
        let (method, hash) = [IngestionMethod::Recursive, IngestionMethod::Git]
            .into_iter()
            .find_map(|method| Some((method, fixed.strip_prefix(method.prefix())?)))
            .unwrap_or((IngestionMethod::Flat, fixed));
        Ok(ContentAddress::Fixed { method, hash: hash.parse()? })
    }
}

impl fmt::Display for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContentAddress::Text(hash) => write!(f, "text:{hash}"),
            ContentAddress::Fixed { method, hash } => {
                write!(f, "fixed:{}{hash}", method.prefix())
            }
        }
    }
}

/// The store path of what has this name, content address and references, the
/// last in any order and without the path itself.
pub fn build_ca_path<'a>(
    name: &str,
    ca: &ContentAddress,
    references: impl IntoIterator<Item = &'a StorePath>,
    self_reference: bool,
    store_dir: &StoreDir,
) -> Result<StorePath, CaPathError> {
    let mut references: Vec<_> = references.into_iter().collect();
    references.sort_unstable();
    references.dedup();
    let (mut kind, digest) = match ca {
        ContentAddress::Text(hash) => ("text".to_owned(), *hash),
        ContentAddress::Fixed { method: IngestionMethod::Recursive, hash: NixHash::Sha256(d) } => {
            ("source".to_owned(), Sha256::from(*d))
        }
        ContentAddress::Fixed { method, hash } => {
            if !references.is_empty() {
                return Err(CaPathError::References(*ca));
            }
            let (prefix, algo, hex) = (method.prefix(), hash.algo(), hash.to_hex());
            let inner = format!("fixed:out:{prefix}{algo}:{hex}:");
            ("output:out".to_owned(), Sha256::of(inner.as_bytes()))
        }
    };
    if self_reference && kind != "source" {
        return Err(CaPathError::SelfReference(*ca));
    }
    for reference in references {
        // Writing to a String cannot fail.
        let _ = write!(kind, ":{store_dir}/{reference}");
    }
    if self_reference {
        kind.push_str(":self");
    }
    let hex = NixHash::from(digest).to_hex();
    let algo = HashAlgo::Sha256;
    let whole = Sha256::of(format!("{kind}:{algo}:{hex}:{store_dir}:{name}").as_bytes());
    Ok(StorePath::new(fold(&whole), name)?)
}

/// A store path's hash: 32 bytes folded onto 20 by exclusive or.
fn fold(hash: &Sha256) -> StorePathHash {
    let mut out = [0; 20];
    for part in hash.as_bytes().chunks(out.len()) {
        for (to, from) in out.iter_mut().zip(part) {
            *to ^= from;
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(name: &str, ca: &str, references: &[&str], own: bool, dir: &str) -> String {
        let ca: ContentAddress = ca.parse().unwrap();
        let references: Vec<StorePath> = references.iter().map(|r| r.parse().unwrap()).collect();
        build_ca_path(name, &ca, &references, own, &dir.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn paths_without_references_are_those_of_nix() {
        for (path, ca) in [
            ("1y939kyks8g9gbba89f8xskz7chddba8-f.txt", "fixed:md5:4425hx5d1mc9y39llj4k4nm55i"),
            ("9xqm9wf0yvnzhkj9x74lbplziqvsra3x-d", "fixed:r:md5:7c2g1r2r5346l0zx7b06iayrfj"),
            (
                "4kn848vczvkyzl9npz1zz3f585s6byn3-f.txt",
                "fixed:sha1:iwjz551fyw0cxcjgf4l6c879zabd6wpm",
            ),
            ("dl4nfkk7y41psk2xvjhys7qz50v7d78r-d", "fixed:r:sha1:5njapk7s3078vma53ii7sc9hrkc1ss9n"),
            (
                "d4b4lmbd433fa2xcdysz7p7zahnqh1z4-f.txt",
                "fixed:sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq",
            ),
            (
                "xd9qflar386spwrqc02458yr6h2d72np-d",
                "fixed:r:sha256:1229b06m4r3dq4hc8n4vwzj8a941pjm6pns0hnwbg9r683sk551r",
            ),
            (
                "74az1n3l360c9i8bzkwvm6r3ff9wj9n9-f.txt",
                "fixed:sha512:0lrc0dwnvipqviibf7qfm1y492qvjwb1zhkcyi05cndmva1mr5gjcgrnz1x36djmk0sfg8djd2n0qv68vib2jg590mwznar9jcjphp7",
            ),
            (
                "nr6m50qb139hd8qjgnpknylh7xcd2sk2-d",
                "fixed:r:sha512:3hbbzlvbgmd4kjh4rmg8ylmvnlwswzr6b971gmb1an9isfrjvczaii330w3ah7cc2bq62va05bh4k3qz0zhskkwjpnbgis7f6myd8h0",
            ),
            (
                "3dpnpfs10bllr1x35b5iga2d4qfcic7h-f.txt",
                "fixed:git:sha1:993998wwkrzrcmpp0slxpa0b0cjkc0ff",
            ),
            (
                "ksmk6y5v2aqh8las5gcy8lvd6w3gp9wl-d",
                "fixed:git:sha1:pnvzwc3i7hsab7x31gj4jarq0xfwyzi7",
            ),
            (
                "sb1dhjrwb4mxvmncxxprdr9c1pdf3ybd-text.txt",
                "text:sha256:094qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwic",
            ),
        ] {
            let name = path.split_once('-').unwrap().1;
            assert_eq!(build(name, ca, &[], false, "/nix/store"), path);
            assert_eq!(ca.parse::<ContentAddress>().unwrap().to_string(), ca);
        }
    }

    #[test]
    fn references_are_part_of_the_path() {
        let refs =
            ["sb1dhjrwb4mxvmncxxprdr9c1pdf3ybd-text.txt", "08g3c9zd7qsw0216x1bdlk7qrykjny7s-other"];
        let ca = "text:sha256:06r6sw586z1qdxhzy06fw9szh4qalqrg6mzl3wjzjayy075hmbl7";
        let path = build("refs.txt", ca, &refs, false, "/nix/store");
        assert_eq!(path, "5kp70f3qpzbr2mmb8b5lhb37dr3gxr6p-refs.txt");

        // Made by `nix store make-content-addressed` of 2.8.0 and of 2.34.8.
        let refs = ["krgyzwfkdrf0a045xhbhwkfsbcdwrkj1-text.txt"];
        for (path, hash) in [
            (
                "bw9m03ixhiy0a33358x8fng8m4024kbk-selfref",
                "1gg6gmhh6xi4j7lamhjdh33g9cjsim5kc9s4ma6aqcpzbxc3zsf6",
            ),
            (
                "q1qbc125h5j2hlnippb0dm7qg3kqqw2q-selfref",
                "1q5sf7bm3qnk40b3q0jhwn29ki85gx9mxmagfqs17pxzzipfx148",
            ),
        ] {
            let ca = format!("fixed:r:sha256:{hash}");
            assert_eq!(build("selfref", &ca, &refs, true, "/nix/store"), path);
        }
    }

    #[test]
    fn the_store_directory_is_part_of_the_path() {
        let ca = "fixed:r:sha256:1229b06m4r3dq4hc8n4vwzj8a941pjm6pns0hnwbg9r683sk551r";
        let path = build("d", ca, &[], false, "/tmp/nc/st/store");
        assert_eq!(path, "3d7zhl12x5gd2dwn4fm7c4pw4c2cas24-d");
        let ca = "fixed:sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq";
        let path = build("f.txt", ca, &[], false, "/tmp/nc/st/store");
        assert_eq!(path, "gch8g32k1ym78j1xzpc3sagcssgkir4x-f.txt");
    }

    #[test]
    fn what_cannot_refer_to_paths_is_refused_references() {
        let flat: ContentAddress = "fixed:sha1:iwjz551fyw0cxcjgf4l6c879zabd6wpm".parse().unwrap();
        let text = ContentAddress::Text(Sha256::of(b""));
        let other: StorePath = "sb1dhjrwb4mxvmncxxprdr9c1pdf3ybd-a".parse().unwrap();
        let dir = StoreDir::default();
        assert_eq!(
            build_ca_path("a", &flat, [&other], false, &dir),
            Err(CaPathError::References(flat))
        );
        for ca in [flat, text] {
            assert_eq!(
                build_ca_path("a", &ca, [], true, &dir),
                Err(CaPathError::SelfReference(ca))
            );
        }
        assert!(matches!(build_ca_path("a b", &text, [], false, &dir), Err(CaPathError::Name(_))));
    }

    #[test]
    fn what_is_no_content_address_says_why() {
        let parse = |s: &str| s.parse::<ContentAddress>();
        assert_eq!(parse("foo"), Err(ParseError::Method("foo".into())));
        assert_eq!(parse(""), Err(ParseError::Method(String::new())));
        assert!(matches!(
            parse("text:sha1:iwjz551fyw0cxcjgf4l6c879zabd6wpm"),
            Err(ParseError::Hash(nixhash::Error::WrongAlgo { .. }))
        ));
        assert!(matches!(parse("fixed:r:r:sha1:"), Err(ParseError::Hash(_))));
        assert!(matches!(parse("fixed:"), Err(ParseError::Hash(nixhash::Error::NoAlgo))));
    }
}
