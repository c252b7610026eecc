//! Plots of a session as SVG, drawn here: lines over numbers of receivers, bars over rows. Owns axes, colours and
//! nothing about what is plotted but its names.

use std::fmt::Write as _;

use super::results::{Point, Results};
use crate::run::Run;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 60.0;

/// Told apart in print and by people who do not see red and green.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555", "#000000"];

/// One line or one colour of bars.
#[derive(Clone, Debug)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// Places and values; in bars the place is the number of the group.
    pub points: Vec<(f64, f64)>,
}

/// All plots of a session that has something to show, by name.
pub fn all(results: &Results) -> Vec<(&'static str, String)> {
    let mut pictures = Vec::new();
    let mut add = |name, picture: Option<String>| {
        if let Some(picture) = picture {
            pictures.push((name, picture));
        }
    };
    add(
        "throughput",
        bars(
            "Payload for each CPU-second of the relay",
            "Gb",
            &rows(results),
            &by_row(results, |row, name| row.gbps_per_cpu_s.get(name).copied()),
        ),
    );
    add(
        "latency",
        bars(
            "Object latency, 99 of 100 below",
            "ms",
            &rows(results),
            &by_row(results, |row, name| row.latency_ms.get(name)?.p99),
        ),
    );
    add(
        "cpu-per-subscriber",
        lines(
            "Cost of a receiver against their number, 0.5 Mb/s",
            "receivers",
            "ms of a core for each second",
            &by_number(results, Run::cpu_ms_per_subscriber_s),
        ),
    );
    add(
        "memory-per-subscriber",
        lines(
            "Memory for each further receiver, 0.5 Mb/s",
            "receivers",
            "KB",
            &by_number(results, |run| run.bytes_per_further_subscriber().map(|bytes| bytes / 1e3)),
        ),
    );
    add(
        "latency-quantiles",
        lines(
            "Object latency against the number of receivers, 99 of 100 below",
            "receivers",
            "ms",
            &by_number(results, |run| run.latency_ms.p99),
        ),
    );
    pictures
}

fn rows(results: &Results) -> Vec<String> {
    results.rows.iter().map(|row| row.name.clone()).collect()
}

fn by_row(
    results: &Results,
    of: impl Fn(&super::results::RowResult, &str) -> Option<f64>,
) -> Vec<Series> {
    let series = |name: &String| Series {
        name: name.clone(),
        points: results
            .rows
            .iter()
            .enumerate()
            .filter_map(|(at, row)| Some((at as f64, of(row, name)?)))
            .collect(),
    };
    results.contenders.keys().map(series).filter(|it| !it.points.is_empty()).collect()
}

fn by_number(results: &Results, of: impl Fn(&Run) -> Option<f64>) -> Vec<Series> {
    let with_media = || results.curve.iter().filter(|point| !point.idle);
    let mut names: Vec<&String> = with_media().map(|point| &point.contender).collect();
    names.sort();
    names.dedup();
    let value = |point: &Point| Some((f64::from(point.run.subscribers), of(&point.run)?));
    let series = |name: &String| Series {
        name: name.clone(),
        points: with_media().filter(|it| it.contender == *name).filter_map(value).collect(),
    };
    names.into_iter().map(series).filter(|it| !it.points.is_empty()).collect()
}

/// Lines over a logarithmic axis.
fn lines(title: &str, below: &str, beside: &str, series: &[Series]) -> Option<String> {
    let places = || series.iter().flat_map(|it| it.points.iter().map(|point| point.0));
    let (low, high) = (places().reduce(f64::min)?.max(1.0), places().reduce(f64::max)?);
    let top = top(series)?;
    let span = (high / low).ln().max(f64::EPSILON);
    let x = |place: f64| LEFT + (WIDTH - LEFT - RIGHT) * ((place.max(1.0) / low).ln() / span);
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top;
    let mut svg = frame(title, beside, top);
    let mut marks: Vec<f64> = places().collect();
    marks.sort_by(f64::total_cmp);
    marks.dedup();
    for mark in marks {
        label(&mut svg, x(mark), HEIGHT - BOTTOM + 18.0, "middle", &format!("{mark:.0}"));
    }
    label(&mut svg, f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 16.0, "middle", below);
    for (at, line) in series.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let path: Vec<String> = line
            .points
            .iter()
            .map(|(place, value)| format!("{:.1},{:.1}", x(*place), y(*value)))
            .collect();
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            path.join(" ")
        );
        for (place, value) in &line.points {
            let _ = writeln!(
                svg,
                r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{colour}"/>"#,
                x(*place),
                y(*value)
            );
        }
    }
    legend(&mut svg, series);
    svg.push_str("</svg>\n");
    Some(svg)
}

/// Bars in groups.
fn bars(title: &str, beside: &str, groups: &[String], series: &[Series]) -> Option<String> {
    let top = top(series)?;
    let mut svg = frame(title, beside, top);
    let group = (WIDTH - LEFT - RIGHT) / groups.len().max(1) as f64;
    let bar = group * 0.8 / series.len().max(1) as f64;
    for (at, name) in groups.iter().enumerate() {
        let middle = LEFT + group * (at as f64 + 0.5);
        label(&mut svg, middle, HEIGHT - BOTTOM + 18.0, "middle", name);
    }
    for (at, one) in series.iter().enumerate() {
        for (place, value) in &one.points {
            let height = (HEIGHT - TOP - BOTTOM) * value / top;
            let _ = writeln!(
                svg,
                r#"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="{height:.1}" fill="{}"><title>{}: {value:.2}</title></rect>"#,
                LEFT + group * (place + 0.1) + bar * at as f64,
                HEIGHT - BOTTOM - height,
                bar * 0.92,
                COLOURS[at % COLOURS.len()],
                escape(&one.name),
            );
        }
    }
    legend(&mut svg, series);
    svg.push_str("</svg>\n");
    Some(svg)
}

/// A round number no smaller than any value; `None` without values.
fn top(series: &[Series]) -> Option<f64> {
    let values = series.iter().flat_map(|it| it.points.iter().map(|point| point.1));
    let largest = values.filter(|value| value.is_finite()).reduce(f64::max)?;
    let largest = if largest > 0.0 { largest } else { 1.0 };
    let scale = 10_f64.powf(largest.log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * scale).find(|top| *top >= largest)
}

fn frame(title: &str, beside: &str, top: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>\n",
        escape(title)
    );
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * f64::from(step) / 4.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>",
            WIDTH - RIGHT
        );
        let digits = if top < 1.0 {
            3
        } else if top < 10.0 {
            2
        } else {
            0
        };
        label(&mut svg, LEFT - 8.0, y + 4.0, "end", &format!("{value:.digits$}"));
    }
    let _ = writeln!(
        svg,
        "<text transform=\"translate(18 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        f64::midpoint(TOP, HEIGHT - BOTTOM),
        escape(beside)
    );
    svg
}

fn label(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escape(text)
    );
}

fn legend(svg: &mut String, series: &[Series]) {
    for (at, one) in series.iter().enumerate() {
        let y = TOP + 20.0 * at as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"12\" height=\"12\" fill=\"{}\"/>",
            WIDTH - RIGHT + 18.0,
            COLOURS[at % COLOURS.len()]
        );
        label(svg, WIDTH - RIGHT + 36.0, y + 11.0, "start", &one.name);
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_reaches_the_largest_value_and_names_everybody() {
        let series = [
            Series { name: "a<b".to_owned(), points: vec![(1.0, 0.2), (100.0, 7.3)] },
            Series { name: "c".to_owned(), points: vec![(10.0, 1.0)] },
        ];
        assert_eq!(top(&series), Some(8.0));
        let svg = lines("t", "x", "y", &series).expect("a plot");
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"));
        assert_eq!(svg.matches("<polyline").count(), 2);
        let svg = bars("t", "y", &["one".to_owned()], &series[1..]).expect("a plot");
        assert_eq!(svg.matches("<title>").count(), 1);
    }

    #[test]
    fn nothing_to_show_is_no_plot() {
        assert!(lines("t", "x", "y", &[]).is_none());
        assert!(bars("t", "y", &[], &[]).is_none());
        assert!(all(&Results::default()).is_empty());
    }
}
