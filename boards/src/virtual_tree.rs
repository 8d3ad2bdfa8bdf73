//! A fixture tree that lives: clocks follow what is written, rails and temperatures follow the work.
//!
//! The sysfs side of a virtual board. A program tells it what the GPU did ([`VirtualTree::run`]) and when nothing
//! happened ([`VirtualTree::idle`]); time, power and energy come from [`crate::model`] and are **modelled**. Other
//! programs read and write the tree as they would a board's.
//!
//! | on a board | here |
//! |---|---|
//! | a GPU clock takes 5 ms to take hold, a memory clock 8.5 ms | the same, in modelled time |
//! | a memory clock rounds up to the next that locks; unlocked memory stays at 2133 MHz | the same (as measured on Orin Nano Super) |
//! | `nvhost_podgov` moves the GPU clock between the limits | the same rule, every 25 ms |
//! | an INA3221 shows the mean of its last interval, in steps of its shunt | the same |
//! | rails | the module's power is the model's; how rails share it is **assumed** |
//! | temperatures | one heat capacity and one resistance, **assumed** |
//! | throttling, rail gates, the CPU's clocks | not modelled |

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pilotlight_units::{Hertz, Micros, Milliwatts};

use crate::data::{BoardData, ModeData, named};
use crate::emc::{CAPS, LOCK};
use crate::fixture::{self, JetPack};
use crate::gpu::Gpu;
use crate::model::{Clocks, Machine, Work};
use crate::tree::Tree;

/// Nanoseconds until a clock takes hold. Medians measured on Orin Nano (transitions of the dvfs data).
const GPU_SETTLES: u64 = 5_000_000;
const EMC_SETTLES: u64 = 8_500_000;
/// Time between two decisions of the stock governor.
const GOVERNOR_EVERY: u64 = 25_000_000;
/// Memory clock that the stock firmware holds while nothing is locked.
const EMC_UNLOCKED_MHZ: f64 = 2133.0;
/// Input voltage of every rail, mV.
const RAIL_MV: f64 = 5_000.0;
/// Kelvin per watt above the ambient, and seconds until most of a change has shown.
const HEAT: (f64, f64) = (2.5, 40.0);
const AMBIENT_C: f64 = 30.0;

/// Share of the module's power that a rail shows, by label.
const SHARES: [(&str, f64); 7] = [
    ("VDD_IN", 1.0),
    ("VDD_CPU_GPU_CV", 0.4),
    ("VDD_SOC", 0.3),
    // The usual sum of an AGX is the first three.
    ("VDD_GPU_SOC", 0.5),
    ("VDD_CPU_CV", 0.2),
    ("VIN_SYS_5V0", 0.3),
    ("VDDQ_VDD2_1V8AO", 0.05),
];

/// The names of virtual boards with clocks and rails, the module that each is, and its power mode.
pub const VIRTUAL: [(&str, &str, u32); 9] = [
    ("orin-nano-super", "orin-nano-8gb-super", 2),
    ("orin-nano-8gb", "orin-nano-8gb", 0),
    ("orin-nano-4gb", "orin-nano-4gb", 0),
    ("orin-nx-16", "orin-nx-16gb", 0),
    ("orin-nx-8", "orin-nx-8gb", 0),
    ("orin-nx-10w", "orin-nx-16gb", 1),
    ("agx-orin-64", "agx-orin-64gb", 0),
    ("agx-orin-32", "agx-orin-32gb", 0),
    ("agx-orin-15w", "agx-orin-64gb", 1),
];

/// The names of all boards that a model can run on: [`VIRTUAL`]'s, and `one-sm`, a GPU of one multiprocessor that
/// is no module's and has no clocks or rails.
pub fn virtual_names() -> impl Iterator<Item = &'static str> {
    VIRTUAL.into_iter().map(|(name, _, _)| name).chain(["one-sm"])
}

/// A clock in force, and one on its way.
#[derive(Clone, Copy, Debug)]
struct Domain {
    now: Hertz,
    next: Option<(u64, Hertz)>,
}

impl Domain {
    /// Asks for a clock; one that is on its way already is not asked for again.
    fn ask(&mut self, clock: Hertz, at: u64) {
        match self.next {
            Some((_, coming)) if coming == clock => {}
            None if self.now == clock => {}
            _ => self.next = Some((at, clock)),
        }
    }
}

/// A living tree of a board.
#[derive(Debug)]
pub struct VirtualTree {
    tree: Tree,
    data: BoardData,
    devfreq: Gpu,
    /// Folder, channel, share of the module's power, and step in mA.
    rails: Vec<(String, u32, f64, f64)>,
    interval: u64,
    machine: Machine,
    /// Modelled nanoseconds since it was made, and the same in microseconds for others to read.
    now: u64,
    shared_now: Arc<AtomicU64>,
    gpu: Domain,
    emc: Domain,
    /// What this side last wrote to the memory clock's file: anything else there is a request.
    rate_written: u64,
    joules: f64,
    /// Energy and start of the sensor's interval.
    interval_joules: f64,
    interval_end: u64,
    shown_mw: f64,
    governor: Podgov,
    kelvin: f64,
}

/// The stock governor's memory. Its rule: governor_pod_scaling.c of linux-tegra 5.10, with the default tunables.
#[derive(Clone, Copy, Debug, Default)]
struct Podgov {
    next: u64,
    busy: u64,
    average: f64,
    target: f64,
}

impl Podgov {
    /// The clock wanted after 25 ms of which `self.busy` ns were busy, Hz.
    fn decide(&mut self, now_hz: f64, top: f64) -> f64 {
        let load = (self.busy as f64 / GOVERNOR_EVERY as f64).min(1.0);
        self.average += (load - self.average) / 11.0;
        let wanted = if load > 0.90 {
            now_hz + top / 3.0
        } else {
            let step = 0.80 * now_hz * (self.average - 0.70) / 0.70;
            0.7 * (now_hz + step.min(top / 3.0)) + 0.3 * self.target.max(1.0)
        };
        self.target = wanted.clamp(0.0, top);
        self.busy = 0;
        self.target
    }
}

impl VirtualTree {
    /// Makes the tree of a board below a folder, in a power mode (its default where `mode` is `None`).
    ///
    /// # Errors
    /// [`io::Error`] when the board or the mode is unknown or a file cannot be written.
    pub fn create(root: &Path, board: &str, jetpack: JetPack, mode: Option<u32>) -> io::Result<Self> {
        let data = named(board).ok_or_else(|| io::Error::other(format!("unknown board '{board}'")))?;
        fixture::create(root, board, jetpack)?;
        let tree = Tree::at(root);
        let devfreq = Gpu::find(&tree).map_err(io::Error::other)?;
        let found = crate::rails::find(&tree, Some(&data), &mut Vec::new());
        let rails = found.into_iter().map(|rail| {
            let share = SHARES.iter().find(|(label, _)| *label == rail.label).map_or(0.0, |(_, s)| *s);
            let step_ma = rail.step_mw.map_or(8.0, |mw| mw / RAIL_MV * 1_000.0);
            (rail.path, rail.channel, share, step_ma)
        });
        let highest = Clocks::highest(&data);
        let mut this = Self {
            rails: rails.collect(),
            machine: Machine::of(&data, highest),
            interval: 20_000_000,
            now: 0,
            shared_now: Arc::default(),
            gpu: Domain { now: devfreq.clocks[0], next: None },
            emc: Domain { now: Hertz(highest.emc as u64), next: None },
            rate_written: highest.emc as u64,
            joules: 0.0,
            interval_joules: 0.0,
            interval_end: 20_000_000,
            shown_mw: 0.0,
            governor: Podgov { next: GOVERNOR_EVERY, ..Podgov::default() },
            kelvin: 0.0,
            tree,
            data,
            devfreq,
        };
        let wanted = |m: &&ModeData| mode.map_or(m.default, |id| m.id == id);
        let found = this.data.modes.iter().find(wanted).cloned();
        let mode = found.ok_or_else(|| io::Error::other(format!("{board} has no power mode {mode:?}")))?;
        if let Some(cap) = mode.gpu_mhz {
            this.put(&format!("{}/max_freq", this.devfreq.devfreq), (cap * 1e6) as u64)?;
        }
        if let (Some(cap), Some(file)) = (mode.emc_mhz, CAPS.iter().find(|p| this.tree.has(p))) {
            this.put(file, (cap * 1e6) as u64)?;
        }
        if let Some(device) = &this.devfreq.device {
            this.put(&format!("{device}/tpc_pg_mask"), u64::from(mode.tpc_pg_mask))?;
        }
        this.tree
            .write("/var/lib/nvpmodel/status", &format!("pmode:{:04}\n", mode.id))
            .map_err(io::Error::other)?;
        this.shown_mw = this.machine_now().idle_watts() * 1e3;
        this.kelvin = this.shown_mw / 1e3 * HEAT.0;
        this.look()?;
        this.show()?;
        Ok(this)
    }

    /// The tree that other programs see.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What is known of the board.
    pub fn data(&self) -> &BoardData {
        &self.data
    }

    /// Modelled time since the tree was made.
    pub fn now(&self) -> Micros {
        Micros(self.now / 1_000)
    }

    /// The same as a counter of microseconds that goes on as time does.
    pub fn clock(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared_now)
    }

    /// Modelled energy of the module since the tree was made, joules: what a perfect meter would have seen.
    pub fn joules(&self) -> f64 {
        self.joules
    }

    /// Clocks in force: GPU and memory.
    pub fn clocks(&self) -> (Hertz, Hertz) {
        (self.gpu.now, self.emc.now)
    }

    fn machine_now(&self) -> Machine {
        self.machine.at(Clocks { gpu: self.gpu.now.as_f64(), emc: self.emc.now.as_f64() })
    }

    /// Runs one inference: a call from the host, then these kernels one after the other, each modelled at the
    /// clocks in force when it begins. Returns the modelled time.
    ///
    /// # Errors
    /// [`io::Error`] when the tree cannot be read or written.
    pub fn run(&mut self, kernels: &[Work]) -> io::Result<Micros> {
        self.look()?;
        let began = self.now;
        let call = self.machine.constants.call_ns as u64;
        self.pass(call, self.machine_now().idle_watts(), false)?;
        for work in kernels {
            let modelled = self.machine_now().kernel(work);
            self.pass(modelled.ns as u64, modelled.joules / modelled.ns * 1e9, true)?;
        }
        self.show()?;
        Ok(Micros((self.now - began) / 1_000))
    }

    /// Lets time pass in which the GPU has nothing to do.
    ///
    /// # Errors
    /// [`io::Error`] when the tree cannot be read or written.
    pub fn idle(&mut self, time: Micros) -> io::Result<()> {
        self.look()?;
        let end = self.now + time.0 * 1_000;
        while self.now < end {
            // Not past the next change of a clock: idle power follows it.
            let change = [self.gpu.next, self.emc.next].into_iter().flatten().map(|(at, _)| at);
            let until =
                change.chain([end, self.governor.next]).filter(|at| *at > self.now).min().unwrap_or(end);
            self.pass(until - self.now, self.machine_now().idle_watts(), false)?;
        }
        self.show()
    }

    /// Time passes at a power.
    fn pass(&mut self, ns: u64, watts: f64, busy: bool) -> io::Result<()> {
        let end = self.now + ns;
        while self.now < end {
            let until = end.min(self.interval_end).min(self.governor.next);
            let (step, joules) = (until - self.now, watts * (until - self.now) as f64 * 1e-9);
            self.joules += joules;
            self.interval_joules += joules;
            self.governor.busy += if busy { step } else { 0 };
            self.now = until;
            if self.now == self.interval_end {
                self.shown_mw = self.interval_joules / (self.interval as f64 * 1e-9) * 1e3;
                self.interval_joules = 0.0;
                self.interval_end += self.interval;
                let seconds = self.interval as f64 * 1e-9;
                self.kelvin += (self.shown_mw / 1e3 * HEAT.0 - self.kelvin) * (seconds / HEAT.1);
            }
            if self.now == self.governor.next {
                self.governor.next += GOVERNOR_EVERY;
                self.stock_governor()?;
            }
        }
        self.take_hold();
        self.shared_now.store(self.now / 1_000, Ordering::Release);
        Ok(())
    }

    fn take_hold(&mut self) {
        for domain in [&mut self.gpu, &mut self.emc] {
            if let Some((at, clock)) = domain.next
                && at <= self.now
            {
                (domain.now, domain.next) = (clock, None);
            }
        }
    }

    fn number(&self, path: &str) -> io::Result<u64> {
        let found = self.tree.number(path).map_err(io::Error::other)?;
        u64::try_from(found).map_err(io::Error::other)
    }

    /// The GPU's limits as written: lowest and highest clock of the table between them.
    fn limits(&self) -> io::Result<(Hertz, Hertz)> {
        let folder = &self.devfreq.devfreq;
        let (min, max) =
            (self.number(&format!("{folder}/min_freq"))?, self.number(&format!("{folder}/max_freq"))?);
        let clocks = &self.devfreq.clocks;
        // The driver clips to its table.
        let high = clocks.iter().rfind(|c| c.0 <= max).or(clocks.first()).copied().unwrap_or(Hertz(1));
        let low = clocks.iter().find(|c| c.0 >= min).copied().unwrap_or(high).min(high);
        Ok((low, high))
    }

    /// Looks at what was written since the last time.
    fn look(&mut self) -> io::Result<()> {
        let (low, high) = self.limits()?;
        let wanted = self.gpu.next.map_or(self.gpu.now, |(_, clock)| clock).clamp(low, high);
        self.gpu.ask(wanted, self.now + GPU_SETTLES);
        let cap = CAPS.iter().find_map(|p| self.number(p).ok()).filter(|hz| *hz > 0).unwrap_or(u64::MAX);
        let points: Vec<u64> = self.data.memory.emc_mhz.iter().map(|m| (m * 1e6).round() as u64).collect();
        let below_cap = |hz: u64| {
            points.iter().copied().filter(|p| *p <= cap).fold(
                points[0],
                |best, p| {
                    if best >= hz { best } else { p }
                },
            )
        };
        let rate = self.number(&format!("{LOCK}/rate"))?;
        let locked = self.number(&format!("{LOCK}/mrq_rate_locked"))? == 1;
        let wanted = match locked {
            true if rate == self.rate_written => self.emc.next.map_or(self.emc.now, |(_, clock)| clock).0,
            true => rate,
            false => (EMC_UNLOCKED_MHZ * 1e6) as u64,
        };
        self.emc.ask(Hertz(below_cap(wanted)), self.now + EMC_SETTLES);
        let mask = self.devfreq.state(&self.tree).map_err(io::Error::other)?.tpc_pg_mask;
        let mode = self.data.modes.iter().find(|m| Some(u64::from(m.tpc_pg_mask)) == mask);
        self.machine.sms = mode.map_or(self.data.gpu.sms, |m| m.sms);
        Ok(())
    }

    fn stock_governor(&mut self) -> io::Result<()> {
        let (low, high) = self.limits()?;
        if low == high {
            self.governor.busy = 0;
            return Ok(());
        }
        let wanted = self.governor.decide(self.gpu.now.as_f64(), high.as_f64());
        let rounded = self.devfreq.clocks.iter().find(|c| c.as_f64() >= wanted).copied().unwrap_or(high);
        self.gpu.ask(rounded.clamp(low, high), self.now + GPU_SETTLES);
        Ok(())
    }

    /// Writes what the board shows now.
    fn show(&mut self) -> io::Result<()> {
        self.put(&format!("{}/cur_freq", self.devfreq.devfreq), self.gpu.now.0)?;
        let rate = self.number(&format!("{LOCK}/rate"))?;
        // A request that nobody looked at yet stays.
        if rate == self.rate_written || (self.emc.next.is_none() && rate <= self.emc.now.0) {
            self.put(&format!("{LOCK}/rate"), self.emc.now.0)?;
            self.rate_written = self.emc.now.0;
        }
        for (folder, channel, share, step) in &self.rails {
            let ma = self.shown_mw * share / RAIL_MV * 1e3;
            let shown = (ma / step).round() * step;
            self.put(&format!("{folder}/curr{channel}_input"), shown as u64)?;
        }
        if let Some(device) = &self.devfreq.device {
            let load = 1_000 * self.governor.busy / (GOVERNOR_EVERY - (self.governor.next - self.now)).max(1);
            self.put(&format!("{device}/load"), load.min(1_000))?;
        }
        let milli = ((AMBIENT_C + self.kelvin) * 1_000.0) as u64;
        for (i, _) in self.data.thermal.zones.iter().enumerate() {
            self.put(&format!("/sys/class/thermal/thermal_zone{i}/temp"), milli + 250 * i as u64)?;
        }
        Ok(())
    }

    /// Writes an attribute in place, so that a reader never finds it empty.
    fn put(&self, path: &str, value: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.tree.path(path))?;
        file.write_all_at(format!("{value:<11}\n").as_bytes(), 0)
    }

    /// Mean power over the sensor's last interval.
    pub fn shown_power(&self) -> Milliwatts {
        Milliwatts(self.shown_mw.round() as u32)
    }
}
