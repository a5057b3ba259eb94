//! What a daemon answers.
//!
//! | answer | on the wire |
//! |---|---|
//! | path info | (1.17: 1, or 0 and no more), deriver or nothing, NAR hash in hex, references, time of registration, NAR size, ultimate, signatures, content address or nothing |
//! | missing | to build, to substitute, unknown: paths; bytes to download, bytes of NAR |
//! | result | target, status, message, (1.29: times built, not deterministic, start, stop), (1.37: CPU time of user and system, 0 for none), (1.28: realisations) |
//!
//! An answer has no end mark: both sides know what belongs to it.

use std::io::Write;
use std::sync::Arc;

use data_encoding::HEXLOWER;

use super::Version;
use super::message::{LAST, write_error};
use super::request::Target;
use super::wire::{Error, WriteWire};
use crate::path_info::PathInfo;
use crate::store_path::{StoreDir, StorePath};

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To who only told something.
    Nothing,
    /// It is done.
    Done,
    /// Yes or no.
    Truth(bool),
    /// A path, or none.
    Path(Option<StorePath>),
    /// Paths.
    Paths(Arc<Vec<StorePath>>),
    /// Texts.
    Texts(Vec<String>),
    /// An empty list, of whatever.
    None,
    /// What is known of a path.
    Info(Arc<PathInfo>),
    /// That the path is not valid.
    NoInfo(StorePath),
    /// A derivation's outputs by name, and where they are if that is known.
    Outputs(Vec<(String, Option<StorePath>)>),
    /// That nothing is to be built or substituted; these cannot be had.
    Missing(Vec<StorePath>),
    /// For each target why it is not valid; nothing where it is.
    Results(Vec<(Target, Option<String>)>),
}

/// A result's status: it was valid before.
const ALREADY_VALID: u64 = 2;
/// A result's status: no other fits.
const MISC_FAILURE: u64 = 9;

impl Answer {
    /// Writes it, and the end of the messages before it.
    pub fn write(
        &self,
        to: &mut impl Write,
        version: Version,
        store_dir: &StoreDir,
    ) -> Result<(), Error> {
        let absolute = |path: &StorePath| path.to_absolute(store_dir);
        let optional = |path: Option<&StorePath>| path.map(absolute).unwrap_or_default();
        if let Answer::NoInfo(path) = self
            && !version.at_least(17)
        {
            // How a client of that age tells this from an error.
            return write_error(to, version, &not_valid(path, store_dir));
        }
        to.write_number(LAST)?;
        match self {
            Answer::Nothing => Ok(()),
            Answer::Done => to.write_number(1),
            Answer::Truth(truth) => to.write_bool(*truth),
            Answer::Path(path) => to.write_bytes(optional(path.as_ref())),
            Answer::Paths(paths) => to.write_list(paths.iter().map(absolute)),
            Answer::Texts(texts) => to.write_list(texts.iter()),
            Answer::None => to.write_number(0),
            Answer::NoInfo(_) => to.write_bool(false),
            Answer::Info(info) => {
                if version.at_least(17) {
                    to.write_bool(true)?;
                }
                to.write_bytes(optional(info.deriver.as_ref()))?;
                to.write_bytes(HEXLOWER.encode(info.nar_hash.as_bytes()))?;
                to.write_list(info.references.iter().map(absolute))?;
                to.write_number(info.registration_time)?;
                to.write_number(info.nar_size)?;
                to.write_bool(info.ultimate)?;
                let good = info.signatures.iter().map(ToString::to_string);
                let signatures: Vec<_> = good.chain(info.odd_signatures.iter().cloned()).collect();
                to.write_list(signatures.iter())?;
                to.write_bytes(info.ca.as_ref().map(ToString::to_string).unwrap_or_default())
            }
            Answer::Outputs(outputs) => {
                to.write_number(outputs.len() as u64)?;
                outputs.iter().try_for_each(|(name, path)| {
                    to.write_bytes(name)?;
                    to.write_bytes(optional(path.as_ref()))
                })
            }
            Answer::Missing(unknown) => {
                to.write_number(0)?;
                to.write_number(0)?;
                to.write_list(unknown.iter().map(absolute))?;
                to.write_number(0)?;
                to.write_number(0)
            }
            Answer::Results(results) => {
                to.write_number(results.len() as u64)?;
                results.iter().try_for_each(|(target, why_not)| {
                    to.write_bytes(target.to_wire(store_dir))?;
                    to.write_number(if why_not.is_some() { MISC_FAILURE } else { ALREADY_VALID })?;
                    to.write_bytes(why_not.as_deref().unwrap_or_default())?;
                    if version.at_least(29) {
                        (0..4).try_for_each(|_| to.write_number(0))?;
                    }
                    if version.at_least(37) {
                        (0..2).try_for_each(|_| to.write_number(0))?;
                    }
                    if version.at_least(28) { to.write_number(0) } else { Ok(()) }
                })
            }
        }
    }
}

/// As Nix says it; clients up to 1.16 look for these words.
pub fn not_valid(path: &StorePath, store_dir: &StoreDir) -> String {
    format!("path '{}' is not valid", path.to_absolute(store_dir))
}
