//! A NAR becomes files.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix_compat::nar::{Event, Reader, reader};

/// Why a NAR was not unpacked. What was unpacked before that stays.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The NAR cannot be read, or is none.
    #[error(transparent)]
    Nar(#[from] reader::Error),
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Unpacks a whole NAR to `to`, which must not exist yet. Nothing may follow the NAR. Blocks.
pub fn unpack(mut reader: Reader<impl Read>, to: &Path) -> Result<(), UnpackError> {
    let mut place = to.to_owned();
    let mut depth = 0;
    while let Some(event) = reader.next()? {
        // The reader lets only single path components through as names.
        let below = |name: &[u8]| match depth {
            0 => place.clone(),
            _ => place.join(OsStr::from_bytes(name)),
        };
        let failed = |path: &Path, source| UnpackError::Write { path: path.to_owned(), source };
        match event {
            Event::EnterDirectory { name } => {
                place = below(name);
                fs::create_dir(&place).map_err(|source| failed(&place, source))?;
                depth += 1;
            }
            Event::LeaveDirectory => {
                depth -= 1;
                if depth > 0 {
                    place.pop();
                }
            }
            Event::Symlink { name, target } => {
                let path = below(name);
                let made = symlink(OsStr::from_bytes(target), &path);
                made.map_err(|source| failed(&path, source))?;
            }
            Event::File { name, executable, .. } => {
                let path = below(name);
                let mode = if executable { 0o777 } else { 0o666 };
                let mut options = OpenOptions::new();
                let file = options.write(true).create_new(true).mode(mode).open(&path);
                let mut file = file.map_err(|source| failed(&path, source))?;
                copy_contents(&mut reader, &mut file, |source| failed(&path, source))?;
            }
        }
    }
    reader.finish()?;
    Ok(())
}

fn copy_contents(
    reader: &mut Reader<impl Read>,
    out: &mut impl Write,
    failed: impl Fn(io::Error) -> UnpackError,
) -> Result<(), UnpackError> {
    loop {
        let contents = reader.fill_contents()?;
        if contents.is_empty() {
            return Ok(());
        }
        out.write_all(contents).map_err(&failed)?;
        let taken = contents.len();
        reader.consume_contents(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix_compat::nar::Writer;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_folders_and_links_come_out_as_they_went_in() {
        let mut writer = Writer::new(Vec::new());
        writer.enter_directory(b"").unwrap();
        writer.enter_directory(b"bin").unwrap();
        writer.file(b"tool", true, 3, &mut &b"run"[..]).unwrap();
        writer.leave_directory().unwrap();
        writer.symlink(b"link", b"bin/tool").unwrap();
        writer.leave_directory().unwrap();
        let nar = writer.finish().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("out");
        unpack(Reader::new(&nar[..]), &to).unwrap();
        assert_eq!(fs::read(to.join("link")).unwrap(), b"run");
        let mode = fs::metadata(to.join("bin/tool")).unwrap().permissions().mode();
        assert_eq!(mode & 0o100, 0o100);
        let again = unpack(Reader::new(&nar[..]), &to).unwrap_err();
        assert!(matches!(again, UnpackError::Write { path, .. } if path == to));
        let cut = unpack(Reader::new(&nar[..nar.len() - 8]), &dir.path().join("cut"));
        assert!(matches!(cut, Err(UnpackError::Nar(_))));
    }
}
