//! What the environment says.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use super::{Error, ServerRef};
use crate::http::Token;

/// The part of the environment that matters. An empty variable is none: that is what CI makes of a
/// secret that a job may not see.
#[derive(Debug, Default)]
pub struct Environment {
    /// `GRANARY_SERVER`.
    pub server: Option<ServerRef>,
    /// `GRANARY_TOKEN`, or what is in the file `GRANARY_TOKEN_FILE`.
    pub token: Option<Token>,
}

impl Environment {
    /// Reads the environment of this process.
    pub fn of_process() -> Result<Self, Error> {
        Self::read(|name| std::env::var_os(name))
    }

    /// Reads an environment.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let server = match set("GRANARY_SERVER") {
            Some(text) => Some(text.to_string_lossy().parse()?),
            None => None,
        };
        let token = match (set("GRANARY_TOKEN"), set("GRANARY_TOKEN_FILE")) {
            (Some(text), _) => Some(parse("GRANARY_TOKEN", &text.to_string_lossy())?),
            (None, Some(path)) => Some(read_token_file(PathBuf::from(path))?),
            (None, None) => None,
        };
        Ok(Self { server, token })
    }
}

fn read_token_file(path: PathBuf) -> Result<Token, Error> {
    match fs::read_to_string(&path) {
        Ok(text) => parse(&format!("{} (from GRANARY_TOKEN_FILE)", path.display()), &text),
        Err(source) => Err(Error::Read { path, source }),
    }
}

fn parse(place: &str, text: &str) -> Result<Token, Error> {
    text.parse().map_err(|source| Error::Token { place: place.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, Error> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Environment::read(|name| find(name).map(|(_, value)| value.into()))
    }

    #[test]
    fn a_token_comes_from_its_variable_or_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "from-file\n").unwrap();
        let file = file.path().to_str().unwrap();
        let token = |variables: &[(&str, &str)]| {
            read(variables).unwrap().token.map(|token| token.secret().to_owned())
        };
        assert_eq!(token(&[]), None);
        assert_eq!(token(&[("GRANARY_TOKEN", "")]), None);
        assert_eq!(token(&[("GRANARY_TOKEN_FILE", file)]).as_deref(), Some("from-file"));
        let both = [("GRANARY_TOKEN", "direct"), ("GRANARY_TOKEN_FILE", file)];
        assert_eq!(token(&both).as_deref(), Some("direct"));
        assert!(matches!(read(&[("GRANARY_TOKEN_FILE", "/nowhere")]), Err(Error::Read { .. })));
        let error = read(&[("GRANARY_TOKEN", "se same")]).unwrap_err();
        assert!(!format!("{error:?}").contains("same"), "{error:?}");
    }
}
