//! Line charts as SVG that stands inside a page: colours and fonts are the page's.

use std::fmt::Write as _;

/// One axis: what it spans, and where it is marked.
pub struct Axis {
    pub min: f64,
    pub max: f64,
    pub log: bool,
    /// Values and what is written beside them.
    pub ticks: Vec<(f64, String)>,
}

/// A line of a chart. `class` is the page's name for its colour.
pub struct Line {
    pub name: &'static str,
    pub class: &'static str,
    /// Each with the text that is shown when it is pointed at.
    pub points: Vec<(f64, f64, String)>,
}

impl Axis {
    /// From 0 to `max` or a little more, marked at round values.
    pub fn linear(max: f64, text: impl Fn(f64) -> String) -> Self {
        let step = round_up(max.max(f64::MIN_POSITIVE) / TICKS_WANTED);
        let count = (max / step).ceil().max(1.0);
        let ticks = (0..=count as usize).map(|tick| tick as f64 * step);
        Axis { min: 0.0, max: count * step, log: false, ticks: ticks.map(|tick| (tick, text(tick))).collect() }
    }

    /// Logarithmic, over all of these values, marked at 1, 2 and 5 of each decade, or at 1 alone
    /// where there are many.
    pub fn log(values: impl Iterator<Item = f64>, text: impl Fn(f64) -> String) -> Self {
        let (mut low, mut high) = (f64::MAX, f64::MIN_POSITIVE);
        for value in values.filter(|value| *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        let (low, high) = if low > high { (1.0, 10.0) } else { (low, high) };
        let mut marks: Vec<f64> = Vec::new();
        for decade in low.log10().floor() as i32..=high.log10().ceil() as i32 {
            marks.extend([1.0, 2.0, 5.0].map(|step| step * 10f64.powi(decade)));
        }
        let below = marks.iter().rposition(|mark| *mark <= low * 1.001).unwrap_or(0);
        let above = marks.iter().position(|mark| *mark >= high * 0.999).unwrap_or(marks.len() - 1);
        let marks = &marks[below..=above.max(below + 1)];
        let (min, max) = (marks[0], marks[marks.len() - 1]);
        let sparse = marks.len() > 8;
        let is_decade = |mark: f64| (mark.log10() - mark.log10().round()).abs() < 1e-6;
        let ticks = marks.iter().filter(|mark| !sparse || is_decade(**mark));
        Axis { min, max, log: true, ticks: ticks.map(|mark| (*mark, text(*mark))).collect() }
    }

    /// Where a value lies, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.log { value.max(self.min).log10() } else { value };
        let span = scale(self.max) - scale(self.min);
        if span > 0.0 { ((scale(value) - scale(self.min)) / span).clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// Draws a chart. `label` says what it shows to those who can't see it; each of `rules` is a level
/// with its name.
pub fn svg(label: &str, x: &Axis, y: &Axis, lines: &[Line], rules: &[(f64, String)]) -> String {
    let across = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
    let up = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">\n");
    for (value, text) in &y.ticks {
        let at = up(*value);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
            WIDTH - RIGHT
        );
        let _ = writeln!(out, "<text class=\"y\" x=\"{}\" y=\"{:.1}\">{text}</text>", LEFT - 8.0, at + 4.0);
    }
    for (value, text) in &x.ticks {
        let at = across(*value);
        let base = HEIGHT - BOTTOM;
        let _ =
            writeln!(out, "<line class=\"tick\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{base}\" y2=\"{}\"/>", base + 5.0);
        let _ = writeln!(out, "<text class=\"x\" x=\"{at:.1}\" y=\"{}\">{text}</text>", base + 22.0);
    }
    for (value, name) in rules {
        let at = up(*value);
        let _ = writeln!(
            out,
            "<line class=\"rule\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
            WIDTH - RIGHT
        );
        let _ = writeln!(out, "<text class=\"rule\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>", WIDTH - RIGHT, at - 6.0);
    }
    for line in lines {
        let mut path = String::new();
        for (index, (x, y, _)) in line.points.iter().enumerate() {
            let _ = write!(path, "{}{:.1} {:.1}", if index == 0 { "M" } else { "L" }, across(*x), up(*y));
        }
        let _ = writeln!(out, "<path class=\"line {}\" d=\"{path}\"/>", line.class);
        if line.points.len() <= DOTS_MAX {
            for (x, y, text) in &line.points {
                let (x, y) = (across(*x), up(*y));
                let _ = writeln!(
                    out,
                    "<circle class=\"dot {}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"><title>{text}</title></circle>",
                    line.class
                );
            }
        }
    }
    out + "</svg>\n"
}

/// The names of a chart's lines beside their colours.
pub fn legend(lines: &[Line]) -> String {
    let names = lines.iter().map(|line| format!("<span class=\"key {}\">{}</span>", line.class, line.name));
    format!("<p class=\"legend\">{}</p>\n", names.collect::<String>())
}

/// The next 1, 2 or 5 of a decade.
fn round_up(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
    steps.into_iter().find(|step| *step >= value * 0.999).unwrap_or(steps[3])
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 36.0;
const TICKS_WANTED: f64 = 4.0;
/// Of a longer line single points could not be pointed at.
const DOTS_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_axis_begins_at_zero_and_holds_its_maximum() {
        for max in [0.0, 0.7, 1.0, 3.0, 160_385.0] {
            let axis = Axis::linear(max, |value| value.to_string());
            assert!(axis.min == 0.0 && axis.max >= max, "{max}");
            assert!((2..=6).contains(&axis.ticks.len()), "{max}: {:?}", axis.ticks);
        }
    }

    #[test]
    fn a_log_axis_holds_all_its_values() {
        for values in [vec![], vec![0.0], vec![5.0], vec![300.0, 700.0], vec![0.3, 2_000_000.0]] {
            let axis = Axis::log(values.iter().copied(), |value| value.to_string());
            assert!(values.iter().all(|value| *value == 0.0 || (axis.min * 0.99..=axis.max * 1.01).contains(value)));
            assert!(axis.min < axis.max && (2..=10).contains(&axis.ticks.len()), "{values:?}: {:?}", axis.ticks);
        }
    }

    #[test]
    fn values_lie_between_their_neighbours() {
        let axis = Axis::log([10.0, 1000.0].into_iter(), |value| value.to_string());
        assert_eq!((axis.place(10.0), axis.place(100.0), axis.place(1000.0)), (0.0, 0.5, 1.0));
        assert_eq!((axis.place(0.0), axis.place(1e9)), (0.0, 1.0));
    }
}
