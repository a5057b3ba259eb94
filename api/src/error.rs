//! Errors, as they travel and as they are told.

use std::error::Error;

use serde::{Deserialize, Serialize};

/// The body of every answer of the API that is not a success. Attic's shape, so that its clients
/// show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The HTTP status.
    pub code: u16,
    /// What kind of error it is, such as `NoSuchCache`.
    pub error: String,
    /// What failed, on what, and what to do.
    pub message: String,
}

/// An error with its causes, in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    add_causes(&mut text, error.source());
    text
}

/// Adds a cause, and what caused that, to a text. Many errors print their cause themselves; those are
/// not told twice.
pub fn add_causes(text: &mut String, mut cause: Option<&(dyn Error + 'static)>) {
    while let Some(error) = cause {
        let own = error.to_string();
        if !text.contains(&own) {
            text.push_str(": ");
            text.push_str(&own);
        }
        cause = error.source();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|layer| layer as _)
        }
    }

    #[test]
    fn every_cause_is_told_once() {
        let disk = Box::new(Layer("no space", None));
        let file = Box::new(Layer("cannot write x: no space", Some(disk)));
        let whole = Layer("cannot push", Some(file));
        assert_eq!(with_causes(&whole), "cannot push: cannot write x: no space");
    }
}
