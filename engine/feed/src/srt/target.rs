//! What a caller wants, read from its stream identifier: `<input>:<key>`, or the access control form
//! `#!::r=<input>,m=publish,…` of libsrt. Owns the spellings; knows nothing of inputs or keys.

use crate::Secret;

/// Who wants to feed what.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) input_id: String,
    pub(super) key: Secret,
}

impl Target {
    /// None if the caller wants something else than to publish.
    pub(super) fn parse(stream_id: &str) -> Option<Self> {
        let text = stream_id.trim();
        if let Some(fields) = text.strip_prefix("#!::") {
            return Self::from_fields(fields);
        }
        // Nested fields and the words of other servers before the same thing.
        if text.starts_with("#!:") || text.starts_with("read:") || text.starts_with("request:") {
            return None;
        }
        let text = text.strip_prefix("publish:").unwrap_or(text);
        let (input_id, key) = split(text);
        Some(Self { input_id: input_id.to_owned(), key: Secret::new(key) })
    }

    fn from_fields(fields: &str) -> Option<Self> {
        let (mut resource, mut key, mut user) = ("", None, "");
        for field in fields.split(',') {
            let Some((name, value)) = field.split_once('=') else { continue };
            match name.trim() {
                "r" => resource = value,
                "m" if value != "publish" => return None,
                "sk" | "key" | "k" | "s" => key = Some(value),
                "u" => user = value,
                _ => {}
            }
        }
        let (input_id, in_resource) = split(resource);
        let key = key.unwrap_or(if in_resource.is_empty() { user } else { in_resource });
        Some(Self { input_id: input_id.to_owned(), key: Secret::new(key) })
    }
}

/// Input and key; `live/` in front is what RTMP has there.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches('/');
    let text = text.strip_prefix("live/").unwrap_or(text);
    match text.split_once([':', '/', '?']) {
        Some((input_id, key)) => (input_id, key.strip_prefix("sk=").unwrap_or(key)),
        None => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn every_spelling_names_the_same_input_and_key() {
        for stream_id in [
            "in_1:sk_live_1",
            "live/in_1:sk_live_1",
            "/live/in_1?sk=sk_live_1",
            "publish:in_1:sk_live_1",
            "#!::r=in_1,m=publish,k=sk_live_1",
            "#!::m=publish,r=live/in_1,sk=sk_live_1",
            "#!::r=in_1:sk_live_1,m=publish,u=somebody",
            "#!::r=live/in_1/sk_live_1",
            "#!::u=sk_live_1,r=in_1",
            "#!::s=sk_live_1,h=host,t=stream,r=in_1,m=publish",
        ] {
            let target = Target::parse(stream_id).expect(stream_id);
            assert_eq!(
                (&*target.input_id, target.key.expose()),
                ("in_1", "sk_live_1"),
                "{stream_id}"
            );
        }
    }

    #[test]
    fn who_does_not_publish_is_told_apart() {
        for stream_id in
            ["#!::r=in_1,m=request", "#!::r=in_1,m=bidirectional", "read:in_1", "#!:{}"]
        {
            assert!(Target::parse(stream_id).is_none(), "{stream_id}");
        }
        let empty = Target::parse("").expect("no wish at all");
        assert_eq!((&*empty.input_id, empty.key.expose()), ("", ""));
    }
}
