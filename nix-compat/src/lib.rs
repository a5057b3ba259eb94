//! Nix's own formats, and nothing else: the alphabets, names, records and
//! archives that Nix puts on disk and on the wire.
//!
//! Everything here is pure: it turns bytes into checked values and checked
//! values into bytes. The only input and output is through the readers and
//! writers a caller hands in, and from one database that is only read. What a peer may have written wrongly comes back
//! as an error that says what and where; nothing panics on input.
//!
//! | module | format |
//! |---|---|
//! | [`nixbase32`] | Nix's base-32 alphabet and bit order |
//! | [`nixhash`] | digests and their spellings (`sha256:<nix32>`, SRI, hex) |
//! | [`store_path`] | store directories, store paths, content addresses |
//! | [`signature`] | named Ed25519 keys and signatures |
//! | [`narinfo`] | the text record a binary cache keeps for each store path |
//! | [`nar`] | the archive format: reader, writer, listing |
//! | [`derivation`] | the outputs that a `.drv` file tells |
//! | [`path_info`] | what a Nix store knows about one of its paths |
//! | [`worker`] | the protocol of the Nix daemon's socket, as its client |
//! | `database` | Nix's own database, with the feature of that name |
//! | [`nix_conf`] | `nix.conf`: read, and edited in place |
//! | [`netrc`] | the passwords that Nix sends to caches: read, and edited in place |

#[cfg(feature = "database")]
pub mod database;
pub mod derivation;
pub mod nar;
pub mod narinfo;
pub mod netrc;
pub mod nix_conf;
pub mod nixbase32;
pub mod nixhash;
pub mod path_info;
pub mod signature;
pub mod store_path;
pub mod worker;
