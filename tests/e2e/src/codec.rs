//! Digests, nix32, and the compression formats of NARs through the system's own tools.

use sha2::{Digest as _, Sha256};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// SHA-256 in hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&sha256(bytes))
}

/// SHA-256 as narinfos have it, after `sha256:`.
pub fn sha256_nix32(bytes: &[u8]) -> String {
    nix32(&sha256(bytes))
}

/// Nix's base 32: five bits a character, from the most significant end of a little-endian number.
pub fn nix32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
    let bit = |n: usize| bytes.get(n / 8).map_or(0, |byte| byte >> (n % 8) & 1);
    (0..(bytes.len() * 8).div_ceil(5))
        .rev()
        .map(|n| (0..5).fold(0, |digit, i| digit | usize::from(bit(n * 5 + i)) << i))
        .map(|digit| char::from(ALPHABET[digit]))
        .collect()
}

/// What Nix's nix32 says, in hex.
pub fn nix32_to_hex(text: &str) -> String {
    let mut bytes = vec![0u8; text.len() * 5 / 8];
    for (n, character) in text.bytes().rev().enumerate() {
        let digit = b"0123456789abcdfghijklmnpqrsvwxyz".iter().position(|&c| c == character);
        let digit = digit.unwrap_or_else(|| panic!("{text} is not nix32"));
        for i in (0..5).filter(|i| digit >> i & 1 == 1) {
            bytes[(n * 5 + i) / 8] |= 1 << ((n * 5 + i) % 8);
        }
    }
    data_encoding::HEXLOWER.encode(&bytes)
}

/// A compression of NARs, by the name it has in narinfos and in `?compression=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `none`
    None,
    /// `xz`
    Xz,
    /// `zstd`
    Zstd,
    /// `bzip2`
    Bzip2,
    /// `br`
    Br,
}

impl Compression {
    /// All that the tests use.
    pub const ALL: [Self; 5] = [Self::None, Self::Xz, Self::Zstd, Self::Bzip2, Self::Br];

    /// The name in narinfos.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Br => "br",
        }
    }

    /// What follows `.nar` in URLs.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
            Self::Bzip2 => ".bz2",
            Self::Br => ".br",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|compression| compression.name() == name)
            .unwrap_or_else(|| panic!("{name} is not a compression that was asked for"))
    }

    fn tool(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Xz => Some("xz"),
            Self::Zstd => Some("zstd"),
            Self::Bzip2 => Some("bzip2"),
            Self::Br => Some("brotli"),
        }
    }

    /// Compresses with the system's tool, fast rather than small.
    pub fn compress(self, bytes: &[u8]) -> Vec<u8> {
        let Some(tool) = self.tool() else {
            return bytes.to_vec();
        };
        pipe(Command::new(tool).args(["-1", "-c"]), bytes).expect("compression succeeds")
    }

    /// The Content-Length that a body of this compression is to come with. bzip2 has no form whose
    /// length is known before it is made.
    pub fn expected_length(self, body: &[u8]) -> Option<u64> {
        (self != Self::Bzip2).then_some(body.len() as u64)
    }

    /// Decompresses with the system's tool.
    ///
    /// # Errors
    /// What the tool complained of.
    pub fn decompress(self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let Some(tool) = self.tool() else {
            return Ok(bytes.to_vec());
        };
        pipe(Command::new(tool).args(["-d", "-c"]), bytes)
    }
}

/// Runs a filter over `input`.
fn pipe(command: &mut Command, input: &[u8]) -> Result<Vec<u8>, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}: run tests/setup"));
    let mut stdin = child.stdin.take().expect("piped");
    let output = std::thread::scope(|scope| {
        // A filter that stops reading says so by its exit status.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().expect("its output")
    });
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nix32_is_what_nix_prints() {
        // nix-hash --type sha256 --to-base32 of the SHA-256 of nothing.
        let digest = sha256(b"");
        assert_eq!(nix32(&digest), "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73");
        assert_eq!(nix32_to_hex(&nix32(&digest)), sha256_hex(b""));
    }

    #[test]
    fn every_tool_gives_back_what_it_was_given() {
        for compression in Compression::ALL {
            let packed = compression.compress(b"granary");
            assert_eq!(compression.decompress(&packed).as_deref(), Ok(&b"granary"[..]));
        }
    }
}
