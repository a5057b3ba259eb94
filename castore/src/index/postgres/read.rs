//! Reading keys and ranges of keys.

use std::collections::HashMap;

use tokio_postgres::Row;

use super::Pairs;
use super::error::{Failure, Trouble};
use super::pool::Connection;

const MANY: &str = "SELECT key, value FROM granary_index WHERE key = ANY($1)";
const BETWEEN: &str = "SELECT key, value FROM granary_index WHERE key >= $1 AND key < $2 \
                       ORDER BY key LIMIT $3";
const FROM: &str = "SELECT key, value FROM granary_index WHERE key >= $1 ORDER BY key LIMIT $2";

/// The values of many keys, in the order asked for.
pub(super) async fn get_many(
    connection: &Connection,
    keys: &[&[u8]],
) -> Result<Vec<Option<Vec<u8>>>, Failure> {
    let rows = connection.query(MANY, &[&keys]).await?;
    let found = rows.iter().map(pair).collect::<Result<HashMap<&[u8], &[u8]>, _>>()?;
    Ok(keys.iter().map(|key| found.get(key).map(|value| value.to_vec())).collect())
}

/// Keys to read in order.
pub(super) struct Range {
    /// The first that counts.
    start: Vec<u8>,
    /// The first that counts no more, if there is one.
    end: Option<Vec<u8>>,
}

impl Range {
    /// Those that start with `prefix` and sort after `after`.
    pub(super) fn new(prefix: &[u8], after: Option<&[u8]>) -> Self {
        let start = match after {
            // Nothing lies between a key and the same with a zero.
            Some(after) if after >= prefix => [after, &[0]].concat(),
            _ => prefix.to_vec(),
        };
        Self { start, end: beyond(prefix) }
    }

    pub(super) async fn read(
        &self,
        connection: &Connection,
        limit: usize,
    ) -> Result<Pairs, Failure> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = match &self.end {
            Some(end) => connection.query(BETWEEN, &[&self.start, end, &limit]).await?,
            None => connection.query(FROM, &[&self.start, &limit]).await?,
        };
        rows.iter().map(|row| pair(row).map(|(key, value)| (key.into(), value.into()))).collect()
    }
}

/// The first key after all that start with `prefix`; none if those are the last there can be.
fn beyond(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut beyond = prefix[..=last].to_vec();
    beyond[last] += 1;
    Some(beyond)
}

/// A row's key and value.
pub(super) fn pair(row: &Row) -> Result<(&[u8], &[u8]), Failure> {
    let column = |at: usize| row.try_get(at).map_err(Trouble::Said);
    Ok((column(0)?, column(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(beyond(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(beyond(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(beyond(b"\xff\xff"), None);
        assert_eq!(beyond(b""), None);
    }
}
