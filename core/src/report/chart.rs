//! Sheets of panels as SVG text. The only module that knows the plotting library.

use std::collections::BTreeMap;

use kuva::{
    backend::svg::SvgBackend,
    plot::{Histogram, LinePlot, MarkerShape, ScatterPlot},
    render::{
        annotations::ReferenceLine,
        color::Color,
        layout::{Layout, TickFormat},
        plots::Plot,
        render::{Primitive, Scene, TextAnchor, render_multiple},
    },
};

/// One figure: a title, a legend, panels in rows, and a caption below.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sheet {
    pub title: String,
    /// Sentences below the panels: what is drawn, seeds, items.
    pub caption: String,
    /// Panels side by side.
    pub columns: usize,
    /// Width and height of a panel in pixels.
    pub cell: (f64, f64),
    pub panels: Vec<Panel>,
}

/// One pair of axes and what is drawn in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Panel {
    pub title: String,
    /// Below the title, smaller; may be empty.
    pub subtitle: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    /// Horizontal lines.
    pub levels: Vec<(f64, Key)>,
}

/// An axis with its title and unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Axis {
    pub title: String,
    pub range: (f64, f64),
    /// Distance of ticks; the library's choice if 0.
    pub step: f64,
    /// Logarithmic, base 10.
    pub log: bool,
    /// Names at 1, 2, 3, … instead of numbers.
    pub names: Vec<String>,
}

/// How something looks, and what the legend calls it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    /// Empty: not in the legend.
    pub name: String,
    pub colour: &'static str,
    pub mark: Mark,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mark {
    /// Bars from 0, of this width in units of the axis.
    Bars(f64),
    /// A line through points with these markers.
    Joined(Shape),
    /// Points alone.
    Points(Shape),
    /// A thin line without markers.
    Dashed,
    /// A thin line without markers.
    Dotted,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shape {
    Circle,
    Square,
    Triangle,
    Diamond,
    /// Small, for single runs.
    Dot,
}

/// Points of one look.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    pub key: Key,
    pub points: Vec<Point>,
}

/// A point; `error` is how far the bar reaches below and above.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Point {
    pub x: f64,
    pub y: f64,
    pub error: Option<(f64, f64)>,
}

/// Colours that people who confuse red and green tell apart, and that differ in print (Okabe and Ito 2008).
pub(super) const COLOURS: [&str; 7] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];
pub(super) const SHAPES: [Shape; 4] = [Shape::Circle, Shape::Square, Shape::Triangle, Shape::Diamond];
/// For what stands in the background.
pub(super) const GREY: &str = "#777777";

const FONT: &str = "DejaVu Sans, Verdana, Arial, sans-serif";
const TITLE: u32 = 16;
const TEXT: u32 = 12;
const LINE: f64 = 17.0;
const MARGIN: f64 = 12.0;

/// Width of a text in the fonts above, about; a few percent too wide rather than too narrow.
fn width(text: &str, size: u32) -> f64 {
    text.chars().count() as f64 * f64::from(size) * 0.6
}

/// Breaks a text into lines of about this width in pixels.
fn wrap(text: &str, size: u32, room: f64) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if width(line, size) + width(word, size) + f64::from(size) < room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A round distance of ticks for about five of them.
pub(super) fn step(range: (f64, f64)) -> f64 {
    let about = ((range.1 - range.0) / 5.0).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(about.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= about * 0.999).unwrap_or(10.0);
    factor * power
}

/// An axis with round ends at ticks that holds all values, with some room, and stays within the bounds.
pub(super) fn fitted(title: &str, values: impl Iterator<Item = f64>, bounds: (f64, f64)) -> Axis {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    let (low, high) = if low > high { bounds } else { (low, high) };
    let room = ((high - low) * 0.06).max((bounds.1 - bounds.0) * 0.005);
    let (low, high) = ((low - room).max(bounds.0), (high + room).min(bounds.1));
    let step = step((low, high));
    // What sums of steps leave at the last digits would be another tick.
    let (low, high) = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
    let range = (low.max(bounds.0), high.min(bounds.1));
    Axis { title: title.to_owned(), range, step, ..Axis::default() }
}

/// The sheet as SVG. The same sheet gives the same bytes.
pub(super) fn svg(sheet: &Sheet) -> String {
    let columns = sheet.columns.clamp(1, sheet.panels.len().max(1));
    let (wide, high) = sheet.cell;
    let total = columns as f64 * wide + 2.0 * MARGIN;
    let mut scene = Scene::new(total, 0.0);
    scene.font_family = Some(FONT.to_owned());
    scene.text_color = Some("black".to_owned());
    let mut y = MARGIN;
    for line in wrap(&sheet.title, TITLE, total - 2.0 * MARGIN) {
        y += f64::from(TITLE) + 4.0;
        scene.add(text(MARGIN, y, &line, TITLE, true));
    }
    y = legend(sheet, &mut scene, y + 6.0, total);
    for row in sheet.panels.chunks(columns) {
        for (column, panel) in row.iter().enumerate() {
            let x = MARGIN + column as f64 * wide;
            let drawn = draw(panel, (wide, high));
            scene.defs.extend(drawn.defs);
            scene.add(Primitive::GroupStart {
                transform: Some(format!("translate({x},{y})")),
                title: None,
                extra_attrs: None,
            });
            drawn.elements.into_iter().for_each(|element| scene.add(element));
            scene.add(Primitive::GroupEnd);
        }
        y += high;
    }
    y += 4.0;
    for line in wrap(&sheet.caption, TEXT, total - 2.0 * MARGIN) {
        y += LINE;
        scene.add(text(MARGIN, y, &line, TEXT, false));
    }
    scene.height = (y + MARGIN).ceil();
    // What XML has no characters for would make the file unreadable.
    let drawn = SvgBackend::new().render_scene(&scene);
    let legal = |c: char| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}') || matches!(c, '\n' | '\t');
    let drawn: String = drawn.chars().map(|c| if legal(c) { c } else { '\u{fffd}' }).collect();
    number(&drawn).replacen("<svg ", &format!("<svg viewBox=\"0 0 {total} {}\" ", scene.height), 1)
}

/// Numbers the names of clip paths within the file: the library counts them over the life of the process.
fn number(svg: &str) -> String {
    const NAME: &str = "kuva-clip-";
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut parts = svg.split(NAME);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (old, rest) = part.split_at(part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len()));
        let next = seen.len();
        out.push_str(&format!("{NAME}{}{rest}", seen.entry(old).or_insert(next)));
    }
    out
}

fn text(x: f64, y: f64, content: &str, size: u32, bold: bool) -> Primitive {
    let content = content.to_owned();
    Primitive::Text { x, y, content, size, anchor: TextAnchor::Start, rotate: None, bold, color: None }
}

/// Draws the legend from `y` on and returns where it ends.
fn legend(sheet: &Sheet, scene: &mut Scene, mut y: f64, total: f64) -> f64 {
    let series = sheet.panels.iter().flat_map(|panel| panel.series.iter().map(|series| &series.key));
    let levels = sheet.panels.iter().flat_map(|panel| panel.levels.iter().map(|(_, key)| key));
    let mut keys: Vec<&Key> = Vec::new();
    for key in series.chain(levels).filter(|key| !key.name.is_empty()) {
        if !keys.iter().any(|known| known.name == key.name) {
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return y;
    }
    const SAMPLE: f64 = 26.0;
    let mut x = MARGIN;
    y += LINE - 4.0;
    for key in keys {
        let room = SAMPLE + 6.0 + width(&key.name, TEXT) + 18.0;
        if x > MARGIN && x + room > total - MARGIN {
            x = MARGIN;
            y += LINE;
        }
        let middle = y - 4.0;
        let line = |width: f64, dash: Option<&str>| Primitive::Line {
            x1: x,
            y1: middle,
            x2: x + SAMPLE,
            y2: middle,
            stroke: Color::from(key.colour),
            stroke_width: width,
            stroke_dasharray: dash.map(str::to_owned),
        };
        match key.mark {
            Mark::Bars(_) => scene.add(Primitive::Rect {
                x: x + 6.0,
                y: y - 10.0,
                width: SAMPLE - 12.0,
                height: 11.0,
                fill: Color::from(key.colour),
                stroke: None,
                stroke_width: None,
                opacity: None,
            }),
            Mark::Joined(shape) => {
                scene.add(line(1.8, None));
                scene.add(marker(shape, (x + SAMPLE / 2.0, middle), key.colour));
            }
            Mark::Points(shape) => scene.add(marker(shape, (x + SAMPLE / 2.0, middle), key.colour)),
            Mark::Dashed => scene.add(line(1.4, Some(DASHES))),
            Mark::Dotted => scene.add(line(1.4, Some(DOTS))),
        }
        scene.add(text(x + SAMPLE + 6.0, y, &key.name, TEXT, false));
        x += room;
    }
    y + 8.0
}

const DASHES: &str = "7 4";
const DOTS: &str = "2 3";

fn size(shape: Shape) -> f64 {
    if shape == Shape::Dot { 2.0 } else { 3.8 }
}

/// A marker of the legend, as the library draws its own.
fn marker(shape: Shape, (x, y): (f64, f64), colour: &str) -> Primitive {
    let r = size(shape);
    let fill = Color::from(colour);
    let path = |d: String| {
        Primitive::Path(Box::new(kuva::render::render::PathData {
            d,
            fill: Some(fill.clone()),
            stroke: Color::None,
            stroke_width: 0.0,
            opacity: None,
            stroke_dasharray: None,
        }))
    };
    match shape {
        Shape::Circle | Shape::Dot => {
            Primitive::Circle { cx: x, cy: y, r, fill, fill_opacity: None, stroke: None, stroke_width: None }
        }
        Shape::Square => path(format!("M{} {} h{w} v{w} h-{w} Z", x - r, y - r, w = 2.0 * r)),
        Shape::Triangle => path(format!("M{x} {} L{} {} L{} {} Z", y - r, x - r, y + r, x + r, y + r)),
        Shape::Diamond => path(format!("M{x} {} L{} {y} L{x} {} L{} {y} Z", y - r, x + r, y + r, x - r)),
    }
}

/// One panel as the library draws it.
fn draw(panel: &Panel, (wide, high): (f64, f64)) -> Scene {
    let mut plots: Vec<Plot> = Vec::new();
    for Series { key, points } in &panel.series {
        let (errors, line): (Vec<(f64, f64)>, _) =
            (points.iter().map(|point| point.error.unwrap_or_default()).collect(), points.iter().map(|p| (p.x, p.y)));
        let has_errors = points.iter().any(|point| point.error.is_some());
        match key.mark {
            Mark::Bars(width) => {
                let (mut edges, mut heights) = (Vec::new(), Vec::new());
                for (number, point) in points.iter().enumerate() {
                    if number > 0 {
                        heights.push(0.0);
                    }
                    edges.extend([point.x - width / 2.0, point.x + width / 2.0]);
                    heights.push(point.y);
                }
                plots.push(Plot::Histogram(Histogram::from_bins(edges, heights).with_color(key.colour)));
            }
            Mark::Joined(shape) | Mark::Points(shape) => {
                if matches!(key.mark, Mark::Joined(_)) {
                    let line = LinePlot::new().with_data(line.clone()).with_color(key.colour).with_stroke_width(1.8);
                    plots.push(Plot::Line(line));
                }
                let marker = match shape {
                    Shape::Circle | Shape::Dot => MarkerShape::Circle,
                    Shape::Square => MarkerShape::Square,
                    Shape::Triangle => MarkerShape::Triangle,
                    Shape::Diamond => MarkerShape::Diamond,
                };
                let dots = ScatterPlot::new().with_data(line).with_color(key.colour).with_marker(marker);
                let dots = dots.with_size(size(shape));
                plots.push(Plot::Scatter(if has_errors { dots.with_y_err_asymmetric(errors) } else { dots }));
            }
            Mark::Dashed | Mark::Dotted => {
                let line = LinePlot::new().with_data(line).with_color(key.colour).with_stroke_width(1.4);
                plots.push(Plot::Line(if key.mark == Mark::Dashed { line.with_dashed() } else { line.with_dotted() }));
            }
        }
    }
    let Axis { title: x_title, range: x_range, .. } = &panel.x;
    let Axis { title: y_title, range: y_range, .. } = &panel.y;
    // Markers at the upper bound are not cut in halves.
    let y_range = (y_range.0, y_range.1 + (y_range.1 - y_range.0) * 0.04);
    let mut layout = Layout::new(*x_range, y_range)
        .with_width(wide)
        .with_height(high)
        .with_title(&panel.title)
        .with_title_size(13)
        .with_label_size(TEXT)
        .with_tick_size(11)
        .with_x_label(x_title)
        .with_y_label(y_title)
        .with_font_family(FONT)
        .with_x_axis_min(x_range.0)
        .with_x_axis_max(x_range.1)
        .with_y_axis_min(y_range.0)
        .with_y_axis_max(y_range.1)
        .with_grid_line_width(0.5)
        .with_x_tick_format(TickFormat::Auto);
    layout.show_legend = false;
    if !panel.subtitle.is_empty() {
        // The plotting library breaks no lines: what is too long becomes smaller.
        let size = (8..=11).rev().find(|size| width(&panel.subtitle, *size) <= wide).unwrap_or(8);
        layout = layout.with_subtitle(&panel.subtitle).with_subtitle_size(size);
    }
    if panel.x.step > 0.0 {
        layout = layout.with_x_tick_step(panel.x.step);
    }
    if panel.y.step > 0.0 {
        layout = layout.with_y_tick_step(panel.y.step);
    }
    if panel.x.log {
        layout = layout.with_log_x();
    }
    if !panel.x.names.is_empty() {
        let names = panel.x.names.clone();
        let room = (wide - 70.0) / names.len() as f64;
        let long = names.iter().any(|name| width(name, 11) + 6.0 > room);
        layout = layout.with_x_categories(names);
        if long {
            layout = layout.with_x_tick_rotate(-40.0);
        }
    }
    for (value, key) in &panel.levels {
        let dashes = if key.mark == Mark::Dotted { DOTS } else { DASHES };
        let line = ReferenceLine::horizontal(*value).with_color(key.colour).with_stroke_width(1.4);
        layout = layout.with_reference_line(line.with_dasharray(dashes));
    }
    render_multiple(plots, layout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet() -> Sheet {
        let key = |name: &str, mark| Key { name: name.into(), colour: COLOURS[0], mark };
        let points = vec![
            Point { x: 1.0, y: 40.0, error: Some((1.0, 2.0)) },
            Point { x: 2.0, y: 60.0, error: Some((3.0, 3.0)) },
        ];
        let panel = Panel {
            title: "a task".into(),
            subtitle: "two items".into(),
            x: Axis {
                title: "method".into(),
                range: (0.5, 2.5),
                names: vec!["one".into(), "two".into()],
                ..Axis::default()
            },
            y: Axis { title: "accuracy (%)".into(), range: (0.0, 100.0), step: 20.0, ..Axis::default() },
            series: vec![Series { key: key("method", Mark::Points(Shape::Circle)), points }],
            levels: vec![(50.0, key("weak", Mark::Dashed))],
        };
        let caption = "Two seeds & a < b".into();
        Sheet { title: "Title".into(), caption, columns: 2, cell: (300.0, 240.0), panels: vec![panel.clone(), panel] }
    }

    #[test]
    fn the_same_sheet_gives_the_same_bytes_and_says_everything() {
        let first = svg(&sheet());
        assert_eq!(first, svg(&sheet()));
        for part in
            ["Title", "a task", "two items", ">method<", "accuracy (%)", ">weak<", ">one<", "Two seeds &amp; a &lt; b"]
        {
            assert!(first.contains(part), "{part}\n{first}");
        }
        assert_eq!(first.matches("<clipPath").count(), first.matches("kuva-clip-").count() / 2);
    }

    #[test]
    fn what_is_written_under_a_title_fits_the_panel() {
        let size = |subtitle: &str| {
            let mut sheet = sheet();
            sheet.panels.iter_mut().for_each(|panel| panel.subtitle = subtitle.into());
            let text = svg(&sheet);
            let tag = text.split('<').find(|tag| tag.ends_with(&format!(">{subtitle}"))).unwrap().to_owned();
            tag.split("font-size=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        assert_eq!(
            [size("two items"), size("long ".repeat(10).trim_end()), size("long ".repeat(30).trim_end())],
            ["11", "10", "8"]
        );
    }

    #[test]
    fn no_name_makes_an_svg_that_is_no_xml() {
        let mut sheet = sheet();
        sheet.title = "a\u{1b}[2J\u{0}<b>&\u{ffff}".into();
        sheet.panels[0].title = "\u{7}\"]]>".into();
        let drawn = svg(&sheet);
        assert!(!drawn.chars().any(|c| c.is_control() && c != '\n' || c == '\u{ffff}'), "{drawn}");
        assert!(drawn.contains("a\u{fffd}[2J\u{fffd}&lt;b&gt;&amp;\u{fffd}"), "{drawn}");
    }

    #[test]
    fn ranges_are_round_and_stay_in_bounds() {
        let fit = |values: &[f64]| {
            let axis = fitted("", values.iter().copied(), (0.0, 100.0));
            (axis.range, axis.step)
        };
        assert_eq!(fit(&[61.2, 88.8]), ((50.0, 100.0), 10.0));
        assert_eq!(fit(&[97.0, 99.9]), ((96.0, 100.0), 1.0));
        assert_eq!(fit(&[]), ((0.0, 100.0), 20.0));
        assert_eq!((step((0.0, 100.0)), step((0.0, 1.0)), step((60.0, 90.0))), (20.0, 0.2, 10.0));
    }

    #[test]
    fn long_captions_are_broken() {
        let lines = wrap(&"word ".repeat(50), 12, 200.0);
        assert!(lines.len() > 5 && lines.iter().all(|line| width(line, 12) <= 200.0), "{lines:?}");
    }
}
