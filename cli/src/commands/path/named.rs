//! A store path as people name it.

use std::path::Path;

use granary_client::local::LocalStore;
use nix_compat::store_path::{StorePath, StorePathHash};

use crate::failure::{Context, Failure};

/// The hash part of what `text` names: a hash part, a base name, a store path of whatever store, or
/// a symlink to a path of this machine's store, such as `./result`.
pub fn hash_part(text: &str) -> Result<StorePathHash, Failure> {
    if let Ok(hash) = text.parse() {
        return Ok(hash);
    }
    // Not looked up: the cache may have what this machine has not, and live elsewhere.
    let last = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let absolute = text.starts_with('/') || last == text;
    if let Ok(path) = last.parse::<StorePath>()
        && absolute
    {
        return Ok(path.hash());
    }
    let found = LocalStore::resolve_in(None, Path::new(text));
    let found = found.context(|| format!("`{text}` names no store path"))?;
    Ok(found.hash())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";

    #[test]
    fn paths_are_named_by_hash_name_path_or_link() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("result");
        std::os::unix::fs::symlink(format!("/nix/store/{HASH}-hello"), &link).unwrap();
        let named = [
            HASH.to_owned(),
            format!("{HASH}-hello"),
            format!("/nix/store/{HASH}-hello"),
            format!("/gnu/store/{HASH}-hello/"),
            format!("/nix/store/{HASH}-hello/bin/hello"),
            link.to_str().unwrap().to_owned(),
        ];
        for text in named {
            assert_eq!(hash_part(&text).unwrap().to_string(), HASH, "{text}");
        }
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for text in ["", "hello", "/nix/store", file.to_str().unwrap()] {
            let refused = hash_part(text).unwrap_err().text();
            assert!(refused.starts_with(&format!("`{text}` names no store path")), "{refused}");
        }
    }
}
