//! The bytes between file contents: functions that append NAR framing to a
//! buffer, for callers that send framing and contents apart.
//!
//! They check nothing; [`Writer`](super::Writer) does. A tree comes out as
//!
//! ```text
//! start node
//! node = directory_open (entry_open node entry_close)* directory_close
//!      | file_open <size bytes of contents> file_close
//!      | symlink
//! ```

use super::tokens as t;

/// How many zero bytes follow a string of `len` bytes: 0 to 7.
pub const fn padding(len: u64) -> usize {
    (len.wrapping_neg() % 8) as usize
}

/// The magic that every NAR starts with.
#[inline]
pub fn start(out: &mut Vec<u8>) {
    out.extend_from_slice(t::MAGIC.bytes);
}

/// Opens a directory node.
#[inline]
pub fn directory_open(out: &mut Vec<u8>) {
    out.extend_from_slice(t::OPEN_DIRECTORY.bytes);
}

/// Closes a directory node.
#[inline]
pub fn directory_close(out: &mut Vec<u8>) {
    out.extend_from_slice(t::CLOSE.bytes);
}

/// Opens an entry of a directory, up to where its node starts. Names must
/// come in ascending byte order.
#[inline]
pub fn entry_open(out: &mut Vec<u8>, name: &[u8]) {
    out.extend_from_slice(t::ENTRY_NAME.bytes);
    string(out, name);
    out.extend_from_slice(t::ENTRY_NODE.bytes);
}

/// Closes an entry, after its node.
#[inline]
pub fn entry_close(out: &mut Vec<u8>) {
    out.extend_from_slice(t::CLOSE.bytes);
}

/// Opens a regular file, up to its first byte of contents.
#[inline]
pub fn file_open(out: &mut Vec<u8>, executable: bool, size: u64) {
    let open = if executable { t::OPEN_EXECUTABLE } else { t::OPEN_PLAIN };
    out.extend_from_slice(open.bytes);
    out.extend_from_slice(&size.to_le_bytes());
}

/// Closes a regular file whose `size` bytes of contents have been sent: the
/// padding, and the end of the node.
#[inline]
pub fn file_close(out: &mut Vec<u8>, size: u64) {
    pad(out, size);
    out.extend_from_slice(t::CLOSE.bytes);
}

/// A whole symlink node.
#[inline]
pub fn symlink(out: &mut Vec<u8>, target: &[u8]) {
    out.extend_from_slice(t::OPEN_SYMLINK.bytes);
    string(out, target);
    out.extend_from_slice(t::CLOSE.bytes);
}

#[inline]
fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
    pad(out, bytes.len() as u64);
}

#[inline]
fn pad(out: &mut Vec<u8>, len: u64) {
    out.extend(std::iter::repeat_n(0, padding(len)));
}
