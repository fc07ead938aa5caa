//! Means and spreads over seeds, and how they are written.

/// Arithmetic mean; NaN of nothing.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Sample standard deviation (n - 1); NaN below two values.
pub(super) fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() as f64 - 1.0)).sqrt()
}

/// `mean +- deviation` of `values` times `unit`; a dash of nothing, the mean alone of one.
pub(super) fn spread(values: &[f64], unit: f64, decimals: usize) -> String {
    let show = |value: f64| format!("{:.decimals$}", value * unit);
    match values {
        [] => "-".to_owned(),
        [only] => show(*only),
        _ => format!("{} ± {}", show(mean(values)), show(deviation(values))),
    }
}

/// A table in Markdown, numbers to the right but for the first column.
pub(super) fn markdown(header: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = header.iter().map(ToString::to_string).collect();
    let rule: Vec<String> = (0..header.len())
        .map(|column| if column == 0 { "---" } else { "---:" }.to_owned())
        .collect();
    let lines = rows.iter().map(|row| line(row));
    line(&head) + &line(&rule) + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_the_sample_deviation() {
        // 2, 4, 9: mean 5, squares 9 + 1 + 16 = 26, over 2.
        let values = [2.0, 4.0, 9.0];
        assert!((mean(&values) - 5.0).abs() < 1e-12);
        assert!((deviation(&values) - 13.0_f64.sqrt()).abs() < 1e-12);
        assert_eq!(spread(&[0.25, 0.25], 100.0, 1), "25.0 ± 0.0");
        assert_eq!(spread(&[0.25], 100.0, 1), "25.0");
        assert_eq!(spread(&[], 100.0, 1), "-");
    }

    #[test]
    fn a_table_has_a_rule_below_its_header() {
        let row = vec!["x".to_owned(), "1".to_owned()];
        let text = markdown(&["name", "n"], &[row]);
        assert_eq!(text, "| name | n |\n| --- | ---: |\n| x | 1 |\n");
    }
}
