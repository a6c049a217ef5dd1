//! Curves as text.

const WIDTH: usize = 72;
const HEIGHT: usize = 8;

/// Draws values, in this unit, from left to right; several that share a column are shown by their highest.
pub(crate) fn plot(title: &str, values: &[f64], unit: f64) -> String {
    let columns = WIDTH.min(values.len());
    let part = |column: usize| &values[column * values.len() / columns..(column + 1) * values.len() / columns];
    let highs: Vec<f64> = (0..columns).map(|column| part(column).iter().copied().fold(0.0, f64::max) / unit).collect();
    let top = highs.iter().copied().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let mut text = format!("{title}\n");
    for row in (0..HEIGHT).rev() {
        let label = top * (row + 1) as f64 / HEIGHT as f64;
        let filled = |high: &f64| if *high * HEIGHT as f64 > top * (row as f64 + 0.5) { '#' } else { ' ' };
        text += &format!("{label:8.1} |{}\n", highs.iter().map(filled).collect::<String>());
    }
    text + &format!("{:8} +{}\n", "", "-".repeat(columns))
}
