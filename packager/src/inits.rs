//! The initialisations that a publisher's catalog names, whichever of the two kinds of catalog it is. It reads what a
//! stranger wrote, and only as much of it as finds the headers of tracks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::catalog::{CATALOG_BYTES_MAX, Error, TRACKS_MAX};

/// What both kinds have in common, and where each keeps its headers: `.catalog` in `init`, MSF in `initData` or in a
/// list that `initRef` points into (draft-ietf-moq-cmsf-01).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Either {
    #[serde(default)]
    tracks: Vec<Track>,
    #[serde(default)]
    init_data_list: Vec<InitData>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Track {
    name: String,
    init: Option<String>,
    init_data: Option<String>,
    init_ref: Option<String>,
}

#[derive(Deserialize)]
struct InitData {
    id: String,
    data: String,
}

/// Track names with their headers; tracks without one are left out.
pub fn inits_of(json: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Error> {
    if json.len() > CATALOG_BYTES_MAX {
        return Err(Error::TooLarge(json.len()));
    }
    let catalog: Either =
        serde_json::from_slice(json).map_err(|error| Error::Json(error.to_string()))?;
    let Either { tracks, init_data_list: list } = catalog;
    if tracks.len() > TRACKS_MAX || list.len() > TRACKS_MAX {
        return Err(Error::TooManyTracks(tracks.len().max(list.len())));
    }
    let mut inits = Vec::new();
    for track in tracks {
        let listed = || {
            let wanted = track.init_ref.as_ref()?;
            Some(&list.iter().find(|known| known.id == *wanted)?.data)
        };
        let Some(text) = track.init.as_ref().or(track.init_data.as_ref()).or_else(listed) else {
            continue;
        };
        let Ok(init) = STANDARD.decode(text) else {
            let name = track.name.chars().take(32).collect();
            return Err(Error::Track { name, reason: "its header is not base64" });
        };
        inits.push((track.name, init));
    }
    Ok(inits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Catalog, Kind, VERSION};

    #[test]
    fn both_catalogs_of_a_broadcast_name_the_same_headers() {
        let track = crate::catalog::Track {
            name: "audio".into(),
            kind: Kind::Audio,
            codec: "opus".into(),
            width: None,
            height: None,
            framerate: None,
            bitrate: None,
            sample_rate: Some(48_000),
            channels: Some(2),
            timescale: Some(48_000),
            init: vec![1, 2, 3],
        };
        let catalog =
            Catalog { version: VERSION, live: true, capture_clock: None, tracks: vec![track] };
        let wanted = vec![("audio".to_owned(), vec![1, 2, 3])];
        assert_eq!(inits_of(&catalog.to_json()), Ok(wanted.clone()));
        assert_eq!(inits_of(&catalog.to_msf(500, None)), Ok(wanted));
    }

    #[test]
    fn what_is_no_catalog_is_refused_and_a_track_without_a_header_left_out() {
        assert!(matches!(inits_of(b"\xff"), Err(Error::Json(_))));
        assert_eq!(inits_of(br#"{"tracks":[{"name":"chat"}]}"#), Ok(Vec::new()));
        let bad = br#"{"tracks":[{"name":"video","init":"?"}]}"#;
        assert!(matches!(inits_of(bad), Err(Error::Track { .. })));
    }
}
