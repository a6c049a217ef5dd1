//! Line charts as SVG, both axes logarithmic or the lower one only.

use std::fmt::Write as _;

use super::report;
use super::stats::grouped;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
/// Left, top, right, bottom.
const MARGIN: [f64; 4] = [80.0, 56.0, 150.0, 52.0];

/// One line.
pub struct Series {
    /// Written at its end.
    pub name: &'static str,
    /// CSS colour.
    pub color: &'static str,
    /// Number of Services (above 0), and the value.
    pub points: Vec<(f64, f64)>,
}

/// A chart over the number of Services.
pub struct Chart {
    /// Above it.
    pub title: &'static str,
    /// Below the title: what is measured, in which unit.
    pub subtitle: &'static str,
    /// Writes a value at the left axis.
    pub label: fn(f64) -> String,
    /// Whether the left axis is logarithmic.
    pub logarithmic: bool,
    /// The lines.
    pub series: Vec<Series>,
}

impl Chart {
    /// Writes `benches/results/NAME.svg`.
    pub fn write(&self, name: &str) {
        std::fs::write(report::folder().join(format!("{name}.svg")), self.svg()).expect("writable sources");
    }

    fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Axis::logarithmic(points().map(|point| point.0), MARGIN[0], WIDTH - MARGIN[2]);
        let values = points().map(|point| point.1);
        let (bottom, top) = (HEIGHT - MARGIN[3], MARGIN[1]);
        let y =
            if self.logarithmic { Axis::logarithmic(values, bottom, top) } else { Axis::linear(values, bottom, top) };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#334\">\n\
             <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#fff\"/>\n\
             <text x=\"20\" y=\"22\" font-size=\"16\" font-weight=\"600\">{}</text>\n\
             <text x=\"20\" y=\"39\" fill=\"#778\">{}</text>\n",
            self.title, self.subtitle
        );
        for tick in &y.ticks {
            let at = y.at(*tick);
            let (left, right, label) = (MARGIN[0], WIDTH - MARGIN[2], (self.label)(*tick));
            svg += &format!("<path d=\"M{left} {at:.1}H{right}\" stroke=\"#e4e6ee\"/>\n");
            svg += &format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n", left - 8.0, at + 4.0);
        }
        for tick in &x.ticks {
            let label = grouped(*tick as usize);
            svg += &format!(
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>\n",
                x.at(*tick),
                bottom + 20.0
            );
        }
        svg += &format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"#778\">Services</text>\n",
            (MARGIN[0] + WIDTH - MARGIN[2]) / 2.0,
            bottom + 40.0
        );
        let mut taken: Vec<f64> = Vec::new();
        for series in &self.series {
            let places: Vec<(f64, f64)> = series.points.iter().map(|point| (x.at(point.0), y.at(point.1))).collect();
            let mut path = String::new();
            for (i, (px, py)) in places.iter().enumerate() {
                write!(path, "{}{px:.1} {py:.1}", if i == 0 { "M" } else { "L" }).expect("a string");
            }
            let color = series.color;
            svg += &format!("<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2.5\"/>\n");
            for (px, py) in &places {
                svg += &format!("<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"4\" fill=\"{color}\"/>\n");
            }
            if let Some((px, py)) = places.last() {
                // Two lines that end together would have their names on top of each other.
                let mut name_at = py + 4.0;
                while taken.iter().any(|other| (other - name_at).abs() < 16.0) {
                    name_at += 16.0;
                }
                taken.push(name_at);
                svg += &format!(
                    "<text x=\"{:.1}\" y=\"{name_at:.1}\" fill=\"{color}\" font-weight=\"600\">{}</text>\n",
                    px + 10.0,
                    series.name
                );
            }
        }
        svg + "</svg>\n"
    }
}

/// Values to places.
struct Axis {
    range: (f64, f64),
    places: (f64, f64),
    logarithmic: bool,
    ticks: Vec<f64>,
}

impl Axis {
    fn logarithmic(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (least, most) = extremes(values);
        let (low, high) = (least.log10().floor() as i32, most.log10().ceil() as i32);
        let high = high.max(low + 1);
        let ticks = (low..=high).map(|power| 10_f64.powi(power)).collect();
        Self { range: (f64::from(low), f64::from(high)), places: (from, to), logarithmic: true, ticks }
    }

    /// From 0, in steps of 1, 2 or 5.
    fn linear(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (_, most) = extremes(values);
        let magnitude = 10_f64.powf((most / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * magnitude);
        let step = step.into_iter().find(|step| step * 6.0 >= most).unwrap_or(most);
        let steps = (most / step).ceil() as usize;
        let ticks = (0..=steps).map(|i| i as f64 * step).collect();
        Self { range: (0.0, steps as f64 * step), places: (from, to), logarithmic: false, ticks }
    }

    fn at(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.log10() } else { value.max(0.0) };
        let share = (value - self.range.0) / (self.range.1 - self.range.0);
        self.places.0 + share * (self.places.1 - self.places.0)
    }
}

fn extremes(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)))
}
