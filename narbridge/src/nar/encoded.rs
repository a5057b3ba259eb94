//! The NAR in a compression that stored frames cannot serve: what a client uploaded as xz keeps
//! answering as xz, and so on.

use std::sync::Arc;

use bytes::Bytes;
use castore::Store;
use castore::tree::Tree;

use super::{ByteRange, NarBody, NarError, PlainNar};
use crate::compression::{Compression, StoredEncoder};

/// A NAR wrapped in another format, mostly without compressing anything.
pub struct EncodedNar {
    plain: PlainNar,
    encoder: Option<StoredEncoder>,
    /// Bytes still to give out.
    left: u64,
}

impl EncodedNar {
    /// Length of the whole representation; `None` where only encoding tells.
    pub fn encoded_len(compression: Compression, nar_size: u64) -> Result<Option<u64>, NarError> {
        Ok(StoredEncoder::new(compression, nar_size)?.encoded_len())
    }

    /// The NAR of `tree`, which is `nar_size` bytes long, limited to `range` of the encoded bytes.
    pub fn new(
        store: Arc<Store>,
        tree: Arc<Tree>,
        compression: Compression,
        nar_size: u64,
        range: ByteRange,
    ) -> Result<Self, NarError> {
        let encoder = StoredEncoder::resume_at(compression, nar_size, range.start)?;
        let plain = PlainNar::new(store, tree, encoder.plain_pos()..nar_size)?;
        let left = range.end - range.start;
        Ok(Self { plain, encoder: Some(encoder), left })
    }
}

impl NarBody for EncodedNar {
    fn next_window(&mut self) -> Result<Option<Bytes>, NarError> {
        let mut out = Vec::new();
        while out.is_empty() && self.left > 0 {
            let Some(encoder) = &mut self.encoder else {
                break;
            };
            match self.plain.next_window()? {
                Some(plain) => encoder.encode(&plain, &mut out)?,
                None => {
                    if let Some(encoder) = self.encoder.take() {
                        encoder.finish(&mut out)?;
                    }
                }
            }
        }
        out.truncate(usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len()));
        self.left -= out.len() as u64;
        Ok((!out.is_empty()).then(|| out.into()))
    }
}
