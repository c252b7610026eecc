//! Where a publisher wants to go: application and stream name, as encoders spell them, made into
//! an input id and a key. Knows only shapes; whether the input exists is the shell's answer.

use crate::Secret;

/// What a publish command names.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) app: String,
    pub(super) input_id: String,
    pub(super) key: Secret,
}

impl Target {
    /// Reads the forms in use:
    ///
    /// | application | stream name | who |
    /// |---|---|---|
    /// | `live` | `<input>?sk=<key>` | one URL (ffmpeg), or OBS with this as its stream key |
    /// | `live` | `<input>/<key>` | encoders that refuse `?` in a stream key |
    /// | `live/<input>` | `<key>` | OBS with the input in the server URL; ffmpeg with two slashes |
    /// | `live/<input>` | `?sk=<key>` | the same, key spelled as a query |
    /// | `live?sk=<key>` | `<input>` | encoders that move the query into the application |
    ///
    /// What is missing stays empty, and an empty key is a wrong one. A key where the input belongs
    /// (a common slip) is taken for a key, so that it does not end in a log as an input id.
    pub(super) fn parse(app: &str, name: &str) -> Self {
        let (app_path, app_query) = split_query(app);
        let (name_path, name_query) = split_query(name);
        let (app_path, name_path) = (app_path.trim_matches('/'), name_path.trim_matches('/'));
        let (app_name, app_input) = app_path.split_once('/').unwrap_or((app_path, ""));
        let query_key = key_in(name_query).or_else(|| key_in(app_query));
        let (input_id, key) = match (app_input, query_key) {
            ("", Some(key)) => (name_path, key),
            ("", None) if name_path.starts_with(KEY_PREFIX) => ("", name_path),
            ("", None) => name_path.split_once('/').unwrap_or((name_path, "")),
            (input, Some(key)) => (input, key),
            (input, None) => (input, name_path),
        };
        Self { app: app_name.to_owned(), input_id: input_id.to_owned(), key: Secret::new(key) }
    }
}

/// How stream keys begin.
const KEY_PREFIX: &str = "sk_";

fn split_query(text: &str) -> (&str, &str) {
    text.split_once('?').unwrap_or((text, ""))
}

fn key_in(query: &str) -> Option<&str> {
    query.split(['&', '?']).find_map(|pair| pair.strip_prefix("sk="))
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn every_spelling_in_use_names_the_same_input_and_key() {
        let table = [
            ("live", "in_1?sk=sk_live_a"),
            ("live/", "in_1?sk=sk_live_a"),
            ("live", "in_1?bw=1&sk=sk_live_a&x=y"),
            ("live", "in_1/sk_live_a"),
            ("live/in_1", "sk_live_a"),
            ("live/in_1/", "/sk_live_a"),
            ("live/in_1", "?sk=sk_live_a"),
            ("live?sk=sk_live_a", "in_1"),
        ];
        for (app, name) in table {
            let target = Target::parse(app, name);
            assert_eq!(
                (&*target.app, &*target.input_id, target.key.expose()),
                ("live", "in_1", "sk_live_a"),
                "{app} {name}"
            );
        }
    }

    #[test]
    fn a_missing_key_stays_empty() {
        let target = Target::parse("live", "in_1");
        assert_eq!((&*target.input_id, target.key.expose()), ("in_1", ""));
    }

    #[test]
    fn nothing_printed_shows_the_key() {
        for (app, name) in [
            ("live", "sk_live_a"),
            ("live/in_1", "sk_live_a"),
            ("live?sk=sk_live_a", "in_1?sk=sk_live_a"),
        ] {
            let printed = format!("{:?}", Target::parse(app, name));
            assert!(!printed.contains("sk_live"), "{printed}");
        }
    }
}
