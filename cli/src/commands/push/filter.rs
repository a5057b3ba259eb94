//! Which paths are pushed, by their names.

use std::str::FromStr;

/// A pattern for names in which `*` stands for any characters; with `!` before it, it keeps out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pattern: String,
    keeps_out: bool,
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (keeps_out, pattern) = match text.strip_prefix('!') {
            Some(pattern) => (true, pattern),
            None => (false, text),
        };
        if pattern.is_empty() {
            return Err("a pattern such as `hello-*` is wanted".to_owned());
        }
        Ok(Self { pattern: pattern.to_owned(), keeps_out })
    }
}

impl Filter {
    /// Whether a name is wanted: it fits one of the patterns, if there are any without `!`, and
    /// none with.
    pub fn wants(filters: &[Self], name: &str) -> bool {
        let (out, only): (Vec<_>, Vec<_>) = filters.iter().partition(|filter| filter.keeps_out);
        let fits = |filter: &&Self| granary_api::pattern::matches(&filter.pattern, name);
        (only.is_empty() || only.iter().any(fits)) && !out.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_in_and_out() {
        let filters = |texts: &[&str]| -> Vec<Filter> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        for (texts, name, wanted) in [
            (&[][..], "hello-1", true),
            (&["hello-*"], "hello-1", true),
            (&["hello-*"], "bash-5", false),
            (&["!*-source"], "hello-1", true),
            (&["!*-source"], "hello-source", false),
            (&["hello-*", "bash-*", "!*-source"], "bash-source", false),
            (&["hello-*", "bash-*", "!*-source"], "bash-5", true),
        ] {
            assert_eq!(Filter::wants(&filters(texts), name), wanted, "{texts:?} {name}");
        }
        assert!("!".parse::<Filter>().is_err());
    }
}
