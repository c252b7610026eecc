//! The two catalogs of a broadcast: `.catalog` (our own schema, read by our players) and `catalog` (MSF-01 with CMSF-01,
//! for everyone else's). Owns the JSON on both sides, writing and parsing; knows nothing of when to publish.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The version of `.catalog` this crate writes and reads.
pub const VERSION: u32 = 1;
/// A catalog with 64 tracks of 8 KiB; anything larger is no catalog.
pub const CATALOG_BYTES_MAX: usize = 512 * 1024;
/// Tracks a catalog may name.
pub const TRACKS_MAX: usize = 64;
/// Bytes of a track name on the wire (a MoQT name may have 4096 with its namespace).
const NAME_BYTES_MAX: usize = 256;

/// Why a catalog was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Larger than any catalog.
    #[error("catalog of {0} bytes, at most {CATALOG_BYTES_MAX} are taken")]
    TooLarge(usize),
    /// Not the JSON we expect.
    #[error("catalog: {0}")]
    Json(String),
    /// Written by a future version.
    #[error("catalog version {0}, {VERSION} is understood")]
    Version(u32),
    /// More tracks than a broadcast has.
    #[error("catalog with {0} tracks, at most {TRACKS_MAX} are taken")]
    TooManyTracks(usize),
    /// A track whose fields contradict each other.
    #[error("catalog track {name}: {reason}")]
    Track {
        /// Its name, shortened.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// The `.catalog` object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// Always [`VERSION`].
    pub version: u32,
    /// False in the last catalog of a broadcast, and in a recording.
    pub live: bool,
    /// Where capture times travel: `prft` means in front of every chunk.
    #[serde(rename = "captureClock", skip_serializing_if = "Option::is_none", default)]
    pub capture_clock: Option<String>,
    /// The renditions.
    pub tracks: Vec<Track>,
}

/// What a track carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
    /// A kind this version does not know; skip the track.
    #[serde(other)]
    Unknown,
}

/// One rendition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Track {
    /// Name of the track in the broadcast's namespace.
    pub name: String,
    /// What it carries.
    pub kind: Kind,
    /// RFC 6381.
    pub codec: String,
    /// In pixels, video only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub width: Option<u32>,
    /// In pixels, video only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub height: Option<u32>,
    /// Frames per second as measured, video only, once known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub framerate: Option<f64>,
    /// Bits per second as measured, once known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bitrate: Option<u64>,
    /// Audio only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sample_rate: Option<u32>,
    /// Audio only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub channels: Option<u16>,
    /// Units per second of decode times in the chunks.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timescale: Option<u32>,
    /// The CMAF header; base64 in JSON.
    #[serde(with = "base64_bytes")]
    pub init: Vec<u8>,
}

impl Catalog {
    /// Reads a `.catalog` object that came from a stranger. Unknown fields are ignored.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        if json.len() > CATALOG_BYTES_MAX {
            return Err(Error::TooLarge(json.len()));
        }
        let catalog: Self =
            serde_json::from_slice(json).map_err(|error| Error::Json(error.to_string()))?;
        if catalog.version != VERSION {
            return Err(Error::Version(catalog.version));
        }
        if catalog.tracks.len() > TRACKS_MAX {
            return Err(Error::TooManyTracks(catalog.tracks.len()));
        }
        for (index, track) in catalog.tracks.iter().enumerate() {
            let refuse = |reason| {
                let name = track.name.chars().take(32).collect();
                Err(Error::Track { name, reason })
            };
            if track.name.is_empty() || track.name.len() > NAME_BYTES_MAX {
                return refuse("name is empty or longer than 256 bytes");
            }
            if catalog.tracks.iter().take(index).any(|other| other.name == track.name) {
                return refuse("named twice");
            }
        }
        Ok(catalog)
    }

    /// The object to publish.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and numbers only: this cannot fail, and an empty object would be refused by every reader.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The same broadcast as an MSF-01 catalog (draft-ietf-moq-msf-01 §5, draft-ietf-moq-cmsf-01).
    pub(crate) fn to_msf(&self, target_latency_ms: u64, generated_at_ms: Option<u64>) -> Vec<u8> {
        let inits = self.tracks.iter().map(|track| STANDARD.encode(&track.init));
        let tracks: Vec<_> = self
            .tracks
            .iter()
            .zip(inits)
            .map(|(t, init)| self.msf_track(t, init, target_latency_ms))
            .collect();
        let catalog = msf::Catalog {
            version: "draft-01",
            generated_at: generated_at_ms,
            is_complete: (!self.live).then_some(true),
            init_data_list: tracks
                .iter()
                .map(|track| msf::InitData {
                    id: track.name,
                    kind: "inline",
                    data: &track.init_data,
                })
                .collect(),
            tracks: &tracks,
        };
        serde_json::to_vec(&catalog).unwrap_or_default()
    }

    fn msf_track<'a>(
        &self,
        track: &'a Track,
        init_data: String,
        target_latency_ms: u64,
    ) -> msf::Track<'a> {
        let video = track.kind == Kind::Video;
        msf::Track {
            name: &track.name,
            packaging: "cmaf",
            is_live: self.live,
            target_latency: self.live.then_some(target_latency_ms),
            role: if video { "video" } else { "audio" },
            // Everything is to be rendered together; pictures of one source are alternatives of each other.
            render_group: 1,
            alt_group: if video { 1 } else { 2 },
            init_ref: &track.name,
            init_data,
            codec: &track.codec,
            mime_type: if video { "video/mp4" } else { "audio/mp4" },
            framerate: track.framerate,
            timescale: track.timescale,
            bitrate: track.bitrate,
            width: track.width,
            height: track.height,
            samplerate: track.sample_rate,
            channel_config: track.channels.map(|channels| channels.to_string()),
            max_grp_sap_starting_type: 1,
            max_obj_sap_starting_type: if video { 3 } else { 1 },
        }
    }
}

/// The shape of an MSF catalog. Tracks carry no `namespace`: they then inherit the catalog's, whereas one written down
/// would have to be a single string, which readers take for a namespace of one field (shaka-player 5.2.12 does) and ours
/// has three. The init segment is there twice, as MSF-01 wants it (`initRef` into `initDataList`) and as MSF-00 did
/// (`initData`), which is what older readers look for.
mod msf {
    use serde::Serialize;

    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct Catalog<'a> {
        pub(super) version: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(super) generated_at: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(super) is_complete: Option<bool>,
        pub(super) tracks: &'a [Track<'a>],
        pub(super) init_data_list: Vec<InitData<'a>>,
    }

    #[derive(Serialize)]
    pub(super) struct InitData<'a> {
        pub(super) id: &'a str,
        #[serde(rename = "type")]
        pub(super) kind: &'static str,
        pub(super) data: &'a str,
    }

    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct Track<'a> {
        pub(super) name: &'a str,
        pub(super) packaging: &'static str,
        pub(super) is_live: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(super) target_latency: Option<u64>,
        pub(super) role: &'static str,
        pub(super) render_group: u32,
        pub(super) alt_group: u32,
        pub(super) init_ref: &'a str,
        pub(super) init_data: String,
        pub(super) codec: &'a str,
        pub(super) mime_type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(super) framerate: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(super) timescale: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(super) bitrate: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(super) width: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(super) height: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(super) samplerate: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(super) channel_config: Option<String>,
        pub(super) max_grp_sap_starting_type: u8,
        pub(super) max_obj_sap_starting_type: u8,
    }
}

mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(|_| D::Error::custom("init is not base64"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Catalog {
        Catalog {
            version: 1,
            live: true,
            capture_clock: Some("prft".into()),
            tracks: vec![
                Track {
                    name: "video/720p".into(),
                    kind: Kind::Video,
                    codec: "avc1.64001f".into(),
                    width: Some(1280),
                    height: Some(720),
                    framerate: Some(30.0),
                    bitrate: Some(2_500_000),
                    sample_rate: None,
                    channels: None,
                    timescale: Some(90_000),
                    init: vec![1, 2, 3],
                },
                Track {
                    name: "audio".into(),
                    kind: Kind::Audio,
                    codec: "mp4a.40.2".into(),
                    width: None,
                    height: None,
                    framerate: None,
                    bitrate: None,
                    sample_rate: Some(48_000),
                    channels: Some(2),
                    timescale: Some(48_000),
                    init: vec![4, 5],
                },
            ],
        }
    }

    #[test]
    fn the_schema_is_written_as_agreed() {
        let json: serde_json::Value = serde_json::from_slice(&sample().to_json()).unwrap();
        assert_eq!(json["version"], 1);
        assert_eq!(json["live"], true);
        assert_eq!(json["tracks"][0]["kind"], "video");
        assert_eq!(json["tracks"][0]["init"], "AQID");
        assert_eq!(json["tracks"][0]["bitrate"], 2_500_000);
        assert_eq!(json["tracks"][1]["sampleRate"], 48_000);
        assert_eq!(json["tracks"][1]["channels"], 2);
        assert!(json["tracks"][1].get("width").is_none());
        assert_eq!(Catalog::parse(&sample().to_json()).unwrap(), sample());
    }

    #[test]
    fn unknown_fields_and_kinds_are_tolerated() {
        let catalog = Catalog::parse(
            br#"{"version":1,"live":true,"x":[],"tracks":[{"name":"s","kind":"subtitles","codec":"wvtt","init":"","y":1}]}"#,
        )
        .unwrap();
        assert_eq!(catalog.tracks[0].kind, Kind::Unknown);
    }

    #[test]
    fn hostile_catalogs_are_refused() {
        let many = format!(
            r#"{{"version":1,"live":true,"tracks":[{}]}}"#,
            (0..65)
                .map(|i| format!(r#"{{"name":"{i}","kind":"audio","codec":"x","init":""}}"#))
                .collect::<Vec<_>>()
                .join(",")
        );
        let twice = r#"{"version":1,"live":true,"tracks":[{"name":"a","kind":"audio","codec":"x","init":""},{"name":"a","kind":"audio","codec":"x","init":""}]}"#;
        assert!(matches!(Catalog::parse(many.as_bytes()), Err(Error::TooManyTracks(65))));
        assert!(matches!(Catalog::parse(twice.as_bytes()), Err(Error::Track { .. })));
        assert!(matches!(
            Catalog::parse(&vec![b' '; CATALOG_BYTES_MAX + 1]),
            Err(Error::TooLarge(_))
        ));
        assert!(matches!(
            Catalog::parse(br#"{"version":2,"live":true,"tracks":[]}"#),
            Err(Error::Version(2))
        ));
        assert!(matches!(Catalog::parse(&vec![b'['; 100_000]), Err(Error::Json(_))));
    }

    #[test]
    fn msf_has_what_shaka_and_the_draft_ask_for() {
        let json: serde_json::Value =
            serde_json::from_slice(&sample().to_msf(500, Some(1))).unwrap();
        assert_eq!(json["version"], "draft-01");
        let video = &json["tracks"][0];
        assert_eq!(video["packaging"], "cmaf");
        assert_eq!(video["isLive"], true);
        assert_eq!(video["initData"], "AQID");
        assert_eq!(json["initDataList"][0]["id"], video["initRef"]);
        assert_eq!(json["initDataList"][0]["data"], "AQID");
        assert_eq!(video["mimeType"], "video/mp4");
        assert!(video.get("namespace").is_none());
        assert_eq!(json["tracks"][1]["channelConfig"], "2");
    }
}
