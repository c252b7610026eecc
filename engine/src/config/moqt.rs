//! Section `[moqt]`: which drafts of MoQT are spoken, and in which order of preference, and which namespaces another
//! relay serves. The order serves TLS (raw QUIC) and WebTransport alike.

use std::str::FromStr;

use serde::Deserialize;
use weir_moqt::{Draft, Namespace};

use super::drain::NewUri;

/// Section `[moqt]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Moqt {
    /// Drafts spoken, the preferred one first.
    pub drafts: Drafts,
    /// Namespace trees that another relay serves.
    pub redirects: Redirects,
}

/// Entries of `moqt.redirects`: each costs some 200 bytes on each shard, and a look at each for a track that is not here.
const REDIRECTS_MAX: usize = 256;

/// Namespace trees that another relay serves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "Vec<RedirectEntry>")]
pub struct Redirects(Vec<(Namespace, String)>);

/// One of them as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedirectEntry {
    /// The first fields of its namespaces, joined by `/`.
    namespace: String,
    uri: NewUri,
}

impl Redirects {
    /// Each tree and the address of its relay.
    pub fn list(&self) -> Vec<(Namespace, String)> {
        self.0.clone()
    }
}

impl TryFrom<Vec<RedirectEntry>> for Redirects {
    type Error = String;

    fn try_from(entries: Vec<RedirectEntry>) -> Result<Self, String> {
        if entries.len() > REDIRECTS_MAX {
            return Err(format!("moqt.redirects: at most {REDIRECTS_MAX} entries"));
        }
        let trees = entries.into_iter().map(|RedirectEntry { namespace, uri }| {
            let tree = Namespace::new(namespace.split('/')).map_err(|_| {
                format!("moqt.redirects: {namespace:?} is not a namespace such as stream/ORG/ID")
            })?;
            if uri.as_str().is_empty() {
                return Err(format!("moqt.redirects: {namespace:?} needs a uri"));
            }
            Ok((tree, uri.as_str().to_owned()))
        });
        trees.collect::<Result<_, _>>().map(Self)
    }
}

/// At least one draft, each once, the preferred one first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Drafts(Vec<Draft>);

impl Drafts {
    /// The drafts, in order.
    pub fn list(&self) -> &[Draft] {
        &self.0
    }

    fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut drafts = Vec::new();
        for name in names {
            let draft = name.trim().parse().ok().and_then(Draft::from_number);
            match draft {
                Some(draft) if drafts.contains(&draft) => {
                    return Err(format!("moqt.drafts: \"{}\" is there twice", draft.number()));
                }
                Some(draft) => drafts.push(draft),
                None => return Err(format!("moqt.drafts: {name:?} is not one of {}", accepted())),
            }
        }
        if drafts.is_empty() {
            return Err(format!(
                "moqt.drafts: [] leaves no draft to speak; there are {}",
                accepted()
            ));
        }
        Ok(Self(drafts))
    }
}

/// All drafts there are, for messages.
fn accepted() -> String {
    let names: Vec<String> = Draft::ALL.iter().map(|draft| draft.number().to_string()).collect();
    names.join(", ")
}

/// Newest first.
impl Default for Drafts {
    fn default() -> Self {
        Self(Draft::ALL.to_vec())
    }
}

impl TryFrom<Vec<String>> for Drafts {
    type Error = String;

    fn try_from(names: Vec<String>) -> Result<Self, String> {
        Self::of(names.iter().map(String::as_str))
    }
}

/// Separated by commas, for a flag or a variable.
impl FromStr for Drafts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::of(text.split(','))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::{Config, Overrides, UpFlags},
        topology::HostFacts,
    };

    fn parse(list: &str) -> Result<Config, crate::config::Error> {
        Config::parse(&format!("[moqt]\ndrafts = {list}\n"), Path::new("weir.toml"))
    }

    #[test]
    fn the_order_of_the_file_is_the_order_of_preference() {
        let host = HostFacts { cores: vec![0] };
        let resolved = |config: Config| {
            config.resolve(UpFlags::default(), &host).map(|up| up.drafts).expect("valid")
        };
        assert_eq!(resolved(Config::default()), Draft::ALL);
        let config = parse(r#"["16", "22", "14"]"#).expect("valid");
        assert_eq!(resolved(config), [Draft::D16, Draft::D22, Draft::D14]);
    }

    #[test]
    fn a_flag_wins_over_a_variable_and_both_over_the_file() {
        let mut config = parse(r#"["16"]"#).expect("valid");
        let environment = Overrides::from_environment(|name| {
            (name == "WEIR_MOQT_DRAFTS").then(|| "22, 14".to_owned())
        })
        .expect("valid");
        config.apply(&environment);
        assert_eq!(config.moqt.drafts.list(), [Draft::D22, Draft::D14]);
        let drafts = Some("18".parse().expect("a draft"));
        config.apply(&Overrides { moqt_drafts: drafts, ..Overrides::default() });
        assert_eq!(config.moqt.drafts.list(), [Draft::D18]);
    }

    #[test]
    fn a_list_nobody_can_speak_is_refused_in_one_line_with_key_value_and_what_there_is() {
        let all = "22, 21, 20, 19, 18, 16, 14";
        for (list, says) in [
            (r#"["22", "17"]"#, format!("moqt.drafts: \"17\" is not one of {all}")),
            (r#"["moqt-22"]"#, format!("moqt.drafts: \"moqt-22\" is not one of {all}")),
            (r#"["16", "22", "16"]"#, "moqt.drafts: \"16\" is there twice".to_owned()),
            ("[]", format!("moqt.drafts: [] leaves no draft to speak; there are {all}")),
        ] {
            let error = parse(list).expect_err(list).to_string();
            assert_eq!(error, format!("weir.toml, line 2: {says}"));
        }
        let error = Overrides::from_environment(|name| {
            (name == "WEIR_MOQT_DRAFTS").then(|| "22,x".to_owned())
        })
        .expect_err("x");
        let says = format!("WEIR_MOQT_DRAFTS: moqt.drafts: \"x\" is not one of {all}");
        assert_eq!(error.to_string(), says);
    }
}
