//! Bodies that are JSON, and what is said of those that are not as they should be.

use axum::http::HeaderMap;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::routes::read_decoded;

/// The longest JSON body that is read: a hundred upstream keys take 10 KB.
const MAX_JSON: usize = 1024 * 1024;

/// Reads an object of which every field may be absent, and so may all of it.
pub(in crate::routes) async fn read<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: axum::body::Body,
) -> Result<T, ApiError> {
    parse(&read_decoded(headers, body, MAX_JSON).await?)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.is_empty() {
        return from(Map::new());
    }
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| ApiError::BadRequest(format!("the body is not JSON: {error}")))?;
    match value {
        Value::Object(fields) => from(fields),
        _ => Err(ApiError::BadRequest("the body is not a JSON object".to_owned())),
    }
}

fn from<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, ApiError> {
    // serde does not say in which field it found a value of the wrong type. By itself, it tells.
    for (name, value) in &fields {
        let alone: Map<String, Value> = [(name.clone(), value.clone())].into_iter().collect();
        if let Err(error) = T::deserialize(Value::Object(alone)) {
            return Err(ApiError::BadRequest(explain(name, &error.to_string())));
        }
    }
    T::deserialize(Value::Object(fields))
        .map_err(|error| ApiError::BadRequest(format!("the body is not as it should be: {error}")))
}

/// Says what is wrong with a field. Its value is not repeated: it may be a secret that went into the
/// wrong place.
fn explain(field: &str, error: &str) -> String {
    if error.starts_with("unknown field") {
        return error.to_owned();
    }
    let wanted = error.rsplit_once("expected ").map_or("something else", |(_, wanted)| wanted);
    format!("{field}: {wanted} is wanted here")
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_api::{ConfigureCache, CreateCache};

    fn refused<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> String {
        match parse::<T>(text.as_bytes()).unwrap_err() {
            ApiError::BadRequest(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_not_repeated() {
        let create = refused::<CreateCache>;
        assert_eq!(create(r#"{"priority": "k:SECRET"}"#), "priority: u32 is wanted here");
        assert_eq!(create(r#"{"priority": -1}"#), "priority: u32 is wanted here");
        assert_eq!(create(r#"{"public": 1}"#), "public: a boolean is wanted here");
        let unknown = create(r#"{"publik": true}"#);
        assert!(
            unknown.starts_with("unknown field `publik`, expected one of `public`"),
            "{unknown}"
        );
        assert!(create("{").starts_with("the body is not JSON: EOF"));
        assert_eq!(create("[]"), "the body is not a JSON object");
        let retention = refused::<ConfigureCache>(r#"{"retention": {"hours": 1}}"#);
        assert!(retention.contains("`default` or `seconds`"), "{retention}");
        assert!(!parse::<CreateCache>(b"").unwrap().public, "nothing is the usual");
    }
}
