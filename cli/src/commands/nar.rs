//! `granary nar pack|unpack|ls|cat`

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, IsTerminal, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use narbridge::compression::{Compression, decoder};
use nix_compat::nar::{Event, Reader, Writer};

use crate::commands::store::Listed;
use crate::failure::{Context, Failure};

/// `granary nar …`
#[derive(Subcommand)]
pub enum Nar {
    /// Write the NAR of a path to stdout
    Pack {
        /// File, folder or symlink to pack
        path: PathBuf,
    },
    /// Unpack a NAR, compressed or not, to a path that does not exist yet
    Unpack {
        /// Where to unpack to
        path: PathBuf,
        /// The NAR; stdin if not given
        nar: Option<PathBuf>,
    },
    /// List what a NAR, compressed or not, holds
    Ls {
        /// The NAR; `-` for stdin
        nar: PathBuf,
        /// Write Nix's listing format
        #[arg(long)]
        json: bool,
    },
    /// Write one file of a NAR, compressed or not, to stdout
    Cat {
        /// The NAR; `-` for stdin
        nar: PathBuf,
        /// Path of the file inside; empty for a NAR that is one file
        #[arg(default_value = "")]
        file: PathBuf,
    },
}

impl Nar {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            Nar::Pack { path } => pack(&path),
            Nar::Unpack { path, nar } => unpack(nar.as_deref().unwrap_or(Path::new("-")), &path),
            Nar::Ls { nar, json } => ls(&nar, json),
            Nar::Cat { nar, file } => cat(&nar, &file),
        }
    }
}

fn pack(path: &Path) -> Result<(), Failure> {
    if io::stdout().is_terminal() {
        return Err(Failure::new("a NAR is not for reading: redirect stdout to a file"));
    }
    let mut writer = Writer::new(BufWriter::with_capacity(1 << 18, io::stdout().lock()));
    pack_node(&mut writer, b"", path)?;
    let context = || "cannot write the NAR".to_owned();
    writer.finish().context(context)?.flush().context(context)
}

fn pack_node(writer: &mut Writer<impl Write>, name: &[u8], path: &Path) -> Result<(), Failure> {
    let context = || format!("cannot pack {}", path.display());
    let metadata = fs::symlink_metadata(path).context(context)?;
    if metadata.is_symlink() {
        let target = fs::read_link(path).context(context)?;
        writer.symlink(name, target.as_os_str().as_bytes()).context(context)
    } else if metadata.is_dir() {
        let mut names = Vec::new();
        for entry in fs::read_dir(path).context(context)? {
            names.push(entry.context(context)?.file_name().into_vec());
        }
        names.sort();
        writer.enter_directory(name).context(context)?;
        for name in names {
            pack_node(writer, &name, &path.join(OsStr::from_bytes(&name)))?;
        }
        writer.leave_directory().context(context)
    } else if metadata.is_file() {
        let mut file = File::open(path).context(context)?;
        let executable = metadata.permissions().mode() & 0o100 != 0;
        writer.file(name, executable, metadata.len(), &mut file).context(context)
    } else {
        let kind = "only files, folders and symlinks can be in a NAR";
        Err(Failure::new(format!("cannot pack {}: {kind}", path.display())))
    }
}

/// Opens a NAR, decompressing it by what its first bytes or its name say.
fn open(path: &Path) -> Result<Reader<Box<dyn Read + Send>>, Failure> {
    let context = || format!("cannot read {}", path.display());
    let source: Box<dyn Read + Send> = match path.as_os_str().as_bytes() {
        b"-" => Box::new(io::stdin()),
        _ => Box::new(File::open(path).context(context)?),
    };
    let mut source = BufReader::with_capacity(1 << 18, source);
    let first = io::BufRead::fill_buf(&mut source).context(context)?;
    let by_name = path.file_name().and_then(OsStr::to_str).and_then(Compression::from_file_name);
    let compression = Compression::sniff(first).or(by_name).unwrap_or(Compression::None);
    Ok(Reader::new(decoder(compression, source).context(context)?))
}

fn unpack(nar: &Path, to: &Path) -> Result<(), Failure> {
    if to.symlink_metadata().is_ok() {
        return Err(Failure::new(format!("{} exists already: name a new path", to.display())));
    }
    let reader = open(nar)?;
    granary_client::unpack::unpack(reader, to)
        .context(|| format!("cannot unpack {}", nar.display()))
}

fn ls(nar: &Path, json: bool) -> Result<(), Failure> {
    let bad = || format!("cannot list {}", nar.display());
    let mut out = BufWriter::new(io::stdout().lock());
    let write = || "cannot write the list".to_owned();
    let mut reader = open(nar)?;
    if json {
        let listing = nix_compat::nar::Listing::from_reader(reader).context(bad)?;
        let text = serde_json::to_string(&listing).context(bad)?;
        writeln!(out, "{text}").context(write)?;
        return out.flush().context(write);
    }
    loop {
        let listed = match reader.next().context(bad)? {
            None => break,
            Some(Event::LeaveDirectory) => continue,
            Some(Event::EnterDirectory { .. }) => Listed::Directory,
            Some(Event::File { executable, size, .. }) => Listed::File { executable, size },
            Some(Event::Symlink { target, .. }) => Listed::Symlink { target: target.to_vec() },
        };
        listed.write(&mut out, reader.path()).context(write)?;
    }
    reader.finish().context(bad)?;
    out.flush().context(write)
}

fn cat(nar: &Path, wanted: &Path) -> Result<(), Failure> {
    let bad = || format!("cannot read {}", nar.display());
    let wanted = wanted.as_os_str().as_bytes();
    let wanted = wanted.strip_prefix(b"/").unwrap_or(wanted);
    let mut reader = open(nar)?;
    loop {
        let is_file = match reader.next().context(bad)? {
            None => break,
            Some(event) => matches!(event, Event::File { .. }),
        };
        if is_file && reader.path() == wanted {
            let mut out = io::stdout().lock();
            let copying = || format!("cannot copy a file out of {}", nar.display());
            return io::copy(&mut reader.contents(), &mut out).map(drop).context(copying);
        }
    }
    let wanted = wanted.escape_ascii();
    Err(Failure::new(format!("{} has no file `{wanted}`: see granary nar ls", nar.display())))
}
