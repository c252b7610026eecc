//! The picture of one session: every simulcast layer is put together, the largest that is alive goes
//! out. It owns when a keyframe is asked for, which layer is taken, and the times of pictures that
//! were reordered; NAL units pass through it unchanged.

use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_packager::{Codec, Sample, Sps, TrackConfig, TrackId};

use super::clock::Clock;
use super::h264::{AccessUnit, Depacketizer, Unit};
use super::order::Order;
use super::reorder::{Bounds, Next, Reorder};
use crate::Event;
use crate::annexb::{Assembler, Format};

/// Ticks per second of RTP video (RFC 6184 §8.2.1).
pub(super) const RATE: u32 = 90_000;

/// Reordering of pictures: a lost packet is asked for after each round trip; 300 ms are three of a
/// slow path.
const PATIENCE: Duration = Duration::from_millis(300);

/// A layer without a picture for this long has been switched off by its sender.
const LAYER_STALE: Duration = Duration::from_secs(1);

/// Keyframes are asked for at most this often: an encoder needs a round trip and a picture.
const ASK_PAUSE: Duration = Duration::from_millis(500);

/// What became of the pictures.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Packets given up for lost.
    pub(super) lost_packets: u64,
    /// Access units left out because a part of them was lost.
    pub(super) lost_units: u64,
    /// Pictures that went out.
    pub(super) pictures: u64,
    /// Keyframes among those.
    pub(super) keyframes: u64,
    /// Keyframes asked for.
    pub(super) asked: u64,
    /// Times a bound was met: packets waiting, bytes of an access unit.
    pub(super) overflows: u64,
}

#[derive(Debug)]
struct Packet {
    rtp: u64,
    marker: bool,
    arrived: Duration,
    data: Bytes,
}

/// Bounds of one layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) packets_max: usize,
    pub(super) unit_bytes_max: usize,
    /// A keyframe is asked for when the last is this old.
    pub(super) keyframe_interval: Duration,
}

/// One simulcast layer; a sender without simulcast has one.
#[derive(Debug)]
struct Layer {
    clock: Clock,
    reorder: Reorder<Packet>,
    depacketizer: Depacketizer,
    assembler: Assembler,
    order: Order,
    codec: Option<Codec>,
    /// Luma samples of a picture; 0 until known.
    area: u64,
    sps: Bytes,
    last_unit: Option<Instant>,
    /// When its first packet came.
    heard: Option<Instant>,
    /// When the newest packet that went on had arrived.
    arrived: Duration,
    keyframe: Option<Instant>,
    asked: Option<Instant>,
    /// A keyframe is wanted before its time.
    wanting: bool,
}

/// The picture of one session.
#[derive(Debug)]
pub(super) struct Video {
    track: TrackId,
    limits: Limits,
    layers: Vec<Layer>,
    active: Option<usize>,
    tally: Tally,
}

impl Video {
    pub(super) fn new(track: TrackId, limits: Limits) -> Self {
        Self { track, limits, layers: Vec::new(), active: None, tally: Tally::default() }
    }

    /// One more layer; its index.
    pub(super) fn add_layer(&mut self) -> usize {
        let bounds = Bounds { patience: PATIENCE, packets_max: self.limits.packets_max };
        self.layers.push(Layer {
            clock: Clock::new(RATE),
            reorder: Reorder::new(bounds),
            depacketizer: Depacketizer::new(self.limits.unit_bytes_max),
            assembler: Assembler::new(Format::H264),
            order: Order::default(),
            codec: None,
            area: 0,
            sps: Bytes::new(),
            last_unit: None,
            heard: None,
            arrived: Duration::ZERO,
            keyframe: None,
            asked: None,
            wanting: true,
        });
        self.layers.len() - 1
    }

    pub(super) fn tally(&self) -> Tally {
        let bounds = self
            .layers
            .iter()
            .map(|layer| layer.reorder.overflows() + layer.depacketizer.oversize());
        Tally { overflows: bounds.sum(), ..self.tally }
    }

    /// The clock of a layer.
    pub(super) fn clock(&mut self, layer: usize) -> Option<&mut Clock> {
        self.layers.get_mut(layer).map(|layer| &mut layer.clock)
    }

    /// The clock everything else follows: that of the first layer that spoke.
    pub(super) fn reference(&self) -> Option<Clock> {
        self.layers.first().map(|layer| layer.clock)
    }

    /// Brings the other layers to where their sender reports say.
    pub(super) fn align(&mut self) {
        let Some((first, others)) = self.layers.split_first_mut() else { return };
        for layer in others {
            if let Some(error) = layer.clock.error_ns(&first.clock) {
                layer.clock.correct(error);
            }
        }
    }

    /// When the newest picture packet of any layer came.
    pub(super) fn last_picture(&self) -> Option<Instant> {
        self.layers.iter().filter_map(|layer| layer.last_unit).max()
    }

    /// A packet of a layer arrived, `arrived` after the session began.
    #[expect(clippy::too_many_arguments, reason = "the fields of one packet")]
    pub(super) fn handle_packet(
        &mut self,
        layer: usize,
        sequence: u64,
        rtp: u64,
        marker: bool,
        payload: &[u8],
        arrived: Duration,
        now: Instant,
    ) {
        let Some(layer) = self.layers.get_mut(layer) else { return };
        layer.heard.get_or_insert(now);
        let data = Bytes::copy_from_slice(payload);
        layer.reorder.push(sequence, Packet { rtp, marker, arrived, data }, now);
    }

    /// Gives what is whole.
    pub(super) fn poll(&mut self, now: Instant, out: &mut Vec<Event>) {
        let mut units = Vec::new();
        for index in 0..self.layers.len() {
            let Some(layer) = self.layers.get_mut(index) else { return };
            while let Some(next) = layer.reorder.pop(now) {
                match next {
                    Next::Lost(count) => {
                        self.tally.lost_packets += count;
                        layer.depacketizer.lost();
                    }
                    Next::Packet(packet) => {
                        layer.arrived = packet.arrived;
                        let Packet { rtp, marker, data, .. } = packet;
                        layer.depacketizer.push(rtp, marker, &data, &mut units);
                    }
                }
            }
            for unit in units.drain(..) {
                match unit {
                    Unit::Lost => self.lost(index, out),
                    Unit::Whole(unit) => self.unit(index, &unit, now, out),
                }
            }
        }
    }

    /// The layers whose sender is to make a keyframe now.
    pub(super) fn poll_keyframe_request(&mut self, now: Instant) -> Vec<usize> {
        let (interval, active) = (self.limits.keyframe_interval, self.active);
        let mut asked = Vec::new();
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let out = active.is_none_or(|active| active == index);
            if layer.asks_at(interval, out).is_some_and(|at| at <= now) {
                layer.asked = Some(now);
                layer.wanting = false;
                self.tally.asked += 1;
                asked.push(index);
            }
        }
        asked
    }

    /// When a missing packet is given up or a keyframe asked for.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let interval = self.limits.keyframe_interval;
        let layers = self.layers.iter().enumerate();
        layers
            .flat_map(|(index, layer)| {
                let out = self.active.is_none_or(|active| active == index);
                [layer.reorder.poll_timeout(), layer.asks_at(interval, out)]
            })
            .flatten()
            .min()
    }

    fn lost(&mut self, index: usize, out: &mut Vec<Event>) {
        self.tally.lost_units += 1;
        if let Some(layer) = self.layers.get_mut(index) {
            layer.wanting = true;
        }
        if self.active == Some(index) {
            out.push(Event::Loss { track: self.track });
        }
    }

    fn unit(&mut self, index: usize, unit: &AccessUnit, now: Instant, out: &mut Vec<Event>) {
        let current = self.active.and_then(|active| self.layers.get(active));
        let current_area = current.map_or(0, |layer| layer.area);
        let current_alive = current
            .and_then(|layer| layer.last_unit)
            .is_some_and(|at| now.saturating_duration_since(at) < LAYER_STALE);
        let Some(layer) = self.layers.get_mut(index) else { return };
        layer.last_unit = Some(now);
        if let Some(sps) = &unit.sps {
            layer.learn(sps);
        }
        let (codec, picture) = layer.assembler.handle_access_unit(&unit.data);
        let changed = codec.is_some();
        if let Some(codec) = codec {
            layer.codec = Some(codec);
        }
        let Some((data, keyframe)) = picture else { return };
        if keyframe {
            layer.keyframe = Some(now);
            layer.wanting = false;
        }
        let is_active = self.active == Some(index);
        let better = layer.area > current_area || !current_alive;
        let activates = !is_active && better && keyframe && layer.codec.is_some();
        if !is_active && !activates {
            // A larger layer can be taken at its next keyframe only.
            if better && !keyframe {
                layer.wanting = true;
            }
            return;
        }
        if activates {
            self.active = Some(index);
        }
        let track = self.track;
        if let Some(codec) = layer.codec.clone().filter(|_| activates || changed) {
            out.push(Event::Track(TrackConfig { track, timescale: RATE, codec }));
        }
        let shown = layer.clock.place(unit.time, layer.arrived);
        let dts = layer.order.place(shown);
        let composition_offset = i32::try_from(shown - dts).unwrap_or_default();
        out.push(Event::Sample(Sample { track, dts, composition_offset, keyframe, data }));
        self.tally.pictures += 1;
        self.tally.keyframes += u64::from(keyframe);
    }
}

impl Layer {
    /// Takes in a sequence parameter set, if it is another one.
    fn learn(&mut self, sps: &Bytes) {
        if self.sps == *sps {
            return;
        }
        self.sps = sps.clone();
        let Ok(parsed) = Sps::parse(sps) else { return };
        self.area = u64::from(parsed.width) * u64::from(parsed.height);
        // Baseline has no B-frames (ITU-T H.264 §A.2.1); others that do not say are found out.
        let baseline = sps.get(1) == Some(&66);
        let depth = parsed.reorder_depth.filter(|_| !baseline).unwrap_or_default();
        self.order.set_depth(depth as usize);
    }

    /// When a keyframe is asked for: the layer that goes out gets one for each group.
    fn asks_at(&self, interval: Duration, out: bool) -> Option<Instant> {
        let heard = self.heard?;
        let due = if self.wanting {
            heard
        } else if out {
            self.keyframe.max(self.asked).map_or(heard, |last| last + interval)
        } else {
            return None;
        };
        Some(self.asked.map_or(due, |asked| due.max(asked + ASK_PAUSE)))
    }
}
