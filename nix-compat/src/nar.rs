//! NAR, the archive Nix makes of a file tree.
//!
//! A NAR is a sequence of strings. Each is its length as a little-endian
//! 64-bit number, its bytes, and zero bytes up to the next multiple of eight.
//! The strings follow this grammar (quoted words are literal strings):
//!
//! ```text
//! nar       = "nix-archive-1" node
//! node      = "(" "type" kind ")"
//! kind      = "regular" [ "executable" "" ] "contents" bytes
//!           | "symlink" "target" bytes
//!           | "directory" entry*
//! entry     = "entry" "(" "name" bytes "node" node ")"
//! ```
//!
//! Entries of a directory are in ascending byte order of their names, none
//! twice. There are no times, owners or modes, so one tree has exactly one
//! NAR, and a NAR's hash names the tree.
//!
//! Source: Eelco Dolstra, "The Purely Functional Software Deployment Model",
//! section 5.2.1, and the "Nix Archive" chapter of the Nix manual; checked
//! against what `nix-store --dump` writes.
//!
//! Nix's own reader is more forgiving than this grammar (it takes a regular
//! file without `contents`, for one). [`reader`] is not: an archive that is
//! not the one archive of its tree could not be reproduced from the tree.

pub mod framing;
pub mod listing;
pub mod reader;
mod rules;
mod tokens;
mod trail;
pub mod writer;

pub use framing::padding;
pub use listing::Listing;
pub use reader::{Event, Reader};
pub use rules::{Limits, Violation};
pub use writer::Writer;
