//! A token, kept from being shown.

use std::fmt;
use std::str::FromStr;

use reqwest::header::HeaderValue;

/// A bearer token. It has no `Display`, and its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// A text that cannot be a token. The text is not in here: it may be one, misread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// Nothing.
    #[error("the token is empty")]
    Empty,
    /// Something that cannot go into a header or a netrc.
    #[error("this is not a token: there are spaces or control characters inside")]
    Characters,
}

impl Token {
    /// The token itself, for a header, a netrc or the configuration: nothing that is shown.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// The `Authorization` header, marked as not to be logged.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    /// Space around the text, as at the end of a file, is dropped.
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        if text.is_empty() {
            Err(InvalidToken::Empty)
        } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Err(InvalidToken::Characters)
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_shown() {
        let token: Token = " sesame\n".parse().unwrap();
        assert_eq!(token.secret(), "sesame");
        assert!(!format!("{token:?}").contains("sesame"));
        let header = token.header().unwrap();
        assert_eq!(header, "Bearer sesame");
        assert!(!format!("{header:?}").contains("sesame"));
    }

    #[test]
    fn what_cannot_travel_in_a_header_is_no_token() {
        assert_eq!(" \n".parse::<Token>(), Err(InvalidToken::Empty));
        assert_eq!("a b".parse::<Token>(), Err(InvalidToken::Characters));
        assert_eq!("a\nb: c".parse::<Token>(), Err(InvalidToken::Characters));
    }
}
