//! An entry of the queue: a first line that says what it is, a store path's base name to a line,
//! and `end`, without which the file was cut off.

use nix_compat::store_path::{self, StorePath};

const HEAD: &str = "granary queue 1";
const END: &str = "end";

/// Why a file is no entry.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidEntry {
    #[error("not written by granary, or by a newer one")]
    Foreign,
    #[error("an entry that was cut off")]
    Torn,
    #[error("an entry with a path that is none")]
    Path(#[from] store_path::Error),
}

pub(super) fn encode(paths: &[StorePath]) -> Vec<u8> {
    let mut text = format!("{HEAD}\n");
    for path in paths {
        text.push_str(&format!("{path}\n"));
    }
    text.push_str(END);
    text.push('\n');
    text.into_bytes()
}

pub(super) fn decode(text: &[u8]) -> Result<Vec<StorePath>, InvalidEntry> {
    if text.is_empty() {
        return Err(InvalidEntry::Torn);
    }
    let text = std::str::from_utf8(text).map_err(|_| InvalidEntry::Foreign)?;
    let mut lines = text.lines();
    match lines.next() {
        Some(HEAD) => {}
        Some(line) if HEAD.starts_with(line) => return Err(InvalidEntry::Torn),
        _ => return Err(InvalidEntry::Foreign),
    }
    let Some(lines) = text.strip_suffix("end\n").map(str::lines) else {
        return Err(InvalidEntry::Torn);
    };
    lines.skip(1).map(|line| Ok(line.parse()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "00000000000000000000000000000000-x";

    #[test]
    fn an_entry_reads_back_and_no_part_of_it_does() {
        let path: StorePath = NAME.parse().unwrap();
        let text = encode(&[path.clone(), path.clone()]);
        assert_eq!(decode(&text).unwrap(), [path.clone(), path]);
        for length in 0..text.len() {
            assert_eq!(decode(&text[..length]), Err(InvalidEntry::Torn), "{length}");
        }
        assert_eq!(decode(&encode(&[])), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_entry_is_told_from_a_torn_one() {
        assert_eq!(decode(b"hello\n"), Err(InvalidEntry::Foreign));
        assert_eq!(decode(b"\xff"), Err(InvalidEntry::Foreign));
        assert_eq!(decode(b"granary queue 2\nend\n"), Err(InvalidEntry::Foreign));
        assert!(matches!(decode(b"granary queue 1\n../../etc\nend\n"), Err(InvalidEntry::Path(_))));
    }
}
