//! `upload-path`: a NAR as it is, with what it is to be.

use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use narbridge::cache::PublishedNar;
use serde::Serialize;

use super::{Call, nar_info, require_token};
use crate::admission::{admit_pusher, learn_of};
use crate::auth::Caller;
use crate::body::{hear_out, with_body};
use crate::error::ApiError;
use crate::reply;
use crate::routes::header_text;

/// What became of it. Clients show the kind and the fraction.
#[derive(Serialize)]
struct Outcome {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frac_deduplicated: Option<f64>,
}

impl Outcome {
    /// Whether bytes were there is told to those only who can read the cache, and of this cache
    /// only: what others have stored stays between them and the store.
    fn of(published: PublishedNar, reads: bool) -> Self {
        if !reads {
            return Self { kind: "Uploaded", file_size: None, frac_deduplicated: None };
        }
        let PublishedNar { plain, known, file_size } = published;
        let kind = if plain > 0 && known == plain { "Deduplicated" } else { "Uploaded" };
        let fraction = if plain == 0 { 0.0 } else { known as f64 / plain as f64 };
        Self { kind, file_size: Some(file_size), frac_deduplicated: Some(fraction) }
    }
}

pub(super) async fn answer(call: Call) -> Result<Response, ApiError> {
    let Call { app, caller, method, headers, mut body } = call;
    let admitted = match let_in(&method, &caller, &headers) {
        Ok(()) => match nar_info::read(&headers, &mut body).await {
            Ok(info) => {
                learn_of(&app, &info.cache).await;
                let admitted = admit_pusher(&app, &caller, &info.cache);
                admitted.map(|(cache, pusher)| (info, cache, pusher))
            }
            Err(refusal) => Err(refusal),
        },
        Err(refusal) => Err(refusal),
    };
    let (info, cache, pusher) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            hear_out(&headers, body).await;
            return Err(refusal);
        }
    };
    let turn = app.turns.take(&pusher.subject).await?;
    let limit = app.limits.max_nar_size;
    let outcome = with_body(body, move |reader| {
        let _turn = turn;
        let info = info.to_narinfo(cache.store_dir())?;
        let published = cache.publish_nar(&info, reader, &pusher, limit)?;
        Ok(Outcome::of(published, pusher.reads))
    })
    .await?;
    Ok(reply::json(StatusCode::OK, &outcome))
}

/// Decides what can be decided before anything of the body is read.
fn let_in(method: &Method, caller: &Caller, headers: &HeaderMap) -> Result<(), ApiError> {
    if method != Method::PUT {
        return Err(ApiError::Method("PUT"));
    }
    require_token(caller)?;
    match header_text(headers, header::CONTENT_ENCODING) {
        "" => Ok(()),
        encoding => {
            let text = format!("Content-Encoding: {encoding} is not taken for NARs");
            Err(ApiError::BadRequest(text))
        }
    }
}
