//! The plot, as SVG: for each measure, the sides' medians as bars with their intervals.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use podgate_bench::stats::Estimate;

use crate::kinds::Kind;
use crate::measure::Sample;
use crate::plan::Measure;
use crate::results::Results;

/// One panel: a title, and a bar for each side.
struct Panel {
    title: String,
    bars: Vec<(Kind, Estimate)>,
}

const WIDTH: u32 = 1000;
/// Height of a bar, and of what is above and below the bars of a panel.
const BAR: u32 = 22;
const AROUND: u32 = 70;
const HEADING: u32 = 60;
const FONT: &str = "sans-serif";

/// Draws all measures.
pub(crate) fn draw(file: &Path, results: &Results, subtitle: &str) -> Result<()> {
    let panels = panels(results);
    let heights: Vec<u32> = panels.iter().map(|panel| panel.bars.len() as u32 * BAR + AROUND).collect();
    let size = (WIDTH, HEADING + heights.iter().sum::<u32>());
    paint(file, size, &panels, &heights, subtitle).map_err(|error| anyhow!("drawing {}: {error}", file.display()))
}

fn panels(results: &Results) -> Vec<Panel> {
    let mut panels = Vec::new();
    for measure in results.measures() {
        let mut add = |title: String, what: fn(&Sample) -> Option<f64>| {
            let bars: Vec<_> =
                results.sides(measure).filter_map(|side| Some((side, results.of(measure, side, what)?))).collect();
            if !bars.is_empty() {
                panels.push(Panel { title, bars });
            }
        };
        add(format!("{} ({})", measure.title(), measure.unit()), |s| Some(s.rate));
        if measure == Measure::Connections1 || measure.flood().is_some() {
            add(format!("{}: p99 of the latency (µs; less is better)", measure.title()), |s| Some(s.latency?.p99));
        }
        if measure == Measure::Udp {
            add(format!("{}: processor time a verdict (ns; less is better)", measure.title()), |s| s.work);
        }
    }
    panels
}

fn paint(
    file: &Path,
    size: (u32, u32),
    panels: &[Panel],
    heights: &[u32],
    subtitle: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE)?;
    let centered = Pos::new(HPos::Center, VPos::Top);
    let middle = (size.0 / 2) as i32;
    root.draw(&Text::new(
        "podgate, the packet path",
        (middle, 10),
        (FONT, 20).into_font().color(&BLACK).pos(centered),
    ))?;
    root.draw(&Text::new(
        format!("{subtitle}; medians, 95 % intervals"),
        (middle, 36),
        (FONT, 13).into_font().color(&BLACK).pos(centered),
    ))?;
    let (_, mut rest) = root.split_vertically(HEADING);
    for (panel, height) in panels.iter().zip(heights) {
        let (area, below) = rest.split_vertically(*height);
        paint_panel(&area, panel)?;
        rest = below;
    }
    root.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn paint_panel(area: &Area<'_>, panel: &Panel) -> Result<(), Box<dyn std::error::Error>> {
    let most = panel.bars.iter().map(|(_, e)| e.high).fold(f64::MIN_POSITIVE, f64::max) * 1.05;
    let count = panel.bars.len();
    // The first side is on top.
    let place = |at: usize| (count - at) as f64 - 0.5;
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, (FONT, 15))
        .margin_right(30)
        .x_label_area_size(24)
        .y_label_area_size(300)
        .build_cartesian_2d(0.0..most, 0.0..count as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .x_labels(8)
        .x_label_formatter(&|value| if most < 20.0 { format!("{value:.1}") } else { format!("{value:.0}") })
        .draw()?;
    chart.draw_series(panel.bars.iter().enumerate().map(|(at, (kind, estimate))| {
        Rectangle::new([(0.0, place(at) - 0.36), (estimate.median, place(at) + 0.36)], color(*kind).filled())
    }))?;
    chart.draw_series(
        panel
            .bars
            .iter()
            .enumerate()
            .map(|(at, (_, e))| ErrorBar::new_horizontal(place(at), e.low, e.median, e.high, BLACK.filled(), 8)),
    )?;
    let right = Pos::new(HPos::Right, VPos::Center);
    for (at, (kind, _)) in panel.bars.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(0.0, place(at)));
        let base = area.get_base_pixel();
        let style = (FONT, 13).into_font().color(&BLACK).pos(right);
        area.draw(&Text::new(kind.to_string(), (x - base.0 - 8, y - base.1), style))?;
    }
    Ok(())
}

/// Alike for what is alike; told apart by those who see few colours as well (Okabe, Ito 2008).
fn color(kind: Kind) -> RGBColor {
    match kind {
        Kind::NoPolicy | Kind::KernelRule => RGBColor(190, 190, 190),
        Kind::KernelSet => RGBColor(230, 159, 0),
        Kind::Accept(_) => RGBColor(86, 180, 233),
        Kind::Podgate(agent) if agent.cached => RGBColor(0, 158, 115),
        Kind::Podgate(_) => RGBColor(0, 114, 178),
    }
}
