//! Buffers for windows of output, used again once they have been sent.
//!
//! Fresh memory would have to be zeroed, window after window, only to be overwritten.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::WINDOW;

/// Buffers that are kept when nobody uses them: 16 MiB.
const KEPT: usize = 16;

static POOL: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// Room for one window.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` bytes, which hold anything.
    pub fn take(len: usize) -> Self {
        if len > WINDOW {
            return Self { bytes: vec![0; len].into(), len };
        }
        let kept = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self { bytes: kept.unwrap_or_else(|| vec![0; WINDOW].into()), len }
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.len() == WINDOW {
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            if pool.len() < KEPT {
                pool.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

/// The buffer as bytes that can be sent; it comes back when the last of them is dropped.
pub(crate) fn freeze(buffer: Buffer) -> Bytes {
    Bytes::from_owner(buffer)
}
