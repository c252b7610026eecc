//! From measured runs to machines for an audience: CPU = a·N + b·objects + c·bytes + d·joins, fitted by least squares, and
//! what follows for a machine of given cores, interface and memory, and for a million viewers. Owns arithmetic only; what
//! it is fed comes from results files.

use std::fmt;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::rivals::results::Results;

/// Terms of the model.
const TERMS: usize = 4;

/// Share of its cores, and of its interface, that a machine may use.
const CORES_SHARE: f64 = 0.6;
const INTERFACE_SHARE: f64 = 0.8;

/// What a packet of 1,452 bytes adds to its payload on the wire: Ethernet with preamble and gap 38, IP 20, UDP 8, QUIC 28.
const WIRE_SHARE: f64 = (1_452.0 + 66.0) / (1_452.0 - 28.0);

/// One run as the model sees it, each figure for a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Processor time of the relay.
    pub cpu: f64,
    /// Receivers.
    pub receivers: f64,
    /// Objects delivered.
    pub objects: f64,
    /// Payload bytes delivered.
    pub bytes: f64,
    /// Receivers that came.
    pub joins: f64,
}

impl Load {
    fn terms(&self) -> [f64; TERMS] {
        [self.receivers, self.objects, self.bytes, self.joins]
    }
}

/// Seconds of a core for each receiver and second, object, byte and join.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Model {
    /// For each receiver and second.
    pub per_receiver: f64,
    /// For each object delivered.
    pub per_object: f64,
    /// For each byte delivered.
    pub per_byte: f64,
    /// For each join.
    pub per_join: f64,
    /// Largest share by which a run differs from the model.
    pub worst_error: f64,
    /// Runs it was fitted to.
    pub runs: usize,
}

impl Model {
    /// Least squares of relative errors, so that a light run counts as much as a heavy one. No term costs less than
    /// nothing: one that would is left out, and the others are fitted again.
    pub fn fit(loads: &[Load]) -> Result<Self> {
        let loads: Vec<Load> = loads.iter().copied().filter(|load| load.cpu > 0.0).collect();
        let mut used: Vec<usize> =
            (0..TERMS).filter(|term| loads.iter().any(|load| load.terms()[*term] > 0.0)).collect();
        ensure!(loads.len() >= used.len() && !used.is_empty(), "too few runs for a model");
        let solution = loop {
            let solution = solve(&loads, &used)?;
            let worst = used
                .iter()
                .zip(&solution)
                .filter(|(_, value)| **value < 0.0)
                .min_by(|one, other| one.1.total_cmp(other.1))
                .map(|(term, _)| *term);
            match worst {
                Some(worst) if used.len() > 1 => used.retain(|term| *term != worst),
                _ => break solution,
            }
        };
        let mut terms = [0.0; TERMS];
        for (term, value) in used.iter().zip(&solution) {
            terms[*term] = value.max(0.0);
        }
        let [per_receiver, per_object, per_byte, per_join] = terms;
        let mut model = Self {
            per_receiver,
            per_object,
            per_byte,
            per_join,
            worst_error: 0.0,
            runs: loads.len(),
        };
        let error = |load: &Load| (model.cpu(load) / load.cpu - 1.0).abs();
        model.worst_error = loads.iter().map(error).fold(0.0, f64::max);
        Ok(model)
    }

    /// Seconds of a core for each second.
    pub fn cpu(&self, load: &Load) -> f64 {
        self.per_receiver * load.receivers
            + self.per_object * load.objects
            + self.per_byte * load.bytes
            + self.per_join * load.joins
    }
}

/// Normal equations of `load.terms()[used] / load.cpu` against 1, columns scaled to length 1, by Gauss with pivots.
fn solve(loads: &[Load], used: &[usize]) -> Result<Vec<f64>> {
    let n = used.len();
    let column = |load: &Load, term: usize| load.terms()[term] / load.cpu;
    let scale: Vec<f64> = used
        .iter()
        .map(|term| {
            let square: f64 = loads.iter().map(|load| column(load, *term).powi(2)).sum();
            square.sqrt().max(f64::MIN_POSITIVE)
        })
        .collect();
    let mut rows: Vec<Vec<f64>> = vec![vec![0.0; n + 1]; n];
    for load in loads {
        let values: Vec<f64> =
            used.iter().zip(&scale).map(|(term, scale)| column(load, *term) / scale).collect();
        for (row, own) in rows.iter_mut().zip(&values) {
            for (cell, other) in row.iter_mut().zip(values.iter().chain([&1.0])) {
                *cell += own * other;
            }
        }
    }
    for at in 0..n {
        let pivot = (at..n)
            .max_by(|one, other| rows[*one][at].abs().total_cmp(&rows[*other][at].abs()))
            .unwrap_or(at);
        rows.swap(at, pivot);
        ensure!(rows[at][at].abs() > 1e-9, "the runs do not tell the terms apart");
        let above = rows[at].clone();
        for (other, row) in rows.iter_mut().enumerate() {
            if other != at {
                let factor = row[at] / above[at];
                for (cell, above) in row.iter_mut().zip(&above).skip(at) {
                    *cell -= factor * above;
                }
            }
        }
    }
    Ok((0..n).map(|at| rows[at][n] / rows[at][at] / scale[at]).collect())
}

/// Every run of a contender in a session that nothing speaks against, and its storm of joins.
pub fn loads(results: &Results, contender: &str) -> Vec<Load> {
    let rows = results
        .rows
        .iter()
        .flat_map(|row| &row.runs)
        .filter(|it| it.contender == contender && it.objections.is_empty())
        .map(|it| &it.run);
    let curve = results
        .curve
        .iter()
        .filter(|it| it.contender == contender && it.objections.is_empty())
        .map(|it| &it.run);
    let mut loads: Vec<Load> = rows
        .chain(curve)
        .filter(|run| run.seconds > 0.0)
        .map(|run| Load {
            cpu: run.cpu_seconds / run.seconds,
            receivers: f64::from(run.subscribers),
            objects: run.objects / run.seconds,
            bytes: run.payload_bytes / run.seconds,
            joins: 0.0,
        })
        .collect();
    if let Some(joins) = join(results) {
        loads.push(joins);
    }
    loads
}

/// A join by itself: connect, subscribe, leave.
fn join(results: &Results) -> Option<Load> {
    let full = results.handshakes.get("full")?;
    Some(Load {
        cpu: full["cpu_seconds"].as_f64()? / full["seconds"].as_f64()?,
        joins: full["joins"].as_f64()? / full["seconds"].as_f64()?,
        ..Load::default()
    })
}

/// A machine and what it is to carry.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Cores like the measured one.
    pub cores: f64,
    /// Of its interface.
    pub gbps: f64,
    /// Gigabytes for receivers.
    pub memory_gb: f64,
    /// Bytes for each receiver.
    pub bytes_per_receiver: f64,
    /// Payload bits a second of one broadcast.
    pub bits_per_second: f64,
    /// Its objects a second.
    pub objects_per_second: f64,
    /// Mean stay of a viewer in seconds: the rate of joins follows from it.
    pub stay_seconds: f64,
}

/// What follows.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// Viewers of one machine.
    pub viewers_per_machine: f64,
    /// What runs out first.
    pub bound_by: &'static str,
    /// Each bound by itself.
    pub by_cores: f64,
    /// See `by_cores`.
    pub by_interface: f64,
    /// See `by_cores`.
    pub by_memory: f64,
    /// Machines that face viewers, for a million of them.
    pub machines_per_million: f64,
    /// Tiers of relays below the engine, when each feeds as many as it has viewers.
    pub tiers: u32,
    /// Machines of all tiers.
    pub machines_in_all: f64,
    /// Gb/s that leave the engine.
    pub engine_gbps: f64,
}

/// Viewers of a machine, and machines for a million.
pub fn plan(model: &Model, site: &Site) -> Result<Answer> {
    ensure!(site.bits_per_second > 0.0 && site.stay_seconds > 0.0, "a broadcast has a rate");
    let one = Load {
        cpu: 0.0,
        receivers: 1.0,
        objects: site.objects_per_second,
        bytes: site.bits_per_second / 8.0,
        joins: 1.0 / site.stay_seconds,
    };
    let each = model.cpu(&one);
    ensure!(each > 0.0, "the model says that a viewer costs nothing");
    let by_cores = CORES_SHARE * site.cores / each;
    let by_interface = INTERFACE_SHARE * site.gbps * 1e9 / (site.bits_per_second * WIRE_SHARE);
    let by_memory = site.memory_gb * 1e9 / site.bytes_per_receiver.max(1.0);
    let bounds = [(by_cores, "cores"), (by_interface, "interface"), (by_memory, "memory")];
    let (viewers, bound_by) = bounds
        .into_iter()
        .min_by(|one, other| one.0.total_cmp(&other.0))
        .unwrap_or((by_cores, "cores"));
    let viewers = viewers.floor();
    ensure!(viewers >= 2.0, "such a machine does not carry two viewers");
    let machines = (1e6 / viewers).ceil();
    // Each tier is fed by the one above; a machine feeds as many machines as it feeds viewers.
    let (mut tiers, mut tier, mut all) = (1, machines, machines);
    while tier > viewers {
        tier = (tier / viewers).ceil();
        all += tier;
        tiers += 1;
    }
    Ok(Answer {
        viewers_per_machine: viewers,
        bound_by,
        by_cores: by_cores.floor(),
        by_interface: by_interface.floor(),
        by_memory: by_memory.floor(),
        machines_per_million: machines,
        tiers,
        machines_in_all: all,
        engine_gbps: tier * site.bits_per_second * WIRE_SHARE / 1e9,
    })
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "of a core: {:.2} us for each receiver and second, {:.2} us an object, {:.3} us a KB, {:.2} ms a join ({} runs, worst off by {:.0} %)",
            self.per_receiver * 1e6,
            self.per_object * 1e6,
            self.per_byte * 1e9,
            self.per_join * 1e3,
            self.runs,
            self.worst_error * 100.0
        )
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "viewers of a machine      {:>10} ({} run out first; cores {}, interface {}, memory {})",
            self.viewers_per_machine,
            self.bound_by,
            self.by_cores,
            self.by_interface,
            self.by_memory
        )?;
        writeln!(f, "machines for a million    {:>10}", self.machines_per_million)?;
        writeln!(f, "tiers, machines in all    {:>10}, {}", self.tiers, self.machines_in_all)?;
        write!(f, "leaves the engine         {:>10.2} Gb/s", self.engine_gbps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTH: Model = Model {
        per_receiver: 30e-6,
        per_object: 9e-6,
        per_byte: 1.2e-9,
        per_join: 0.9e-3,
        worst_error: 0.0,
        runs: 0,
    };

    /// Rates, rhythms and numbers as a session has them.
    fn synthetic(noise: f64) -> Vec<Load> {
        let mut dice = fastrand::Rng::with_seed(5);
        let mut loads = Vec::new();
        for (bits, objects) in
            [(64e3, 50.0), (0.5e6, 30.0), (1.92e6, 60.0), (5e6, 30.0), (20e6, 30.0), (0.0, 0.0)]
        {
            for receivers in [10.0, 50.0, 200.0] {
                let mut load = Load {
                    cpu: 0.0,
                    receivers,
                    objects: objects * receivers,
                    bytes: bits / 8.0 * receivers,
                    joins: 0.0,
                };
                load.cpu = TRUTH.cpu(&load) * (1.0 + noise * (dice.f64() * 2.0 - 1.0));
                loads.push(load);
            }
        }
        let joins = Load { joins: 700.0, ..Load::default() };
        loads.push(Load { cpu: TRUTH.cpu(&joins), ..joins });
        loads
    }

    #[test]
    fn the_fit_finds_the_costs_that_made_the_runs() {
        let model = Model::fit(&synthetic(0.0)).expect("a model");
        let close = |one: f64, other: f64| (one / other - 1.0).abs() < 1e-6;
        assert!(close(model.per_receiver, TRUTH.per_receiver), "{model:?}");
        assert!(close(model.per_object, TRUTH.per_object), "{model:?}");
        assert!(close(model.per_byte, TRUTH.per_byte), "{model:?}");
        assert!(close(model.per_join, TRUTH.per_join), "{model:?}");
        assert!(model.worst_error < 1e-6 && model.runs == 19);
    }

    #[test]
    fn noise_of_a_twentieth_moves_no_term_by_a_fifth() {
        let model = Model::fit(&synthetic(0.05)).expect("a model");
        for (found, true_one) in [
            (model.per_receiver, TRUTH.per_receiver),
            (model.per_object, TRUTH.per_object),
            (model.per_byte, TRUTH.per_byte),
            (model.per_join, TRUTH.per_join),
        ] {
            assert!((found / true_one - 1.0).abs() < 0.2, "{model:?}");
        }
        assert!(model.worst_error < 0.12, "{model:?}");
    }

    #[test]
    fn no_term_costs_less_than_nothing() {
        // Only bytes cost anything, and noise would pay for objects with less than nothing.
        let mut loads = synthetic(0.0);
        loads.retain(|load| load.bytes > 0.0);
        for (at, load) in loads.iter_mut().enumerate() {
            load.cpu = load.bytes * 1e-9 * if at % 2 == 0 { 0.97 } else { 1.03 };
        }
        let model = Model::fit(&loads).expect("a model");
        for term in [model.per_receiver, model.per_object, model.per_byte, model.per_join] {
            assert!(term >= 0.0, "{model:?}");
        }
        assert!((model.per_byte / 1e-9 - 1.0).abs() < 0.1, "{model:?}");
    }

    #[test]
    fn runs_that_are_all_alike_make_no_model() {
        let load = Load { cpu: 0.1, receivers: 10.0, objects: 300.0, bytes: 1e6, joins: 0.0 };
        assert!(Model::fit(&[load; 9]).is_err());
        assert!(Model::fit(&[]).is_err());
    }

    const SITE: Site = Site {
        cores: 32.0,
        gbps: 100.0,
        memory_gb: 64.0,
        bytes_per_receiver: 64_000.0,
        bits_per_second: 5e6,
        objects_per_second: 30.0,
        stay_seconds: 600.0,
    };

    #[test]
    fn what_runs_out_first_bounds_a_machine() {
        let answer = plan(&TRUTH, &SITE).expect("a plan");
        // 30 + 270 + 750 + 1.5 us of a core for each viewer.
        assert_eq!(answer.bound_by, "interface");
        assert!(
            (answer.by_cores - (0.6 * 32.0 / 1_051.5e-6_f64).floor()).abs() < 1.0,
            "{answer:?}"
        );
        assert!((15_000.0..15_100.0).contains(&answer.viewers_per_machine), "{answer:?}");
        assert!((66.0..68.0).contains(&answer.machines_per_million), "{answer:?}");
        assert_eq!((answer.tiers, answer.machines_in_all), (1, answer.machines_per_million));
        let few = plan(&TRUTH, &Site { cores: 8.0, ..SITE }).expect("a plan");
        assert_eq!(few.bound_by, "cores");
        let small = plan(&TRUTH, &Site { memory_gb: 0.1, ..SITE }).expect("a plan");
        assert_eq!(small.bound_by, "memory");
    }

    #[test]
    fn many_small_machines_need_a_second_tier() {
        let site = Site { cores: 0.25, ..SITE };
        let answer = plan(&TRUTH, &site).expect("a plan");
        assert!(answer.viewers_per_machine < 1_000.0, "{answer:?}");
        assert_eq!(answer.tiers, 2, "{answer:?}");
        assert!(answer.machines_in_all > answer.machines_per_million);
    }
}
