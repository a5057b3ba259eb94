//! The outputs of a derivation.
//!
//! A `.drv` begins with `Derive([("name","path","method","hash"),…],`, and in versions to come with
//! `DrvWithVersion("…",[…],`. Strings are quoted, with `\n`, `\r`, `\t`, `\"` and `\\`. A path is
//! empty where it is known only after the build.
//!
//! Source: the Nix manual, "Store derivation", "ATerm format".

use nix_compat::store_path::{StoreDir, StorePath};

/// Names of outputs, and their paths as far as they are known.
pub fn outputs(
    text: &[u8],
    store_dir: &StoreDir,
) -> Result<Vec<(String, Option<StorePath>)>, &'static str> {
    let mut rest = Text(text);
    if rest.skip(b"DrvWithVersion(") {
        rest.string()?;
        rest.expect(b",[")?;
    } else {
        rest.expect(b"Derive([")?;
    }
    let mut outputs = Vec::new();
    while !rest.skip(b"]") {
        if !outputs.is_empty() {
            rest.expect(b",")?;
        }
        rest.expect(b"(")?;
        let name = rest.string()?;
        rest.expect(b",")?;
        let path = match rest.string()?.as_str() {
            "" => None,
            path => Some(
                StorePath::from_absolute(path, store_dir)
                    .map_err(|_| "an output is no store path")?,
            ),
        };
        // The method and the hash of a fixed output.
        for _ in 0..2 {
            rest.expect(b",")?;
            rest.string()?;
        }
        rest.expect(b")")?;
        outputs.push((name, path));
    }
    Ok(outputs)
}

struct Text<'a>(&'a [u8]);

impl Text<'_> {
    fn skip(&mut self, what: &[u8]) -> bool {
        match self.0.strip_prefix(what) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, what: &[u8]) -> Result<(), &'static str> {
        if self.skip(what) { Ok(()) } else { Err("it is no derivation") }
    }

    fn string(&mut self) -> Result<String, &'static str> {
        self.expect(b"\"")?;
        let (mut bytes, mut rest) = (Vec::new(), self.0.iter());
        loop {
            match rest.next() {
                Some(b'"') => break,
                Some(b'\\') => match rest.next() {
                    Some(b'n') => bytes.push(b'\n'),
                    Some(b'r') => bytes.push(b'\r'),
                    Some(b't') => bytes.push(b'\t'),
                    Some(other) => bytes.push(*other),
                    None => return Err("it is cut off"),
                },
                Some(other) => bytes.push(*other),
                None => return Err("it is cut off"),
            }
        }
        self.0 = rest.as_slice();
        String::from_utf8(bytes).map_err(|_| "an output's name is not text")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OUT: &str = "/nix/store/3dvgkdw6dhw4vh0ya73g64bh4mwxk56c-a";

    fn read(text: &str) -> Result<Vec<(String, Option<StorePath>)>, &'static str> {
        outputs(text.as_bytes(), &StoreDir::default())
    }

    #[test]
    fn outputs_have_names_and_perhaps_paths() {
        let path = StorePath::from_absolute(OUT, &StoreDir::default()).unwrap();
        let rest = r#",[("/nix/store/x.drv",["out"])],[],"x86_64-linux","/bin/sh",[],[])"#;
        let one = format!(r#"Derive([("out","{OUT}","","")]{rest}"#);
        assert_eq!(read(&one).unwrap(), [("out".to_owned(), Some(path.clone()))]);
        let two = format!(
            r#"DrvWithVersion("xp-dyn-drv",[("d\"ev","","r:sha256",""),("out","{OUT}","","")]{rest}"#
        );
        let expected = [("d\"ev".to_owned(), None), ("out".to_owned(), Some(path))];
        assert_eq!(read(&two).unwrap(), expected);
        assert_eq!(read("Derive([],").unwrap(), []);
    }

    #[test]
    fn what_is_no_derivation_is_said() {
        assert_eq!(read("#!/bin/sh"), Err("it is no derivation"));
        assert_eq!(read(r#"Derive([("out"#), Err("it is cut off"));
        assert_eq!(read(r#"Derive([("out","x","","")]"#), Err("an output is no store path"));
        assert_eq!(read(r#"Derive([("a","","","")("b","","","")]"#), Err("it is no derivation"));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in r#"(Derive\(\[)?[(),\[\]"\\a]{0,40}"#) {
            let _ = read(&text);
        }
    }
}
