//! The literal strings of a NAR, spelled out in wire form at compile time.

/// Length of `parts` in wire form: each with its length before it and its
/// padding after.
const fn wire_len(parts: &[&[u8]]) -> usize {
    let mut total = 0;
    let mut i = 0;
    while i < parts.len() {
        total += 8 + parts[i].len().next_multiple_of(8);
        i += 1;
    }
    total
}

/// `parts` in wire form. `N` is their [`wire_len`].
const fn wire<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    let mut at = 0;
    let mut i = 0;
    while i < parts.len() {
        let part = parts[i];
        // No literal is as long as 256 bytes: the first byte is the length.
        out[at] = part.len() as u8;
        let mut j = 0;
        while j < part.len() {
            out[at + 8 + j] = part[j];
            j += 1;
        }
        at += 8 + part.len().next_multiple_of(8);
        i += 1;
    }
    out
}

/// A run of literal strings, with the words an error uses for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub bytes: &'static [u8],
    pub what: &'static str,
}

macro_rules! tokens {
    ($($name:ident = $what:literal: $($part:literal)+;)+) => {
        $(pub(super) const $name: Token = Token {
            bytes: &wire::<{ wire_len(&[$($part.as_bytes()),+]) }>(&[$($part.as_bytes()),+]),
            what: $what,
        };)+
    };
}

tokens! {
    MAGIC = "the magic \"nix-archive-1\"": "nix-archive-1";
    NODE = "the start of a node, \"(\" \"type\"": "(" "type";
    REGULAR = "\"regular\"": "regular";
    SYMLINK = "\"symlink\"": "symlink";
    DIRECTORY = "\"directory\"": "directory";
    EXECUTABLE = "\"executable\" \"\"": "executable" "";
    CONTENTS = "\"contents\"": "contents";
    TARGET = "\"target\"": "target";
    ENTRY = "\"entry\"": "entry";
    ENTRY_NAME = "an entry, \"entry\" \"(\" \"name\"": "entry" "(" "name";
    ENTRY_NODE = "\"node\"": "node";
    CLOSE = "\")\"": ")";

    // Longer runs, for writing only.
    OPEN_PLAIN = "a file": "(" "type" "regular" "contents";
    OPEN_EXECUTABLE = "an executable file": "(" "type" "regular" "executable" "" "contents";
    OPEN_DIRECTORY = "a directory": "(" "type" "directory";
    OPEN_SYMLINK = "a symlink": "(" "type" "symlink" "target";
}
