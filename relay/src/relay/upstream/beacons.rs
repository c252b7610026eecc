//! What a relay tells the relays below it, on tracks of its own that never leave their hop, and how we
//! read it from those above. What the words mean is the engine's matter.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use weir_moqt::{Event as Moqt, RequestId, RequestKind};

use super::super::Relay;
use super::Above;
use crate::{Event, FullTrackName, Namespace, SessionCode, SessionId, StreamId};

/// What a relay tells the relays below it on tracks of its own, hop by hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Beacon {
    /// The ids of the nodes between it and the engine.
    Path,
    /// Whom to believe: keys of viewers and nodes, signed by the engine.
    Trust,
}

impl Beacon {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Path, Self::Trust];

    /// Its track: `.session` tracks never leave their hop.
    pub fn track(self) -> FullTrackName {
        let name = match self {
            Self::Path => "path",
            Self::Trust => "trust",
        };
        let namespace = Namespace::new([".session", "weir"]);
        namespace
            .and_then(|namespace| FullTrackName::new(namespace, name))
            .expect("two short fields and a short name are within all limits")
    }
}

/// Largest beacon: the largest trust of viewers' keys, and as much of nodes and signature.
const BEACON_BYTES_MAX: usize = crate::auth::TRUST_BYTES_MAX + (1 << 20);

/// Streams of beacons under way in one session; each brings one small object.
const BEACON_STREAMS_MAX: usize = 8;

impl Relay {
    /// Takes what belongs to beacons, and GOAWAY, out of the events of a session with a relay
    /// above; hands back the rest.
    pub(in crate::relay) fn divert(
        &mut self,
        session: SessionId,
        event: Moqt,
        now: Instant,
    ) -> Option<Moqt> {
        let Some(above) = self.mesh.sessions.get_mut(&session) else { return Some(event) };
        match event {
            Moqt::GoAway { request: None, uri, timeout_ms } => {
                self.events.push_back(Event::UpstreamGoAway { session, uri, timeout_ms });
            }
            Moqt::SubgroupOpened { stream, request, .. } if above.beacon(request).is_some() => {
                if let Some(beacon) = above.beacon(request)
                    && above.streams.len() < BEACON_STREAMS_MAX
                {
                    above.streams.push((stream, beacon, BytesMut::new()));
                }
            }
            Moqt::RequestError { request, kind: RequestKind::Subscribe, error }
                if above.beacon(request).is_some() =>
            {
                let reason = format!("upstream is no relay of ours: {}", error.reason);
                self.close(session, SessionCode::Unauthorized, reason, now);
            }
            Moqt::SubscribeOk { request, .. } | Moqt::PublishDone { request, .. }
                if above.beacon(request).is_some() => {}
            Moqt::ObjectStarted { stream, .. } if above.reads(stream) => {
                above.streams.iter_mut().filter(|s| s.0 == stream).for_each(|s| s.2.clear());
            }
            Moqt::Payload { stream, data, last } if above.reads(stream) => {
                let (_, beacon, held) =
                    above.streams.iter_mut().find(|(known, ..)| *known == stream)?;
                if held.len() + data.len() > BEACON_BYTES_MAX {
                    let reason = "upstream beacon too large".to_owned();
                    self.close(session, SessionCode::Internal, reason, now);
                    return None;
                }
                held.extend_from_slice(&data);
                if last {
                    let (beacon, payload): (Beacon, Bytes) = (*beacon, held.split().freeze());
                    self.events.push_back(Event::Beacon { session, beacon, payload });
                }
            }
            Moqt::DataEnded { stream } | Moqt::DataReset { stream, .. } if above.reads(stream) => {
                above.streams.retain(|(known, ..)| *known != stream);
            }
            other => return self.discovered(session, other, now),
        }
        None
    }
}

impl Above {
    fn beacon(&self, request: RequestId) -> Option<Beacon> {
        self.requests.iter().find(|(known, _)| *known == request).map(|(_, beacon)| *beacon)
    }

    fn reads(&self, stream: StreamId) -> bool {
        self.streams.iter().any(|(known, ..)| *known == stream)
    }
}
