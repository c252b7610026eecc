//! Key `public.playback`: every relay at which the broadcasts of a node can be watched. Owns what such a list may hold;
//! which of them a viewer uses is the viewer's choice.

use std::str::FromStr;

use serde::Deserialize;

use super::drain::NewUri;
use crate::client::ADDRESSES_MAX;

/// Addresses such as `https://edge-1.example.com:4443`, at most as many as a viewer keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "Vec<NewUri>")]
pub struct PlaybackAddresses(Vec<NewUri>);

impl PlaybackAddresses {
    /// The addresses as written.
    pub fn list(&self) -> Vec<String> {
        self.0.iter().map(|address| address.as_str().to_owned()).collect()
    }
}

impl TryFrom<Vec<NewUri>> for PlaybackAddresses {
    type Error = String;

    fn try_from(addresses: Vec<NewUri>) -> Result<Self, String> {
        if addresses.len() > ADDRESSES_MAX {
            return Err(format!("public.playback: at most {ADDRESSES_MAX} addresses"));
        }
        if addresses.iter().any(|address| address.as_str().is_empty()) {
            return Err("public.playback: an address is empty".to_owned());
        }
        Ok(Self(addresses))
    }
}

/// Separated by commas, for a variable.
impl FromStr for PlaybackAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let addresses = text.split(',').map(|address| address.trim().parse());
        addresses.collect::<Result<Vec<NewUri>, _>>()?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_hold_neither_a_broadcast_nor_a_token_and_are_bounded() {
        let good = "https://a.example:4443, moqt://b.example";
        let list = good.parse::<PlaybackAddresses>().expect("addresses").list();
        assert_eq!(list, ["https://a.example:4443", "moqt://b.example"]);
        let many = ["https://a.example"; ADDRESSES_MAX + 1].join(",");
        for bad in ["", "a.example", "https://a/playback/x?tok=y", "https://a,,https://b", &many] {
            assert!(bad.parse::<PlaybackAddresses>().is_err(), "{bad}");
        }
    }
}
