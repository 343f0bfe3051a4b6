//! Line charts as SVG inside a page, which sets the colours and fonts. A chart knows nothing of reports.

use std::fmt::Write as _;

/// One axis: its range and its ticks.
pub struct Axis {
    pub min: f64,
    pub max: f64,
    pub log: bool,
    /// The values that have ticks, with their labels.
    pub ticks: Vec<(f64, String)>,
}

/// A line of a chart.
pub struct Line {
    pub name: &'static str,
    /// The CSS class with the line's colour.
    pub class: &'static str,
    /// Each point has a text that is shown when the mouse points at it.
    pub points: Vec<(f64, f64, String)>,
}

impl Axis {
    /// Returns an axis from 0 to `max` or a little more, with ticks at round values.
    pub fn linear(max: f64, text: impl Fn(f64) -> String) -> Self {
        let max = if max > 0.0 { max } else { 1.0 };
        let step = round_up(max / TICKS_WANTED);
        let count = (max / step).ceil().max(1.0);
        let ticks = (0..=count as usize).map(|tick| tick as f64 * step);
        Axis { min: 0.0, max: count * step, log: false, ticks: ticks.map(|tick| (tick, text(tick))).collect() }
    }

    /// Returns a logarithmic axis over all of these values, with ticks at 1, 2 and 5 of each decade, or only at 1 if
    /// there are many decades.
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

    /// Returns the place of a value on the axis, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.log { value.max(self.min).log10() } else { value };
        let span = scale(self.max) - scale(self.min);
        if span > 0.0 { ((scale(value) - scale(self.min)) / span).clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// Draws a chart. `label` describes it for screen readers. Each of `rules` is a horizontal line with its name.
///
/// Labels never overlap and are never cut off at the chart's edge. A label that has no room is dropped, in the narrow
/// layout or in both.
pub fn svg(label: &str, x: &Axis, y: &Axis, lines: &[Line], rules: &[(f64, String)]) -> String {
    let widest = y.ticks.iter().map(|(_, text)| text_width(text, NARROW_FONT)).fold(0.0, f64::max);
    let left = LEFT_MIN.max(widest + LABEL_GAP + EDGE);
    let across = |value: f64| left + x.place(value) * (WIDTH - left - RIGHT);
    let up = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">\n");
    let heights = y.ticks.iter().map(|(value, _)| (up(*value), LINE_HEIGHT * WIDE_FONT, LINE_HEIGHT * NARROW_FONT));
    for ((value, text), room) in y.ticks.iter().zip(rooms(&heights.collect::<Vec<_>>())) {
        let at = up(*value);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{left:.1}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
            WIDTH - RIGHT
        );
        if let Some(class) = room.class() {
            let (x, y) = (left - LABEL_GAP, at + 4.0);
            let _ = writeln!(out, "<text class=\"y{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
        }
    }
    // The middle of the label is at the tick, but never so close to the edge that the label would be cut off.
    let middle = |value: f64, text: &str| {
        let half = text_width(text, NARROW_FONT) / 2.0 + EDGE;
        across(value).min(WIDTH - half).max(half)
    };
    let widths = x.ticks.iter().map(|(value, text)| {
        let width = |font| text_width(text, font) + LABEL_GAP;
        (middle(*value, text), width(WIDE_FONT), width(NARROW_FONT))
    });
    for ((value, text), room) in x.ticks.iter().zip(rooms(&widths.collect::<Vec<_>>())) {
        let at = across(*value);
        let base = HEIGHT - BOTTOM;
        let _ =
            writeln!(out, "<line class=\"tick\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{base}\" y2=\"{}\"/>", base + 5.0);
        if let Some(class) = room.class() {
            // This is below the label of the vertical axis's lowest tick.
            let (x, y) = (middle(*value, text), base + 30.0);
            let _ = writeln!(out, "<text class=\"x{class}\" x=\"{x:.1}\" y=\"{y}\">{text}</text>");
        }
    }
    for (value, name) in rules {
        let at = up(*value);
        let _ = writeln!(
            out,
            "<line class=\"rule\" x1=\"{left:.1}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
            WIDTH - RIGHT
        );
        let above = at - 6.0;
        let y = if above > LINE_HEIGHT * NARROW_FONT { above } else { at + NARROW_FONT };
        let _ = writeln!(out, "<text class=\"rule\" x=\"{:.1}\" y=\"{y:.1}\">{name}</text>", WIDTH - RIGHT);
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

/// Returns the names of a chart's lines, with their colours.
pub fn legend(lines: &[Line]) -> String {
    let names = lines.iter().map(|line| format!("<span class=\"key {}\">{}</span>", line.class, line.name));
    format!("<p class=\"legend\">{}</p>\n", names.collect::<String>())
}

/// The layouts in which there is room for a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Everywhere,
    /// The wide layout only. The narrow layout has a larger font, and the page's style hides the label there.
    InWideLayout,
    Nowhere,
}

impl Room {
    /// The suffix for the name of a label's class.
    fn class(self) -> Option<&'static str> {
        match self {
            Room::Everywhere => Some(""),
            Room::InWideLayout => Some(" spare"),
            Room::Nowhere => None,
        }
    }
}

/// Returns which labels along an axis are shown. A label has its middle, and its extent in the wide and the narrow
/// layout.
fn rooms(labels: &[(f64, f64, f64)]) -> Vec<Room> {
    let mut rooms = vec![Room::Nowhere; labels.len()];
    for (room, extent) in
        [(Room::Everywhere, (|label| label.2) as fn(&(f64, f64, f64)) -> f64), (Room::InWideLayout, |label| label.1)]
    {
        for at in 0..labels.len() {
            let is_clear = |other: usize| {
                let apart = (labels[at].0 - labels[other].0).abs();
                rooms[other] == Room::Nowhere || apart >= (extent(&labels[at]) + extent(&labels[other])) / 2.0
            };
            if rooms[at] == Room::Nowhere && (0..labels.len()).all(is_clear) {
                rooms[at] = room;
            }
        }
    }
    rooms
}

/// Returns the width of a text in the widest font that a page may have, DejaVu Sans, rounded up.
fn text_width(text: &str, font: f64) -> f64 {
    let width = |character| match character {
        '.' | ',' | ':' | ' ' | 'i' | 'l' => 0.34,
        '%' | 'M' | 'm' | 'W' | 'w' => 0.98,
        _ => 0.66,
    };
    text.chars().map(width).sum::<f64>() * font
}

/// Rounds up to 1, 2 or 5 of a decade.
fn round_up(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
    steps.into_iter().find(|step| *step >= value * 0.999).unwrap_or(steps[3])
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 328.0;
const LEFT_MIN: f64 = 60.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 42.0;
/// The gap between a label and its axis, and between two labels.
const LABEL_GAP: f64 = 8.0;
/// The gap between a label and the edge of the chart.
const EDGE: f64 = 2.0;
/// The font sizes of labels in `page.css`, in the units of the chart.
const WIDE_FONT: f64 = 13.0;
const NARROW_FONT: f64 = 20.0;
/// The height of a line, relative to the font size.
const LINE_HEIGHT: f64 = 1.2;
const TICKS_WANTED: f64 = 4.0;
/// The most points that are drawn as dots. In a longer line, the mouse could not point at a single one.
const DOTS_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_axis_begins_at_zero_and_contains_its_maximum() {
        for max in [0.0, 0.7, 1.0, 3.0, 160_385.0] {
            let axis = Axis::linear(max, |value| value.to_string());
            assert!(axis.min == 0.0 && axis.max >= max, "{max}");
            assert!((2..=6).contains(&axis.ticks.len()), "{max}: {:?}", axis.ticks);
        }
    }

    #[test]
    fn a_log_axis_contains_all_its_values() {
        for values in [vec![], vec![0.0], vec![5.0], vec![300.0, 700.0], vec![0.3, 2_000_000.0]] {
            let axis = Axis::log(values.iter().copied(), |value| value.to_string());
            assert!(values.iter().all(|value| *value == 0.0 || (axis.min * 0.99..=axis.max * 1.01).contains(value)));
            assert!(axis.min < axis.max && (2..=10).contains(&axis.ticks.len()), "{values:?}: {:?}", axis.ticks);
        }
    }

    #[test]
    fn values_are_between_their_neighbours() {
        let axis = Axis::log([10.0, 1000.0].into_iter(), |value| value.to_string());
        assert_eq!((axis.place(10.0), axis.place(100.0), axis.place(1000.0)), (0.0, 0.5, 1.0));
        assert_eq!((axis.place(0.0), axis.place(1e9)), (0.0, 1.0));
    }
}
