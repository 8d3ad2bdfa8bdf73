//! Synchronisation sites of PTX, found in its text, and the ways in which each can be weakened.

use std::collections::HashMap;

/// One instruction that orders something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The kernel it stands in.
    pub kernel: String,
    /// Its opcode, and the count of a wait.
    pub what: String,
    /// Which of the sites of this opcode in this kernel, from 1.
    pub number: usize,
    /// How many there are.
    pub of: usize,
    /// Its line, from 0.
    pub line: usize,
}

impl Site {
    /// What names it in the table of arguments. It changes when sites come or go, so that an argument does not
    /// outlive what it is about.
    pub fn key(&self) -> String {
        format!("{} {} {}/{}", self.kernel, self.what, self.number, self.of)
    }
}

const PREFIXES: [&str; 13] = [
    "bar.",
    "barrier.",
    "fence",
    "membar",
    "red.",
    "atom.",
    "ld.acquire",
    "ld.relaxed",
    "ld.volatile",
    "st.release",
    "st.relaxed",
    "st.volatile",
    "cp.async.wait",
];

/// The instruction of a line, its guard left out.
fn instruction(line: &str) -> &str {
    let text = line.split("//").next().unwrap_or_default().trim();
    match text.strip_prefix('@') {
        Some(guarded) => guarded.split_once(' ').map_or("", |(_, rest)| rest.trim()),
        None => text,
    }
}

/// Every site, in the order of the text.
pub fn sites(ptx: &str) -> Vec<Site> {
    let mut kernel = String::new();
    let mut counts: HashMap<(String, String), usize> = HashMap::new();
    let mut found = Vec::new();
    for (line, text) in ptx.lines().enumerate() {
        if let Some(rest) = text.strip_prefix(".visible .entry ") {
            kernel = rest.split('(').next().unwrap_or_default().to_owned();
        }
        let code = instruction(text);
        if !PREFIXES.iter().any(|prefix| code.starts_with(prefix)) {
            continue;
        }
        let opcode = code.split_whitespace().next().unwrap_or_default().trim_end_matches(';');
        let what = match opcode {
            "cp.async.wait_group" => {
                code.trim_end_matches(';').split_whitespace().collect::<Vec<_>>().join(" ")
            }
            _ => opcode.to_owned(),
        };
        let count = counts.entry((kernel.clone(), what.clone())).or_default();
        *count += 1;
        found.push(Site { kernel: kernel.clone(), what, number: *count, of: 0, line });
    }
    for site in &mut found {
        site.of = counts[&(site.kernel.clone(), site.what.clone())];
    }
    found
}

/// What can be taken from a site: what it is called, and the line without it.
pub fn weakenings(ptx: &str, site: &Site) -> Vec<(&'static str, String)> {
    let line = ptx.lines().nth(site.line).unwrap_or_default();
    let mut ways = Vec::new();
    let mut replaced = |name: &'static str, from: &str, to: &str| {
        if site.what.contains(from) {
            ways.push((name, line.replacen(from, to, 1)));
        }
    };
    replaced("relaxed", ".acquire", ".relaxed");
    replaced("relaxed", ".release", ".relaxed");
    replaced("device scope", ".sys", ".gpu");
    replaced("block scope", ".gpu", ".cta");
    replaced("acq_rel", "fence.sc", "fence.acq_rel");
    // A plain access has neither strength nor scope.
    for strength in [".relaxed.sys", ".relaxed.gpu", ".volatile"] {
        if site.what.starts_with("ld") || site.what.starts_with("st") {
            replaced("plain", strength, "");
        }
    }
    let group = site.what.strip_prefix("cp.async.wait_group ").and_then(|n| n.parse::<u32>().ok());
    if let Some(n) = group {
        ways.push(("one group more under way", line.replacen(&format!(" {n}"), &format!(" {}", n + 1), 1)));
    }
    if ["bar.", "barrier.", "fence", "membar"].iter().any(|prefix| site.what.starts_with(prefix)) {
        ways.push(("removed", String::new()));
    }
    ways
}

/// The text with one line replaced.
pub fn planted(ptx: &str, site: &Site, line: &str) -> String {
    let lines = ptx.lines().enumerate().map(|(n, text)| if n == site.line { line } else { text });
    lines.flat_map(|text| [text, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = ".visible .entry k(\n.param .u64 p) {\n\tbar.sync \t0;\n@%p1 bar.sync 0;\n\
        \tst.release.sys.global.u32 [%rd1], %r1;\n\tfence.sc.sys;\n\tcp.async.wait_group 1;\n\
        \tld.relaxed.gpu.global.u32 %r1, [%rd1];\n\tld.global.u32 %r1, [%rd1]; // bar.sync\n}\n";

    #[test]
    fn sites_are_found_and_weakened_one_by_one() {
        let all = sites(TEXT);
        let keys: Vec<String> = all.iter().map(Site::key).collect();
        assert_eq!(
            keys,
            [
                "k bar.sync 1/2",
                "k bar.sync 2/2",
                "k st.release.sys.global.u32 1/1",
                "k fence.sc.sys 1/1",
                "k cp.async.wait_group 1 1/1",
                "k ld.relaxed.gpu.global.u32 1/1"
            ]
        );
        let ways = |n: usize| weakenings(TEXT, &all[n]).into_iter().map(|w| w.1.trim().to_owned());
        assert_eq!(ways(1).collect::<Vec<_>>(), [""]);
        assert_eq!(
            ways(2).collect::<Vec<_>>(),
            ["st.relaxed.sys.global.u32 [%rd1], %r1;", "st.release.gpu.global.u32 [%rd1], %r1;"]
        );
        assert_eq!(ways(3).collect::<Vec<_>>(), ["fence.sc.gpu;", "fence.acq_rel.sys;", ""]);
        assert_eq!(ways(4).collect::<Vec<_>>(), ["cp.async.wait_group 2;"]);
        assert_eq!(
            ways(5).collect::<Vec<_>>(),
            ["ld.relaxed.cta.global.u32 %r1, [%rd1];", "ld.global.u32 %r1, [%rd1];"]
        );
        assert_eq!(planted(TEXT, &all[0], "").lines().count(), TEXT.lines().count());
    }
}
