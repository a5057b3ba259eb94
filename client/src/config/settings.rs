//! Which server is meant, and which token it is shown.
//!
//! The server is the one that the command names, else `GRANARY_SERVER`, else the default of the
//! configuration, else its only one.
//!
//! The token is `GRANARY_TOKEN` where that belongs to the server, else the one that the
//! configuration has for its address. `GRANARY_TOKEN` belongs to `GRANARY_SERVER`; without that, to
//! whatever server is meant. So no token goes to a server that it is not for.

use super::{CacheRef, Config, Environment, Error, ServerRef, config_path};
use crate::http::{BaseUrl, Token};

/// The configuration and the environment.
#[derive(Default)]
pub struct Settings {
    config: Config,
    environment: Environment,
    warnings: Vec<String>,
}

/// A server that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name in the configuration, if it has one.
    pub name: Option<String>,
    /// Its address.
    pub url: BaseUrl,
    /// The token for it.
    pub token: Option<Token>,
}

impl Settings {
    /// Reads both.
    pub fn load() -> Result<Self, Error> {
        let environment = Environment::of_process()?;
        let path = match config_path() {
            Ok(path) => path,
            // The environment alone is enough.
            Err(Error::NoHome) => return Ok(Self::new(Config::default(), environment)),
            Err(error) => return Err(error),
        };
        let config = Config::load(&path)?;
        let warnings = Config::exposed(&path).into_iter().collect();
        Ok(Self { config, environment, warnings })
    }

    /// Takes both.
    pub fn new(config: Config, environment: Environment) -> Self {
        Self { config, environment, warnings: Vec::new() }
    }

    /// What a person should be told about the configuration.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The server that is meant by `chosen`, or by nothing.
    pub fn server(&self, chosen: Option<&ServerRef>) -> Result<Target, Error> {
        match chosen.or(self.environment.server.as_ref()) {
            Some(ServerRef::Name(name)) => self.named(name),
            Some(ServerRef::Url(url)) => self.at(url.clone(), None),
            None => self.named(self.default_name()?),
        }
    }

    /// The server of a cache; `chosen` is `--server`.
    pub fn server_of(&self, cache: &CacheRef, chosen: Option<&ServerRef>) -> Result<Target, Error> {
        if cache.server.is_some() && chosen.is_some() {
            return Err(Error::Twice(cache.to_string()));
        }
        self.server(cache.server.as_ref().or(chosen))
    }

    fn default_name(&self) -> Result<&str, Error> {
        let mut names = self.config.servers.keys();
        match (&self.config.default, names.next(), names.next()) {
            (Some(name), _, _) => Ok(name),
            (None, None, _) => Err(Error::NoServer),
            (None, Some(name), None) => Ok(name),
            (None, Some(_), Some(_)) => Err(Error::Ambiguous { names: self.config.names() }),
        }
    }

    fn named(&self, name: &str) -> Result<Target, Error> {
        let Some(entry) = self.config.servers.get(name) else {
            let known = match self.config.names() {
                none if none.is_empty() => "run granary login NAME URL".to_owned(),
                names => format!("there are {names}"),
            };
            return Err(Error::Unknown { name: name.to_owned(), known });
        };
        let place = || format!("the address of server {name} in the configuration");
        let url = entry.url.parse().map_err(|source| Error::Url { place: place(), source })?;
        self.at(url, Some(name))
    }

    fn at(&self, url: BaseUrl, name: Option<&str>) -> Result<Target, Error> {
        let here = |text: &str| text.parse::<BaseUrl>().is_ok_and(|known| known == url);
        let known = match name {
            Some(name) => self.config.servers.get_key_value(name),
            None => self.config.servers.iter().find(|(_, entry)| here(&entry.url)),
        };
        let name = known.map(|(name, _)| name.clone());
        let environments = match &self.environment.server {
            None => true,
            Some(ServerRef::Name(other)) => name.as_ref() == Some(other),
            Some(ServerRef::Url(other)) => *other == url,
        };
        let token = match (&self.environment.token, known.and_then(|(_, e)| e.token.as_ref())) {
            (Some(token), _) if environments => Some(token.clone()),
            (_, Some(text)) => {
                let place = name.as_deref().unwrap_or_default();
                let place = || format!("the token of server {place} in the configuration");
                Some(text.parse().map_err(|source| Error::Token { place: place(), source })?)
            }
            (_, None) => None,
        };
        Ok(Target { name, url, token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(default: Option<&str>) -> Config {
        let text = "[servers.home]\nurl = \"http://127.0.0.1:8080/\"\ntoken = \"h\"\n\
                    [servers.team]\nurl = \"https://team.example.org\"\ntoken = \"t\"\n";
        let config: Config = toml::from_str(text).unwrap();
        Config { default: default.map(str::to_owned), ..config }
    }

    fn environment(server: Option<&str>, token: Option<&str>) -> Environment {
        Environment {
            server: server.map(|text| text.parse().unwrap()),
            token: token.map(|text| text.parse().unwrap()),
        }
    }

    /// Address and token of the server of a cache.
    fn found(settings: &Settings, cache: &str) -> (String, Option<String>) {
        let target = settings.server_of(&cache.parse().unwrap(), None).unwrap();
        (target.url.to_string(), target.token.map(|token| token.secret().to_owned()))
    }

    fn pair(url: &str, token: Option<&str>) -> (String, Option<String>) {
        (url.to_owned(), token.map(str::to_owned))
    }

    #[test]
    fn the_environment_alone_is_enough() {
        let both = environment(Some("https://ci.example.org"), Some("c"));
        let settings = Settings::new(Config::default(), both);
        assert_eq!(found(&settings, "main"), pair("https://ci.example.org", Some("c")));
        let settings = Settings::new(Config::default(), environment(None, Some("c")));
        let full = "https://ci.example.org/main";
        assert_eq!(found(&settings, full), pair("https://ci.example.org", Some("c")));
        let none = settings.server(None).unwrap_err();
        assert!(matches!(none, Error::NoServer), "{none}");
    }

    #[test]
    fn the_environment_comes_before_the_configuration() {
        let both = environment(Some("https://ci.example.org"), Some("c"));
        let settings = Settings::new(config(Some("home")), both);
        assert_eq!(found(&settings, "main"), pair("https://ci.example.org", Some("c")));
        let settings = Settings::new(config(Some("home")), environment(Some("team"), None));
        assert_eq!(found(&settings, "main"), pair("https://team.example.org", Some("t")));
        let settings = Settings::new(config(Some("home")), environment(None, Some("c")));
        assert_eq!(found(&settings, "main"), pair("http://127.0.0.1:8080", Some("c")));
        assert_eq!(found(&settings, "team:main"), pair("https://team.example.org", Some("c")));
    }

    #[test]
    fn no_token_goes_to_a_server_that_it_is_not_for() {
        let both = environment(Some("https://ci.example.org"), Some("c"));
        let settings = Settings::new(config(Some("home")), both);
        assert_eq!(found(&settings, "team:main"), pair("https://team.example.org", Some("t")));
        assert_eq!(found(&settings, "https://other/main"), pair("https://other", None));
        let settings = Settings::new(config(Some("home")), Environment::default());
        assert_eq!(found(&settings, "https://other/main"), pair("https://other", None));
    }

    #[test]
    fn a_full_address_finds_the_token_of_its_server() {
        let settings = Settings::new(config(None), Environment::default());
        let full = "https://team.example.org/main";
        assert_eq!(found(&settings, full), pair("https://team.example.org", Some("t")));
    }

    #[test]
    fn the_default_is_the_one_that_is_set_or_the_only_one() {
        let settings = Settings::new(config(Some("team")), Environment::default());
        assert_eq!(settings.server(None).unwrap().name.as_deref(), Some("team"));
        let settings = Settings::new(config(None), Environment::default());
        let error = settings.server(None).unwrap_err();
        assert!(error.to_string().contains("home, team"), "{error}");
        let mut only = config(None);
        only.servers.remove("team");
        let settings = Settings::new(only, Environment::default());
        assert_eq!(settings.server(None).unwrap().name.as_deref(), Some("home"));
    }

    #[test]
    fn a_server_that_is_named_twice_or_unknown_is_an_error() {
        let settings = Settings::new(config(None), Environment::default());
        let (cache, server) = ("team:main".parse().unwrap(), "home".parse().unwrap());
        let error = settings.server_of(&cache, Some(&server)).unwrap_err();
        assert!(matches!(error, Error::Twice(_)), "{error}");
        let error = settings.server(Some(&"tema".parse().unwrap())).unwrap_err();
        assert!(error.to_string().contains("there are home, team"), "{error}");
    }
}
