//! gzip: any number of members.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

use super::super::{Compression, Error};
use super::watched::Watched;

pub(super) struct Gzip<R> {
    decoder: MultiGzDecoder<Watched<R>>,
    failed: bool,
}

impl<R: BufRead> Gzip<R> {
    pub(super) fn new(source: R) -> Self {
        Self { decoder: MultiGzDecoder::new(Watched::new(source)), failed: false }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if output.is_empty() {
            return Ok(0);
        }
        if self.failed {
            return Err(Error::FailedBefore(Compression::Gzip).into());
        }
        self.decoder.read(output).map_err(|error| {
            self.failed = true;
            self.decoder.get_ref().explain(Compression::Gzip, error)
        })
    }
}
