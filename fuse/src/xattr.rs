//! Extended attributes: digests and hashes, for whoever wants to check without reading.

use std::os::unix::ffi::OsStrExt;

use fuser::{Errno, ReplyXattr};

use crate::inode::Inode;

/// BLAKE3 of a file's contents, or the castore digest of a directory; in hex.
const DIGEST: &[u8] = b"user.granary.digest";
/// The NAR hash of a store path, as `sha256:` and base 32.
const NAR_HASH: &[u8] = b"user.granary.nar-hash";
/// What the mount's paths come from; on its root.
const SOURCE: &[u8] = b"user.granary.source";

/// The value of an inode's attribute.
pub fn value(inode: &Inode, source: &str, name: &std::ffi::OsStr) -> Result<Vec<u8>, Errno> {
    let name = name.as_bytes();
    if !name.starts_with(b"user.") {
        // As of a file system without this class, so that `ls -l` and the like ask once only.
        return Err(Errno::EOPNOTSUPP);
    }
    let value = match (name, inode) {
        (SOURCE, Inode::Root) => Some(source.to_owned()),
        (DIGEST, Inode::Directory { digest, .. } | Inode::File { digest, .. }) => {
            Some(digest.to_string())
        }
        (NAR_HASH, _) if inode.is_path() => {
            inode.path().map(|path| format!("sha256:{}", path.info.nar_hash.to_nix32()))
        }
        _ => None,
    };
    value.map(String::into_bytes).ok_or(Errno::ENODATA)
}

/// The names of an inode's attributes, each with a zero behind it.
pub fn names(inode: &Inode) -> Vec<u8> {
    let mut names = Vec::new();
    let mut add = |name: &[u8]| {
        names.extend_from_slice(name);
        names.push(0);
    };
    match inode {
        Inode::Root => add(SOURCE),
        Inode::Directory { .. } | Inode::File { .. } => {
            add(DIGEST);
            if inode.is_path() {
                add(NAR_HASH);
            }
        }
        // Linux keeps `user.` attributes off symlinks.
        Inode::Symlink { .. } => {}
    }
    names
}

/// Answers with a value, or with its length if that is what is asked for.
pub fn answer(reply: ReplyXattr, value: Result<Vec<u8>, Errno>, size: u32) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() <= size as usize => reply.data(&value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(errno) => reply.error(errno),
    }
}
