//! The figures of a benchmark as an SVG: prefill and decode side by side, and both over threads.

use anyhow::anyhow;
use model_assets::evidence::{Benchmark, Speed};
use plotters::prelude::*;

const SIZE: (u32, u32) = (900, 360);
/// Readable on white and on dark grey, and distinguishable by position without colour.
const PREFILL: RGBColor = RGBColor(37, 99, 235);
const DECODE: RGBColor = RGBColor(217, 119, 6);
const TEXT: RGBColor = RGBColor(110, 118, 129);

/// Draws the plot. Its background is transparent.
pub(crate) fn svg(benchmark: &Benchmark) -> anyhow::Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let title = format!("{}, {} threads", benchmark.machine.processor, benchmark.threads);
        let style = ("sans-serif", 16).into_font().color(&TEXT);
        let root = root.titled(&title, style).map_err(drawing)?;
        let panels = root.split_evenly((1, 3));
        let cases =
            |kind: &str| benchmark.speeds.iter().filter(|s| s.name.starts_with(kind)).collect::<Vec<_>>();
        let [Some(left), Some(middle), Some(right)] = [panels.first(), panels.get(1), panels.get(2)] else {
            return Err(anyhow!("the plot has no panels"));
        };
        bars(left, "prefill, tokens per second", &cases("pp"), PREFILL)?;
        bars(middle, "decode, tokens per second", &cases("tg"), DECODE)?;
        sweep(right, benchmark)?;
        root.present().map_err(drawing)?;
    }
    Ok(text)
}

type Panel<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// One bar per case with its standard deviation.
fn bars(panel: &Panel<'_>, title: &str, cases: &[&Speed], colour: RGBColor) -> anyhow::Result<()> {
    let top = cases.iter().map(|speed| speed.mean + speed.sd).fold(1.0, f64::max) * 1.15;
    let count = cases.len().max(1) as f64;
    let label = ("sans-serif", 13).into_font().color(&TEXT);
    let mut chart = ChartBuilder::on(panel)
        .caption(title, label.clone())
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..count, 0.0..top)
        .map_err(drawing)?;
    let name = |x: &f64| {
        let index = x.floor() as usize;
        let middle = (x - x.floor() - 0.5).abs() < 0.01;
        cases.get(index).filter(|_| middle).map_or(String::new(), |speed| speed.name.clone())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TEXT.mix(0.0))
        .bold_line_style(TEXT.mix(0.25))
        .axis_style(TEXT)
        .x_labels(2 * cases.len() + 1)
        .x_label_formatter(&name)
        .label_style(label)
        .draw()
        .map_err(drawing)?;
    for (index, speed) in cases.iter().enumerate() {
        let x = index as f64;
        let bar = Rectangle::new([(x + 0.2, 0.0), (x + 0.8, speed.mean)], colour.mix(0.8).filled());
        let (low, high) = ((speed.mean - speed.sd).max(0.0), speed.mean + speed.sd);
        let error = PathElement::new(vec![(x + 0.5, low), (x + 0.5, high)], TEXT.stroke_width(2));
        chart.draw_series([bar]).map_err(drawing)?;
        chart.draw_series([error]).map_err(drawing)?;
    }
    Ok(())
}

/// Both speeds over the number of threads, relative to one thread.
fn sweep(panel: &Panel<'_>, benchmark: &Benchmark) -> anyhow::Result<()> {
    let label = ("sans-serif", 13).into_font().color(&TEXT);
    let Some(first) = benchmark.sweep.first() else { return Ok(()) };
    let most = benchmark.sweep.last().map_or(1, |step| step.threads).max(2);
    let line = |speed: fn(&model_assets::evidence::SweepStep) -> f64| {
        let base = speed(first);
        benchmark
            .sweep
            .iter()
            .map(move |step| (f64::from(step.threads), speed(step) / base))
            .collect::<Vec<_>>()
    };
    let lines = [("prefill", line(|s| s.prefill.mean), PREFILL), ("decode", line(|s| s.decode.mean), DECODE)];
    let top = lines.iter().flat_map(|(_, line, _)| line).map(|point| point.1).fold(1.0, f64::max) * 1.15;
    let mut chart = ChartBuilder::on(panel)
        .caption("threads, times one thread", label.clone())
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(40)
        .build_cartesian_2d(0.9..f64::from(most) + 0.1, 0.0..top)
        .map_err(drawing)?;
    chart
        .configure_mesh()
        .light_line_style(TEXT.mix(0.0))
        .bold_line_style(TEXT.mix(0.25))
        .axis_style(TEXT)
        .x_labels(most as usize)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .label_style(label)
        .draw()
        .map_err(drawing)?;
    for (name, points, colour) in lines {
        if let Some((x, y)) = points.last() {
            // Words beside the line: colour alone does not say which is which.
            let place = (x - 0.35, y + top / 20.0);
            let words = Text::new(name, place, ("sans-serif", 13).into_font().color(&colour));
            chart.draw_series([words]).map_err(drawing)?;
        }
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2))).map_err(drawing)?;
        let dots = points.into_iter().map(|point| Circle::new(point, 4, colour.filled()));
        chart.draw_series(dots).map_err(drawing)?;
    }
    Ok(())
}

fn drawing<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow!("the plot cannot be drawn: {error}")
}
