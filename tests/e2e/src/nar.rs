//! NARs, good and bad: each function writes down what it is told, in the order it is told.
//!
//! A NAR is a sequence of strings, each a little-endian u64 length, the bytes, and zeros up to a
//! multiple of eight: `nix-archive-1` and then a node, which is
//! `( type regular [executable ""] contents BYTES )`, `( type symlink target TEXT )` or
//! `( type directory {entry ( name NAME node NODE )} )`.

/// One string.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

/// Strings, one after the other.
pub fn strings(all: &[&str]) -> Vec<u8> {
    all.iter().flat_map(|text| string(text.as_bytes())).collect()
}

/// The node of a file.
pub fn file(contents: &[u8], executable: bool) -> Vec<u8> {
    let mut out = strings(&["(", "type", "regular"]);
    if executable {
        out.extend(strings(&["executable", ""]));
    }
    out.extend(strings(&["contents"]));
    out.extend(string(contents));
    out.extend(strings(&[")"]));
    out
}

/// The node of a symlink.
pub fn symlink(target: &str) -> Vec<u8> {
    strings(&["(", "type", "symlink", "target", target, ")"])
}

/// The node of a directory, entries as they come.
pub fn directory<N: AsRef<[u8]>>(entries: &[(N, Vec<u8>)]) -> Vec<u8> {
    let mut out = strings(&["(", "type", "directory"]);
    for (name, node) in entries {
        out.extend(strings(&["entry", "(", "name"]));
        out.extend(string(name.as_ref()));
        out.extend(strings(&["node"]));
        out.extend(node);
        out.extend(strings(&[")"]));
    }
    out.extend(strings(&[")"]));
    out
}

/// A whole NAR.
pub fn nar(node: &[u8]) -> Vec<u8> {
    [&string(b"nix-archive-1"), node].concat()
}

/// A NAR of `depth` directories in each other.
pub fn nested(depth: usize) -> Vec<u8> {
    let open = strings(&["(", "type", "directory", "entry", "(", "name", "d", "node"]);
    let close = strings(&[")", ")"]);
    nar(&[open.repeat(depth), file(b"deep", false), close.repeat(depth)].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink as make_symlink};
    use std::process::Command;

    #[test]
    fn nix_writes_the_same_nar() {
        let dir = tempfile::tempdir().expect("a directory");
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("bin")).expect("directories");
        fs::write(top.join("bin/run"), "#!/bin/sh\n").expect("a file");
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(top.join("bin/run"), executable).expect("an executable");
        fs::write(top.join("empty"), "").expect("a file");
        make_symlink("../nowhere", top.join("link")).expect("a symlink");

        let written = nar(&directory(&[
            ("bin", directory(&[("run", file(b"#!/bin/sh\n", true))])),
            ("empty", file(b"", false)),
            ("link", symlink("../nowhere")),
        ]));
        let dump = Command::new("nix-store").arg("--dump").arg(&top).output().expect("Nix");
        assert!(dump.status.success());
        assert!(dump.stdout == written);
    }
}
