//! What caches keep whose owners have not decided: options of `granary serve`, and `[keep]` in its
//! configuration file.

use clap::Args;
use narbridge::retention::Defaults;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::duration;
use crate::size::parse_size;

/// The options.
#[derive(Args)]
pub struct Keep {
    /// Keep a path so long after its last use, such as 90d, in caches that do not say [default: for
    /// ever]
    #[arg(long, value_name = "TIME", value_parser = parse_span, env = "GRANARY_RETENTION")]
    retention: Option<u64>,
    /// Keep a path so long after its upload, such as 1y, in caches that do not say [default: for
    /// ever]
    #[arg(long, value_name = "TIME", value_parser = parse_span, env = "GRANARY_MAX_AGE")]
    max_age: Option<u64>,
    /// Let the paths of a cache take so much, as their NARs as zstd, in caches that do not say
    /// [default: what there is]
    #[arg(long, value_name = "SIZE", value_parser = parse_room, env = "GRANARY_MAX_SIZE")]
    max_size: Option<u64>,
}

impl Keep {
    /// What the options say, and the configuration where they say nothing.
    pub fn or(&self, config: &KeepConfig) -> Defaults {
        Defaults {
            retention: self.retention.or(config.retention),
            max_age: self.max_age.or(config.max_age),
            max_size: self.max_size.or(config.max_size),
        }
    }
}

/// `[keep]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeepConfig {
    #[serde(deserialize_with = "span")]
    retention: Option<u64>,
    #[serde(deserialize_with = "span")]
    max_age: Option<u64>,
    #[serde(deserialize_with = "room")]
    max_size: Option<u64>,
}

fn span<'de, D: Deserializer<'de>>(text: D) -> Result<Option<u64>, D::Error> {
    parse_span(&String::deserialize(text)?).map(Some).map_err(D::Error::custom)
}

fn room<'de, D: Deserializer<'de>>(text: D) -> Result<Option<u64>, D::Error> {
    parse_room(&String::deserialize(text)?).map(Some).map_err(D::Error::custom)
}

fn parse_span(text: &str) -> Result<u64, String> {
    duration::parse(text).and_then(something)
}

fn parse_room(text: &str) -> Result<u64, String> {
    parse_size(text).and_then(something)
}

fn something(value: u64) -> Result<u64, String> {
    match value {
        0 => Err("0 would keep nothing; say nothing to keep everything".to_owned()),
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_before_the_configuration() {
        let config: KeepConfig =
            toml::from_str("retention = '90d'\nmax_size = '2TiB'").expect("a configuration");
        let options = Keep { retention: Some(5), max_age: Some(6), max_size: None };
        let expected = Defaults { retention: Some(5), max_age: Some(6), max_size: Some(2 << 40) };
        assert_eq!(options.or(&config), expected);
        assert!(options.or(&KeepConfig::default()).max_size.is_none());
    }

    #[test]
    fn nothing_at_all_cannot_be_kept() {
        for bad in ["retention = '0s'", "max_age = '90'", "max_size = '0'", "max_size = 5"] {
            assert!(toml::from_str::<KeepConfig>(bad).is_err(), "{bad}");
        }
        assert!(parse_span("0d").is_err() && parse_room("0GiB").is_err());
    }
}
