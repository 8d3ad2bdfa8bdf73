//! Plots as SVG, written by hand: lines and points need no plotting library.

use std::fmt::Write as _;

/// Width of every plot.
pub(crate) const WIDTH: f64 = 880.0;
/// Room left and right of a panel.
pub(crate) const LEFT: f64 = 70.0;
pub(crate) const RIGHT: f64 = 20.0;

/// One panel of a plot: a range of values over a range of x.
pub(crate) struct Panel {
    pub(crate) top: f64,
    pub(crate) height: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) x_low: f64,
    pub(crate) x_high: f64,
}

impl Panel {
    pub(crate) fn x(&self, x: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (x - self.x_low) / (self.x_high - self.x_low).max(1e-9)
    }

    pub(crate) fn y(&self, y: f64) -> f64 {
        self.top + self.height * (1.0 - (y - self.low) / (self.high - self.low).max(1e-9))
    }

    pub(crate) fn frame(&self, svg: &mut String, label: &str) {
        let _ = writeln!(
            svg,
            r##"<rect x="{LEFT}" y="{:.1}" width="{:.1}" height="{:.1}" fill="none" stroke="#999"/><text x="{LEFT}" y="{:.1}" class="t">{label}</text>"##,
            self.top,
            WIDTH - LEFT - RIGHT,
            self.height,
            self.top - 6.0
        );
        for i in 0..=4 {
            let value = self.low + (self.high - self.low) * f64::from(i) / 4.0;
            let digits = if self.high - self.low < 10.0 { 1 } else { 0 };
            let _ = writeln!(
                svg,
                r##"<text x="{:.1}" y="{:.1}" class="n">{value:.digits$}</text>"##,
                LEFT - 6.0,
                self.y(value) + 4.0
            );
        }
    }

    pub(crate) fn line(&self, svg: &mut String, colour: &str, points: impl Iterator<Item = (f64, f64)>) {
        let mut path = String::new();
        for (x, y) in points {
            let _ = write!(path, "{:.1},{:.1} ", self.x(x), self.y(y.clamp(self.low, self.high)));
        }
        let _ = writeln!(
            svg,
            r##"<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.2"/>"##
        );
    }

    pub(crate) fn legend(&self, svg: &mut String, names: &[(&str, &str)]) {
        let mut x = WIDTH - RIGHT;
        for (name, colour) in names.iter().rev() {
            let _ = writeln!(
                svg,
                r##"<text x="{x:.1}" y="{:.1}" class="e" fill="{colour}">{name}</text>"##,
                self.top - 6.0
            );
            x -= 7.2 * name.len() as f64 + 14.0;
        }
    }
}

/// Begins a plot.
pub(crate) fn open(height: f64, title: &str) -> String {
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">
<style>.t{{fill:#333}}.n{{fill:#666;text-anchor:end}}.e{{text-anchor:end}}.x{{fill:#666;text-anchor:middle}}</style>
<rect width="100%" height="100%" fill="#fff"/><text x="{LEFT}" y="22" font-size="15">{title}</text>
"##
    )
}

/// Ends a plot with the line that says where its figures come from.
pub(crate) fn close(mut svg: String, height: f64, source: &str) -> String {
    let _ = writeln!(
        svg,
        r##"<text x="{LEFT}" y="{:.1}" font-size="10.5" class="t">{source}</text></svg>"##,
        height - 10.0
    );
    svg
}
