//! Text to [`NarInfo`].

use super::{Flags, MAX_NARINFO_SIZE, NarInfo};
use crate::nixhash::{self, Encoding, Sha256};
use crate::signature::Signature;
use crate::store_path::{self, CaParseError, ContentAddress, StoreDir, StorePath};

/// Why a text is not a narinfo.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over [`MAX_NARINFO_SIZE`].
    #[error("the narinfo is {0} bytes long, over the limit of {MAX_NARINFO_SIZE}")]
    TooLarge(usize),
    /// Not UTF-8.
    #[error("the narinfo is not UTF-8 after byte {0}")]
    NotUtf8(usize),
    /// The last line has no newline, so something may be missing.
    #[error("the narinfo ends inside a line")]
    Truncated,
    /// A line that is not `Field: value`, by its number from 1.
    #[error("line {0} of the narinfo is not of the form `Field: value`")]
    Line(usize),
    /// A control character, a carriage return for one, in this line.
    #[error("line {0} of the narinfo holds a control character")]
    ControlCharacter(usize),
    /// A field that must be there is not.
    #[error("{0}: missing")]
    Missing(&'static str),
    /// A field that can be there once is there again.
    #[error("{0}: there is more than one")]
    Duplicate(&'static str),
    /// A field that says nothing.
    #[error("{0}: empty")]
    Empty(&'static str),
    /// A store path is wrong.
    #[error("{field}: {source}")]
    StorePath {
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: store_path::Error,
    },
    /// A hash is wrong.
    #[error("{field}: {source}")]
    Hash {
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: nixhash::Error,
    },
    /// Not a number of bytes.
    #[error("{field}: {value:?} is not a number of bytes")]
    Number {
        /// The field.
        field: &'static str,
        /// What is there instead.
        value: String,
    },
    /// The content address is wrong.
    #[error("CA: {0}")]
    ContentAddress(#[from] CaParseError),
}

impl<'a> NarInfo<'a> {
    /// Reads the narinfo of a path in `store_dir`. The strings of the result
    /// are parts of `input`.
    pub fn parse(
        input: &'a (impl AsRef<[u8]> + ?Sized),
        store_dir: &StoreDir,
    ) -> Result<Self, Error> {
        let input = input.as_ref();
        if input.len() > MAX_NARINFO_SIZE {
            return Err(Error::TooLarge(input.len()));
        }
        let text = str::from_utf8(input).map_err(|e| Error::NotUtf8(e.valid_up_to()))?;
        let lines = text.strip_suffix('\n').ok_or(Error::Truncated)?;
        let mut fields = Fields::default();
        for (number, line) in (1..).zip(lines.split('\n')) {
            if line.contains(|c: char| c.is_ascii_control()) {
                return Err(Error::ControlCharacter(number));
            }
            match line.split_once(": ") {
                // A colon with no space after it hides in what comes before.
                Some((key, value)) if !key.is_empty() && !key.contains(':') => {
                    fields.add(key, value)?;
                }
                _ => return Err(Error::Line(number)),
            }
        }
        fields.check(store_dir)
    }
}

/// The fields as they are in the text.
#[derive(Default)]
struct Fields<'a> {
    store_path: Option<&'a str>,
    url: Option<&'a str>,
    compression: Option<&'a str>,
    file_hash: Option<&'a str>,
    file_size: Option<&'a str>,
    nar_hash: Option<&'a str>,
    nar_size: Option<&'a str>,
    references: Option<&'a str>,
    deriver: Option<&'a str>,
    system: Option<&'a str>,
    signatures: Vec<&'a str>,
    ca: Option<&'a str>,
    unknown: Vec<(&'a str, &'a str)>,
}

impl<'a> Fields<'a> {
    fn add(&mut self, key: &'a str, value: &'a str) -> Result<(), Error> {
        let (field, slot) = match key {
            "StorePath" => ("StorePath", &mut self.store_path),
            "URL" => ("URL", &mut self.url),
            "Compression" => ("Compression", &mut self.compression),
            "FileHash" => ("FileHash", &mut self.file_hash),
            "FileSize" => ("FileSize", &mut self.file_size),
            "NarHash" => ("NarHash", &mut self.nar_hash),
            "NarSize" => ("NarSize", &mut self.nar_size),
            "References" => ("References", &mut self.references),
            "Deriver" => ("Deriver", &mut self.deriver),
            "System" => ("System", &mut self.system),
            "CA" => ("CA", &mut self.ca),
            "Sig" => {
                self.signatures.push(value);
                return Ok(());
            }
            _ => {
                self.unknown.push((key, value));
                return Ok(());
            }
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(Error::Duplicate(field)),
        }
    }

    fn check(self, store_dir: &StoreDir) -> Result<NarInfo<'a>, Error> {
        let mut flags = Flags::default();

        let store_path = self.store_path.ok_or(Error::Missing("StorePath"))?;
        let store_path = StorePath::from_absolute(store_path, store_dir)
            .map_err(|source| Error::StorePath { field: "StorePath", source })?;

        let url = self.url.ok_or(Error::Missing("URL"))?;
        if url.is_empty() {
            return Err(Error::Empty("URL"));
        }

        let compression = self.compression.filter(|c| !c.is_empty());
        flag_if(&mut flags, compression.is_none(), Flags::NO_COMPRESSION);

        let file_hash = match self.file_hash {
            Some(text) => Some(hash("FileHash", text, &mut flags, Flags::FILE_HASH_ENCODING)?),
            None => None,
        };
        let file_size = self.file_size.map(|text| number("FileSize", text)).transpose()?;

        let nar_hash = self.nar_hash.ok_or(Error::Missing("NarHash"))?;
        let nar_hash = hash("NarHash", nar_hash, &mut flags, Flags::NAR_HASH_ENCODING)?;
        let nar_size = self.nar_size.ok_or(Error::Missing("NarSize"))?;
        let nar_size = match number("NarSize", nar_size)? {
            0 => {
                return Err(Error::Number { field: "NarSize", value: "0".to_owned() });
            }
            n => n,
        };

        flag_if(&mut flags, self.references.is_none(), Flags::NO_REFERENCES);
        let references = self
            .references
            .unwrap_or_default()
            .split(' ')
            .filter(|name| !name.is_empty())
            .map(str::parse)
            .collect::<Result<Vec<StorePath>, _>>()
            .map_err(|source| Error::StorePath { field: "References", source })?;
        let sorted = references.is_sorted_by(|a, b| a < b);
        flag_if(&mut flags, !sorted, Flags::REFERENCES_ORDER);

        let unknown_deriver = self.deriver == Some("unknown-deriver");
        flag_if(&mut flags, unknown_deriver, Flags::UNKNOWN_DERIVER);
        let deriver = self
            .deriver
            .filter(|_| !unknown_deriver)
            .map(str::parse)
            .transpose()
            .map_err(|source| Error::StorePath { field: "Deriver", source })?;

        let read = self.signatures.len();
        let signatures: Vec<Signature> =
            self.signatures.into_iter().filter_map(|text| text.parse().ok()).collect();
        flag_if(&mut flags, signatures.len() < read, Flags::BAD_SIGNATURE);

        flag_if(&mut flags, self.ca == Some(""), Flags::EMPTY_CA);
        let ca = self.ca.filter(|ca| !ca.is_empty()).map(str::parse::<ContentAddress>);
        let ca = ca.transpose()?;

        flag_if(&mut flags, !self.unknown.is_empty(), Flags::UNKNOWN_FIELDS);
        Ok(NarInfo {
            store_path,
            url,
            compression,
            file_hash,
            file_size,
            nar_hash,
            nar_size,
            references,
            deriver,
            system: self.system,
            signatures,
            ca,
            unknown: self.unknown,
            flags,
        })
    }
}

fn flag_if(flags: &mut Flags, odd: bool, flag: Flags) {
    if odd {
        *flags |= flag;
    }
}

fn hash(
    field: &'static str,
    text: &str,
    flags: &mut Flags,
    encoding_flag: Flags,
) -> Result<Sha256, Error> {
    let (hash, encoding) = Sha256::parse(text).map_err(|source| Error::Hash { field, source })?;
    flag_if(flags, encoding != Encoding::Nix32, encoding_flag);
    Ok(hash)
}

/// A number in plain digits: no sign, no space.
fn number(field: &'static str, text: &str) -> Result<u64, Error> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(n) if digits => Ok(n),
        _ => Err(Error::Number { field, value: text.to_owned() }),
    }
}
