//! REDIRECT: requests whose answer is elsewhere. It owns the table of namespaces that are known to live at another
//! relay, and what a relay that is being drained says to those who still ask it for something new. An address comes
//! from our own configuration or from a relay above, never from a publisher: viewers take their tokens there.

use weir_moqt::{Feature, Redirect, RequestCode, RequestError, RequestId};

use super::Relay;
use crate::{FullTrackName, Namespace, SessionId};

/// Namespace trees and the address of the relay that serves each.
#[derive(Debug, Default)]
pub(super) struct Redirects(Vec<(Namespace, String)>);

impl Redirects {
    /// The address for the longest of the prefixes that hold `namespace`.
    fn of(&self, namespace: &Namespace) -> Option<&str> {
        let holding = self.0.iter().filter(|(prefix, _)| namespace.starts_with(prefix));
        holding.max_by_key(|(prefix, _)| prefix.len()).map(|(_, uri)| uri.as_str())
    }
}

impl Relay {
    /// Tracks under these namespaces that nobody on this node holds are to be asked for at these addresses. Replaces
    /// what was said before.
    pub fn set_redirects(&mut self, redirects: Vec<(Namespace, String)>) {
        self.redirects = Redirects(redirects);
    }

    /// Where a track is that nobody here holds, if we were told.
    pub(super) fn redirect_of(&self, name: &FullTrackName) -> Option<RequestError> {
        if self.directory.serving(name.namespace()).is_some() {
            return None;
        }
        self.redirects.of(name.namespace()).map(|uri| elsewhere(uri, "lives elsewhere"))
    }

    /// A relay that is being drained, and knows where its sessions should go, takes up nothing new for a viewer: true
    /// when the request was answered with that address. Nodes below choose their next upstream themselves.
    pub(super) fn sends_away(&mut self, session: SessionId, request: RequestId) -> bool {
        let Some(uri) = self.drained_to().map(str::to_owned) else { return false };
        let Some(state) = self.live(session) else { return false };
        if state.node.is_some() || !state.moqt.supports(Feature::Redirect) {
            return false;
        }
        self.refuse_request(session, request, &elsewhere(&uri, "draining"));
        true
    }

    /// What a peer can be told: drafts without REDIRECT hear that there is no such track.
    pub(super) fn tellable(&mut self, session: SessionId, error: &RequestError) -> RequestError {
        if error.code != RequestCode::Redirect {
            return error.clone();
        }
        let told = self.live(session).is_some_and(|state| state.moqt.supports(Feature::Redirect));
        if told && error.redirect.is_some() {
            self.metrics.redirects_sent += 1;
            error.clone()
        } else {
            RequestError::new(RequestCode::DoesNotExist, "not_live")
        }
    }
}

/// The answer that names another place.
fn elsewhere(uri: &str, reason: &str) -> RequestError {
    let redirect = Redirect { uri: uri.to_owned(), track: None };
    RequestError {
        redirect: Some(Box::new(redirect)),
        ..RequestError::new(RequestCode::Redirect, reason)
    }
}

/// Host and port of an address; 443 where it names no port.
pub(super) fn authority(uri: &str) -> Option<String> {
    let rest = uri.strip_prefix("moqt://").or_else(|| uri.strip_prefix("https://"))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest.get(..end).filter(|host| !host.is_empty() && !host.contains('@'))?;
    let has_port = host.rfind(':').is_some_and(|at| !host.ends_with(']') && at > 0);
    let authority = if has_port { host.to_owned() } else { format!("{host}:443") };
    Some(authority.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_by_host_and_port() {
        for (uri, expected) in [
            ("moqt://b.example:4443", Some("b.example:4443")),
            ("https://B.Example:4443/x?y#z", Some("b.example:4443")),
            ("https://b.example", Some("b.example:443")),
            ("moqt://[2001:db8::1]:4433/", Some("[2001:db8::1]:4433")),
            ("moqt://[2001:db8::1]", Some("[2001:db8::1]:443")),
            ("moqt://a@b.example:1", None),
            ("ftp://b.example:1", None),
            ("moqt://", None),
            ("", None),
        ] {
            assert_eq!(authority(uri).as_deref(), expected, "{uri}");
        }
    }

    #[test]
    fn the_longest_prefix_decides() {
        let ns = |fields: &[&str]| Namespace::new(fields).unwrap();
        let table = Redirects(vec![
            (ns(&["stream", "org_a"]), "moqt://a".to_owned()),
            (ns(&["stream", "org_a", "lv_2"]), "moqt://b".to_owned()),
        ]);
        assert_eq!(table.of(&ns(&["stream", "org_a", "lv_1"])), Some("moqt://a"));
        assert_eq!(table.of(&ns(&["stream", "org_a", "lv_2", "x"])), Some("moqt://b"));
        assert_eq!(table.of(&ns(&["stream", "org_b"])), None);
    }
}
