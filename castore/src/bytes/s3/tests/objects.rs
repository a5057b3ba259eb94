//! What becomes of packs and notes in the bucket.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::ByteStream;
use granary_test_services::Fault;

use super::super::client::connect;
use super::super::upload::PART;
use super::*;
use crate::bytes::conformance::{Pair, holds};

#[test]
fn s3_packs_conform() {
    let place = Place::new();
    let open = |name| Box::new(place.open(name, LARGE_CACHE));
    holds(&Pair { one: open("one"), other: open("other") });
}

#[test]
fn s3_packs_conform_below_a_prefix_with_a_small_cache() {
    let place = Place::new();
    let location = place.server.bucket("packs").replace("packs?", "packs/a/b?");
    let open = |name| Box::new(place.open_at(name, &location, 0));
    holds(&Pair { one: open("one"), other: open("other") });
    assert!(place.server.dir().join("packs/a/b/packs").is_dir());
}

#[test]
fn a_large_pack_goes_in_parts() {
    let place = Place::new();
    let backend = place.open("one", LARGE_CACHE);
    let contents = bytes(2 * PART as usize + 5 * MIB, 1);
    let id = PackId::random().unwrap();
    let pack = backend.create(id).unwrap();
    pack.write_at(0, &contents).unwrap();
    place.proxy.next(Fault::LostAnswer, 1);
    pack.seal().unwrap();
    assert!(place.object(id) == contents);
    let asked = backend.statistics();
    assert!((3..=4).contains(&asked.part_puts) && asked.puts == 0, "{asked:?}");
    assert_eq!(fs::read_dir(place.dir.path().join("one/spool")).unwrap().count(), 0);
    read_all(&*pack, &contents);
    assert_eq!(backend.statistics().range_gets, 0, "it is in the cache as it was");
}

#[test]
fn parts_of_a_seal_that_failed_are_aborted_and_sealing_goes_on_later() {
    let place = Place::new();
    let backend = place.open("one", LARGE_CACHE);
    let contents = bytes(PART as usize + MIB, 1);
    let id = PackId::random().unwrap();
    let pack = backend.create(id).unwrap();
    pack.write_at(0, &contents).unwrap();
    place.proxy.set(Fault::FlipPut, 1.0);
    assert_eq!(pack.seal().unwrap_err().kind(), ErrorKind::NetworkDown);
    assert!(place.proxy.struck(Fault::FlipPut) > 2, "it was tried again");
    let left = fs::read_dir(place.server.dir()).unwrap();
    let left = left.filter(|file| {
        file.as_ref().unwrap().file_name().to_string_lossy().starts_with(".upload-")
    });
    assert_eq!(left.count(), 0);
    assert_eq!(backend.stat(id).unwrap(), None);
    assert!(read(&*pack, 5, &[100], Wait::Yes).unwrap() == contents[5..105], "still readable");
    place.proxy.set(Fault::FlipPut, 0.0);
    pack.seal().unwrap();
    assert!(place.object(id) == contents);
}

#[test]
fn a_flipped_byte_of_an_upload_is_refused_and_sent_again() {
    let place = Place::new();
    let backend = place.open("one", LARGE_CACHE);
    let contents = bytes(3 * MIB, 1);
    let id = PackId::random().unwrap();
    place.proxy.next(Fault::FlipPut, 2);
    backend.put(id, contents.clone()).unwrap();
    assert_eq!(place.proxy.struck(Fault::FlipPut), 2);
    assert!(place.object(id) == contents);
    assert_eq!(backend.statistics().retries, 2);
}

/// Notes what the header says of each request's body.
#[derive(Debug)]
struct Signed(Arc<Mutex<Vec<String>>>);

impl Intercept for Signed {
    fn name(&self) -> &'static str {
        "signed"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let signed = context.request().headers().get("x-amz-content-sha256");
        self.0.lock().unwrap().push(signed.unwrap_or("nothing").to_owned());
        Ok(())
    }
}

#[test]
fn bodies_are_signed_over_tls_as_well() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let signed = Arc::new(Mutex::new(Vec::new()));
    runtime.block_on(async {
        let location = "s3://packs?endpoint=https://127.0.0.1:1&region=x".parse().unwrap();
        let credentials = Credentials::new(KEY, SECRET, None, None, "test");
        let client = connect(&location, Some(credentials)).await.s3;
        let config = client.config().to_builder().interceptor(Signed(signed.clone())).build();
        let client = Client::from_conf(config);
        let body = || ByteStream::from(bytes::Bytes::from_static(b"abc"));
        let _ = client.put_object().bucket("packs").key("a").body(body()).send().await;
        let part = client.upload_part().bucket("packs").key("a").upload_id("u").part_number(1);
        let _ = part.body(body()).send().await;
    });
    let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(*signed.lock().unwrap(), [of_abc, of_abc]);
}

#[test]
fn a_put_whose_answer_got_lost_is_done() {
    let place = Place::new();
    let backend = place.open("one", LARGE_CACHE);
    let id = PackId::random().unwrap();
    place.proxy.next(Fault::LostAnswer, 1);
    backend.put(id, vec![7; 1000]).unwrap();
    assert_eq!(place.object(id), [7; 1000]);
}

#[test]
fn an_object_cut_short_is_replaced() {
    let place = Place::new();
    let backend = place.open("one", LARGE_CACHE);
    let id = PackId::random().unwrap();
    backend.put(id, vec![7; 10]).unwrap();
    backend.put(id, vec![7; 1000]).unwrap();
    assert_eq!(place.object(id), [7; 1000]);
}

#[test]
fn a_server_without_conditional_puts_is_asked_without() {
    let place = Place::new();
    let refused = "<Error><Code>NotImplemented</Code><Message>no</Message></Error>";
    let endpoint = super::canned::serve(move |head| {
        let conditional = head.to_ascii_lowercase().contains("if-none-match");
        if conditional {
            ("501 Not Implemented", refused.to_owned())
        } else {
            ("200 OK", String::new())
        }
    });
    let backend = place.open_at("one", &format!("s3://b?endpoint={endpoint}&region=x"), 0);
    backend.put(PackId::random().unwrap(), vec![1; 10]).unwrap();
    backend.put(PackId::random().unwrap(), vec![1; 10]).unwrap();
    assert_eq!(backend.statistics().puts, 3, "once refused, never asked for again");
}

#[test]
fn only_old_uploads_of_ours_are_tidied_away() {
    let place = Place::new();
    let deleted = Arc::new(Mutex::new(Vec::new()));
    let seen = deleted.clone();
    let endpoint = super::canned::serve(move |head| {
        if head.starts_with("DELETE") {
            seen.lock().unwrap().push(head.lines().next().unwrap().to_owned());
            return ("204 No Content", String::new());
        }
        let upload = |key: &str, id: &str, at: &str| {
            format!(
                "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{at}</Initiated>\
                 </Upload>"
            )
        };
        let (old, new) = ("2020-01-01T00:00:00.000Z", "2999-01-01T00:00:00.000Z");
        let uploads = [
            upload("p/packs/a.pack", "old", old),
            upload("p/packs/b.pack", "new", new),
            upload("q/packs/c.pack", "foreign", old),
        ];
        let list = "ListMultipartUploadsResult";
        let uploads = uploads.concat();
        ("200 OK", format!("<{list}><IsTruncated>false</IsTruncated>{uploads}</{list}>"))
    });
    let backend = place.open_at("one", &format!("s3://b/p?endpoint={endpoint}&region=x"), 0);
    assert_eq!(backend.tidy(Duration::from_secs(3600)).unwrap(), 1);
    let deleted = deleted.lock().unwrap();
    assert!(deleted.len() == 1 && deleted[0].contains("uploadId=old"), "{deleted:?}");
}

#[test]
fn every_page_of_a_long_list_is_read_and_other_objects_are_ignored() {
    let place = Place::new();
    let backend = place.open("one", LARGE_CACHE);
    let dir = place.server.dir().join("packs/packs");
    fs::create_dir_all(&dir).unwrap();
    for number in 0..1100u128 {
        let id = PackId::from_bytes(number.to_be_bytes());
        fs::write(dir.join(format!("{id}.pack")), vec![0; number as usize % 7]).unwrap();
    }
    for other in ["readme.txt", "0123.pack", "00000000000000000000000000000001.open"] {
        fs::write(dir.join(other), "").unwrap();
    }
    let listed = backend.list().unwrap();
    assert_eq!(listed.len(), 1100);
    assert!(listed.iter().zip(0..).all(|(pack, number)| {
        pack.sealed
            && pack.len == Some(number % 7)
            && pack.id.as_bytes()[14..] == (number as u16).to_be_bytes()
    }));
    assert!(backend.statistics().lists >= 2);
}

#[test]
fn what_lay_in_the_spool_is_gone_after_a_restart() {
    let place = Place::new();
    let id = PackId::random().unwrap();
    place.open("one", 0).create(id).unwrap().write_at(0, b"not durable").unwrap();
    let backend = place.open("one", 0);
    assert!(backend.open(id, false).is_err() && backend.reopen(id, 11).is_err());
    assert!(backend.list().unwrap().is_empty());
}

#[test]
fn a_presigned_url_needs_no_credentials_and_names_the_public_endpoint() {
    let place = Place::new();
    let (id, contents) = place.pack(1000);
    let location = place.server.bucket("packs");
    let public = format!("{location}&public_endpoint={}", place.proxy.endpoint());
    let backend = place.open_at("one", &public, 0);
    let url = backend.presigned_get(&S3Packs::pack_name(id), Duration::from_secs(60)).unwrap();
    let path = url.strip_prefix(&place.proxy.endpoint()).unwrap();
    assert!(!url.contains(SECRET));
    let address = place.proxy.address();
    let mut connection = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(&contents));
}
