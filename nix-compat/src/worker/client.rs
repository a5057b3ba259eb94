//! A connection to a daemon: questions about store paths.
//!
//! Questions about many paths are sent some at a time before the first answer
//! is read, so that a round trip is paid per [`WINDOW`] of them. A connection
//! that has seen an error is not used again.

use std::io::{BufReader, BufWriter, Read, Write};

use super::handshake::{Greeting, finish_messages, greet};
use super::request::Request;
use super::wire::{self, ReadWire};
use super::{Error, Version};
use crate::path_info::{PathInfo, Texts};
use crate::store_path::{self, StoreDir, StorePath, StorePathHash};

/// Questions sent ahead of their answers. The longest, together, are under 20 KB:
/// they fit any socket's buffer, so writing them never waits for a daemon that
/// itself waits for its answers to be read.
const WINDOW: usize = 64;

/// A connection to a daemon, over whatever carries bytes both ways.
#[derive(Debug)]
pub struct Client<R, W: Write> {
    reader: BufReader<R>,
    writer: BufWriter<W>,
    greeting: Greeting,
    store_dir: StoreDir,
    broken: bool,
}

impl<R: Read, W: Write> Client<R, W> {
    /// Greets the daemon of the store at `store_dir`.
    pub fn connect(reader: R, writer: W, store_dir: StoreDir) -> Result<Self, Error> {
        Self::connect_as(reader, writer, store_dir, Version::MAX)
    }

    /// The same, speaking no newer version than `newest`.
    pub fn connect_as(
        reader: R,
        writer: W,
        store_dir: StoreDir,
        newest: Version,
    ) -> Result<Self, Error> {
        let (mut reader, mut writer) = (BufReader::new(reader), BufWriter::new(writer));
        let greeting = greet(&mut reader, &mut writer, newest)?;
        Ok(Client { reader, writer, greeting, store_dir, broken: false })
    }

    /// What was agreed on.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Whether the path is valid.
    pub fn is_valid_path(&mut self, path: &StorePath) -> Result<bool, Error> {
        self.ask(|c| {
            c.send(&Request::IsValidPath(path.clone()))?;
            c.answer()?;
            Ok(c.reader.read_bool()?)
        })
    }

    /// What the store knows about each path, nothing where it is not valid.
    pub fn query_path_infos(
        &mut self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<PathInfo>>, Error> {
        self.ask_each(
            paths,
            |c, path| c.send(&Request::QueryPathInfo(path.clone())),
            |c, path| c.read_path_info(path),
        )
    }

    /// Those of the paths that are valid, without asking any substituter.
    pub fn query_valid_paths(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>, Error> {
        self.ask(|c| {
            c.send(&Request::QueryValidPaths(paths.to_vec()))?;
            c.answer()?;
            c.read_paths()
        })
    }

    /// All valid paths. One whose name is no store path's in every Nix comes as
    /// the reason why not.
    pub fn query_all_valid_paths(
        &mut self,
    ) -> Result<Vec<Result<StorePath, store_path::Error>>, Error> {
        self.ask(|c| {
            c.send(&Request::QueryAllValidPaths)?;
            c.answer()?;
            let len = c.reader.read_list_len()?;
            (0..len)
                .map(|_| {
                    let text = c.reader.read_text()?;
                    Ok(StorePath::from_absolute(&text, &c.store_dir))
                })
                .collect()
        })
    }

    /// The valid path with this hash.
    pub fn query_path_from_hash_part(
        &mut self,
        hash: StorePathHash,
    ) -> Result<Option<StorePath>, Error> {
        self.ask(|c| {
            c.send(&Request::QueryPathFromHashPart(hash))?;
            c.answer()?;
            let text = c.reader.read_text()?;
            if text.is_empty() {
                return Ok(None);
            }
            Ok(Some(StorePath::from_absolute(&text, &c.store_dir)?))
        })
    }

    /// The valid paths that refer to the path.
    pub fn query_referrers(&mut self, path: &StorePath) -> Result<Vec<StorePath>, Error> {
        self.ask(|c| {
            c.send(&Request::QueryReferrers(path.clone()))?;
            c.answer()?;
            c.read_paths()
        })
    }

    /// For each path the valid derivations that have it as an output.
    pub fn query_valid_derivers(
        &mut self,
        paths: &[StorePath],
    ) -> Result<Vec<Vec<StorePath>>, Error> {
        self.ask_each(
            paths,
            |c, path| c.send(&Request::QueryValidDerivers(path.clone())),
            |c, _| {
                c.answer()?;
                c.read_paths()
            },
        )
    }

    /// For each valid derivation its outputs, as far as they are known, valid
    /// or not.
    pub fn query_derivation_outputs(
        &mut self,
        derivations: &[StorePath],
    ) -> Result<Vec<Vec<StorePath>>, Error> {
        let by_name = self.greeting.version.at_least(22);
        let request = if by_name {
            Request::QueryDerivationOutputMap
        } else {
            Request::QueryDerivationOutputs
        };
        self.ask_each(
            derivations,
            |c, path| c.send(&request(path.clone())),
            |c, _| {
                c.answer()?;
                if by_name { c.read_output_map() } else { c.read_paths() }
            },
        )
    }

    /// One question and its answer.
    fn ask<T>(&mut self, ask: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(Error::Broken);
        }
        let answer = ask(self)?;
        self.broken = false;
        Ok(answer)
    }

    /// The same question about each of the paths.
    fn ask_each<T>(
        &mut self,
        paths: &[StorePath],
        mut send: impl FnMut(&mut Self, &StorePath) -> Result<(), Error>,
        mut read: impl FnMut(&mut Self, &StorePath) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        self.ask(|c| {
            let mut answers = Vec::with_capacity(paths.len());
            for window in paths.chunks(WINDOW) {
                for path in window {
                    send(c, path)?;
                }
                c.writer.flush().map_err(wire::Error::Io)?;
                for path in window {
                    answers.push(read(c, path)?);
                }
            }
            Ok(answers)
        })
    }

    fn send(&mut self, request: &Request) -> Result<(), Error> {
        Ok(request.write(&mut self.writer, self.greeting.version, &self.store_dir)?)
    }

    /// Sends what is still here and reads up to where the answer begins.
    fn answer(&mut self) -> Result<(), Error> {
        self.writer.flush().map_err(wire::Error::Io)?;
        finish_messages(&mut self.reader, self.greeting.version)
    }

    fn read_paths(&mut self) -> Result<Vec<StorePath>, Error> {
        let len = self.reader.read_list_len()?;
        (0..len)
            .map(|_| {
                let text = self.reader.read_text()?;
                Ok(StorePath::from_absolute(&text, &self.store_dir)?)
            })
            .collect()
    }

    /// Names and paths; a path not known before the build is empty.
    fn read_output_map(&mut self) -> Result<Vec<StorePath>, Error> {
        let mut paths = Vec::new();
        for _ in 0..self.reader.read_list_len()? {
            let _name = self.reader.read_text()?;
            let path = self.reader.read_text()?;
            if !path.is_empty() {
                paths.push(StorePath::from_absolute(&path, &self.store_dir)?);
            }
        }
        Ok(paths)
    }

    fn read_path_info(&mut self, path: &StorePath) -> Result<Option<PathInfo>, Error> {
        let says_validity = self.greeting.version.at_least(17);
        match self.answer() {
            // What is not valid was an error before 1.17, told by its words.
            Err(Error::Remote(error))
                if !says_validity && error.message.contains("is not valid") =>
            {
                return Ok(None);
            }
            other => other?,
        }
        let from = &mut self.reader;
        if says_validity && !from.read_bool()? {
            return Ok(None);
        }
        // In the order of the wire.
        let texts = Texts {
            deriver: from.read_text()?,
            nar_hash: from.read_text()?,
            references: from.read_texts()?,
            registration_time: from.read_number()?,
            nar_size: from.read_number()?,
            ultimate: from.read_bool()?,
            signatures: from.read_texts()?,
            ca: from.read_text()?,
        };
        Ok(Some(texts.check(path, &self.store_dir)?))
    }
}
