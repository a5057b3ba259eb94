//! A whole pack in memory, to be verified like any other.

use std::io::{self, IoSliceMut};

use crate::bytes::{ReadPack, Wait};

pub(super) struct PackInMemory(pub Vec<u8>);

impl ReadPack for PackInMemory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..));
        let bytes = from.and_then(|from| from.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn read_vectored_at(
        &self,
        mut offset: u64,
        buffers: &mut [IoSliceMut<'_>],
        _wait: Wait,
    ) -> io::Result<()> {
        for buffer in buffers {
            self.read_at(offset, buffer)?;
            offset += buffer.len() as u64;
        }
        Ok(())
    }
}
