//! Offers and ICE fragments as a stranger writes them, checked before the WebRTC stack sees them. It
//! owns what makes an offer unusable and why, in words for the publisher; what the stack negotiates
//! is its own matter.

use std::fmt;

/// Why an offer is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// It is not SDP, or lacks what WebRTC needs (422).
    Unusable(&'static str),
    /// The WebRTC stack found a fault in it (422).
    Fault(String),
    /// It offers no codec that is taken (406).
    Codec(&'static str),
    /// As many sessions as there may be (503).
    Capacity,
    /// No address a publisher could send to is known (503).
    NoAddress,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(why) | Self::Codec(why) => f.write_str(why),
            Self::Fault(why) => f.write_str(why),
            Self::Capacity => f.write_str("as many sessions as this node takes"),
            Self::NoAddress => f.write_str("no address of this node for media is known"),
        }
    }
}

impl std::error::Error for Refused {}

/// Media sections of one offer: publishers have two, Chromium's test pages up to six.
const SECTIONS_MAX: usize = 8;

/// Lines of one offer: Chromium's are about 250.
const LINES_MAX: usize = 2_000;

/// Checks an offer and makes of it what the stack is to see: the publisher sends and we receive,
/// and no candidates, because an ICE-lite agent answers wherever it is asked from (RFC 8445 §2.5).
pub(super) fn prepare(offer: &str) -> Result<String, Refused> {
    use Refused::Unusable;

    if !offer.starts_with("v=0") {
        return Err(Unusable("not an SDP offer: it does not begin with v=0"));
    }
    let mut out = String::with_capacity(offer.len());
    let mut sections = 0_usize;
    let mut sends = false;
    let mut muxed = 0;
    let (mut fingerprint, mut setup, mut ufrag, mut bundle) = (false, false, false, false);
    for (number, line) in offer.lines().enumerate() {
        if number >= LINES_MAX {
            return Err(Unusable("the offer is too long"));
        }
        let line = line.trim_end();
        let line = match line {
            "a=sendrecv" => "a=sendonly",
            other => other,
        };
        if let Some(media) = line.strip_prefix("m=") {
            sections += 1;
            if sections > SECTIONS_MAX {
                return Err(Unusable("the offer has too many media sections"));
            }
            if media.starts_with("application") {
                return Err(Unusable("data channels are not taken, offer audio and video only"));
            }
            if !media.contains("/SAVPF ") {
                return Err(Unusable("media must be offered as SRTP with feedback (SAVPF)"));
            }
        }
        match line.split_once(':').map_or((line, ""), |(name, value)| (name, value)) {
            ("a=candidate" | "a=end-of-candidates" | "a=remote-candidates", _) => continue,
            ("a=group", value) => bundle |= value.starts_with("BUNDLE"),
            ("a=fingerprint", value) => {
                fingerprint = true;
                let hash = value.split(' ').next().unwrap_or_default();
                if !hash.eq_ignore_ascii_case("sha-256") {
                    return Err(Unusable("the fingerprint must be of SHA-256"));
                }
            }
            ("a=ice-ufrag", _) => ufrag = true,
            ("a=rtcp-mux", _) => muxed += 1,
            ("a=sendonly", _) => sends = true,
            ("a=setup", value) => {
                setup = true;
                if value == "holdconn" {
                    return Err(Unusable("setup:holdconn publishes nothing"));
                }
            }
            _ => {}
        }
        out.push_str(line);
        out.push_str("\r\n");
    }
    let wanted = [
        (sections > 0, "the offer has no media section"),
        (sends, "the offer sends nothing: a section must be sendonly"),
        (fingerprint, "the offer has no fingerprint: media must be encrypted"),
        (setup, "the offer does not say its DTLS role (a=setup)"),
        (ufrag, "the offer has no ICE user fragment"),
        (muxed == sections, "every media section must offer rtcp-mux"),
        (sections == 1 || bundle, "several media sections must be bundled (a=group:BUNDLE)"),
    ];
    wanted.into_iter().find(|(there, _)| !there).map_or(Ok(out), |(_, why)| Err(Unusable(why)))
}

/// Whether the answer rejects a section of the offer: its port is 0 (RFC 8843 §7.3.3).
pub(super) fn rejected(answer: &str) -> Option<Refused> {
    answer.lines().find_map(|line| {
        let (kind, rest) = line.strip_prefix("m=")?.split_once(' ')?;
        (rest.split(' ').next() == Some("0")).then_some(match kind {
            "video" => Refused::Codec("video must be H.264"),
            _ => Refused::Codec("audio must be Opus"),
        })
    })
}

/// What a fragment for trickle ICE says (RFC 8840 §9).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fragment {
    /// The publisher's ICE user fragment.
    pub(super) ufrag: Option<String>,
    /// And its password.
    pub(super) password: Option<String>,
}

/// Reads a fragment. Its candidates are passed over: see [`prepare`].
pub(super) fn fragment(text: &str) -> Result<Fragment, Refused> {
    let mut found = Fragment::default();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if number >= LINES_MAX {
            return Err(Refused::Unusable("the fragment is too long"));
        }
        let known = line.is_empty() || line.starts_with("a=") || line.starts_with("m=");
        if !known {
            return Err(Refused::Unusable("not an SDP fragment"));
        }
        // RFC 8839 §5.4: 4 to 256 and 22 to 256 characters of a small alphabet.
        let token = |value: &str, least: usize| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
            ((least..=256).contains(&value.len()) && value.bytes().all(plain))
                .then(|| value.to_owned())
                .ok_or(Refused::Unusable("malformed ICE credentials"))
        };
        if let Some(value) = line.strip_prefix("a=ice-ufrag:") {
            found.ufrag = Some(token(value, 4)?);
        } else if let Some(value) = line.strip_prefix("a=ice-pwd:") {
            found.password = Some(token(value, 22)?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=ice-ufrag:abcd\r\n\
        a=ice-pwd:abcdefghijklmnopqrstuv\r\na=fingerprint:sha-256 AA:BB\r\na=setup:actpass\r\n\
        a=sendrecv\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\n\
        a=candidate:1 1 udp 1 x.local 9 typ host\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=sendonly\r\na=rtcp-mux\r\n\
        a=rtpmap:96 H264/90000\r\n";

    #[test]
    fn an_offer_comes_out_sending_only_and_without_candidates() {
        let prepared = prepare(OFFER).expect("usable");
        assert!(!prepared.contains("candidate") && !prepared.contains("sendrecv"));
        assert_eq!(prepared.matches("a=sendonly\r\n").count(), 2);
    }

    #[test]
    fn what_an_offer_lacks_is_named() {
        for (from, to, why) in [
            ("v=0", "{\"sdp\":", "does not begin"),
            ("a=fingerprint", "a=x", "no fingerprint"),
            ("sha-256", "sha-1", "SHA-256"),
            ("a=setup", "a=x", "DTLS role"),
            ("a=setup:actpass", "a=setup:holdconn", "publishes nothing"),
            ("a=ice-ufrag", "a=x", "user fragment"),
            ("a=group", "a=x", "bundled"),
            ("m=video", "m=application", "data channels"),
            ("UDP/TLS/RTP/SAVPF 96", "RTP/AVP 96", "SAVPF"),
            ("a=sendonly\r\na=rtcp-mux", "a=sendonly", "rtcp-mux"),
        ] {
            let refused = prepare(&OFFER.replacen(from, to, 1)).expect_err(why);
            assert!(refused.to_string().contains(why), "{refused}");
        }
        let listens = OFFER.replace("sendonly", "recvonly").replace("sendrecv", "recvonly");
        assert!(prepare(&listens).is_err_and(|why| why.to_string().contains("sends nothing")));
    }

    #[test]
    fn ten_thousand_sections_or_lines_are_too_many() {
        let sections = OFFER.to_owned() + &"m=video 9 UDP/TLS/RTP/SAVPF 96\r\n".repeat(10_000);
        assert!(prepare(&sections).is_err_and(|why| why.to_string().contains("sections")));
        let lines = OFFER.to_owned() + &"a=x\r\n".repeat(10_000);
        assert!(prepare(&lines).is_err_and(|why| why.to_string().contains("too long")));
        assert!(fragment(&"a=x\r\n".repeat(10_000)).is_err());
    }

    #[test]
    fn a_fragment_gives_credentials_and_nothing_else() {
        let text = "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\nm=audio 9 RTP/AVP 0\r\n\
            a=mid:0\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\na=end-of-candidates\r\n";
        let found = fragment(text).expect("a fragment");
        assert_eq!(found.ufrag.as_deref(), Some("EsAw"));
        assert_eq!(found.password.as_deref(), Some("P2uYro0UCOQ4zxjKXaWCBui1"));
        assert!(fragment("hello").is_err());
        assert!(fragment("a=ice-ufrag:a b c d\r\n").is_err());
    }
}
