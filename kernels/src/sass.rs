//! What the assembler made of the matrix kernels' main loops.

/// The instructions of one loop that multiplies matrices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loop {
    /// Kernel name.
    pub kernel: String,
    /// All instructions of one round.
    pub instructions: u32,
    /// Matrix multiplications (IMMA).
    pub imma: u32,
    /// Matrix loads from shared memory (LDSM).
    pub ldsm: u32,
    /// Other loads from shared memory (LDS), without those that load nothing into nothing.
    pub lds: u32,
    /// Copies from global to shared memory (LDGSTS).
    pub ldgsts: u32,
}

impl Loop {
    /// Loads from shared memory for each matrix multiplication.
    pub fn loads_per_imma(&self) -> f64 {
        f64::from(self.ldsm + self.lds) / f64::from(self.imma)
    }

    /// A line of `generated/sass.txt`.
    pub fn line(&self) -> String {
        let Self { kernel, instructions, imma, ldsm, lds, ldgsts } = self;
        format!("{kernel} {instructions} {imma} {ldsm} {lds} {ldgsts}")
    }

    /// A loop from such a line.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let kernel = words.next()?.to_owned();
        let mut count = || words.next()?.parse().ok();
        Some(Self {
            kernel,
            instructions: count()?,
            imma: count()?,
            ldsm: count()?,
            lds: count()?,
            ldgsts: count()?,
        })
    }
}

/// The committed cubin's loops over whole tiles, for each convolution kernel that has one.
pub fn loops() -> impl Iterator<Item = Loop> {
    include_str!("../generated/sass.txt").lines().filter(|l| !l.starts_with('#')).filter_map(Loop::parse)
}

/// The innermost loops that multiply whole matrices, in the text that `nvdisasm -c` prints, by kernel.
///
/// Loops with a product for 16 of k belong to the edges: which of their instructions run depends on the tile.
pub fn disassembly(text: &str) -> Vec<Loop> {
    let mut found = Vec::new();
    for body in text.split("\n.text.").skip(1) {
        let Some((kernel, body)) = body.split_once(":\n") else { continue };
        found.extend(kernel_loops(kernel, body));
    }
    found.sort_by(|a, b| a.kernel.cmp(&b.kernel));
    found
}

fn kernel_loops(kernel: &str, body: &str) -> Vec<Loop> {
    let (mut code, mut labels) = (Vec::new(), Vec::new());
    for line in body.lines().map(str::trim) {
        if let Some(label) = line.strip_prefix('.').and_then(|l| l.strip_suffix(':')) {
            labels.push((label, code.len()));
        } else if let Some((_, rest)) = line.strip_prefix("/*").and_then(|l| l.split_once("*/")) {
            let rest = rest.trim();
            let operation =
                rest.strip_prefix('@').and_then(|r| r.split_once(' ')).map_or(rest, |r| r.1.trim());
            code.push(operation);
        }
    }
    // Branches back: from where to where.
    let back = code.iter().enumerate().filter(|(_, op)| op.starts_with("BRA")).filter_map(|(at, op)| {
        let name = op.split("`(.").nth(1)?.split(')').next()?;
        let to = labels.iter().find(|(label, _)| *label == name)?.1;
        (to <= at).then_some((to, at))
    });
    let regions: Vec<(usize, usize)> =
        back.filter(|&(to, at)| code[to..=at].iter().any(|op| op.starts_with("IMMA"))).collect();
    let inside = |a: &(usize, usize), b: &(usize, usize)| a != b && a.0 >= b.0 && a.1 <= b.1;
    let innermost = regions.iter().filter(|r| !regions.iter().any(|other| inside(other, r)));
    let whole = innermost.filter(|&&(to, at)| !code[to..=at].iter().any(|op| op.starts_with("IMMA.16816")));
    whole
        .map(|&(to, at)| {
            let code = &code[to..=at];
            let count = |name: &str| {
                let is = |op: &&&str| op.split(['.', ' ']).next() == Some(name) && !op.contains("RZ, [RZ]");
                code.iter().filter(is).count() as u32
            };
            Loop {
                kernel: kernel.to_owned(),
                instructions: code.len() as u32,
                imma: count("IMMA"),
                ldsm: count("LDSM"),
                lds: count("LDS"),
                ldgsts: count("LDGSTS"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_is_found_in_nvdisasm_text() {
        let text = "header\n.text.one:\n.L_x_1:\n        /*0000*/ IMAD R1, R2, R3 ;\n.L_x_2:\n        \
            /*0010*/                   LDSM.16.M88.4 R4, [R8] ;\n        /*0020*/  @!PT LDS RZ, [RZ] ;\n        \
            /*0030*/ LDS.128 R4, [R8] ;\n        /*0040*/ IMMA.16832.S8.S8 R4, R8.ROW, R9.COL, R4 ;\n        \
            /*0050*/ @P0 BRA `(.L_x_2) ;\n        /*0060*/ @P1 BRA `(.L_x_1) ;\n        /*0070*/ EXIT ;\n";
        let wanted = Loop { kernel: "one".into(), instructions: 5, imma: 1, ldsm: 1, lds: 1, ldgsts: 0 };
        assert_eq!(disassembly(text), std::slice::from_ref(&wanted));
        assert_eq!(Loop::parse(&wanted.line()), Some(wanted));
    }
}
