use super::*;
use proptest::prelude::*;

const HOST: &str = "cache.example.org";

fn netrc(text: &str) -> Netrc {
    Netrc::parse(text).unwrap()
}

fn text(netrc: &Netrc) -> &str {
    str::from_utf8(netrc.as_bytes()).unwrap()
}

fn sent(netrc: &Netrc, host: &str) -> Option<(String, String)> {
    netrc.credentials(host).map(|c| (c.login, c.password))
}

fn pair(login: &str, password: &str) -> Option<(String, String)> {
    Some((login.to_owned(), password.to_owned()))
}

#[test]
fn the_first_entry_for_a_host_counts() {
    let netrc = netrc(
        "# machine a login no password no\n\
         machine a login me password one\n\
         machine b\n\tpassword \"t w\\\"o\" # two\n\tlogin you\n\n\
         macdef machine\nmachine m login no password no\n\n\
         machine a login me password three\n\
         default login any password four\n\
         machine c login late password five",
    );
    assert_eq!(sent(&netrc, "a"), pair("me", "one"));
    assert_eq!(sent(&netrc, "A"), pair("me", "one"));
    assert_eq!(sent(&netrc, "b"), pair("you", "t w\"o"));
    assert_eq!(sent(&netrc, "m"), pair("any", "four"));
    assert_eq!(sent(&netrc, "c"), pair("any", "four"));
    assert_eq!(sent(&super::Netrc::default(), "a"), None);
}

#[test]
fn a_new_entry_comes_before_all_others() {
    const OURS: &str = "machine cache.example.org login granary password s3cret\n";
    for (before, after) in [
        ("", "OURS"),
        ("machine a login b password c", "OURSmachine a login b password c"),
        ("# mine\n\nmachine a login b\n", "# mine\n\nOURSmachine a login b\n"),
        ("default login b password c\n", "OURSdefault login b password c\n"),
        ("macdef x\nput a\n\nmachine a\n", "macdef x\nput a\n\nOURSmachine a\n"),
        ("macdef x\nput a", "OURSmacdef x\nput a"),
        ("odd machine a login b\n", "OURSodd machine a login b\n"),
        // Of the same host, but not ours.
        (
            "machine cache.example.org login me password old\n",
            "OURSmachine cache.example.org login me password old\n",
        ),
    ] {
        let mut edited = netrc(before);
        assert_eq!(edited.set_password(HOST, "granary", "s3cret"), Ok(Change::Added));
        assert_eq!(text(&edited), after.replace("OURS", OURS));
        assert_eq!(sent(&edited, HOST), pair("granary", "s3cret"));
        assert_eq!(edited.set_password(HOST, "granary", "s3cret"), Ok(Change::Unchanged));
        assert_eq!(text(&edited), after.replace("OURS", OURS));
        assert_eq!(edited.remove(HOST, "granary"), Ok(true));
        assert_eq!(text(&edited), before);
        assert_eq!(edited.remove(HOST, "granary"), Ok(false));
    }
}

#[test]
fn our_own_entry_gets_the_new_password() {
    for (before, after) in [
        (
            "machine cache.example.org login granary password \"old one\" # note\n",
            "machine cache.example.org login granary password new # note\n",
        ),
        (
            "machine cache.example.org\n  password old\n  login granary\n",
            "machine cache.example.org\n  password new\n  login granary\n",
        ),
        (
            "machine CACHE.example.org login granary\nmachine b\n",
            "machine CACHE.example.org login granary password new\nmachine b\n",
        ),
    ] {
        let mut edited = netrc(before);
        assert_eq!(edited.set_password(HOST, "granary", "new"), Ok(Change::Replaced));
        assert_eq!(text(&edited), after);
    }
}

#[test]
fn removing_an_entry_leaves_comments_and_neighbours() {
    let mut edited = netrc(
        "machine a login x password y machine cache.example.org # why\n\
         # note\n\
         \tlogin granary\n\
         password\n  p machine b login x\n\
         account z",
    );
    assert_eq!(edited.remove(HOST, "granary"), Ok(true));
    assert_eq!(
        text(&edited),
        "machine a login x password y  # why\n# note\n machine b login x\naccount z"
    );
}

#[test]
fn passwords_are_not_shown() {
    let mut netrc = netrc("machine a login me password s3cret\ndefault password s3cret");
    let credentials = netrc.credentials("a").unwrap();
    assert_eq!(format!("{credentials:?}"), "Credentials { login: \"me\", .. }");
    assert_eq!(format!("{netrc:?}"), "Netrc [\"a\", \"(default)\"]");
    for bad in ["s3cret x", "s3\"cret", "s3cret\n", "#s3cret", ""] {
        let error = netrc.set_password("a", "me", bad).unwrap_err();
        assert_eq!(error, Error::Word("password"));
        assert!(!format!("{error} {error:?}").contains("s3"));
    }
    let error = Netrc::parse("# x\n\npassword s3cret").unwrap_err();
    assert_eq!(error, Error::NoMachine(3));
}

/// Files whose entries, comments and macros are likely to be in each other's way.
fn files() -> impl Strategy<Value = String> {
    let field = "(login (ours|b)|password (p|\"p q\")|account a|odd|# login ours|#)";
    let entry = format!("(machine (h|i)|default)([ \n]{field}){{0,4}}");
    let part = prop_oneof![
        4 => prop::string::string_regex(&entry).unwrap(),
        1 => "# machine h login ours.{0,3}\n",
        1 => "macdef m\n(machine h login ours\n){0,2}\n",
    ];
    prop::collection::vec((part, prop::sample::select(vec!["\n", " ", "\n\n"])), 0..5).prop_map(
        |parts| parts.into_iter().flat_map(|(part, end)| [part, end.to_owned()]).collect(),
    )
}

proptest! {
    #[test]
    fn adding_and_removing_gives_back_the_bytes(file in files()) {
        let Ok(mut edited) = Netrc::parse(file.clone()) else { return Ok(()) };
        let other = sent(&edited, "other");
        let change = edited.set_password("h", "ours", "new").unwrap();
        prop_assert_eq!(sent(&edited, "h"), pair("ours", "new"));
        prop_assert_eq!(sent(&edited, "other"), other);
        prop_assert_eq!(edited.set_password("h", "ours", "new"), Ok(Change::Unchanged));
        if change == Change::Added {
            prop_assert_eq!(edited.remove("h", "ours"), Ok(true));
            prop_assert_eq!(text(&edited), file);
        }
    }

    #[test]
    fn removing_leaves_no_password_of_the_entry(file in files()) {
        let Ok(mut edited) = Netrc::parse(file) else { return Ok(()) };
        let entries = edited.entries.len();
        let removed = edited.remove("h", "ours").unwrap();
        prop_assert_eq!(edited.entries.len(), entries - usize::from(removed));
        let again = Netrc::parse(edited.as_bytes()).unwrap();
        prop_assert_eq!(again.entries.len(), edited.entries.len());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        if let Ok(netrc) = Netrc::parse(bytes.clone()) {
            prop_assert_eq!(netrc.as_bytes(), bytes);
        }
    }
}
