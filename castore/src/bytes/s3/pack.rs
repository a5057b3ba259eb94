//! A sealed pack, read through the cache.

use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::core::Core;
use super::disk::Part;
use super::pages::Found;
use super::statistics::count;
use super::window::{PAGE, page_of};
use crate::bytes::{ReadPack, Wait, vectored};
use crate::pack::PackId;

/// A page that keeps vanishing from the cache between being found and being read is somebody else's
/// doing.
const MAX_TRIES: usize = 4;

/// A pack in the object store.
pub struct S3Pack {
    pub core: Arc<Core>,
    pub id: PackId,
}

/// Buffers that are filled piece by piece.
struct Rest<'a> {
    buffers: std::vec::IntoIter<&'a mut [u8]>,
    first: &'a mut [u8],
}

impl<'a> Rest<'a> {
    fn new(buffers: &'a mut [IoSliceMut<'_>]) -> Self {
        let buffers: Vec<&mut [u8]> = buffers.iter_mut().map(|buffer| &mut buffer[..]).collect();
        Self { buffers: buffers.into_iter(), first: &mut [] }
    }

    /// The buffers of the next `len` bytes.
    fn take(&mut self, mut len: usize) -> Vec<&'a mut [u8]> {
        let mut taken = Vec::new();
        while len > 0 {
            if self.first.is_empty() {
                match self.buffers.next() {
                    Some(next) => self.first = next,
                    None => break,
                }
            }
            let first = std::mem::take(&mut self.first);
            let (now, later) = first.split_at_mut(len.min(first.len()));
            self.first = later;
            len -= now.len();
            if !now.is_empty() {
                taken.push(now);
            }
        }
        taken
    }
}

/// The same buffers once more, for a read that uses them up.
fn again<'a>(piece: &'a mut [&mut [u8]]) -> Vec<IoSliceMut<'a>> {
    piece.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect()
}

fn copy(bytes: &Bytes, within: usize, piece: &mut [&mut [u8]]) -> io::Result<()> {
    let mut rest = bytes.get(within..).unwrap_or_default();
    for buffer in piece {
        let (now, later) =
            rest.split_at_checked(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(now);
        rest = later;
    }
    Ok(())
}

impl S3Pack {
    fn read_whole(
        &self,
        offset: u64,
        piece: &mut [&mut [u8]],
        wait: Wait,
    ) -> Option<io::Result<()>> {
        let (file, stamp) = self.core.pages.whole(self.id)?;
        match vectored::read(&file, offset, &mut again(piece), wait) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                tracing::debug!(%error, pack = %self.id, "a cached pack is not readable");
                self.core.pages.forget(self.id, Part::Whole, stamp);
                None
            }
            read => {
                count(&self.core.bucket.counters.cache_hits);
                Some(read)
            }
        }
    }

    /// Reads within one page. `wanted` is where the whole read ends, in pages.
    fn read_page(
        &self,
        offset: u64,
        piece: &mut [&mut [u8]],
        wanted: u32,
        wait: Wait,
    ) -> io::Result<()> {
        let (page, within) = (page_of(offset), offset % PAGE);
        let pages = &self.core.pages;
        let hits = &self.core.bucket.counters.cache_hits;
        for _ in 0..MAX_TRIES {
            let flight = match pages.find(self.id, page) {
                Found::File(file, stamp) => {
                    match vectored::read(&file, within, &mut again(piece), wait) {
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                            pages.forget(self.id, Part::Page(page), stamp);
                            continue;
                        }
                        read => {
                            count(hits);
                            return read;
                        }
                    }
                }
                Found::Memory(bytes) => {
                    count(hits);
                    return copy(&bytes, within as usize, piece);
                }
                _ if wait == Wait::No => return Err(io::ErrorKind::WouldBlock.into()),
                Found::Coming(flight) => flight,
                Found::Absent => match pages.fetch(self.id, page, wanted) {
                    Some(flight) => flight,
                    None => continue,
                },
            };
            return match flight.wait(page)? {
                Some(bytes) => copy(&bytes, within as usize, piece),
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        Err(io::Error::other(format!("page {page} of pack {} keeps vanishing", self.id)))
    }
}

impl ReadPack for S3Pack {
    fn len(&self) -> io::Result<u64> {
        if let Some(len) = self.core.pages.length(self.id) {
            return Ok(len);
        }
        self.core.stat(self.id)?.ok_or_else(|| {
            let what = format!("there is no pack {} in {}", self.id, self.core.bucket.location);
            io::Error::new(io::ErrorKind::NotFound, what)
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_vectored_at(offset, &mut [IoSliceMut::new(buffer)], Wait::Yes)
    }

    fn read_vectored_at(
        &self,
        offset: u64,
        buffers: &mut [IoSliceMut<'_>],
        wait: Wait,
    ) -> io::Result<()> {
        let total: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        if total == 0 {
            return Ok(());
        }
        let end = offset.checked_add(total as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        if self.core.pages.length(self.id).is_some_and(|len| end > len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = Rest::new(buffers);
        let mut all = rest.take(total);
        if let Some(read) = self.read_whole(offset, &mut all, wait) {
            return read;
        }
        let mut rest = Rest { buffers: all.into_iter(), first: &mut [] };
        let wanted = page_of(end - 1).saturating_add(1);
        let mut from = offset;
        while from < end {
            let to = end.min((from / PAGE + 1) * PAGE);
            let mut piece = rest.take((to - from) as usize);
            self.read_page(from, &mut piece, wanted, wait)?;
            from = to;
        }
        Ok(())
    }

    fn will_read(&self, range: Range<u64>) {
        self.core.pages.hint(self.id, &range);
    }

    fn distrust(&self, range: Range<u64>) {
        self.core.pages.distrust(self.id, &range);
    }
}
