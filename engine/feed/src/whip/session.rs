//! One publisher: its WebRTC connection, its sound and its picture. It owns the life of the session from
//! the offer to the last packet and what can be said about it; who it is allowed to be and where its
//! media goes is decided outside.

use std::net::SocketAddr;
use std::time::{Duration, Instant, UNIX_EPOCH};

use str0m::format::Codec;
use str0m::media::{KeyframeRequestKind, MediaKind, Mid, Pt, Rid};
use str0m::net::{DatagramRecv, Protocol, Receive};
use str0m::rtp::{RtpPacket, Ssrc};
use str0m::{Candidate, IceCreds, Input, Output, Rtc};
use weir_packager::TrackId;

use super::audio::Audio;
use super::lanes::{Lane, Lanes};
use super::sdp::{self, Refused};
use super::video::{self, Video};
use super::{Diagnostics, EndCause, Identity, Limits};
use crate::{EndReason, Event};

const VIDEO: TrackId = TrackId(0);
const AUDIO: TrackId = TrackId(1);

/// Simulcast layers that are put together.
const LAYERS_MAX: usize = 4;

/// How often the connection is measured.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(1);

/// Steps in one turn of the WebRTC stack, at most: one datagram leads to a handful.
const STEPS_MAX: usize = 10_000;

/// One datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Datagram {
    pub(super) destination: SocketAddr,
    pub(super) contents: Vec<u8>,
}

/// One publisher.
pub(super) struct Session {
    rtc: Rtc,
    limits: Limits,
    /// The address of ours that the stack believes everything is sent to.
    local: SocketAddr,
    started: Instant,
    last_packet: Instant,
    audio: Option<(Mid, Audio)>,
    video: Option<(Mid, Video)>,
    lanes: Lanes,
    layers: Vec<Option<Rid>>,
    codecs: Vec<(Pt, Codec)>,
    restarts: u64,
    /// When the stack wants to be called.
    timeout: Instant,
    diagnostics: Diagnostics,
    ended: Option<EndCause>,
}

/// What one call led to.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) datagrams: Vec<Datagram>,
    pub(super) media: Vec<Event>,
}

impl Session {
    /// Answers an offer. The publisher may reach us at any of `addresses`.
    pub(super) fn accept(
        offer: &str,
        identity: &Identity,
        addresses: &[SocketAddr],
        limits: Limits,
        now: Instant,
    ) -> Result<(Self, String), Refused> {
        let local = *addresses.first().ok_or(Refused::NoAddress)?;
        let prepared = sdp::prepare(offer)?;
        let mut rtc = Rtc::builder()
            .set_ice_lite(true)
            .set_rtp_mode(true)
            .set_local_ice_credentials(credentials(identity))
            .set_stats_interval(Some(STATISTICS_INTERVAL))
            .clear_codecs()
            .enable_opus(true, false)
            .enable_h264(true)
            .build(now);
        for address in addresses {
            let candidate = Candidate::host(*address, "udp").map_err(|_| Refused::NoAddress)?;
            rtc.add_local_candidate(candidate);
        }
        let fault = |error: &dyn std::fmt::Display| Refused::Fault(error.to_string());
        let parsed =
            str0m::change::SdpOffer::from_sdp_string(&prepared).map_err(|error| fault(&error))?;
        let answer = rtc.sdp_api().accept_offer(parsed).map_err(|error| fault(&error))?;
        let answer = answer.to_sdp_string();
        if let Some(refused) = sdp::rejected(&answer) {
            return Err(refused);
        }
        let codecs = rtc.codec_config().params().iter();
        let codecs = codecs.map(|params| (params.pt(), params.spec().codec)).collect();
        let diagnostics = Diagnostics {
            dtls_active: answer.contains("a=setup:active"),
            ..Diagnostics::default()
        };
        let session = Self {
            rtc,
            limits,
            local,
            started: now,
            last_packet: now,
            audio: None,
            video: None,
            lanes: Lanes::default(),
            layers: Vec::new(),
            codecs,
            restarts: 0,
            timeout: now,
            diagnostics,
            ended: None,
        };
        Ok((session, answer))
    }

    /// Bytes from an address that belongs to this session, or claims to by its user fragment.
    /// Returns whether they were believed.
    pub(super) fn handle_datagram(
        &mut self,
        from: SocketAddr,
        contents: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> bool {
        let Ok(contents) = DatagramRecv::try_from(contents) else {
            self.diagnostics.malformed += 1;
            return false;
        };
        let proto = Protocol::Udp;
        let receive = Receive { proto, source: from, destination: self.local, contents };
        if let Err(error) = self.rtc.handle_input(Input::Receive(now, receive)) {
            self.fail(&error);
        }
        let before = effects.datagrams.len();
        self.drive(now, effects);
        // An answer to where it came from is what only a valid request gets.
        effects.datagrams.iter().skip(before).any(|datagram| datagram.destination == from)
    }

    /// STUN of this address was answered.
    pub(super) fn note_stun(&mut self, from: SocketAddr, now: Instant) {
        self.last_packet = now;
        self.diagnostics.stun.get_or_insert(now.saturating_duration_since(self.started));
        self.diagnostics.peer = Some(from);
    }

    /// A timer ran out.
    pub(super) fn handle_timeout(&mut self, now: Instant, effects: &mut Effects) {
        if self.timeout <= now
            && let Err(error) = self.rtc.handle_input(Input::Timeout(now))
        {
            self.fail(&error);
        }
        self.drive(now, effects);
        let silence = now.saturating_duration_since(self.last_packet);
        if self.ended.is_none() {
            if self.diagnostics.first_packet.is_none() {
                let age = now.saturating_duration_since(self.started);
                if age >= self.limits.connect_timeout {
                    self.ended = Some(match (self.diagnostics.stun, self.diagnostics.dtls) {
                        (None, _) => EndCause::NoStun,
                        (Some(_), None) => EndCause::NoDtls,
                        (Some(_), Some(_)) => EndCause::NoMedia,
                    });
                }
            } else if silence >= self.limits.idle_timeout {
                self.ended = Some(EndCause::Silent);
            }
        }
    }

    /// When [`Session::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Instant {
        let patience = if self.diagnostics.first_packet.is_none() {
            self.started + self.limits.connect_timeout
        } else {
            self.last_packet + self.limits.idle_timeout
        };
        let audio = self.audio.as_ref().and_then(|(_, audio)| audio.poll_timeout());
        let fills = self.audio.as_ref().and_then(|(_, audio)| audio.fills_at());
        // Nothing is filled while no picture comes: then it is the network that is silent.
        let fills = fills.map(|at| self.started + at).filter(|at| self.picture_alive(*at));
        let video = self.video.as_ref().and_then(|(_, video)| video.poll_timeout());
        [audio, fills, video].into_iter().flatten().fold(patience.min(self.timeout), Instant::min)
    }

    /// The connection ended, and how.
    pub(super) fn ended(&self) -> Option<EndCause> {
        self.ended
    }

    /// Says goodbye.
    pub(super) fn close(&mut self, now: Instant, effects: &mut Effects) {
        if self.rtc.close().is_ok() {
            self.drive(now, effects);
        }
        self.ended.get_or_insert(EndCause::Closed);
    }

    /// The publisher restarts ICE: from now on these credentials count on both sides.
    pub(super) fn restart(&mut self, identity: &Identity, theirs: IceCreds) {
        let mut direct = self.rtc.direct_api();
        direct.set_local_ice_credentials(credentials(identity));
        direct.set_remote_ice_credentials(theirs);
        self.restarts += 1;
    }

    /// What can be said of it.
    pub(super) fn diagnostics(&self) -> Diagnostics {
        let mut diagnostics = self.diagnostics.clone();
        if let Some((_, audio)) = &self.audio {
            let tally = audio.tally();
            diagnostics.lost_packets += tally.lost;
            diagnostics.silence_filled = tally.filled;
            diagnostics.late_audio = tally.dropped;
        }
        if let Some((_, video)) = &self.video {
            let tally = video.tally();
            diagnostics.lost_packets += tally.lost_packets;
            diagnostics.lost_pictures = tally.lost_units;
            diagnostics.pictures = tally.pictures;
            diagnostics.keyframes = tally.keyframes;
            diagnostics.keyframes_asked = tally.asked;
            diagnostics.overflows = tally.overflows;
        }
        diagnostics.restarts = self.restarts;
        diagnostics.streams_refused = self.lanes.refused();
        diagnostics
    }

    fn fail(&mut self, error: &str0m::RtcError) {
        // A datagram that does not parse is anybody's; a handshake that fails is the end.
        match error {
            str0m::RtcError::Net(_) | str0m::RtcError::Ice(_) => self.diagnostics.malformed += 1,
            str0m::RtcError::RemoteSdp(_) => self.ended = Some(EndCause::Fingerprint),
            _ => {
                self.diagnostics.malformed += 1;
                if !self.rtc.is_alive() {
                    self.ended.get_or_insert(EndCause::Dtls);
                }
            }
        }
    }

    /// Lets the stack act until it waits, then puts together what arrived.
    fn drive(&mut self, now: Instant, effects: &mut Effects) {
        self.drain(now, effects);
        let present = now.saturating_duration_since(self.started);
        let alive = self.picture_alive(now);
        if let Some((_, video)) = &mut self.video {
            video.poll(now, &mut effects.media);
        }
        if let Some((_, audio)) = &mut self.audio {
            audio.poll(now, &mut effects.media);
            if alive {
                audio.fill(present, &mut effects.media);
            }
        }
        let asked = self.video.as_mut().map(|(mid, video)| {
            let layers = video.poll_keyframe_request(now);
            (*mid, layers)
        });
        let Some((mid, layers)) = asked else { return };
        for layer in layers {
            let rid = self.layers.get(layer).copied().flatten();
            let mut direct = self.rtc.direct_api();
            if let Some(stream) = direct.stream_rx_by_mid(mid, rid) {
                stream.request_keyframe(KeyframeRequestKind::Pli);
                // Requests leave with the next regular feedback at the latest; this sends them now.
                let _ = self.rtc.handle_input(Input::Timeout(now));
                self.drain(now, effects);
            }
        }
    }

    fn drain(&mut self, now: Instant, effects: &mut Effects) {
        for _ in 0..STEPS_MAX {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    self.timeout = at;
                    if !self.rtc.is_alive() {
                        self.ended.get_or_insert(EndCause::Closed);
                    }
                    return;
                }
                Ok(Output::Transmit(transmit)) => effects.datagrams.push(Datagram {
                    destination: transmit.destination,
                    contents: transmit.contents.to_vec(),
                }),
                Ok(Output::Event(event)) => self.event(event, now),
                Err(error) => {
                    self.fail(&error);
                    if !self.rtc.is_alive() {
                        self.ended.get_or_insert(EndCause::Dtls);
                        return;
                    }
                }
            }
        }
    }

    fn event(&mut self, event: str0m::Event, now: Instant) {
        use str0m::Event as Rtc;
        match event {
            Rtc::Connected => {
                let after = now.saturating_duration_since(self.started);
                self.diagnostics.dtls.get_or_insert(after);
            }
            Rtc::MediaAdded(media) => self.add_media(media.mid, media.kind),
            Rtc::RtpPacket(packet) => self.packet(&packet, now),
            Rtc::SenderFeedback(feedback) => {
                let report = feedback.sender_info;
                if let Ok(wall) = report.ntp_time.duration_since(UNIX_EPOCH) {
                    self.report(report.ssrc, report.rtp_time.numer() as u32, wall);
                }
            }
            Rtc::MediaIngressStats(stats) => {
                if let Some(rtt) = stats.rtt {
                    self.diagnostics.rtt = Some(rtt);
                }
            }
            Rtc::PeerStats(stats) => {
                self.diagnostics.rtt = stats.rtt.or(self.diagnostics.rtt);
                let loss = stats.ingress_loss_fraction.unwrap_or_default();
                self.diagnostics.loss_permille = (loss.clamp(0.0, 1.0) * 1000.0) as u16;
            }
            Rtc::Closed => {
                self.ended.get_or_insert(EndCause::Left);
            }
            _ => {}
        }
    }

    /// The first section of each kind is taken.
    fn add_media(&mut self, mid: Mid, kind: MediaKind) {
        match kind {
            MediaKind::Audio if self.audio.is_none() => {
                let stereo = self.rtc.codec_config().params().iter().any(|params| {
                    let format = params.spec().format;
                    params.spec().codec == Codec::Opus && format.sprop_stereo == Some(true)
                });
                self.audio = Some((mid, Audio::new(AUDIO, stereo)));
            }
            MediaKind::Video if self.video.is_none() => {
                let limits = video::Limits {
                    packets_max: self.limits.reorder_packets_max,
                    unit_bytes_max: self.limits.access_unit_bytes_max,
                    keyframe_interval: self.limits.keyframe_interval,
                };
                self.video = Some((mid, Video::new(VIDEO, limits)));
            }
            _ => {}
        }
    }

    fn packet(&mut self, packet: &RtpPacket, now: Instant) {
        self.last_packet = now;
        let arrived = now.saturating_duration_since(self.started);
        self.diagnostics.first_packet.get_or_insert(arrived);
        self.diagnostics.packets += 1;
        self.diagnostics.bytes += packet.payload.len() as u64;
        let codec = self.codecs.iter().find(|(pt, _)| *pt == packet.header.payload_type);
        let codec = codec.map(|(_, codec)| *codec);
        let (sequence, rtp) = (*packet.seq_no, packet.time.numer());
        match (self.lane(packet.header.ssrc), codec) {
            (Lane::Audio, Some(Codec::Opus)) => {
                if let Some((_, audio)) = &mut self.audio {
                    audio.handle_packet(sequence, rtp, &packet.payload, arrived, now);
                }
            }
            (Lane::Layer(layer), Some(Codec::H264)) => {
                if let Some((_, video)) = &mut self.video {
                    let (marker, payload) = (packet.header.marker, &packet.payload);
                    video.handle_packet(layer, sequence, rtp, marker, payload, arrived, now);
                }
            }
            _ => self.diagnostics.ignored += 1,
        }
    }

    /// Where the packets of an SSRC go: looked up in the stack once.
    fn lane(&mut self, ssrc: Ssrc) -> Lane {
        let Self { lanes, rtc, audio, video, layers, .. } = self;
        lanes.lane(ssrc, || {
            let mut direct = rtc.direct_api();
            let known = direct.stream_rx(&ssrc).map(|stream| (stream.mid(), stream.rid()));
            match known {
                Some((mid, _)) if audio.as_ref().is_some_and(|(held, _)| *held == mid) => {
                    Lane::Audio
                }
                Some((mid, rid)) => match video {
                    Some((held, video)) if *held == mid => {
                        // A sender that renews its SSRC goes on in the layer of the same name.
                        match layers.iter().position(|layer| *layer == rid) {
                            Some(layer) => Lane::Layer(layer),
                            None if layers.len() < LAYERS_MAX => {
                                layers.push(rid);
                                Lane::Layer(video.add_layer())
                            }
                            None => Lane::Ignored,
                        }
                    }
                    _ => Lane::Ignored,
                },
                None => Lane::Ignored,
            }
        })
    }

    /// A sender report: sound and other layers follow the picture.
    fn report(&mut self, ssrc: Ssrc, rtp: u32, wall: Duration) {
        let lane = self.lanes.known(ssrc);
        match (lane, &mut self.audio, &mut self.video) {
            (Some(Lane::Audio), Some((_, audio)), _) => audio.clock.report(rtp, wall),
            (Some(Lane::Layer(layer)), _, Some((_, video))) => {
                if let Some(clock) = video.clock(layer) {
                    clock.report(rtp, wall);
                }
                video.align();
            }
            _ => return,
        }
        let reference = self.video.as_ref().and_then(|(_, video)| video.reference());
        if let (Some(reference), Some((_, audio))) = (reference, &mut self.audio)
            && let Some(error) = audio.clock.error_ns(&reference)
        {
            audio.clock.correct(error);
            self.diagnostics.sound_moved_ms += error / 1_000_000;
        }
    }

    fn picture_alive(&self, now: Instant) -> bool {
        let last = self.video.as_ref().and_then(|(_, video)| video.last_picture());
        last.is_some_and(|at| now.saturating_duration_since(at) < Duration::from_millis(500))
    }
}

/// How a feed ends whose session ended so.
pub(super) fn end_reason(cause: EndCause) -> EndReason {
    match cause {
        EndCause::Left => EndReason::Unpublished,
        EndCause::Closed => EndReason::Closed,
        EndCause::Silent | EndCause::NoStun | EndCause::NoDtls | EndCause::NoMedia => {
            EndReason::TimedOut
        }
        EndCause::Fingerprint | EndCause::Dtls => EndReason::Protocol,
    }
}

fn credentials(identity: &Identity) -> IceCreds {
    IceCreds { ufrag: identity.ufrag.clone(), pass: identity.password.expose().to_owned() }
}
