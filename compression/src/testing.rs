//! The real tools, as the other side of every format. A missing tool fails the test.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::Compression;

/// Every compression but none.
pub const COMPRESSED: [Compression; 6] = [
    Compression::Zstd,
    Compression::Xz,
    Compression::Bzip2,
    Compression::Brotli,
    Compression::Gzip,
    Compression::Lz4,
];

/// Sizes around the edges of every format's blocks.
pub const SIZES: [usize; 14] = [
    0, 1, 255, 256, 65_535, 65_536, 65_537, 65_791, 65_792, 131_072, 131_073, 262_145, 393_216,
    3_000_001,
];

/// Bytes that do not compress, the same on every run.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(len)
    .collect()
}

/// Bytes that compress somewhat.
pub fn text(len: usize) -> Vec<u8> {
    noise(len).into_iter().map(|b| b"nix store path\n"[usize::from(b % 15)]).collect()
}

/// The command line tool of a compression.
fn tool(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "cat",
        Compression::Zstd => "zstd",
        Compression::Xz => "xz",
        Compression::Bzip2 => "bzip2",
        Compression::Brotli => "brotli",
        Compression::Gzip => "gzip",
        Compression::Lz4 => "lz4",
    }
}

/// What the tool writes for `input`; a word on standard error, or a failure, is a panic.
pub fn run(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("these tests need the command {program}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut output = Vec::new();
    let mut complaint = String::new();
    std::thread::scope(|scope| {
        // A tool that stops reading early says why by its exit status.
        scope.spawn(move || stdin.write_all(input));
        stdout.read_to_end(&mut output).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    });
    let status = child.wait().unwrap();
    assert!(status.success() && complaint.is_empty(), "{program} {args:?}: {status}: {complaint}");
    output
}

/// `plain`, as the real tool compresses it.
pub fn compress(compression: Compression, plain: &[u8]) -> Vec<u8> {
    // brotli's own default is its slowest.
    let args = if compression == Compression::Brotli { ["-c", "-5"] } else { ["-c", "-q"] };
    run(tool(compression), &args, plain)
}

/// `encoded`, as the real tool decompresses it.
pub fn decompress(compression: Compression, encoded: &[u8]) -> Vec<u8> {
    match compression {
        Compression::None => encoded.to_vec(),
        _ => run(tool(compression), &["-dc"], encoded),
    }
}
