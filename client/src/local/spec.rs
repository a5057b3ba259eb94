//! Which store is meant, and where its parts are.

use std::path::{Path, PathBuf};

use nix_compat::store_path::StoreDir;

use super::Error;

/// What the environment says about the store. Empty variables say nothing.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `NIX_REMOTE`
    pub remote: Option<String>,
    /// `NIX_DAEMON_SOCKET_PATH`
    pub socket: Option<PathBuf>,
    /// `NIX_STATE_DIR`
    pub state: Option<PathBuf>,
    /// `NIX_STORE_DIR`
    pub store: Option<String>,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        let get = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name| get(name).map(|value| value.to_string_lossy().into_owned());
        Environment {
            remote: text("NIX_REMOTE"),
            socket: get("NIX_DAEMON_SOCKET_PATH").map(PathBuf::from),
            state: get("NIX_STATE_DIR").map(PathBuf::from),
            store: text("NIX_STORE_DIR"),
        }
    }
}

/// Where the parts of a store are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The directory in its paths.
    pub store_dir: StoreDir,
    /// The directory of its files.
    pub real: PathBuf,
    /// The root of a chroot store.
    pub root: Option<PathBuf>,
    /// Its database.
    pub database: PathBuf,
    /// Its daemon's socket.
    pub socket: PathBuf,
}

/// How to ask a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Auto,
    Daemon,
    Database,
}

/// The parameters after a spec's `?`. Others are of no concern here.
#[derive(Default)]
struct Parameters {
    root: Option<String>,
    real: Option<String>,
    state: Option<String>,
    store: Option<String>,
}

/// Reads a spec.
pub(super) fn parse(spec: Option<&str>, environment: &Environment) -> Result<(Way, Place), Error> {
    let spec = spec.or(environment.remote.as_deref()).unwrap_or_default();
    let unknown = || Error::Spec(spec.to_owned());
    let (base, query) = spec.split_once('?').unwrap_or((spec, ""));
    let mut parameters = parameters(query).ok_or_else(unknown)?;
    let mut socket = None;
    let way = match base {
        // The daemon is that of the machine's own store.
        "" | "auto" if parameters.root.is_some() || parameters.state.is_some() => Way::Database,
        "" | "auto" => Way::Auto,
        "daemon" => Way::Daemon,
        "local" => Way::Database,
        _ => match base.split_once("://") {
            Some(("unix", path)) => {
                socket = Some(decode(path).ok_or_else(unknown)?).filter(|path| !path.is_empty());
                Way::Daemon
            }
            Some(("local", "")) => Way::Database,
            Some(("local", path)) => {
                parameters.root = Some(decode(path).ok_or_else(unknown)?);
                Way::Database
            }
            None if base.contains('/') => {
                let root = std::path::absolute(base).map_err(|_| unknown())?;
                parameters.root = Some(root.to_string_lossy().into_owned());
                Way::Database
            }
            _ => return Err(unknown()),
        },
    };
    Ok((way, place(spec, socket, parameters, environment)?))
}

fn place(
    spec: &str,
    socket: Option<String>,
    parameters: Parameters,
    environment: &Environment,
) -> Result<Place, Error> {
    let absolute = |name: &'static str, value: String| {
        if value.starts_with('/') {
            Ok(PathBuf::from(value))
        } else {
            Err(Error::Parameter { spec: spec.to_owned(), name, value })
        }
    };
    let given = |name, value: Option<String>| value.map(|value| absolute(name, value)).transpose();
    let root = given("root", parameters.root)?;
    let below_root = |path: &str| root.as_ref().map(|root| root.join(path));

    let store_dir = match parameters.store.or_else(|| environment.store.clone()) {
        Some(value) => value.parse().map_err(|_| Error::Parameter {
            spec: spec.to_owned(),
            name: "store",
            value,
        })?,
        None => StoreDir::default(),
    };
    let machine_state = environment.state.clone().unwrap_or_else(|| PathBuf::from("/nix/var/nix"));
    let state = given("state", parameters.state)?.or_else(|| below_root("nix/var/nix"));
    let real = given("real", parameters.real)?.or_else(|| below_root("nix/store"));
    let socket = given("socket", socket)?.or_else(|| environment.socket.clone());
    Ok(Place {
        real: real.unwrap_or_else(|| Path::new(store_dir.as_str()).to_owned()),
        socket: socket.unwrap_or_else(|| machine_state.join("daemon-socket/socket")),
        database: state.unwrap_or(machine_state).join("db/db.sqlite"),
        store_dir,
        root,
    })
}

fn parameters(query: &str) -> Option<Parameters> {
    let mut parameters = Parameters::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let value = Some(decode(value)?).filter(|value| !value.is_empty());
        match name {
            "root" => parameters.root = value,
            "real" => parameters.real = value,
            "state" => parameters.state = value,
            "store" => parameters.store = value,
            _ => {}
        }
    }
    Some(parameters)
}

/// Undoes percent encoding.
fn decode(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(spec: &str) -> Result<(Way, Place), Error> {
        parse(Some(spec), &Environment::default())
    }

    fn place(real: &str, root: Option<&str>, state: &str, socket: &str) -> Place {
        Place {
            store_dir: StoreDir::default(),
            real: real.into(),
            root: root.map(PathBuf::from),
            database: format!("{state}/db/db.sqlite").into(),
            socket: socket.into(),
        }
    }

    const SOCKET: &str = "/nix/var/nix/daemon-socket/socket";

    #[test]
    fn specs_are_those_of_nix() {
        let own = place("/nix/store", None, "/nix/var/nix", SOCKET);
        for (spec, way) in [
            ("", Way::Auto),
            ("auto", Way::Auto),
            ("daemon", Way::Daemon),
            ("unix://", Way::Daemon),
            ("local", Way::Database),
            ("local://", Way::Database),
            ("local?trusted=true", Way::Database),
        ] {
            assert_eq!(read(spec).unwrap(), (way, own.clone()), "{spec}");
        }
        let chroot = place("/c r/nix/store", Some("/c r"), "/c r/nix/var/nix", SOCKET);
        for spec in ["/c r", "local?root=/c%20r", "local:///c%20r", "auto?root=/c r"] {
            assert_eq!(read(spec).unwrap(), (Way::Database, chroot.clone()), "{spec}");
        }
        assert_eq!(
            read("local?root=/a&state=/b&real=/c&log=/d").unwrap().1,
            place("/c", Some("/a"), "/b", SOCKET)
        );
        assert_eq!(
            read("unix:///run/x?root=/a").unwrap(),
            (Way::Daemon, place("/a/nix/store", Some("/a"), "/a/nix/var/nix", "/run/x"))
        );
        let here = std::env::current_dir().unwrap().join("chroot");
        assert_eq!(read("./chroot").unwrap().1.root, Some(here));
    }

    #[test]
    fn the_environment_counts_where_the_spec_says_nothing() {
        let environment = Environment {
            remote: Some("daemon".to_owned()),
            socket: Some("/run/s".into()),
            state: Some("/state".into()),
            store: Some("/gnu/store".to_owned()),
        };
        let (way, place) = parse(None, &environment).unwrap();
        assert_eq!(way, Way::Daemon);
        assert_eq!(place.socket, Path::new("/run/s"));
        assert_eq!(place.database, Path::new("/state/db/db.sqlite"));
        assert_eq!(place.store_dir.as_str(), "/gnu/store");
        assert_eq!(place.real, Path::new("/gnu/store"));
        assert_eq!(parse(Some("local"), &environment).unwrap().0, Way::Database);
        let environment = Environment { socket: None, ..environment };
        let (_, place) = parse(None, &environment).unwrap();
        assert_eq!(place.socket, Path::new("/state/daemon-socket/socket"));
    }

    #[test]
    fn what_is_no_local_store_is_refused() {
        for spec in ["https://cache.example.org", "ssh-ng://host", "s3://b", "dummy", "local?root"]
        {
            assert!(matches!(read(spec), Err(Error::Spec(said)) if said == spec), "{spec}");
        }
        for spec in
            ["local?root=a", "local?state=a", "unix://a", "daemon?store=nix", "local?real=b"]
        {
            assert!(matches!(read(spec), Err(Error::Parameter { .. })), "{spec}");
        }
        assert!(matches!(read("local?root=/%zz"), Err(Error::Spec(_))));
        assert!(matches!(read("local?root=/%+1"), Err(Error::Spec(_))));
    }
}
