use super::*;
use proptest::prelude::*;

const URL: &str = "https://cache.example.org/team";

fn conf(text: &str) -> NixConf {
    NixConf::new(text)
}

fn text(conf: &NixConf) -> &str {
    str::from_utf8(conf.as_bytes()).unwrap()
}

#[test]
fn lines_are_told_apart() {
    let conf = conf(
        "# comment\n\ninclude a.conf\n!include b # maybe\nsandbox = true\n\
         extra-substituters = a b#c\nempty =\nfoo=bar\nfoo bar\n",
    );
    let lines: Vec<_> = conf.lines().collect();
    let setting = |name: &'static str, words: &[&'static str]| Line::Setting {
        name: name.as_bytes(),
        words: words.iter().map(|w| w.as_bytes()).collect(),
    };
    assert_eq!(
        lines,
        [
            Line::Blank,
            Line::Blank,
            Line::Include { path: b"a.conf", optional: false },
            Line::Include { path: b"b", optional: true },
            setting("sandbox", &["true"]),
            setting("extra-substituters", &["a", "b"]),
            setting("empty", &[]),
            Line::Malformed,
            Line::Malformed,
        ]
    );
}

#[test]
fn a_word_goes_into_the_line_that_counts() {
    for (before, after) in [
        ("", "extra-substituters = W\n"),
        ("sandbox = true\n", "sandbox = true\nextra-substituters = W\n"),
        ("sandbox = true", "sandbox = true\nextra-substituters = W"),
        ("extra-substituters = a\nx = y\n", "extra-substituters = a W\nx = y\n"),
        ("extra-substituters = a  # why\r\n", "extra-substituters = a W  # why\r\n"),
        ("extra-substituters = a#why", "extra-substituters = a W#why"),
        ("extra-binary-caches = a\n", "extra-binary-caches = a W\n"),
        // A plain line after it would undo it.
        (
            "extra-substituters = a\nsubstituters = b\n",
            "extra-substituters = a\nsubstituters = b\nextra-substituters = W\n",
        ),
        (
            "extra-substituters = a W\nsubstituters = b\n",
            "extra-substituters = a W\nsubstituters = b\nextra-substituters = W\n",
        ),
        ("extra-substituters =\n", "extra-substituters =\nextra-substituters = W\n"),
    ] {
        let (before, after) = (before.replace('W', URL), after.replace('W', URL));
        let mut edited = conf(&before);
        assert_eq!(edited.add_word("extra-substituters", URL), Ok(true));
        assert_eq!(text(&edited), after);
        assert_eq!(edited.add_word("extra-substituters", URL), Ok(false), "{after:?}");
        assert_eq!(text(&edited), after);
        assert!(edited.remove_word("extra-substituters", URL));
        assert_eq!(text(&edited), before);
        assert!(!edited.remove_word("extra-substituters", URL));
    }
}

#[test]
fn a_word_in_the_plain_setting_need_not_be_added() {
    let there = format!("substituters = a {URL}\n");
    let mut edited = conf(&there);
    assert_eq!(edited.add_word("extra-substituters", URL), Ok(false));
    assert!(!edited.remove_word("extra-substituters", URL));
    assert_eq!(text(&edited), there);
    assert_eq!(edited.add_word("substituters", "b"), Ok(true));
    assert_eq!(text(&edited), format!("substituters = a {URL} b\n"));
}

#[test]
fn every_occurrence_in_force_is_removed() {
    let mut edited = conf("extra-substituters = w a w\nx = w\nextra-substituters = w w\n");
    assert!(edited.remove_word("extra-substituters", "w"));
    assert_eq!(text(&edited), "extra-substituters = a\nx = w\n");
    let mut edited = conf("x = w\nextra-substituters = w\nextra-substituters = w");
    assert!(edited.remove_word("extra-substituters", "w"));
    assert_eq!(text(&edited), "x = w\n");
}

#[test]
fn one_value_is_set_where_there_is_none() {
    let mut edited = conf("# mine\n");
    assert_eq!(edited.set("netrc-file", "/etc/nix/netrc"), Ok(true));
    assert_eq!(edited.set("netrc-file", "/etc/nix/netrc"), Ok(false));
    assert_eq!(text(&edited), "# mine\nnetrc-file = /etc/nix/netrc\n");
    assert_eq!(
        edited.set("netrc-file", "/other"),
        Err(Error::Conflict { name: "netrc-file".into(), value: "/etc/nix/netrc".into() })
    );
    assert!(edited.remove_word("netrc-file", "/etc/nix/netrc"));
    assert_eq!(text(&edited), "# mine\n");
}

#[test]
fn what_is_no_word_is_refused() {
    for word in ["", "a b", "a\nb", "a#b", "a\tb"] {
        let mut edited = conf("");
        assert_eq!(edited.add_word("substituters", word), Err(Error::Word(word.into())));
        assert_eq!(edited.set("netrc-file", word), Err(Error::Word(word.into())));
        assert_eq!(text(&edited), "");
    }
}

/// Files of lines that are likely to be in each other's way.
fn files() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec![
        "substituters",
        "extra-substituters",
        "binary-caches",
        "extra-binary-caches",
        "trusted-public-keys",
        "sandbox",
    ]);
    let setting = (name, "[ \t]{0,2}=[ \t]{0,2}([ab]?[ \t]){0,3}w?[ \t]?(#[ =w]{0,3})?\r?")
        .prop_map(|(name, rest)| format!("{name} {rest}"));
    let line = prop_oneof![
        4 => setting.prop_map(String::into_bytes),
        1 => "[!#]?include w".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    (prop::collection::vec(line, 0..6), any::<bool>()).prop_map(|(lines, newline)| {
        let mut bytes = lines.join(&b'\n');
        if newline {
            bytes.push(b'\n');
        }
        bytes
    })
}

proptest! {
    #[test]
    fn adding_and_removing_gives_back_the_bytes(
        file in files(), word in "[abw]", extra: bool
    ) {
        let name = if extra { "extra-substituters" } else { "substituters" };
        let mut edited = NixConf::new(file.clone());
        let words: Vec<Vec<u8>> =
            edited.words("substituters").into_iter().map(<[u8]>::to_vec).collect();
        let added = edited.add_word(name, &word).unwrap();
        prop_assert_eq!(added, !words.contains(&word.as_bytes().to_vec()));
        prop_assert!(edited.words("substituters").contains(&word.as_bytes()));
        if extra {
            for old in &words {
                prop_assert!(edited.words("substituters").contains(&old.as_slice()));
            }
        }
        // Once is enough.
        let once = edited.clone();
        prop_assert!(!edited.add_word(name, &word).unwrap());
        prop_assert_eq!(&edited, &once);
        if added {
            prop_assert!(edited.remove_word(name, &word));
            prop_assert_eq!(edited.as_bytes(), file);
        }
    }

    #[test]
    fn other_lines_stay(file in files(), word in "[abw]") {
        let others = |conf: &NixConf| -> Vec<Vec<u8>> {
            let lines = conf.as_bytes().split(|b| *b == b'\n');
            let other = |line: &&[u8]| !line.is_empty() && !line.starts_with(b"extra-");
            lines.filter(other).map(<[u8]>::to_vec).collect()
        };
        let mut edited = NixConf::new(file);
        let before = others(&edited);
        edited.add_word("extra-substituters", &word).unwrap();
        prop_assert_eq!(others(&edited), before.clone());
        edited.remove_word("extra-substituters", &word);
        prop_assert_eq!(others(&edited), before);
    }
}
