//! `/metrics` in the Prometheus text format (exposition format 0.0.4): what each shard counted, one
//! sample per shard, named subject, measure, unit. It only names numbers; it counts none.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use weir_relay::DropReason;
use weir_relay::admission::Full;
use weir_relay::auth::AuthError;
use weir_xdp::frame::Refusal;
use weir_xdp::ladder::Rung;
use weir_xdp::program::Tally;

use super::confine;
use crate::shard::{Protocol, Snapshot, State, Warning};

/// The shards' last pictures of themselves.
#[derive(Clone)]
pub(super) struct Board(Arc<[Arc<Mutex<Snapshot>>]>);

impl Board {
    pub(super) fn new(shards: Vec<Arc<Mutex<Snapshot>>>) -> Self {
        Self(shards.into())
    }

    /// Who is here, over all shards.
    pub(super) fn occupancy(&self) -> Occupancy {
        let nobody = Occupancy { told: true, sessions: 0, publishers: 0, closed: 0 };
        self.0.iter().fold(nobody, |sum, shard| {
            let Ok(shard) = shard.lock() else { return sum };
            Occupancy {
                told: sum.told && shard.draining,
                // An edge's own connections to relays above end with it.
                sessions: sum.sessions + shard.relay.sessions - shard.relay.sessions_above,
                publishers: sum.publishers + shard.encoders as u64,
                closed: sum.closed + shard.relay.goaway_timeouts,
            }
        })
    }

    /// Why an edge is of no use: some shard of it has no way to the engine.
    pub(super) fn ailment(&self) -> Option<String> {
        self.0.iter().find_map(|shard| {
            let mesh = shard.lock().ok()?.mesh.clone();
            if mesh.hops > 0 {
                return None;
            }
            let of = |status: &crate::mesh::Status| {
                format!("{} {}", status.upstream, status.state.label())
            };
            let states: Vec<String> = mesh.upstreams.iter().map(of).collect();
            Some(format!("no upstream: {}", states.join(", ")))
        })
    }

    /// The whole page.
    pub(super) fn render(&self) -> String {
        let shards: Vec<Snapshot> = self
            .0
            .iter()
            .map(|shard| shard.lock().map(|held| held.clone()).unwrap_or_default())
            .collect();
        let mut page = Page { text: String::with_capacity(16 * 1024), shards: &shards };
        page.all();
        page.text
    }
}

/// Who a drain waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Occupancy {
    /// Every shard knows that it is to drain: before that the numbers say nothing.
    pub(super) told: bool,
    pub(super) sessions: u64,
    pub(super) publishers: u64,
    /// Sessions closed because they stayed.
    pub(super) closed: u64,
}

struct Page<'a> {
    text: String,
    shards: &'a [Snapshot],
}

impl Page<'_> {
    fn all(&mut self) {
        self.text.push_str("# HELP weir_build Version of this binary.\n# TYPE weir_build gauge\n");
        let _ = writeln!(self.text, "weir_build{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        let unlisted = confine::unlisted_calls();
        let _ = writeln!(
            self.text,
            "# HELP weir_system_calls_unlisted Different system calls made that are not on the list.\n\
             # TYPE weir_system_calls_unlisted gauge\nweir_system_calls_unlisted {unlisted}"
        );
        self.quic();
        self.relay();
        self.limits();
        self.feeds();
        self.rtmp();
        self.srt();
        self.whip();
        self.mesh();
    }

    fn quic(&mut self) {
        self.gauge("quic_connections", "QUIC connections held.", |s| s.connections as u64);
        self.counter("quic_connections_opened_total", "QUIC connections begun.", |s| {
            s.quic.connections_opened
        });
        self.counter("quic_datagrams_received_total", "UDP datagrams received.", |s| {
            s.quic.datagrams_received
        });
        self.counter("quic_datagrams_sent_total", "UDP datagrams sent.", |s| s.quic.datagrams_sent);
        self.counter("quic_received_bytes_total", "UDP payload received.", |s| {
            s.quic.bytes_received
        });
        self.counter("quic_sent_bytes_total", "UDP payload sent.", |s| s.quic.bytes_sent);
        self.counter("quic_sends_total", "Send calls; one may carry many datagrams.", |s| {
            s.quic.sends
        });
        self.counter("quic_retries_sent_total", "Retry packets sent: limit half_open_max.", |s| {
            s.quic.retries_sent
        });
        self.counter("quic_handshake_failures_total", "Handshakes that failed.", |s| {
            s.quic.handshake_failures
        });
        self.counter("quic_port_full_total", "Times the packet port took no more.", |s| {
            s.quic.port_full
        });
        self.labelled(
            "port_dropped_total",
            "Datagrams the network below refused.",
            "reason",
            |s| {
                vec![
                    ("other", s.port.dropped_other),
                    ("too_large", s.port.dropped_too_large),
                    ("unreachable", s.port.dropped_unreachable),
                ]
            },
        );
        self.counter("port_received_empty_total", "Empty datagrams received.", |s| {
            s.port.received_empty
        });
        self.counter("port_receive_areas_total", "Receive areas allocated anew.", |s| {
            s.port.receive_areas
        });
        self.packet_port();
        self.counter("http3_violations_total", "Connections closed for a fault in HTTP/3.", |s| {
            s.quic.http3_violations
        });
        self.counter("shard_turns_total", "Turns of the shard loop.", |s| s.turns);
    }

    /// What the packet port is, and what became of frames where it has some.
    fn packet_port(&mut self) {
        self.labelled_gauge("port_rung", "Which packet port a shard has.", "rung", |s| {
            Rung::ALL.map(|rung| (rung.label(), u64::from(s.rung == Some(rung)))).into()
        });
        self.labelled_gauge("port_rung_refused", "Better ports that were refused.", "rung", |s| {
            Rung::ALL.map(|rung| (rung.label(), u64::from(s.rungs_refused.contains(&rung)))).into()
        });
        self.labelled(
            "port_frames_refused_total",
            "Frames that were no datagrams.",
            "reason",
            |s| {
                let refusals = s.frames.unwrap_or_default().refusals;
                Refusal::ALL.map(|refusal| (refusal.label(), refusals.count(refusal))).into()
            },
        );
        self.labelled("port_frames_lost_total", "Frames that the rings lost.", "reason", |s| {
            let losses = s.frames.unwrap_or_default().losses;
            vec![
                ("invalid", losses.invalid),
                ("no_chunk", losses.no_chunk),
                ("no_room", losses.no_room),
            ]
        });
        self.counter("port_lost_total", "Times a packet port lost its way past UDP.", |s| {
            s.frames.unwrap_or_default().lost_times
        });
        self.counter("port_returned_total", "Times it had it again.", |s| {
            s.frames.unwrap_or_default().returns
        });
        self.labelled("uring_events_total", "What the rings of io_uring met.", "event", |s| {
            let ring = s.frames.unwrap_or_default().ring;
            vec![
                ("enter", ring.enters),
                ("no_buffer", ring.no_buffer),
                ("no_room", ring.no_room),
                ("overflow", ring.overflows),
                ("put_off", ring.put_off),
                ("rearmed", ring.rearmed),
                ("zero_copy", ring.zero_copies),
                ("zero_copy_copied", ring.zero_copies_copied),
            ]
        });
        self.labelled("xdp_packets_total", "What the XDP program did.", "fate", |s| {
            let counts = s.frames.unwrap_or_default().program.unwrap_or_default();
            Tally::ALL.into_iter().map(Tally::label).zip(counts).collect()
        });
    }

    fn relay(&mut self) {
        self.gauge("sessions", "MoQT sessions.", |s| s.relay.sessions);
        self.counter("sessions_opened_total", "MoQT sessions since start.", |s| {
            s.relay.sessions_opened
        });
        self.counter(
            "sessions_expired_total",
            "Sessions ended because their token ran out or was withdrawn.",
            |s| s.relay.sessions_expired,
        );
        self.gauge("draining", "1 while newcomers are refused and sessions asked to leave.", |s| {
            u64::from(s.draining)
        });
        self.counter("goaways_sent_total", "Sessions told to go elsewhere.", |s| {
            s.relay.goaways_sent
        });
        self.counter(
            "goaway_timeouts_total",
            "Sessions closed because they stayed past the deadline of a drain.",
            |s| s.relay.goaway_timeouts,
        );
        self.counter("draining_refused_total", "New sessions refused while draining.", |s| {
            s.quic.refused_draining
        });
        self.counter(
            "subscriptions_expired_total",
            "Subscriptions ended with their grant while the session went on.",
            |s| s.relay.subscriptions_expired,
        );
        self.counter("protocol_violations_total", "Sessions ended for a breach of MoQT.", |s| {
            s.relay.protocol_violations
        });
        self.gauge("subscriptions", "Subscriptions of viewers.", |s| s.relay.subscriptions);
        self.counter("subscriptions_accepted_total", "Subscriptions accepted.", |s| {
            s.relay.subscriptions_accepted
        });
        self.counter("fetches_accepted_total", "FETCH requests answered.", |s| {
            s.relay.fetches_accepted
        });
        self.counter("requests_refused_total", "Requests refused, whatever the reason.", |s| {
            s.relay.requests_refused
        });
        self.gauge("tracks", "Tracks held.", |s| s.relay.tracks);
        self.gauge("namespaces", "Namespaces in the directory.", |s| s.relay.namespaces);
        self.gauge("cache_bytes", "Payload held in group caches.", |s| s.relay.cache_bytes);
        self.counter("objects_received_total", "Objects taken into caches.", |s| {
            s.relay.objects_in
        });
        self.counter("objects_received_bytes_total", "Payload of those.", |s| s.relay.bytes_in);
        self.counter(
            "objects_sent_total",
            "Objects handed to transports, over all viewers.",
            |s| s.relay.objects_out,
        );
        self.counter("objects_sent_bytes_total", "Stream bytes handed to transports.", |s| {
            s.relay.bytes_out
        });
        self.counter("groups_sent_total", "Group streams opened towards viewers.", |s| {
            s.relay.groups_out
        });
        self.labelled(
            "groups_dropped_total",
            "Subgroup streams given up before their end, by reason.",
            "reason",
            |s| {
                let reasons = DropReason::ALL.iter();
                reasons.map(|reason| (reason.label(), s.relay.dropped(*reason))).collect()
            },
        );
        self.counter("datagram_objects_sent_total", "Objects sent as datagrams.", |s| {
            s.relay.datagrams_out
        });
        self.labelled(
            "datagram_objects_dropped_total",
            "Objects not sent as the datagrams they came in, by reason.",
            "reason",
            |s| {
                vec![
                    ("blocked", s.relay.datagrams_dropped_blocked),
                    ("too_large", s.relay.datagrams_dropped_size),
                    ("too_far_behind", s.relay.datagrams_dropped_behind),
                ]
            },
        );
        self.gauge("sessions_lossy", "Sessions that lately lost groups for want of room.", |s| {
            s.relay.sessions_lossy
        });
        self.labelled("objects_refused_total", "Objects not taken, by reason.", "reason", |s| {
            vec![
                ("malformed", s.relay.objects_malformed),
                ("duplicate", s.relay.objects_duplicate),
                ("dropped", s.relay.objects_dropped),
                ("trimmed", s.relay.objects_trimmed),
            ]
        });
        self.labelled(
            "auth_failures_total",
            "Requests refused by their token, by reason.",
            "reason",
            |s| {
                AuthError::ALL
                    .iter()
                    .map(|error| {
                        (
                            error.label(),
                            s.relay.auth_failures.get(error.index()).copied().unwrap_or(0),
                        )
                    })
                    .collect()
            },
        );
        self.labelled(
            "tracks_offered_total",
            "Tracks offered, or not for want of room, to subscribers of their prefix.",
            "outcome",
            |s| vec![("offered", s.relay.tracks_offered), ("withheld", s.relay.tracks_withheld)],
        );
        self.counter("publishers_refused_total", "MoQT publishers refused.", |s| {
            s.relay.publishers_refused
        });
    }

    fn limits(&mut self) {
        self.labelled("limit_hits_total", "Times a limit was hit, by its name.", "limit", |s| {
            let mut hits = vec![
                ("cache_bytes_max", s.relay.limit_cache_bytes),
                ("connections_max", s.quic.refused_capacity),
                ("backoff", s.quic.refused_backoff),
                ("connections_per_prefix_max", s.quic.refused_prefix),
                ("connections_per_prefix_per_second_max", s.quic.refused_rate),
                ("control_bytes_max", s.relay.limit_control_bytes),
                ("datagram_bytes_max", s.quic.datagrams_oversized),
                ("events_max", s.relay.limit_events),
                ("fetch_budget", s.relay.limit_fetch_budget),
                ("fetches_per_session_max", s.relay.limit_fetches),
                ("half_open_max", s.quic.retries_sent),
                ("handshake_timeout", s.quic.handshake_timeouts),
                ("hand_over_packets", s.hand_over_dropped),
                ("link_commands", s.link_commands_dropped),
                ("load_max", s.relay.limit_load),
                ("moves_per_minute_max", s.quic.moves_refused),
                ("namespaces_max", s.relay.limit_namespaces),
                ("object_bytes_max", s.relay.limit_object_bytes),
                ("filter_ranges_max", s.relay.limit_filter_ranges),
                ("publisher_rate_max", s.relay.limit_publisher_rate),
                ("rendezvous_max", s.relay.limit_rendezvous),
                ("upstream_answers_bytes_max", s.relay.limit_upstream_answers),
                ("upstream_fetches_max", s.relay.limit_upstream_fetches),
                ("rtmp_connections_max", s.rtmp.refused_full),
                ("rtmp_connections_per_prefix_max", s.rtmp.refused_source),
                ("sessions_max", s.relay.limit_sessions),
                ("setup_timeout", s.relay.limit_setup_timeout),
                ("subgroups_per_group_max", s.relay.limit_subgroups),
                ("subscriptions_per_session_max", s.relay.limit_subscriptions),
                ("srt_waiting_max", s.srt.listener.backlog),
                ("tracks_max", s.relay.limit_tracks),
                ("whip_addresses_max", s.whip.endpoint.addresses_full),
                ("whip_passed_max", s.whip.passed_dropped),
                ("whip_reorder_max", s.whip.endpoint.overflows),
                ("whip_sessions_max", s.whip.endpoint.refused_capacity),
                ("whip_streams_max", s.whip.endpoint.streams_refused),
                ("withheld_per_prefix_max", s.relay.limit_withheld),
            ];
            let admission = Full::ALL.iter().zip(s.relay.limit_admission);
            hits.extend(admission.map(|(full, count)| (full.label(), count)));
            hits
        });
    }

    fn feeds(&mut self) {
        self.gauge("broadcasts_live", "Broadcasts with a publisher.", |s| s.broadcasts_live as u64);
        self.gauge("broadcasts", "Broadcasts held, live or in their reconnect window.", |s| {
            s.broadcasts as u64
        });
        self.labelled_gauge("inputs", "Inputs with a broadcast, by state.", "state", |s| {
            State::ALL.iter().map(|state| state.label()).zip(s.inputs).collect()
        });
        self.labelled_gauge("feeds", "Publishers, by protocol.", "protocol", |s| {
            Protocol::ALL.iter().map(|protocol| protocol.label()).zip(s.feeds).collect()
        });
        self.labelled_gauge("input_warnings", "Inputs with a warning.", "warning", |s| {
            Warning::ALL.iter().map(|warning| warning.code()).zip(s.warned).collect()
        });
        self.labelled("samples_corrected_total", "What was done to samples.", "what", |s| {
            vec![
                ("restamped", s.fixes.restamped),
                ("jumped", s.fixes.jumps),
                ("dropped_before_keyframe", s.fixes.dropped_before_keyframe),
                ("dropped_overlap", s.fixes.dropped_overlap),
                ("dropped_backlog", s.fixes.dropped_backlog),
                ("group_too_long", s.fixes.long_groups),
            ]
        });
        self.counter("samples_received_total", "Samples taken from feeds.", |s| s.samples);
        self.counter("samples_received_bytes_total", "Bytes of those.", |s| s.sample_bytes);
        self.counter("samples_refused_total", "Samples the packager could not use.", |s| {
            s.sample_faults
        });
        self.counter("feed_takeovers_total", "Publishers replaced while they were alive.", |s| {
            s.takeovers
        });
        self.counter(
            "publisher_faults_total",
            "MoQT publishers ended for what they sent: init, codec, timing or a limit.",
            |s| s.publisher_faults,
        );
        self.counter("samples_lost_total", "Samples lost on their way from publishers.", |s| {
            s.samples_lost
        });
        self.counter("link_objects_sent_total", "Objects put into this shard's link.", |s| {
            s.link_exported
        });
        self.counter(
            "link_objects_received_total",
            "Objects taken from other shards' links.",
            |s| s.link_imported,
        );
        self.counter(
            "panics_total",
            "Panics caught at the edge of the shard; each ended one feed or session.",
            |s| s.panics + s.whip.panics,
        );
        self.counter(
            "quic_datagrams_handed_over_total",
            "Datagrams handed to the shard that owns their connection.",
            |s| s.handed_over,
        );
        self.counter("link_overruns_total", "Descriptors missed on other shards' links.", |s| {
            s.link_overruns
        });
    }

    fn rtmp(&mut self) {
        self.counter("rtmp_connections_total", "RTMP and RTMPS connections begun.", |s| {
            s.rtmp.connections
        });
        self.counter(
            "rtmp_publishers_refused_total",
            "RTMP publishers refused, and connections closed for what they sent.",
            |s| s.rtmp.refused,
        );
    }

    fn srt(&mut self) {
        self.gauge("srt_publishers", "SRT publishers.", |s| s.srt.links.len() as u64);
        self.counter("srt_publishers_accepted_total", "SRT publishers let in.", |s| s.srt.accepted);
        self.counter("srt_publishers_refused_total", "SRT callers refused.", |s| {
            s.srt.refused + s.srt.listener.refused
        });
        self.labelled("srt_handshakes_total", "Handshakes of SRT callers.", "step", |s| {
            let listener = s.srt.listener;
            vec![
                ("induction", listener.inductions),
                ("bad_cookie", listener.bad_cookies),
                ("malformed", listener.malformed),
                ("question", listener.requests),
            ]
        });
        self.counter("srt_strays_total", "Datagrams to SRT sockets that do not exist.", |s| {
            s.srt.strays
        });
        self.link("srt_rtt_microseconds", "Round trip to an SRT publisher.", "gauge", |link| {
            link.rtt.as_micros() as u64
        });
        self.link("srt_delay_milliseconds", "Negotiated delay.", "gauge", |link| {
            link.delay.as_millis() as u64
        });
        self.link("srt_received_bytes_total", "Payload received.", "counter", |link| link.bytes);
        self.link("srt_packets_received_total", "Data packets received.", "counter", |link| {
            link.packets
        });
        self.link("srt_packets_lost_total", "Packets that were missing.", "counter", |link| {
            link.lost
        });
        self.link("srt_packets_retransmitted_total", "Packets sent again.", "counter", |link| {
            link.retransmitted
        });
        self.link("srt_packets_dropped_total", "Packets given up.", "counter", |link| link.dropped);
        self.link("srt_packets_belated_total", "Packets after their time.", "counter", |link| {
            link.belated
        });
        self.link("srt_packets_undeciphered_total", "Packets not readable.", "counter", |link| {
            link.undecipherable
        });
        self.link("srt_loss_reports_total", "Loss reports sent.", "counter", |link| link.reports);
        self.link("srt_key_refreshes_total", "Keys taken in while running.", "counter", |link| {
            link.key_refreshes
        });
    }

    /// A family with a sample for each SRT publisher.
    fn link(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        of: impl Fn(&weir_feed::srt::Statistics) -> u64,
    ) {
        let _ = writeln!(self.text, "# HELP weir_{name} {help}\n# TYPE weir_{name} {kind}");
        for (shard, snapshot) in self.shards.iter().enumerate() {
            for (input, link, _) in &snapshot.srt.links {
                let _ = writeln!(
                    self.text,
                    "weir_{name}{{shard=\"{shard}\",input=\"{input}\"}} {}",
                    of(link)
                );
            }
        }
    }

    fn whip(&mut self) {
        self.gauge("whip_sessions", "WHIP publishers.", |s| s.whip.sessions as u64);
        self.counter("whip_sessions_accepted_total", "WHIP offers answered.", |s| {
            s.whip.endpoint.accepted
        });
        self.counter("whip_offers_refused_total", "WHIP offers that could not be used.", |s| {
            s.whip.endpoint.refused_offer
        });
        self.counter(
            "whip_never_connected_total",
            "WHIP publishers that ended before any media arrived.",
            |s| s.whip.endpoint.never_connected,
        );
        self.counter("whip_datagrams_received_total", "Datagrams on the WHIP port.", |s| {
            s.whip.endpoint.datagrams
        });
        self.counter("whip_datagrams_stray_total", "Those that belonged to nobody.", |s| {
            s.whip.endpoint.stray
        });
        self.counter(
            "whip_datagrams_passed_total",
            "Datagrams handed to the shard of their WHIP publisher.",
            |s| s.whip.passed,
        );
        self.counter(
            "whip_packets_lost_total",
            "Packets given up, of publishers that left.",
            |s| s.whip.endpoint.lost_packets,
        );
        self.counter("whip_pictures_lost_total", "Pictures left out for those.", |s| {
            s.whip.endpoint.lost_pictures
        });
        self.counter("whip_keyframes_asked_total", "Keyframes asked for, likewise.", |s| {
            s.whip.endpoint.keyframes_asked
        });
    }

    fn mesh(&mut self) {
        self.gauge("mesh_hops", "Nodes from here to the engine, both counted; 0 cut off.", |s| {
            s.mesh.hops
        });
        self.counter("mesh_nodes_admitted_total", "Relays below let in.", |s| {
            s.mesh.nodes_admitted
        });
        self.counter("mesh_nodes_refused_total", "Relays below refused or cut off.", |s| {
            s.relay.nodes_refused
        });
        self.counter("mesh_switches_total", "Times the upstream in use changed.", |s| {
            s.mesh.switches
        });
        self.gauge("mesh_tracks_moving", "Tracks on their way to another upstream.", |s| {
            s.mesh.tracks_moving
        });
        self.gauge("mesh_trust_issued_seconds", "When the trust in force was signed.", |s| {
            s.mesh.trust_issued.as_secs()
        });
        self.gauge("upstream_subscriptions", "Subscriptions to publishers and upstreams.", |s| {
            s.relay.upstream_subscriptions
        });
        self.counter("upstream_tracks_given_up_total", "Tracks no upstream had in time.", |s| {
            s.relay.upstream_given_up
        });
        self.counter("absent_tracks_remembered_total", "Joins answered without asking.", |s| {
            s.relay.absent_hits
        });
        self.upstream("upstream_state", "State of an upstream by name.", "gauge", |_| 1);
        self.upstream("upstream_attempts_total", "Connections begun.", "counter", |u| u.attempts);
        self.upstream(
            "upstream_silences_total",
            "Times a connection acknowledged nothing for a while.",
            "counter",
            |u| u.silences,
        );
        self.upstream("upstream_losses_total", "Connections lost in use.", "counter", |u| u.losses);
        self.upstream("upstream_loops_total", "Times refused for a loop.", "counter", |u| u.loops);
        self.upstream("upstream_received_bytes", "UDP payload of this connection.", "gauge", |u| {
            u.received_bytes
        });
        self.upstream("upstream_sent_bytes", "UDP payload of this connection.", "gauge", |u| {
            u.sent_bytes
        });
        self.upstream("upstream_rtt_microseconds", "Round trip.", "gauge", |u| {
            u.rtt.as_micros() as u64
        });
    }

    fn upstream(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        of: impl Fn(&crate::mesh::Status) -> u64,
    ) {
        let _ = writeln!(self.text, "# HELP weir_{name} {help}\n# TYPE weir_{name} {kind}");
        for (shard, snapshot) in self.shards.iter().enumerate() {
            for (place, upstream) in snapshot.mesh.upstreams.iter().enumerate() {
                let state = match name {
                    "upstream_state" => format!(",state=\"{}\"", upstream.state.label()),
                    _ => String::new(),
                };
                let _ = writeln!(
                    self.text,
                    "weir_{name}{{shard=\"{shard}\",place=\"{place}\",upstream=\"{}\"{state}}} {}",
                    upstream.upstream,
                    of(upstream)
                );
            }
        }
    }

    fn counter(&mut self, name: &str, help: &str, of: impl Fn(&Snapshot) -> u64) {
        self.family(name, help, "counter", of);
    }

    fn gauge(&mut self, name: &str, help: &str, of: impl Fn(&Snapshot) -> u64) {
        self.family(name, help, "gauge", of);
    }

    fn family(&mut self, name: &str, help: &str, kind: &str, of: impl Fn(&Snapshot) -> u64) {
        let _ = writeln!(self.text, "# HELP weir_{name} {help}\n# TYPE weir_{name} {kind}");
        for (shard, snapshot) in self.shards.iter().enumerate() {
            let _ = writeln!(self.text, "weir_{name}{{shard=\"{shard}\"}} {}", of(snapshot));
        }
    }

    fn labelled(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        of: impl Fn(&Snapshot) -> Vec<(&'static str, u64)>,
    ) {
        self.labels("counter", name, help, label, of);
    }

    fn labelled_gauge(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        of: impl Fn(&Snapshot) -> Vec<(&'static str, u64)>,
    ) {
        self.labels("gauge", name, help, label, of);
    }

    fn labels(
        &mut self,
        kind: &str,
        name: &str,
        help: &str,
        label: &str,
        of: impl Fn(&Snapshot) -> Vec<(&'static str, u64)>,
    ) {
        let _ = writeln!(self.text, "# HELP weir_{name} {help}\n# TYPE weir_{name} {kind}");
        for (shard, snapshot) in self.shards.iter().enumerate() {
            for (value, count) in of(snapshot) {
                let _ = writeln!(
                    self.text,
                    "weir_{name}{{shard=\"{shard}\",{label}=\"{value}\"}} {count}"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_help_type_and_one_sample_per_shard_and_label() {
        let board = Board::new(vec![Arc::default(), Arc::default()]);
        let page = board.render();
        let mut names = std::collections::BTreeSet::new();
        for line in page.lines().filter(|line| line.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).expect("a name");
            assert!(names.insert(name.to_owned()), "{name} appears twice");
            assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
        let mut samples = std::collections::BTreeSet::new();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (sample, value) = line.rsplit_once(' ').expect("a value");
            value.parse::<f64>().expect("a number");
            assert!(samples.insert(sample.to_owned()), "{sample} appears twice");
            let name = sample.split('{').next().expect("a name");
            assert!(names.contains(name), "{name} has no type");
        }
        assert!(page.contains("weir_sessions{shard=\"1\"} 0"));
    }
}
