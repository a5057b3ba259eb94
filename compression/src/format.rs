//! The compressions by name, by file suffix and by their first bytes.

use std::fmt;
use std::str::FromStr;

use super::Error;

/// A compression that Nix may declare for a NAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compression {
    /// Plain bytes.
    None,
    /// zstd frames.
    Zstd,
    /// `.xz` streams; what Nix uses when not told otherwise.
    Xz,
    /// bzip2 streams; what a narinfo without `Compression` means.
    Bzip2,
    /// One brotli stream.
    Brotli,
    /// gzip members.
    Gzip,
    /// LZ4 frames.
    Lz4,
}

/// How many first bytes [`Compression::sniff`] looks at.
pub const SNIFF_LEN: usize = 24;

/// How every NAR begins: its first string's length, the string, the padding.
const NAR_START: &[u8; SNIFF_LEN] = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0";

impl Compression {
    /// Every compression.
    pub const ALL: [Self; 7] =
        [Self::None, Self::Zstd, Self::Xz, Self::Bzip2, Self::Brotli, Self::Gzip, Self::Lz4];

    /// What a narinfo's `Compression` field means: absent or empty is bzip2.
    pub fn from_narinfo(field: Option<&str>) -> Result<Self, Error> {
        field.filter(|name| !name.is_empty()).map_or(Ok(Self::Bzip2), str::parse)
    }

    /// Nix's name, as in a narinfo and in `?compression=`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
        }
    }

    /// What Nix puts behind a NAR's hash in its URL, the `.nar` included.
    ///
    /// Nix has no suffix for gzip: such a NAR is called like a plain one.
    #[must_use]
    pub const fn nar_suffix(self) -> &'static str {
        match self {
            Self::None | Self::Gzip => ".nar",
            Self::Zstd => ".nar.zst",
            Self::Xz => ".nar.xz",
            Self::Bzip2 => ".nar.bz2",
            Self::Brotli => ".nar.br",
            Self::Lz4 => ".nar.lz4",
        }
    }

    /// The compression that a NAR's file name tells.
    ///
    /// `None` for a bare `.nar`, which Nix uses for plain NARs and for gzip and every other
    /// compression without a suffix of its own: [sniff](Self::sniff) those. Also `None` for any
    /// other name.
    #[must_use]
    pub fn from_file_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.nar_suffix() != ".nar" && name.ends_with(c.nar_suffix()))
    }

    /// The compression that the first bytes of an upload tell; give it [`SNIFF_LEN`] of them, or
    /// all there are.
    ///
    /// A plain NAR is recognised as [`Compression::None`]. `None` if nothing fits, which brotli
    /// never does: it has no magic.
    #[must_use]
    pub fn sniff(first: &[u8]) -> Option<Self> {
        match first {
            _ if first.starts_with(NAR_START) => Some(Self::None),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // Behind the level: pi for a block, its square root for the end of an empty stream.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..] => {
                Some(Self::Bzip2)
            }
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [0x04, 0x22, 0x4d, 0x18, ..] => Some(Self::Lz4),
            _ => None,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Reads [Nix's name](Compression::name).
impl FromStr for Compression {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|c| c.name() == name)
            .ok_or_else(|| Error::UnknownName(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn names_read_back() {
        for compression in Compression::ALL {
            assert_eq!(compression.to_string().parse::<Compression>().unwrap(), compression);
        }
        assert!(matches!("lzip".parse::<Compression>(), Err(Error::UnknownName(n)) if n == "lzip"));
    }

    #[test]
    fn a_narinfo_without_compression_means_bzip2() {
        assert_eq!(Compression::from_narinfo(None).unwrap(), Compression::Bzip2);
        assert_eq!(Compression::from_narinfo(Some("")).unwrap(), Compression::Bzip2);
        assert_eq!(Compression::from_narinfo(Some("none")).unwrap(), Compression::None);
        assert!(Compression::from_narinfo(Some("NONE")).is_err());
    }

    #[test]
    fn suffixes_read_back_but_for_the_bare_one() {
        for compression in Compression::ALL {
            let name = format!("nar/abc{}", compression.nar_suffix());
            let bare = matches!(compression, Compression::None | Compression::Gzip);
            assert_eq!(Compression::from_file_name(&name), (!bare).then_some(compression));
        }
        assert_eq!(Compression::from_file_name("nar/abc.nar.lzip"), None);
        assert_eq!(Compression::from_file_name("nar/abc.xz"), None);
    }

    #[test]
    fn what_the_tools_write_is_recognised() {
        for plain in [b"".as_slice(), b"some bytes"] {
            for compression in testing::COMPRESSED {
                let first = testing::compress(compression, plain);
                let expected = (compression != Compression::Brotli).then_some(compression);
                assert_eq!(Compression::sniff(&first), expected, "{compression}");
            }
        }
        let skippable = b"\x5a\x2a\x4d\x18\0\0\0\0";
        assert_eq!(Compression::sniff(skippable), Some(Compression::Zstd));
    }

    #[test]
    fn a_plain_nar_is_recognised() {
        let nar = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0\x01\0\0\0\0\0\0\0(";
        assert_eq!(Compression::sniff(nar), Some(Compression::None));
        assert_eq!(Compression::sniff(&nar[..SNIFF_LEN - 1]), None);
        assert_eq!(Compression::sniff(b""), None);
    }
}
