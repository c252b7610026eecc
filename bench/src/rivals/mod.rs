//! Weir beside moq-relay and the limit program, in one session: every contender in turn, there and back again, so that
//! what drifts hits both sides of a pair. Owns the plan of a session and its clock; the parts beside it own the rows, the
//! contenders, the results and the pictures.

pub mod contender;
pub mod picture;
pub mod results;
mod rows;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::limit::Sink;
use crate::machine::Facts;
use crate::run::Run;
use crate::statistics::paired_ratio;
use contender::{Contender, Layout, Start};
use results::{Labelled, Point, Results, RowResult};
pub use rows::{REFERENCE, ROWS, Row, by_name};

/// Receivers of the check that receivers which only acknowledge cost the relay what others cost.
const VALIDITY_SUBSCRIBERS: u32 = 50;

/// How far the two may be apart.
pub const VALIDITY_TOLERANCE: f64 = 0.03;

/// Share of the limit program's datagrams that must have come.
const ARRIVED_MIN: f64 = 0.99;

/// What a run may take beyond its spans: joins, cache, drain.
const RUN_SLACK: Duration = Duration::from_secs(90);

/// A session.
#[derive(Clone)]
pub struct Plan {
    /// Where.
    pub layout: Layout,
    /// Measured rows.
    pub rows: Vec<Row>,
    /// Measured contenders.
    pub contenders: Vec<Contender>,
    /// Times every contender is measured in a row; every second one runs backwards.
    pub passes: u32,
    /// Those of contenders that need fewer.
    pub few_passes: u32,
    /// Measured span.
    pub span: Duration,
    /// Before it.
    pub warm_up: Duration,
    /// Numbers of receivers for the cost against N.
    pub curve: Vec<u32>,
    /// A/A, validity, handshakes and storm as well.
    pub around: bool,
    /// Draft of all sessions.
    pub draft: u8,
    /// Folder of results.
    pub out: PathBuf,
    /// Day and commit, which name the files.
    pub name: String,
    /// A short session: its figures show that the bench works.
    pub quick: bool,
    /// How segments leave the interface of the relay.
    pub segmentation: String,
}

/// One thing to do.
#[derive(Clone, Copy)]
struct Step {
    contender: Contender,
    row: Row,
    subscribers: u32,
    checked: u32,
    idle: bool,
}

/// Runs a session and writes its results after every part.
pub fn run(plan: &Plan, progress: &mut dyn Write) -> Result<Results> {
    std::fs::create_dir_all(&plan.out)?;
    let mut session = Session::new(plan, progress)?;
    if plan.around {
        session.same_against_same()?;
        session.validity()?;
    }
    for row in &plan.rows {
        session.row(*row)?;
    }
    session.curve()?;
    if plan.around {
        session.joins()?;
    }
    session.save()?;
    Ok(session.results)
}

struct Session<'a> {
    plan: &'a Plan,
    progress: &'a mut dyn Write,
    results: Results,
    began: Instant,
    done: u32,
    all: u32,
}

impl<'a> Session<'a> {
    fn new(plan: &'a Plan, progress: &'a mut dyn Write) -> Result<Self> {
        ensure!(!plan.contenders.is_empty(), "nobody to measure");
        let results = Results {
            name: plan.name.clone(),
            quick: plan.quick,
            host: Facts::read(),
            segmentation: plan.segmentation.clone(),
            draft: plan.draft,
            span_seconds: plan.span.as_secs_f64(),
            warm_up_seconds: plan.warm_up.as_secs_f64(),
            passes: plan.passes,
            contenders: plan
                .contenders
                .iter()
                .map(|it| (it.name().to_owned(), contender::command_line(*it, &plan.layout)))
                .collect(),
            ..Results::default()
        };
        let passes = |it: &Contender| if it.every_pass() { plan.passes } else { plan.few_passes };
        let rows = plan.contenders.iter().map(passes).sum::<u32>() * plan.rows.len() as u32;
        let around = if plan.around { 2 * aa_pairs(plan) + 2 * 2 + 7 } else { 0 };
        let curve = plan.curve.len() as u32 * curve_contenders(plan).len() as u32;
        let all = rows + around + curve;
        Ok(Self { plan, progress, results, began: Instant::now(), done: 0, all })
    }

    /// The same program on both sides: what is not 1 here is noise.
    fn same_against_same(&mut self) -> Result<()> {
        let Some(contender) = self.ours() else { return Ok(()) };
        self.say("A/A: the same contender on both sides")?;
        let row = REFERENCE;
        let mut sides: [Vec<Option<f64>>; 2] = Default::default();
        for pass in 0..aa_pairs(self.plan) {
            let order = if pass % 2 == 0 { [0, 1] } else { [1, 0] };
            for side in order {
                let run = self.measure(&Step {
                    contender,
                    row,
                    subscribers: row.subscribers,
                    checked: row.checked,
                    idle: false,
                })?;
                sides[side].push(run.as_ref().and_then(Run::gbps_per_cpu_s));
            }
        }
        self.results.same_against_same = paired_ratio(&sides[0], &sides[1]);
        self.save()
    }

    /// Receivers that check against receivers that mostly only acknowledge.
    fn validity(&mut self) -> Result<()> {
        let Some(contender) = self.ours() else { return Ok(()) };
        self.say("validity: all check, against one in ten checks")?;
        let subscribers = VALIDITY_SUBSCRIBERS;
        let mut sides: [Vec<Option<f64>>; 2] = Default::default();
        for pass in 0..2 {
            let order = if pass % 2 == 0 { [0, 1] } else { [1, 0] };
            for side in order {
                let checked = if side == 0 { subscribers } else { subscribers / 10 };
                let row = REFERENCE;
                let run =
                    self.measure(&Step { contender, row, subscribers, checked, idle: false })?;
                sides[side].push(run.as_ref().and_then(Run::gbps_per_cpu_s));
            }
        }
        self.results.checked_against_acknowledged = paired_ratio(&sides[0], &sides[1]);
        self.save()
    }

    fn row(&mut self, row: Row) -> Result<()> {
        self.say(&format!(
            "{}: {} broadcasts of {} kb/s at {} objects/s to {} receivers",
            row.name,
            row.publishers,
            row.shape.bits_per_second / 1000,
            row.shape.objects_per_second,
            row.subscribers
        ))?;
        let mut runs = Vec::new();
        for pass in 0..self.plan.passes {
            let few = pass < self.plan.few_passes;
            let mut order: Vec<Contender> =
                self.plan.contenders.iter().copied().filter(|it| few || it.every_pass()).collect();
            if pass % 2 == 1 {
                order.reverse();
            }
            for contender in order {
                let (subscribers, checked) = (row.subscribers, row.checked);
                let step = Step { contender, row, subscribers, checked, idle: false };
                if let Some(run) = self.measure(&step)? {
                    let objections = run.objections();
                    let contender = contender.name().to_owned();
                    runs.push(Labelled { contender, pass, run, objections });
                }
            }
        }
        let result = RowResult::of(row, runs);
        if let Some(line) = result.line() {
            self.say(&line)?;
        }
        self.results.rows.push(result);
        self.save()
    }

    /// Cost and memory against the number of receivers.
    fn curve(&mut self) -> Result<()> {
        if self.plan.curve.is_empty() {
            return Ok(());
        }
        self.say("cost against the number of receivers")?;
        let Some(row) = by_name("video-500k") else { return Ok(()) };
        for subscribers in self.plan.curve.clone() {
            for contender in curve_contenders(self.plan) {
                let checked = (subscribers / 20).max(1);
                let step = Step { contender, row, subscribers, checked, idle: false };
                if let Some(run) = self.measure(&step)? {
                    let objections = run.objections();
                    let contender = contender.name().to_owned();
                    self.results.curve.push(Point { contender, idle: false, run, objections });
                }
            }
        }
        self.save()
    }

    /// Handshakes of each kind, a storm of joins, and what a receiver costs while nothing comes.
    fn joins(&mut self) -> Result<()> {
        let Some(contender) = self.ours() else { return Ok(()) };
        self.say("handshakes, a storm of joins, and receivers without media")?;
        let seconds = self.plan.span.as_secs().clamp(3, 20).to_string();
        for (name, retry, resumed) in
            [("full", false, false), ("resumed", false, true), ("retry", true, false)]
        {
            let mut arguments = vec!["--seconds", &seconds];
            if resumed {
                arguments.push("--resumed");
            }
            let start = Start { retry };
            if let Some(value) = self.tool(contender, start, "handshakes", &arguments)? {
                self.results.handshakes.insert(name.to_owned(), value);
            }
        }
        self.results.storm = self.tool(contender, Start::default(), "storm", &[])?;
        let rival = Contender::MoqRelayBest;
        if self.plan.contenders.contains(&rival) {
            let arguments = ["--seconds", &seconds];
            if let Some(value) = self.tool(rival, Start::default(), "handshakes", &arguments)? {
                self.results.handshakes.insert("moq-relay full".to_owned(), value);
            }
            self.results.rival_storm = self.tool(rival, Start::default(), "storm", &[])?;
        }
        let row = REFERENCE;
        let subscribers = if self.plan.quick { 100 } else { 400 };
        let step = Step { contender, row, subscribers, checked: 1, idle: true };
        if let Some(run) = self.measure(&step)? {
            let objections = Vec::new();
            let contender = contender.name().to_owned();
            self.results.curve.push(Point { contender, idle: true, run, objections });
        }
        Ok(())
    }

    fn ours(&self) -> Option<Contender> {
        let ours = [Contender::WeirUdp, Contender::WeirUring, Contender::WeirXdp];
        ours.into_iter().find(|it| self.plan.contenders.contains(it))
    }

    /// One run; `None` if it failed, which is noted with its reason.
    fn measure(&mut self, step: &Step) -> Result<Option<Run>> {
        let outcome = match step.contender {
            Contender::Limit(level) => self.limit(step, level),
            _ => self.relay(step),
        };
        let label = format!("{} {} N={}", step.row.name, step.contender.name(), step.subscribers);
        self.done += 1;
        match outcome {
            Ok(run) => {
                let number = |value: Option<f64>| {
                    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
                };
                let mut text = format!(
                    "{label}: {} Gb per CPU-second, relay {:.0} %, core {:.0} %, generator {:.0} %",
                    number(run.gbps_per_cpu_s()),
                    100.0 * run.cpu_seconds / run.seconds,
                    100.0 * run.core_busy_seconds / run.seconds,
                    100.0 * run.generator_cores
                );
                for objection in run.objections() {
                    text = format!("{text}; {objection}");
                }
                self.report(&text)?;
                Ok(Some(run))
            }
            Err(error) => {
                self.report(&format!("{label}: failed: {error:#}"))?;
                self.results.failures.push(format!("{label}: {error:#}"));
                Ok(None)
            }
        }
    }

    fn relay(&self, step: &Step) -> Result<Run> {
        let plan = self.plan;
        let log = plan.out.join("relay.log");
        let relay = contender::start(step.contender, &plan.layout, Start::default(), &log)?;
        let mut command = plan.layout.load.command(&plan.layout.own);
        command.arg("load").args(relay.arguments(&plan.layout));
        command.args(["--core", &plan.layout.relay.core.to_string()]);
        command.args(shape_arguments(&step.row));
        command.args(["--subs", &step.subscribers.to_string()]);
        command.args(["--checked", &step.checked.to_string()]);
        command.args(["--seconds", &plan.span.as_secs_f64().to_string()]);
        command.args(["--warm-up", &plan.warm_up.as_secs_f64().to_string()]);
        command.args(["--draft", &plan.draft.to_string()]);
        if step.idle {
            command.arg("--idle");
        }
        let said = finish(command, plan.span + plan.warm_up + RUN_SLACK)?;
        Ok(serde_json::from_str(&said)?)
    }

    fn limit(&self, step: &Step, level: u8) -> Result<Run> {
        let plan = self.plan;
        let (level, peers) = (level.to_string(), step.subscribers.to_string());
        let mut sink = plan.layout.load.command(&plan.layout.own);
        let address = plan.layout.load.address.to_string();
        sink.args(["sink", "--listen", &address, "--level", &level, "--peers", &peers]);
        let sink = Program::start(sink)?;
        std::thread::sleep(Duration::from_millis(200));
        let mut command = plan.layout.relay.command(&plan.layout.own);
        command.args(["limit", "--level", &level, "--to", &address, "--subs", &peers]);
        command.args(["--core", &plan.layout.relay.core.to_string()]);
        command.args(shape_arguments(&step.row));
        command.args(["--seconds", &plan.span.as_secs_f64().to_string()]);
        command.args([
            "--warm-up",
            &plan.warm_up.min(Duration::from_secs(1)).as_secs_f64().to_string(),
        ]);
        let said = finish(command, plan.span + plan.warm_up + RUN_SLACK)?;
        let mut run: Run = serde_json::from_str(&said)?;
        // It ends by itself a second after the last datagram.
        let seen: Sink = serde_json::from_str(&sink.finish(RUN_SLACK)?)?;
        if (seen.datagrams as f64) < run.datagrams as f64 * ARRIVED_MIN {
            run.lost = run.lost.max(run.datagrams - seen.datagrams);
        }
        Ok(run)
    }

    /// One of the other measurements of this program, on a fresh relay.
    fn tool(
        &mut self,
        contender: Contender,
        start: Start,
        tool: &str,
        arguments: &[&str],
    ) -> Result<Option<serde_json::Value>> {
        let plan = self.plan;
        let outcome = (|| -> Result<serde_json::Value> {
            let log = plan.out.join("relay.log");
            let relay = contender::start(contender, &plan.layout, start, &log)?;
            let mut command = plan.layout.load.command(&plan.layout.own);
            command.arg(tool).args(relay.arguments(&plan.layout)).args(arguments).arg("--json");
            command.args(["--draft", &plan.draft.to_string()]);
            let said = finish(command, 2 * RUN_SLACK)?;
            Ok(serde_json::from_str(&said)?)
        })();
        self.done += 1;
        match outcome {
            Ok(value) => {
                self.report(&format!("{} {tool} {}: done", contender.name(), arguments.join(" ")))?;
                Ok(Some(value))
            }
            Err(error) => {
                let text = format!("{} {tool}: {error:#}", contender.name());
                self.report(&format!("{text}; failed"))?;
                self.results.failures.push(text);
                Ok(None)
            }
        }
    }

    fn say(&mut self, text: &str) -> Result<()> {
        writeln!(self.progress, "{text}")?;
        Ok(())
    }

    fn report(&mut self, text: &str) -> Result<()> {
        let each = self.began.elapsed() / self.done.max(1);
        let left = each * self.all.saturating_sub(self.done);
        let minutes = left.as_secs().div_ceil(60);
        writeln!(self.progress, "  {}/{} ({minutes} min left) {text}", self.done, self.all)?;
        Ok(())
    }

    fn save(&self) -> Result<()> {
        self.results.write(&self.plan.out)
    }
}

fn aa_pairs(plan: &Plan) -> u32 {
    plan.passes.clamp(2, 4)
}

/// Ours and the rival's best.
fn curve_contenders(plan: &Plan) -> Vec<Contender> {
    let wanted = [Contender::WeirUdp, Contender::MoqRelayBest];
    wanted.into_iter().filter(|it| plan.contenders.contains(it)).collect()
}

fn shape_arguments(row: &Row) -> Vec<String> {
    let shape = row.shape;
    [
        ("--bitrate", shape.bits_per_second.to_string()),
        ("--fps", shape.objects_per_second.to_string()),
        ("--group", shape.group_objects.to_string()),
        ("--intra", shape.intra_factor.to_string()),
        ("--publishers", row.publishers.to_string()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect()
}

/// A program under way, and where it prints; it ends with this value.
struct Program {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Program {
    fn start(mut command: Command) -> Result<Self> {
        let stem = format!("weir-bench-{:016x}", fastrand::u64(..));
        let file = |ending: &str| std::env::temp_dir().join(format!("{stem}.{ending}"));
        let (out, err) = (file("out"), file("err"));
        // What failed is wanted, not where.
        command.env("RUST_BACKTRACE", "0").stdin(Stdio::null());
        command.stdout(std::fs::File::create(&out)?).stderr(std::fs::File::create(&err)?);
        let child = command.spawn().context("cannot run ip")?;
        Ok(Self { child, out, err })
    }

    /// Waits for its end, or for the end of patience, and gives what it printed.
    fn finish(mut self, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() >= deadline {
                return Err(anyhow!("not done within {} s", patience.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let text = |path: &PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        if !status.success() {
            bail!("{status}: {}", contender::last_lines(&text(&self.err)));
        }
        Ok(text(&self.out))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.out);
        let _ = std::fs::remove_file(&self.err);
    }
}

/// Runs a command to its end.
fn finish(command: Command, patience: Duration) -> Result<String> {
    Program::start(command)?.finish(patience)
}
