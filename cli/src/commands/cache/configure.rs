//! `granary cache configure`

use clap::Args;
use granary_api::ConfigureCache;
use granary_api::cache::{MaxSize, Retention};

use super::CacheArgs;
use super::show::describe;
use crate::duration;
use crate::failure::{Context, Failure};
use crate::output::print;
use crate::remote::block_on;
use crate::size::parse_size;

/// Options of `granary cache configure`.
#[derive(Args)]
pub struct Configure {
    #[command(flatten)]
    cache: CacheArgs,
    /// Let everybody read it without a token
    #[arg(long, group = "visibility")]
    public: bool,
    /// Let only tokens with the permission pull read it
    #[arg(long, group = "visibility")]
    private: bool,
    /// Priority among substituters, smaller is asked first
    #[arg(long, value_name = "N")]
    priority: Option<u32>,
    /// Where its paths live; only a cache without paths can be moved
    #[arg(long, value_name = "DIR")]
    store_dir: Option<String>,
    /// Keep a path so long after its last use, such as 30d; `default` for as the server does
    #[arg(long, value_name = "TIME", value_parser = parse_retention)]
    retention: Option<Retention>,
    /// Keep a path so long after its upload, such as 1y; `default` for as the server does
    #[arg(long, value_name = "TIME", value_parser = parse_retention)]
    max_age: Option<Retention>,
    /// Let the paths take so much, as their NARs as zstd: bytes, or with KiB, MiB, GiB, TiB; `default` for
    /// as the server does
    #[arg(long, value_name = "SIZE", value_parser = parse_max_size)]
    max_size: Option<MaxSize>,
    /// Leave out of pushes what this public key has signed, too; may be repeated
    #[arg(long, value_name = "KEY")]
    add_upstream_key: Vec<String>,
    /// No longer leave out what this key has signed: the key or its name; may be repeated
    #[arg(long, value_name = "KEY")]
    remove_upstream_key: Vec<String>,
    /// Leave out what these keys have signed and nothing else; may be repeated
    #[arg(long, value_name = "KEY", conflicts_with_all = ["add_upstream_key", "remove_upstream_key"])]
    set_upstream_key: Vec<String>,
    /// Leave nothing out of pushes
    #[arg(long, conflicts_with_all = ["add_upstream_key", "remove_upstream_key", "set_upstream_key"])]
    no_upstream: bool,
}

fn parse_retention(text: &str) -> Result<Retention, String> {
    match text {
        "default" => Ok(Retention::Default),
        text => duration::parse(text).map(Retention::Seconds),
    }
}

fn parse_max_size(text: &str) -> Result<MaxSize, String> {
    match text {
        "default" => Ok(MaxSize::Default),
        text => parse_size(text).map(MaxSize::Bytes),
    }
}

impl Configure {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let cache = self.cache.open()?;
        let context = || format!("cannot configure {}", cache.name());
        let edits = !self.add_upstream_key.is_empty() || !self.remove_upstream_key.is_empty();
        let upstream_keys = if self.no_upstream {
            Some(Vec::new())
        } else if !self.set_upstream_key.is_empty() {
            Some(self.set_upstream_key)
        } else if edits {
            let now = block_on(cache.info())?.context(context)?.upstream_keys;
            Some(edit(now, &self.add_upstream_key, &self.remove_upstream_key)?)
        } else {
            None
        };
        let changes = ConfigureCache {
            public: (self.public || self.private).then_some(self.public),
            store_dir: self.store_dir,
            priority: self.priority,
            upstream_keys,
            retention: self.retention,
            max_age: self.max_age,
            max_size: self.max_size,
        };
        if changes == ConfigureCache::default() {
            return Err(Failure::new("nothing to change: see granary cache configure --help"));
        }
        let changed = block_on(cache.configure(&changes))?.context(context)?;
        print(&describe(&changed, &cache.url()))
    }
}

/// A key's name.
fn name(key: &str) -> &str {
    key.split_once(':').map_or(key, |(name, _)| name)
}

fn edit(mut keys: Vec<String>, add: &[String], remove: &[String]) -> Result<Vec<String>, Failure> {
    for wanted in remove {
        let before = keys.len();
        keys.retain(|key| key != wanted && name(key) != wanted);
        if keys.len() == before {
            let there = keys.join(" ");
            let text = format!("`{wanted}` is not among the upstream keys: there are {there}");
            return Err(Failure::new(text));
        }
    }
    for key in add {
        // A whole key takes the place of its mere name.
        keys.retain(|known| known != key && known != name(key));
        keys.push(key.clone());
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(keys: &[&str], add: &[&str], remove: &[&str]) -> Option<Vec<String>> {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        edit(owned(keys), &owned(add), &owned(remove)).ok()
    }

    #[test]
    fn upstream_keys_are_added_once_and_removed_by_key_or_name() {
        let keys = ["a-1:AAAA", "b-1"];
        let strings = |texts: &[&str]| Some(texts.iter().map(|&t| t.to_owned()).collect());
        assert_eq!(
            edited(&keys, &["c-1:CCCC", "a-1:AAAA"], &[]),
            strings(&["b-1", "c-1:CCCC", "a-1:AAAA"])
        );
        assert_eq!(edited(&keys, &["b-1:BBBB"], &[]), strings(&["a-1:AAAA", "b-1:BBBB"]));
        assert_eq!(edited(&keys, &[], &["a-1"]), strings(&["b-1"]));
        assert_eq!(edited(&keys, &[], &["a-1:AAAA"]), strings(&["b-1"]));
        assert_eq!(edited(&keys, &[], &["d-1"]), None);
    }

    #[test]
    fn retention_is_a_time_or_the_default() {
        assert_eq!(parse_retention("default"), Ok(Retention::Default));
        assert_eq!(parse_retention("30d"), Ok(Retention::Seconds(2_592_000)));
        assert!(parse_retention("never").is_err());
        assert_eq!(parse_max_size("default"), Ok(MaxSize::Default));
        assert_eq!(parse_max_size("5GiB"), Ok(MaxSize::Bytes(5 << 30)));
        assert!(parse_max_size("much").is_err());
    }
}
