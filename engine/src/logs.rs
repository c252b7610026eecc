//! Logs: how lines look, which there are, and a last guard that no secret is among them.
//!
//! Code does not log secrets in the first place: they are types whose `Debug` is a placeholder.
//! The guard is for what slips through, such as a URL inside another crate's error. It works on
//! finished lines and knows nothing of their meaning.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::config::{Log, LogFormat};

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";

/// Warns of every session that ends without a closing capsule, which is how most end.
const QUIET: &str = "web_transport_quinn=error";

/// A log filter that does not parse.
#[derive(Debug, thiserror::Error)]
#[error("log filter {filter:?}: {reason}")]
pub struct InvalidFilter {
    filter: String,
    reason: String,
}

/// Starts logging to standard error for the whole process. A second call changes nothing.
pub fn start(log: &Log) -> Result<(), InvalidFilter> {
    let filter = parse_filter(&log.filter)?;
    let terminal = io::stderr().is_terminal();
    let json = match log.format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let colour = terminal && colour_wanted();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colour)
        .with_writer(Redacting(io::stderr));
    let started = if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(true).try_init()
    } else {
        builder.try_init()
    };
    // The only failure is that logging has started before, in a test that runs several nodes.
    drop(started);
    Ok(())
}

/// Whether colour may be used on a terminal: not when `NO_COLOR` is set to anything.
pub fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A writer that lets no secret through. Each write must be a whole line or more, which is how
/// tracing writes.
#[derive(Debug, Clone)]
pub struct Redacting<W>(pub W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Redacting<W> {
    type Writer = RedactingWriter<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        RedactingWriter(self.0.make_writer())
    }
}

/// The writer of one event, made by [`Redacting`].
#[derive(Debug)]
pub struct RedactingWriter<W>(W);

impl<W: Write> Write for RedactingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.write_all(redact(&text).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Replaces everything that looks like a stream key, an API key or a token.
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut kept = 0;
    let mut at = 0;
    while at < text.len() {
        // All patterns are ASCII, so an offset inside a character matches none of them.
        match secret_at(text.as_bytes(), at) {
            Some((start, end)) => {
                out.push_str(&text[kept..start]);
                out.push_str(REDACTED);
                kept = end;
                at = end;
            }
            None => at += 1,
        }
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[kept..]);
    Cow::Owned(out)
}

/// The part to replace when a secret's mark begins at `at`.
fn secret_at(text: &[u8], at: usize) -> Option<(usize, usize)> {
    let rest = text.get(at..)?;
    for prefix in ["sk_live_", "ak_live_", "whsec_"] {
        if rest.starts_with(prefix.as_bytes()) {
            let start = at + prefix.len();
            return some(start, end_of(text, start, in_token));
        }
    }
    if !at_boundary(text, at) {
        return None;
    }
    if rest.starts_with(b"eyJ") {
        let end = end_of(text, at, |byte| in_token(byte) || byte == b'.');
        // The shortest header, {"alg":""}, has 14 characters, and a dot follows it.
        if end - at > 14 && text.get(at..end)?.contains(&b'.') {
            return Some((at, end));
        }
    }
    for name in ["sk", "tok", "jwt"] {
        if rest.starts_with(name.as_bytes())
            && let Some(start) = value_after(text, at + name.len())
        {
            return some(start, end_of(text, start, in_value));
        }
    }
    if rest.len() > 7 && rest.get(..7)?.eq_ignore_ascii_case(b"bearer ") {
        return some(at + 7, end_of(text, at + 7, in_value));
    }
    None
}

/// Whether a name may begin here: nothing of a word in front, except the end of `%3F` or `%26` in
/// a percent-encoded URL, or of the escape sequence that sets a field's style on a terminal.
fn at_boundary(text: &[u8], at: usize) -> bool {
    let before = text.get(..at).unwrap_or_default();
    let Some(last) = before.last() else { return true };
    !in_word(*last)
        || [b"%3F", b"%3f", b"%26"].iter().any(|encoded| before.ends_with(*encoded))
        || (*last == b'm' && {
            let style = before.iter().rev().skip(1);
            let digits = |byte: &&u8| byte.is_ascii_digit() || **byte == b';';
            style.skip_while(digits).take(2).eq([b'[', 0x1b].iter())
        })
}

/// Where the value starts when the text from `at` on assigns one: `=v`, `="v"`, `":"v"`, the same
/// percent-encoded or inside a quoted string, with or without terminal styles in between.
fn value_after(text: &[u8], at: usize) -> Option<usize> {
    let rest = skip_style(text.get(at..)?);
    let rest = match rest {
        [b'=', rest @ ..] | [b'%', b'3', b'D' | b'd', rest @ ..] => rest,
        [b'"' | b'\\', ..] => {
            let rest = skip_quote(rest).trim_ascii_start().strip_prefix(b":")?;
            rest.trim_ascii_start()
        }
        _ => return None,
    };
    // A debug-printed option inside a JSON string has a quotation mark before and after `Some(`.
    let rest = skip_quote(skip_style(rest));
    let rest = skip_quote(rest.strip_prefix(b"Some(").unwrap_or(rest));
    Some(text.len() - rest.len())
}

/// A quotation mark, escaped or not.
fn skip_quote(rest: &[u8]) -> &[u8] {
    let unescaped = rest.strip_prefix(b"\\").unwrap_or(rest);
    unescaped.strip_prefix(b"\"").unwrap_or(rest)
}

/// Escape sequences that set a style: `ESC [ … m`.
fn skip_style(mut rest: &[u8]) -> &[u8] {
    while let Some(style) = rest.strip_prefix(b"\x1b[") {
        let end = style.iter().position(|byte| !byte.is_ascii_digit() && *byte != b';');
        match end.map(|end| style.split_at(end)) {
            Some((_, [b'm', after @ ..])) => rest = after,
            _ => return rest,
        }
    }
    rest
}

fn some(start: usize, end: usize) -> Option<(usize, usize)> {
    (start < end).then_some((start, end))
}

fn end_of(text: &[u8], start: usize, inside: impl Fn(u8) -> bool) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    start + rest.iter().position(|byte| !inside(*byte)).unwrap_or(rest.len())
}

fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn in_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// A value ends where a query, a quoted string, a list or a sentence goes on. Bytes outside ASCII
/// belong to it, so it never ends inside a character.
fn in_value(byte: u8) -> bool {
    !byte.is_ascii_whitespace()
        && !byte.is_ascii_control()
        && !b"&\"'#<>()[]{},;\\`|".contains(&byte)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, InvalidFilter> {
    // What comes later wins, so whoever names the quiet one still hears it.
    EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|error| InvalidFilter {
        filter: filter.to_owned(),
        reason: error.to_string().replace('\n', " "),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn secrets_vanish_and_the_rest_stays() {
        for (line, expected) in [
            ("nothing here", "nothing here"),
            ("task=1 ask=2 desk=3", "task=1 ask=2 desk=3"),
            ("eyJ is short", "eyJ is short"),
            ("bearer ", "bearer "),
            ("rtmp://h/live/lv_1?sk=hunter2&x=1", "rtmp://h/live/lv_1?sk=[redacted]&x=1"),
            ("key sk_live_abc-9 refused", "key sk_live_[redacted] refused"),
            ("ak_live_0123", "ak_live_[redacted]"),
            ("path=\"/playback/lv_1?tok=a.b.c\"", "path=\"/playback/lv_1?tok=[redacted]\""),
            (
                "url=https%3A%2F%2Fh%2Fp%3Ftok%3Dabc%26sk%3Ddef",
                "url=https%3A%2F%2Fh%2Fp%3Ftok%3D[redacted]",
            ),
            ("saw eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0.c2ln!", "saw [redacted]!"),
            ("{\"tok\":\"abc\",\"n\":1}", "{\"tok\":\"[redacted]\",\"n\":1}"),
            ("sk=\"abc def\" tok=Some(\"ghi\")", "sk=\"[redacted] def\" tok=Some(\"[redacted]\")"),
            ("msg=\"{\\\"sk\\\": \\\"abc\\\"}\"", "msg=\"{\\\"sk\\\": \\\"[redacted]\\\"}\""),
            ("\x1b[3msk\x1b[0m\x1b[2m=\x1b[0mabc x", "\x1b[3msk\x1b[0m\x1b[2m=\x1b[0m[redacted] x"),
            ("Authorization: Bearer abc.def", "Authorization: Bearer [redacted]"),
            ("ünïcode sk=gehéim, ende", "ünïcode sk=[redacted], ende"),
        ] {
            assert_eq!(redact(line), expected);
        }
    }

    #[test]
    fn a_secret_in_a_span_or_a_field_does_not_reach_the_log() {
        #[derive(Clone, Default)]
        struct Captured(Arc<Mutex<Vec<u8>>>);
        impl Write for Captured {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().expect("no panic while held").extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let captured = Captured::default();
        let sink = captured.clone();
        let writer = Redacting(move || sink.clone());
        let emit = || {
            let span = tracing::info_span!("session", url = "/publish/lv_1?sk=topsecret1");
            let _entered = span.enter();
            let error = io::Error::other("GET /watch?tok=topsecret2 failed");
            let tok = Some("topsecret5");
            tracing::info!(?error, ?tok, key = "sk_live_topsecret3", "refused sk=topsecret4");
        };
        let human = tracing_subscriber::fmt().with_ansi(true).with_writer(writer.clone());
        tracing::subscriber::with_default(human.finish(), emit);
        let json = tracing_subscriber::fmt().json().flatten_event(true).with_writer(writer);
        tracing::subscriber::with_default(json.finish(), emit);
        let log = String::from_utf8(captured.0.lock().expect("done").clone()).expect("text");
        assert!(log.contains("refused") && log.contains("/publish/lv_1"), "{log}");
        assert!(!log.contains("topsecret"), "{log}");
        assert!(
            log.lines()
                .filter(|line| line.starts_with('{'))
                .all(|line| { serde_json::from_str::<serde_json::Value>(line).is_ok() })
        );
    }

    #[test]
    fn a_filter_that_does_not_parse_is_refused() {
        assert!(parse_filter("info,weir=debug").is_ok());
        assert!(parse_filter("weir=loud").is_err());
    }
}
