//! One line of `bench allreduce`, and the chart of all of them.

use ringmaster_ring::bench::bus_bandwidth;
use serde::Serialize;

use crate::commands::bench::rank::CaseSpec;
use crate::svg::{Chart, Panel, Series};

/// One line of the result; its field names are a contract.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    world: u32,
    mib: f64,
    dtype: &'static str,
    reduction: &'static str,
    transport: String,
    repeats: usize,
    best_s: f64,
    median_s: f64,
    /// nccl-tests' "busbw" of the median, in units of 10^9 bytes.
    bus_gb_per_s: f64,
}

impl Line {
    pub(super) fn of(
        (world, transport): (u32, &str),
        case: CaseSpec,
        mut seconds: Vec<f64>,
    ) -> Self {
        seconds.sort_by(f64::total_cmp);
        let at = |index: usize| seconds.get(index).copied().unwrap_or(f64::NAN);
        let (best_s, median_s) = (
            at(0),
            (at((seconds.len() - 1) / 2) + at(seconds.len() / 2)) / 2.0,
        );
        let bytes = case.to_ring().bytes();
        let bus = if world > 1 {
            bus_bandwidth(bytes, world as usize, median_s)
        } else {
            0.0
        };
        Self {
            world,
            mib: case.mib,
            dtype: "f32",
            reduction: case.reduction.as_str(),
            transport: transport.to_owned(),
            repeats: case.repeats,
            best_s,
            median_s,
            bus_gb_per_s: bus / 1e9,
        }
    }

    pub(super) fn row(&self) -> Vec<String> {
        let names = [self.dtype, self.reduction, &self.transport].map(str::to_owned);
        let mut row = vec![self.world.to_string(), self.mib.to_string()];
        row.extend(names);
        row.push(self.repeats.to_string());
        row.extend([self.best_s, self.median_s].map(|seconds| format!("{seconds:.6}")));
        row.push(format!("{:.3}", self.bus_gb_per_s));
        row
    }
}

/// Bus bandwidth against size: a panel for each world and transport, a line for each reduction.
pub(super) fn chart(lines: &[Line]) -> Chart {
    let mut panels: Vec<(String, Panel)> = Vec::new();
    for line in lines {
        let name = format!("{} ranks, {}: GB/s", line.world, line.transport);
        let at = panels.iter().position(|(known, _)| *known == name);
        let at = at.unwrap_or_else(|| {
            let panel = Panel {
                x_label: "size of the buffer, KiB as a power of 2".to_owned(),
                y_label: name.clone(),
                series: Vec::new(),
            };
            panels.push((name, panel));
            panels.len() - 1
        });
        let series = &mut panels[at].1.series;
        let point = ((line.mib * 1024.0).log2(), line.bus_gb_per_s);
        match series.iter_mut().find(|known| known.name == line.reduction) {
            Some(series) => series.points.push(point),
            None => series.push(Series {
                name: line.reduction.to_owned(),
                points: vec![point],
            }),
        }
    }
    let mut panels: Vec<Panel> = panels.into_iter().map(|(_, panel)| panel).collect();
    for series in panels.iter_mut().flat_map(|panel| &mut panel.series) {
        series.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let title = "All-reduce: bytes that each link carried per second".to_owned();
    Chart { title, panels }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::commands::bench::rank::Measured;

    #[test]
    fn the_names_of_the_json_are_a_contract() {
        let case = CaseSpec {
            mib: 1.0,
            reduction: Measured::F32,
            repeats: 3,
        };
        let line = Line::of((2, "shm"), case, vec![0.3, 0.1, 0.2]);
        let golden = concat!(
            r#"{"world":2,"mib":1.0,"dtype":"f32","reduction":"f32","transport":"shm","#,
            r#""repeats":3,"best_s":0.1,"median_s":0.2,"bus_gb_per_s":0.00524288}"#,
        );
        assert_eq!(serde_json::to_string(&line).unwrap(), golden);
    }

    #[test]
    fn the_chart_has_a_panel_for_each_transport_and_a_point_for_each_line() {
        let line = |transport, mib, reduction| {
            let case = CaseSpec {
                mib,
                reduction,
                repeats: 1,
            };
            Line::of((2, transport), case, vec![mib])
        };
        let sizes = [4.0, 1.0 / 256.0];
        let lines: Vec<Line> = ["tcp", "shm"]
            .into_iter()
            .flat_map(|t| sizes.map(|mib| [Measured::F32, Measured::Pump].map(|r| line(t, mib, r))))
            .flatten()
            .collect();
        let chart = chart(&lines);
        assert_eq!(chart.panels.len(), 2);
        for panel in chart.panels {
            assert_eq!(panel.series.len(), 2);
            for series in panel.series {
                let sizes: Vec<f64> = series.points.iter().map(|point| point.0).collect();
                assert_eq!(sizes, [2.0, 12.0]);
            }
        }
    }
}
