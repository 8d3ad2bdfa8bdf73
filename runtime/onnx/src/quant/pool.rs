//! Maximum and mean over windows, bilinear resize.

use super::{Deq, Lower, Rep, from_bits};
use crate::error::{Why, why};
use crate::import::graph::Node;
use crate::import::{resize, window};
use pilotlight_plan::{Bilinear, DType, Op, Pool, PoolRule, Window};

impl Lower<'_> {
    fn window(&self, n: &Node) -> Result<Window, Why> {
        if n.int("channels_last", 0)? != 0 {
            return why!("channels_last is not supported; [N, C, H, W] is");
        }
        let shape = &self.g.ty(n, 0)?.shape;
        let slide = window::slide(n, shape, None)?;
        let w = slide.window;
        let extents = if shape.len() == 4 { [shape[2], shape[3]] } else { [1, shape[2]] };
        for (d, &extent) in extents.iter().enumerate() {
            let last = u64::from(slide.out[d] - 1) * u64::from(w.stride[d]);
            let first_reaches = u64::from(w.pads[d]) < u64::from(w.dilation[d]) * u64::from(w.kernel[d]);
            if last >= u64::from(extent) + u64::from(w.pads[d]) || !first_reaches {
                return why!("pads {:?} so wide that a window holds nothing else", w.pads);
            }
        }
        Ok(w)
    }

    pub(super) fn max_pool(&mut self, n: &Node) -> Result<(), Why> {
        let (x, out) = (self.arg(n, 0)?, self.out(n, 0)?);
        let window = self.window(n)?;
        if n.outputs.iter().skip(1).any(Option::is_some) {
            return why!("the indices output is not supported");
        }
        // The largest integer is the largest float where the table never falls.
        if let Some(d) = self.deq(x).cloned().filter(|d| rises(d, self.q.value(d.q).dtype)) {
            let quant = self.q.value(d.q).quant;
            let output = self.declare(out, quant);
            self.q.values[output.0 as usize].dtype = self.q.value(d.q).dtype;
            self.push(
                vec![n.name.clone()],
                Op::Pool(Pool { input: d.q, output, window, rule: PoolRule::Max }),
            );
            self.set(out, Rep::Deq(Deq { q: output, ..d }));
            return Ok(());
        }
        let input = self.tensor(x)?;
        if !matches!(self.q.value(input).dtype, DType::F32 | DType::U8 | DType::I8) {
            return why!("{} of {}; f32, u8 and i8 are supported", n.op, self.q.value(input).dtype);
        }
        let quant = self.q.value(input).quant;
        let output = self.declare(out, quant);
        self.push(vec![n.name.clone()], Op::Pool(Pool { input, output, window, rule: PoolRule::Max }));
        self.set(out, Rep::Tensor(output));
        Ok(())
    }

    pub(super) fn average_pool(&mut self, n: &Node) -> Result<(), Why> {
        let (x, out) = (self.arg(n, 0)?, self.out(n, 0)?);
        let window = self.window(n)?;
        let count_pads = self.count_pads(n)?;
        let integer = self.deq(x).filter(|d| d.direct).and_then(|d| Some((d.q, d.pure?)));
        if let (Some((input, from)), Some(after)) = (integer, self.after(out)) {
            let dtype = self.q.value(input).dtype;
            if after.dtype == dtype && dtype.int8_range() == Some(after.clamp) {
                let rule = PoolRule::Mean8 { input: from, output: after.quant, count_pads };
                let mut names = vec![n.name.clone()];
                names.extend(after.names.clone());
                let output = self.take(&after);
                self.push(names, Op::Pool(Pool { input, output, window, rule }));
                return Ok(());
            }
        }
        let input = self.tensor(x)?;
        let output = self.declare(out, None);
        let rule = PoolRule::MeanF32 { count_pads };
        self.push(vec![n.name.clone()], Op::Pool(Pool { input, output, window, rule }));
        self.set(out, Rep::Tensor(output));
        Ok(())
    }

    fn count_pads(&self, n: &Node) -> Result<bool, Why> {
        Ok(n.int("count_include_pad", 0)? != 0)
    }

    /// `com.microsoft` QLinearAveragePool: X, x_scale, x_zero_point, y_scale, y_zero_point.
    pub(super) fn qlinear_average_pool(&mut self, n: &Node) -> Result<(), Why> {
        let (x, out) = (self.arg(n, 0)?, self.out(n, 0)?);
        let window = self.window(n)?;
        let dtype = self.g.ty(n, 0)?.dtype;
        let (from, to) = (self.quant_at(n, 1, dtype)?, self.quant_at(n, 3, dtype)?);
        let rule = PoolRule::Mean8 { input: from, output: to, count_pads: self.count_pads(n)? };
        let input = self.tensor(x)?;
        let output = self.declare(out, Some(to));
        self.push(vec![n.name.clone()], Op::Pool(Pool { input, output, window, rule }));
        self.set(out, Rep::Tensor(output));
        Ok(())
    }

    /// A linear Resize.
    pub(super) fn resize(&mut self, n: &Node) -> Result<(), Why> {
        let mode = n.text("mode", "nearest")?;
        if mode != "linear" {
            return why!("mode {mode}; nearest and linear are supported");
        }
        let (x, out) = (self.arg(n, 0)?, self.out(n, 0)?);
        let [rows, columns] = resize::linear(self.g, n, &self.g.ty(n, 0)?.shape)?;
        let spent = rows.len() + columns.len();
        self.spend(spent)?;
        let input = self.tensor(x)?;
        let quant = self.q.value(input).quant;
        let output = self.declare(out, quant);
        self.push(vec![n.name.clone()], Op::Bilinear(Bilinear { input, output, rows, columns }));
        self.set(out, Rep::Tensor(output));
        Ok(())
    }

    /// Takes `n` entries from what index lists may use in all.
    pub(super) fn spend(&mut self, n: usize) -> Result<(), Why> {
        match self.index_budget.checked_sub(n) {
            Some(left) => {
                self.index_budget = left;
                Ok(())
            }
            None => why!("the model's index lists (slices, pads, resizes) are too long together"),
        }
    }
}

/// Whether a larger integer never stands for a smaller float.
fn rises(d: &Deq, dtype: DType) -> bool {
    let (lo, hi) = dtype.int8_range().unwrap_or((0, 255));
    let mut by_value: Vec<(i32, f32)> = (0..256).map(|i| (from_bits(dtype, i), d.lut[i])).collect();
    by_value.sort_unstable_by_key(|p| p.0);
    debug_assert!(by_value[0].0 == lo && by_value[255].0 == hi);
    by_value.windows(2).all(|w| w[0].1 <= w[1].1)
}
