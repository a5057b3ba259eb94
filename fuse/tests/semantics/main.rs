//! docs/semantics.md, sentence by sentence.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

#[path = "../support/mod.rs"]
mod support;

/// Tests, each under the sentence that it tries.
macro_rules! sentences {
    ($($sentence:literal fn $name:ident() $body:block)*) => {
        pub const SENTENCES: &[&str] = &[$($sentence),*];
        $(#[test] fn $name() $body)*
    };
}

mod attributes;
mod contents;
mod costs;
mod ends;
mod errors;
mod listings;
mod metadata;
mod top;
mod writing;

/// The numbered sentences of the document.
fn document() -> Vec<String> {
    let document = include_str!("../../../docs/semantics.md");
    let mut sentences: Vec<String> = Vec::new();
    for line in document.lines() {
        let numbered = line.split_once(". ").filter(|(n, _)| n.parse::<usize>().is_ok());
        if let Some((number, text)) = numbered {
            sentences.push(text.to_owned());
            assert_eq!(number, sentences.len().to_string(), "the number of: {line}");
        } else if let (Some(last), Some(more)) = (sentences.last_mut(), line.strip_prefix("   ")) {
            last.push(' ');
            last.push_str(more.trim_start());
        } else {
            let is_frame = line.is_empty() || line.starts_with('#') || sentences.is_empty();
            assert!(is_frame, "outside of the numbered sentences: {line}");
        }
    }
    sentences
}

#[test]
fn every_sentence_is_a_test_and_every_test_a_sentence() {
    let tests = [
        top::SENTENCES,
        metadata::SENTENCES,
        listings::SENTENCES,
        contents::SENTENCES,
        attributes::SENTENCES,
        writing::SENTENCES,
        errors::SENTENCES,
        costs::SENTENCES,
        ends::SENTENCES,
    ];
    assert_eq!(document(), tests.concat());
}
