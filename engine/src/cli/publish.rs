//! Where encoders publish to an input: every address of it, over every protocol, made in one place
//! from the node's addresses. It holds keys in the clear, so it has no `Debug` and is used up by
//! the one answer that shows it.

use serde::Serialize;
use weir_control::{Ingest, InputId, SrtSecret, StreamKey};

use super::Addresses;

/// The publish addresses of one input, each ready to paste, key included. All are always there, since
/// the key stays when the input's protocol is changed; those of [`PublishUrls::accepted`] are taken.
#[derive(Clone, Serialize)]
pub struct PublishUrls {
    /// RTMP.
    pub rtmp: String,
    /// RTMP inside TLS.
    pub rtmps: String,
    /// SRT, caller mode; the stream id is `INPUT:KEY`.
    pub srt: String,
    /// WHIP; the key may also travel as bearer token instead of `sk`.
    pub whip: String,
    /// CMAF over MoQT, by WebTransport.
    pub publish: String,
}

impl PublishUrls {
    /// The same for an input whose SRT publishers must encrypt.
    #[must_use]
    pub fn with_srt_secret(mut self, secret: Option<&SrtSecret>) -> Self {
        if let Some(SrtSecret { passphrase, key_bytes }) = secret {
            let more = format!("&passphrase={}&pbkeylen={key_bytes}", passphrase.expose());
            self.srt.push_str(&more);
        }
        self
    }

    /// Those that an input with this ingest takes, by name.
    pub fn accepted(&self, ingest: Ingest) -> Vec<(&'static str, &str)> {
        match ingest {
            Ingest::Rtmp => vec![("rtmp", &self.rtmp), ("rtmps", &self.rtmps)],
            Ingest::Srt => vec![("srt", &self.srt)],
            Ingest::Whip => vec![("whip", &self.whip)],
            Ingest::Fmp4 => vec![("publish", &self.publish)],
            _ => Vec::new(),
        }
    }
}

impl Addresses {
    /// Every publish address of an input.
    pub fn publish_urls(&self, input: &InputId, key: &StreamKey) -> PublishUrls {
        self.publish_urls_with(input.as_str(), key.expose())
    }

    /// The same for texts: the pages show addresses with a placeholder for the key.
    pub fn publish_urls_with(&self, input: &str, key: &str) -> PublishUrls {
        let (rtmp, rtmps) = (self.authority(self.rtmp), self.authority(self.rtmps));
        let (srt, pages) = (self.authority(self.srt), self.authority(self.https));
        PublishUrls {
            rtmp: format!("rtmp://{rtmp}/live/{input}?sk={key}"),
            rtmps: format!("rtmps://{rtmps}/live/{input}?sk={key}"),
            srt: format!("srt://{srt}?streamid={input}:{key}"),
            whip: format!("https://{pages}/whip/{input}?sk={key}"),
            publish: format!("{}/publish/{input}?sk={key}", self.webtransport_base()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_has_its_own_port_and_the_public_host() {
        let on = |port| std::net::SocketAddr::from(([0, 0, 0, 0], port));
        let addresses = Addresses {
            http: on(8080),
            https: on(443),
            quic: on(4443),
            rtmp: on(1935),
            rtmps: on(1936),
            srt: on(8890),
            whip: on(8891),
            public_host: Some("live.example.com".into()),
        };
        let urls = addresses.publish_urls_with("lv_1", "k");
        assert_eq!(urls.rtmp, "rtmp://live.example.com:1935/live/lv_1?sk=k");
        assert_eq!(urls.rtmps, "rtmps://live.example.com:1936/live/lv_1?sk=k");
        assert_eq!(urls.srt, "srt://live.example.com:8890?streamid=lv_1:k");
        assert_eq!(urls.whip, "https://live.example.com:443/whip/lv_1?sk=k");
        assert_eq!(urls.publish, "https://live.example.com:4443/publish/lv_1?sk=k");
        let passphrase = weir_control::Passphrase::parse("correct-horse").expect("a good one");
        let urls = urls.with_srt_secret(Some(&SrtSecret { passphrase, key_bytes: 24 }));
        let more = "&passphrase=correct-horse&pbkeylen=24";
        assert_eq!(urls.srt, format!("srt://live.example.com:8890?streamid=lv_1:k{more}"));
        let names = |ingest| -> Vec<&str> {
            urls.accepted(ingest).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(Ingest::Rtmp), ["rtmp", "rtmps"]);
        assert_eq!(names(Ingest::Srt), ["srt"]);
        assert_eq!(names(Ingest::Whip), ["whip"]);
        assert_eq!(names(Ingest::Fmp4), ["publish"]);
    }
}
