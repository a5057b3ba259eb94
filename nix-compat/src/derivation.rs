//! The outputs of a derivation, as the text of its `.drv` file tells them.
//!
//! ```text
//! Derive([("out","/nix/store/…-hello","",""),("dev","/nix/store/…-hello-dev","","")],[…
//!           name   path                hash algorithm, hash
//! ```
//!
//! Strings are in quotes; `\n`, `\r` and `\t` stand for what they do in C, and a backslash before any
//! other byte for that byte. A hash is there for what is fetched: its contents are known beforehand.
//! Where only its way of being made is known (`r:sha256` and no hash), neither is the path, which is
//! then empty. What follows the outputs is not read.
//!
//! Source: the Nix manual, "Derivation ATerm Format"; files of Nix 2.8.0, 2.26.3 and 2.34.8.

use crate::store_path::{self, StoreDir, StorePath};

/// More outputs than anybody's derivation has. A text with more of them is not one.
const MAX_OUTPUTS: usize = 10_000;

/// One output of a derivation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its name, `out` mostly.
    pub name: String,
    /// Where it lies once it is built; `None` where that is known only then.
    pub path: Option<StorePath>,
    /// How the hash was made, such as `r:sha256`; empty for none.
    pub hash_algorithm: String,
    /// The hash that is known beforehand, as text; empty for none.
    pub hash: String,
}

impl Output {
    /// Whether its contents are known beforehand, as those of what is fetched.
    pub fn is_fixed(&self) -> bool {
        !self.hash.is_empty()
    }
}

/// Why a text is not a derivation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Something else is wanted at that place.
    #[error("not a derivation: {wanted} is wanted at byte {at}")]
    Wanted {
        /// What.
        wanted: &'static str,
        /// Where, from the start.
        at: usize,
    },
    /// A text that has to be UTF-8.
    #[error("the string before byte {0} of a derivation is not UTF-8")]
    NotUtf8(usize),
    /// An output's path.
    #[error("the output {name:?} of a derivation: {source}")]
    Path {
        /// The output's name.
        name: String,
        /// What is wrong with the path.
        source: store_path::Error,
    },
    /// An absurd number of outputs.
    #[error("not a derivation: it has more than {MAX_OUTPUTS} outputs")]
    TooMany,
}

/// Reads the outputs from a derivation's text. Their paths are to lie in `store_dir`.
pub fn outputs(text: &[u8], store_dir: &StoreDir) -> Result<Vec<Output>, Error> {
    let mut rest = Rest { text, at: 0 };
    if rest.skip(b"DrvWithVersion(") {
        rest.string()?;
        rest.take(b",", "`,`")?;
    } else {
        rest.take(b"Derive(", "`Derive(`")?;
    }
    rest.take(b"[", "`[`")?;
    let mut outputs = Vec::new();
    if rest.skip(b"]") {
        return Ok(outputs);
    }
    loop {
        if outputs.len() == MAX_OUTPUTS {
            return Err(Error::TooMany);
        }
        outputs.push(rest.output(store_dir)?);
        if rest.skip(b"]") {
            return Ok(outputs);
        }
        rest.take(b",", "`,` or `]`")?;
    }
}

/// What is left to read.
struct Rest<'a> {
    text: &'a [u8],
    at: usize,
}

impl Rest<'_> {
    fn left(&self) -> &[u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, token: &[u8]) -> bool {
        let found = self.left().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn take(&mut self, token: &[u8], wanted: &'static str) -> Result<(), Error> {
        if self.skip(token) { Ok(()) } else { Err(Error::Wanted { wanted, at: self.at }) }
    }

    fn next(&mut self) -> Result<u8, Error> {
        let byte = self.left().first().copied();
        let byte = byte.ok_or(Error::Wanted { wanted: "the end of a string", at: self.at })?;
        self.at += 1;
        Ok(byte)
    }

    fn string(&mut self) -> Result<String, Error> {
        self.take(b"\"", "a string")?;
        let mut out = Vec::new();
        loop {
            match self.next()? {
                b'"' => break,
                b'\\' => out.push(match self.next()? {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => other,
                }),
                byte => out.push(byte),
            }
        }
        String::from_utf8(out).map_err(|_| Error::NotUtf8(self.at))
    }

    fn output(&mut self, store_dir: &StoreDir) -> Result<Output, Error> {
        self.take(b"(", "`(`")?;
        let name = self.string()?;
        self.take(b",", "`,`")?;
        let path = self.string()?;
        self.take(b",", "`,`")?;
        let hash_algorithm = self.string()?;
        self.take(b",", "`,`")?;
        let hash = self.string()?;
        self.take(b")", "`)`")?;
        let path = match path.as_str() {
            "" => None,
            path => match StorePath::from_absolute(path, store_dir) {
                Ok(path) => Some(path),
                Err(source) => return Err(Error::Path { name, source }),
            },
        };
        Ok(Output { name, path, hash_algorithm, hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OUT: &str = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-a";

    fn read(text: &str) -> Result<Vec<Output>, Error> {
        outputs(text.as_bytes(), &StoreDir::default())
    }

    #[test]
    fn outputs_are_read_and_the_rest_is_not() {
        let built = read(&format!(
            r#"Derive([("dev","{OUT}-dev","",""),("out","{OUT}","","")],[("/x.drv",["out"])],["#
        ));
        let built = built.unwrap();
        let names: Vec<_> = built.iter().map(|output| output.name.as_str()).collect();
        assert_eq!(names, ["dev", "out"]);
        assert_eq!(built[1].path.as_ref().unwrap().to_absolute(&StoreDir::default()), OUT);
        assert!(!built[0].is_fixed());

        let fetched = read(&format!(r#"Derive([("out","{OUT}","r:sha256","ab12")],[],"#)).unwrap();
        assert!(fetched[0].is_fixed());
        assert_eq!((&fetched[0].hash_algorithm[..], &fetched[0].hash[..]), ("r:sha256", "ab12"));

        let floating = read(r#"Derive([("out","","r:sha256","")],[],"#).unwrap();
        assert!(floating[0].path.is_none() && !floating[0].is_fixed());
        assert_eq!(read("Derive([],[],").unwrap(), []);
        let dynamic = format!(r#"DrvWithVersion("xp-dyn-drv",[("out","{OUT}","","")],"#);
        assert_eq!(read(&dynamic).unwrap().len(), 1);
    }

    #[test]
    fn escapes_are_undone() {
        let odd = read(r#"Derive([("a\"\\\n\r\t\x","","","")]"#).unwrap();
        assert_eq!(odd[0].name, "a\"\\\n\r\tx");
    }

    #[test]
    fn what_is_no_derivation_is_refused_at_its_place() {
        let wanted = |wanted, at| Err(Error::Wanted { wanted, at });
        assert_eq!(read(""), wanted("`Derive(`", 0));
        assert_eq!(read("Derive("), wanted("`[`", 7));
        assert_eq!(read("Derive([(\"out"), wanted("the end of a string", 13));
        assert_eq!(read("Derive([(\"out\\"), wanted("the end of a string", 14));
        assert_eq!(read(r#"Derive([("out","","")"#), wanted("`,`", 20));
        assert_eq!(read(r#"Derive([("out","","","");"#), wanted("`,` or `]`", 24));
        let elsewhere = read(r#"Derive([("out","/gnu/store/x","","")]"#);
        assert!(matches!(elsewhere, Err(Error::Path { name, .. }) if name == "out"));
        let latin = outputs(b"Derive([(\"\xe4\",", &StoreDir::default());
        assert_eq!(latin, Err(Error::NotUtf8(12)));
        let many = format!("Derive([{}", r#"("o","","",""),"#.repeat(MAX_OUTPUTS + 1));
        assert_eq!(read(&many), Err(Error::TooMany));
    }

    proptest! {
        #[test]
        fn nothing_panics(text: Vec<u8>, start in "Derive\\(\\[(\\(\"o\",\"){0,2}") {
            let text = [start.as_bytes(), &text].concat();
            drop(outputs(&text, &StoreDir::default()));
        }
    }
}
