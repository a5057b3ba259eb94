//! The tables, and how they change from version to version.

use tokio_postgres::types::{FromSql, ToSql, Type};

use super::connect::{Connector, Session};
use super::error::{Failure, Trouble};
use super::names::Names;

/// What leads from each version to the next; the first makes everything. Only ever appended to.
const STEPS: &[&str] =
    &["CREATE TABLE granary_index (key bytea PRIMARY KEY, value bytea NOT NULL)"];

const SCHEMA: &str = "SELECT current_schema()::text";
const VERSION_TABLE: &str = "SELECT to_regclass('granary_schema') IS NOT NULL";
const VERSION: &str = "SELECT max(version) FROM granary_schema";

/// Brings the tables up to date, and tells what things are called in their schema.
pub(super) async fn prepare(connector: &Connector) -> Result<Names, Failure> {
    let session = connector.session(None).await?;
    let schema: Option<String> = ask(connector, &session, SCHEMA).await?;
    let names = Names::of_schema(&schema.ok_or(Trouble::NoSchema)?);
    // Those who come at the same time come one after the other, and find it done.
    let begin = format!("BEGIN; SELECT pg_advisory_xact_lock({}, 0)", names.migration);
    run(connector, &session, &begin).await?;
    let known = i32::try_from(STEPS.len()).unwrap_or(i32::MAX);
    let found = version(connector, &session).await?;
    if found > known {
        return Err(Trouble::Newer { found, known }.into());
    }
    for (step, to) in STEPS.iter().zip(1..).skip(usize::try_from(found).unwrap_or(0)) {
        let note = match to {
            1 => "CREATE TABLE granary_schema (version int NOT NULL); \
                  INSERT INTO granary_schema VALUES (1)"
                .to_owned(),
            to => format!("UPDATE granary_schema SET version = {to}"),
        };
        run(connector, &session, &format!("{step}; {note}")).await?;
    }
    // Should its outcome not be known, the next try finds out.
    run(connector, &session, "COMMIT").await?;
    Ok(names)
}

/// The version of the tables there are; 0 when there are none.
async fn version(connector: &Connector, session: &Session) -> Result<i32, Failure> {
    if ask(connector, session, VERSION_TABLE).await? {
        let version: Option<i32> = ask(connector, session, VERSION).await?;
        return Ok(version.ok_or(Trouble::Nonsense("granary_schema has no version"))?);
    }
    Ok(0)
}

async fn run(connector: &Connector, session: &Session, statements: &str) -> Result<(), Failure> {
    connector.attended(None, session.client.batch_execute(statements)).await
}

/// The one value that a question without parameters has for an answer.
async fn ask<T>(connector: &Connector, session: &Session, question: &str) -> Result<T, Failure>
where
    T: for<'a> FromSql<'a>,
{
    let none: &[(&(dyn ToSql + Sync), Type)] = &[];
    let rows = connector.attended(None, session.client.query_typed(question, none)).await?;
    let row = rows.first().ok_or(Trouble::Nonsense("a row is missing"))?;
    Ok(row.try_get(0).map_err(Trouble::Said)?)
}
