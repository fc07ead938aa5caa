//! Line charts as SVG: panels side by side, each with axes, below them one legend.

use std::fmt::Write as _;

/// A chart.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    /// Above all panels.
    pub(crate) title: String,
    /// From left to right; the legend is that of the first.
    pub(crate) panels: Vec<Panel>,
}

/// One pair of axes.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    /// Below the horizontal axis, with its unit.
    pub(crate) x_label: String,
    /// Above the vertical axis, with its unit.
    pub(crate) y_label: String,
    /// In the order of the legend.
    pub(crate) series: Vec<Series>,
}

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// In the legend.
    pub(crate) name: String,
    /// By x, ascending.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Colours that stay apart for colour-blind eyes (Okabe & Ito), with a dash pattern each for print.
const STYLES: [(&str, &str); 6] = [
    ("#0072b2", ""),
    ("#d55e00", "7 3"),
    ("#009e73", "2 3"),
    ("#cc79a7", "9 3 2 3"),
    ("#56b4e9", "1 2"),
    ("#e69f00", "12 3"),
];

/// Sizes in pixels: of a panel with its labels, and of the axes within it.
const PANEL: (f64, f64) = (330.0, 290.0);
const AXES: (f64, f64) = (250.0, 210.0);
const ORIGIN: (f64, f64) = (56.0, 240.0);
const TITLE: f64 = 34.0;
const LEGEND: f64 = 34.0;

/// Intervals that an axis has at most.
const INTERVALS_MAX: f64 = 6.0;

impl Chart {
    /// The file.
    pub(crate) fn to_svg(&self) -> String {
        let width = PANEL.0 * self.panels.len().max(1) as f64;
        let height = TITLE + PANEL.1 + LEGEND;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
        );
        text(&mut svg, (width / 2.0, 22.0), "middle", &self.title);
        for (number, panel) in self.panels.iter().enumerate() {
            let left = number as f64 * PANEL.0;
            let _ = writeln!(svg, "<g transform=\"translate({left} {TITLE})\">");
            panel.draw(&mut svg);
            svg.push_str("</g>\n");
        }
        self.legend(&mut svg, width, height - 12.0);
        svg.push_str("</svg>\n");
        svg
    }

    fn legend(&self, svg: &mut String, width: f64, y: f64) {
        let series = self.panels.first().map_or(&[][..], |panel| &panel.series);
        let each = width / (series.len() + 1) as f64;
        for (number, series) in series.iter().enumerate() {
            let x = each * (number as f64 + 0.6);
            line(svg, number, &[(x, y - 4.0), (x + 28.0, y - 4.0)]);
            text(svg, (x + 36.0, y), "start", &series.name);
        }
    }
}

impl Panel {
    fn draw(&self, svg: &mut String) {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Axis::of(points().map(|point| point.0), false);
        let y = Axis::of(points().map(|point| point.1), true);
        let at = |(px, py): (f64, f64)| {
            let (right, up) = (x.share(px) * AXES.0, y.share(py) * AXES.1);
            (ORIGIN.0 + right, ORIGIN.1 - up)
        };
        for tick in y.ticks() {
            let (left, level) = at((x.first, tick));
            let right = left + AXES.0;
            let _ = writeln!(
                svg,
                "<path d=\"M{left:.1} {level:.1}H{right:.1}\" stroke=\"#ddd\"/>"
            );
            text(svg, (left - 6.0, level + 4.0), "end", &tick.to_string());
        }
        for tick in x.ticks() {
            let (column, floor) = at((tick, y.first));
            let _ = writeln!(
                svg,
                "<path d=\"M{column:.1} {floor:.1}v4\" stroke=\"black\"/>"
            );
            text(svg, (column, floor + 18.0), "middle", &tick.to_string());
        }
        let (left, floor) = ORIGIN;
        let (top, right) = (floor - AXES.1, left + AXES.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {top}V{floor}H{right}\" fill=\"none\" stroke=\"black\"/>"
        );
        text(svg, (left, top - 10.0), "middle", &self.y_label);
        text(
            svg,
            (left + AXES.0 / 2.0, floor + 38.0),
            "middle",
            &self.x_label,
        );
        for (number, series) in self.series.iter().enumerate() {
            let points: Vec<_> = series.points.iter().map(|point| at(*point)).collect();
            line(svg, number, &points);
        }
    }
}

/// A line through points, with a dot at each.
fn line(svg: &mut String, number: usize, points: &[(f64, f64)]) {
    let (colour, dashes) = STYLES[number % STYLES.len()];
    let through: Vec<String> = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
         stroke-dasharray=\"{dashes}\"/>",
        through.join(" ")
    );
    for (x, y) in points {
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
        );
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

/// A range of round numbers around all values.
#[derive(Debug, PartialEq)]
struct Axis {
    first: f64,
    step: f64,
    intervals: u32,
}

impl Axis {
    /// Around `values`, and around 0 where lengths are to be compared.
    fn of(values: impl Iterator<Item = f64>, from_zero: bool) -> Self {
        let start = if from_zero {
            (0.0, 0.0)
        } else {
            (f64::INFINITY, f64::NEG_INFINITY)
        };
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold(start, |(low, high), value| {
                (low.min(value), high.max(value))
            });
        if low > high {
            // No values at all.
            return Self::of([0.0].into_iter(), true);
        }
        let step = round_step((high - low) / INTERVALS_MAX);
        let first = (low / step).floor() * step;
        let intervals = ((high - first) / step).ceil().max(1.0) as u32;
        Self {
            first,
            step,
            intervals,
        }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (first, step) = (self.first, self.step);
        (0..=self.intervals).map(move |i| first + f64::from(i) * step)
    }

    /// 0 at the first tick, 1 at the last.
    fn share(&self, value: f64) -> f64 {
        (value - self.first) / (f64::from(self.intervals) * self.step)
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is not below `least`.
fn round_step(least: f64) -> f64 {
    if least <= 0.0 {
        return 1.0;
    }
    let power = 10.0_f64.powf(least.log10().floor());
    let rounds = [1.0, 2.0, 5.0, 10.0].map(|round| round * power);
    let fits = rounds.into_iter().find(|round| *round >= least);
    fits.unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_few_round_ticks_around_all_values() {
        for values in [
            vec![34.9, 541.8],
            vec![0.3],
            vec![8.0, 64.0],
            vec![128.0, 512.0],
            vec![],
        ] {
            for from_zero in [false, true] {
                let axis = Axis::of(values.iter().copied(), from_zero);
                assert!((1..=7).contains(&axis.intervals), "{axis:?}");
                for value in &values {
                    assert!(
                        (-1e-9..=1.0 + 1e-9).contains(&axis.share(*value)),
                        "{axis:?}"
                    );
                }
                assert!(!from_zero || axis.first == 0.0, "{axis:?}");
            }
        }
        let axis = Axis::of([34.9, 541.8].into_iter(), true);
        assert_eq!(
            axis.ticks().collect::<Vec<_>>(),
            [0.0, 100.0, 200.0, 300.0, 400.0, 500.0, 600.0]
        );
    }

    #[test]
    fn every_point_is_drawn_and_text_is_escaped() {
        let series = |name: &str| Series {
            name: name.into(),
            points: vec![(1.0, 2.0), (2.0, 4.0), (3.0, 8.0)],
        };
        let panel = Panel {
            x_label: "size <px>".into(),
            y_label: "GFLOP".into(),
            series: vec![series("ours & theirs"), series("b")],
        };
        let chart = Chart {
            title: "t".into(),
            panels: vec![panel.clone(), panel],
        };
        let svg = chart.to_svg();
        // Two panels of two lines, and two lines of the legend with two ends each.
        assert_eq!(svg.matches("<polyline").count(), 4 + 2);
        assert_eq!(svg.matches("<circle").count(), 12 + 4);
        assert!(
            svg.contains("size &lt;px>") && svg.contains("ours &amp; theirs"),
            "{svg}"
        );
        assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
    }
}
