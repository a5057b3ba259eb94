//! The protocol's primitives, the same in both directions.
//!
//! | value | on the wire |
//! |---|---|
//! | number | 64 bits, little-endian |
//! | truth | a number, 0 for no |
//! | string | its length in bytes, the bytes, zeroes up to a multiple of eight |
//! | list | how many, then each |
//!
//! A length is a peer's word: memory grows with what has come, not with what
//! was announced.

use std::io::{self, Read, Write};

/// Longest string. A store path has some 250 bytes; messages may have more.
pub const MAX_STRING: u64 = 16 * 1024 * 1024;

/// Longest list. Large stores have some millions of paths.
pub const MAX_LIST: u64 = 64 * 1024 * 1024;

/// Memory is taken in steps of at most this many bytes.
const STEP: u64 = 64 * 1024;

/// Why a value could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// A string over [`MAX_STRING`].
    #[error("a string of {0} bytes was announced, over the limit of {MAX_STRING}")]
    StringTooLong(u64),
    /// A list over [`MAX_LIST`].
    #[error("a list of {0} items was announced, over the limit of {MAX_LIST}")]
    ListTooLong(u64),
    /// The zeroes after a string are none.
    #[error("a string came whose padding is not zero")]
    Padding,
    /// Text that is not UTF-8.
    #[error("text came that is not UTF-8: {0}")]
    NotUtf8(#[from] std::string::FromUtf8Error),
}

/// Zeroes after a string of this many bytes.
const fn padding(len: u64) -> u64 {
    len.wrapping_neg() % 8
}

/// Reading values.
pub trait ReadWire: Read {
    /// A number.
    fn read_number(&mut self) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A truth.
    fn read_bool(&mut self) -> Result<bool, Error> {
        Ok(self.read_number()? != 0)
    }

    /// A string of any bytes.
    fn read_bytes(&mut self) -> Result<Vec<u8>, Error> {
        let len = self.read_number()?;
        if len > MAX_STRING {
            return Err(Error::StringTooLong(len));
        }
        let mut bytes = Vec::new();
        let mut missing = len;
        while missing > 0 {
            let start = bytes.len();
            let step = missing.min(STEP);
            bytes.resize(start + step as usize, 0);
            self.read_exact(bytes.get_mut(start..).unwrap_or_default())?;
            missing -= step;
        }
        let mut zeroes = [0; 8];
        let zeroes = zeroes.get_mut(..padding(len) as usize).unwrap_or_default();
        self.read_exact(zeroes)?;
        if zeroes.iter().any(|zero| *zero != 0) {
            return Err(Error::Padding);
        }
        Ok(bytes)
    }

    /// A string of text.
    fn read_text(&mut self) -> Result<String, Error> {
        Ok(String::from_utf8(self.read_bytes()?)?)
    }

    /// A string of text for people, whatever its encoding.
    fn read_lossy(&mut self) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.read_bytes()?).into_owned())
    }

    /// How many items the list has that follows.
    fn read_list_len(&mut self) -> Result<u64, Error> {
        let len = self.read_number()?;
        if len > MAX_LIST { Err(Error::ListTooLong(len)) } else { Ok(len) }
    }

    /// A list of texts.
    fn read_texts(&mut self) -> Result<Vec<String>, Error> {
        let len = self.read_list_len()?;
        (0..len).map(|_| self.read_text()).collect()
    }
}

impl<R: Read + ?Sized> ReadWire for R {}

/// Writing values.
pub trait WriteWire: Write {
    /// A number.
    fn write_number(&mut self, number: u64) -> Result<(), Error> {
        Ok(self.write_all(&number.to_le_bytes())?)
    }

    /// A truth.
    fn write_bool(&mut self, truth: bool) -> Result<(), Error> {
        self.write_number(truth.into())
    }

    /// A string.
    fn write_bytes(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        let bytes = bytes.as_ref();
        let len = bytes.len() as u64;
        self.write_number(len)?;
        self.write_all(bytes)?;
        Ok(self.write_all([0; 8].get(..padding(len) as usize).unwrap_or_default())?)
    }

    /// A list of strings.
    fn write_list(
        &mut self,
        items: impl ExactSizeIterator<Item: AsRef<[u8]>>,
    ) -> Result<(), Error> {
        self.write_number(items.len() as u64)?;
        for item in items {
            self.write_bytes(item)?;
        }
        Ok(())
    }
}

impl<W: Write + ?Sized> WriteWire for W {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_have_these_bytes() {
        let mut out = Vec::new();
        out.write_number(0x6e69_7863).unwrap();
        out.write_bool(true).unwrap();
        out.write_bytes("abc").unwrap();
        out.write_list(["12345678", ""].iter()).unwrap();
        let expected = b"cxin\0\0\0\0\
            \x01\0\0\0\0\0\0\0\
            \x03\0\0\0\0\0\0\0abc\0\0\0\0\0\
            \x02\0\0\0\0\0\0\0\
            \x08\0\0\0\0\0\0\x0012345678\
            \0\0\0\0\0\0\0\0";
        assert_eq!(out, expected);
    }

    #[test]
    fn a_length_alone_takes_no_memory() {
        let mut long = &u64::MAX.to_le_bytes()[..];
        assert!(matches!(long.read_bytes(), Err(Error::StringTooLong(u64::MAX))));
        let mut long = &u64::MAX.to_le_bytes()[..];
        assert!(matches!(long.read_texts(), Err(Error::ListTooLong(u64::MAX))));
        // Within the limits, the end of the input is what ends it.
        let mut long = &MAX_STRING.to_le_bytes()[..];
        assert!(matches!(long.read_bytes(), Err(Error::Io(_))));
        let mut long = &MAX_LIST.to_le_bytes()[..];
        assert!(matches!(long.read_texts(), Err(Error::Io(_))));
    }

    #[test]
    fn padding_and_text_are_checked() {
        let mut bad = &b"\x01\0\0\0\0\0\0\0a\0\0\0\0\0\0\x01"[..];
        assert!(matches!(bad.read_bytes(), Err(Error::Padding)));
        let mut bad = &b"\x01\0\0\0\0\0\0\0\xff\0\0\0\0\0\0\0"[..];
        assert!(matches!(bad.read_text(), Err(Error::NotUtf8(_))));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            number: u64, truth: bool, bytes: Vec<u8>, texts: Vec<String>, long in 0..200_000usize
        ) {
            let mut out = Vec::new();
            out.write_number(number).unwrap();
            out.write_bool(truth).unwrap();
            out.write_bytes(&bytes).unwrap();
            out.write_list(texts.iter()).unwrap();
            out.write_bytes(vec![7; long]).unwrap();
            prop_assert_eq!(out.len() % 8, 0);
            let mut input = out.as_slice();
            prop_assert_eq!(input.read_number().unwrap(), number);
            prop_assert_eq!(input.read_bool().unwrap(), truth);
            prop_assert_eq!(input.read_bytes().unwrap(), bytes);
            prop_assert_eq!(input.read_texts().unwrap(), texts);
            prop_assert_eq!(input.read_bytes().unwrap(), vec![7; long]);
            prop_assert!(input.is_empty());
        }

        #[test]
        fn a_string_cut_short_is_an_error(bytes: Vec<u8>, cut: prop::sample::Index) {
            let mut out = Vec::new();
            out.write_bytes(&bytes).unwrap();
            let mut input = out.get(..cut.index(out.len())).unwrap();
            prop_assert!(input.read_bytes().is_err());
        }
    }
}
