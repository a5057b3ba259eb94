//! What a person is told when a command fails: what failed, on what, and what to do.

use std::error::Error;
use std::io::{self, Write};

use granary_api::error::add_causes;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure that its text tells whole.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    /// Whether it is only that nobody reads the output any more.
    pub fn is_broken_pipe(&self) -> bool {
        let mut source = self.source.as_deref().map(|error| error as &(dyn Error + 'static));
        while let Some(error) = source {
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
            {
                return true;
            }
            source = error.source();
        }
        false
    }

    /// The cause of that type, if there is one.
    pub fn cause<E: Error + 'static>(&self) -> Option<&E> {
        let mut source = self.source.as_deref().map(|error| error as &(dyn Error + 'static));
        while let Some(error) = source {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            source = error.source();
        }
        None
    }

    /// Tells the person at the terminal.
    pub fn report(&self) {
        let _ = writeln!(io::stderr(), "granary: {}", self.text());
    }

    /// What failed, and why.
    pub fn text(&self) -> String {
        let mut text = self.what.clone();
        add_causes(&mut text, self.source.as_deref().map(|error| error as _));
        text
    }
}

/// Says on what something failed.
pub trait Context<T> {
    /// Puts `what` before the error.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Error + Send + Sync + 'static> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure { what: what(), source: Some(Box::new(error)) })
    }
}
