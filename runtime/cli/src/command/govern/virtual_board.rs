//! Governing a model on a virtual board: every inference runs on the emulator, its time and energy are modelled at
//! the clocks in force, and the governor sees only what a board would show it.

use super::Govern;
use super::watch::Watch;
use crate::feed;
use crate::model::{CompileOptions, Model};
use crate::virtual_orin::VirtualOrin;
use anyhow::{Context, Result, bail};
use pilotlight_boards::control::Session;
use pilotlight_boards::fixture::JetPack;
use pilotlight_boards::model::{Work, label};
use pilotlight_boards::virtual_tree::VirtualTree;
use pilotlight_device::{Cpu, CpuOptions, Device};
use pilotlight_power::governor::{Governor, Grid, Settings};
use pilotlight_power::live::{Live, Sensors, Time};
use pilotlight_power::meter::Window;
use pilotlight_units::Micros;
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::Ordering;

/// Cycles unless said otherwise.
const CYCLES: u64 = 600;
/// Cycles at the start that only teach the governor; energy counts after them.
const LEARNING: u64 = 200;

/// What the run came to, as `--json` prints it on standard output.
#[derive(Serialize)]
struct Report {
    schema: u32,
    board: String,
    model: String,
    figures: &'static str,
    cycles: u64,
    late_learning: u64,
    late: u64,
    state: String,
    gpu_hz: u64,
    emc_hz: u64,
    /// Modelled energy of a period after learning.
    energy_mj: f64,
    metered: Metered,
    top_clocks_mj: f64,
    stock_governor_mj: f64,
    stock_governor_late: f64,
    /// Outputs that differ from the CPU device's, of all elements of all inferences.
    elements: u64,
    different: u64,
    restored: bool,
}

/// What the meter made of the virtual rail, beside what the model spent in the same windows.
#[derive(Default, Serialize)]
struct Metered {
    windows: u32,
    metered_mj: f64,
    modelled_mj: f64,
    /// Windows whose energy lies within two of the meter's standard deviations.
    covered: u32,
}

impl Metered {
    fn add(&mut self, window: &Window, truth: &[(Micros, f64)]) {
        let joules_at = |at: Micros| {
            let after = truth.partition_point(|(t, _)| *t < at).clamp(1, truth.len() - 1);
            let ((t0, e0), (t1, e1)) = (truth[after - 1], truth[after]);
            e0 + (e1 - e0) * ((at - t0).as_f64() / (t1 - t0).as_f64().max(1.0)).min(1.0)
        };
        let modelled = 1e3 * (joules_at(window.end()) - joules_at(window.begin));
        let metered = window.gross.as_f64() / 1e3;
        self.windows += 1;
        self.metered_mj += metered;
        self.modelled_mj += modelled;
        self.covered += u32::from((metered - modelled).abs() <= 2.0 * window.deviation.as_f64() / 1e3);
    }
}

pub fn run(options: &Govern, settings: Settings, board: &str, model: &Path) -> Result<bool> {
    let orin = VirtualOrin::open(board)?;
    let model = Model::open(model, &CompileOptions::default())?;
    let mut program = orin.load(&model.plan)?;
    let mut slot = program.slot()?;
    feed::random(&model.plan, 1, &mut slot);
    // The CPU device says what every output must be.
    let cpu = Cpu::new(CpuOptions { threads: 1, isa: None })?;
    let mut check = cpu.load(&model.plan)?;
    let mut expected = check.slot()?;
    feed::random(&model.plan, 1, &mut expected);
    check.run(&mut expected)?;
    // Twice: the first run finds nothing in L2.
    program.run(&mut slot)?;
    orin.work()?;
    program.run(&mut slot)?;
    let counted = orin.work()?;

    let folder = tempfile::tempdir()?;
    let period = Micros(options.period_us);
    let fresh = |name: &str| {
        let root = folder.path().join(name);
        VirtualTree::create(&root, orin.module, JetPack::Six, Some(orin.mode))
            .context("making the virtual board")
    };
    let cycles = options.cycles.unwrap_or(CYCLES);
    // Counts do not depend on clocks, so the baselines need no further emulation.
    let (stock_mj, stock_late) = baseline(fresh("stock")?, &counted, period, settings.budget, cycles, false)?;
    let (top_mj, _) = baseline(fresh("top")?, &counted, period, settings.budget, cycles, true)?;

    let mut tree = fresh("board")?;
    tree.idle(Micros::from_secs(1))?;
    let (found, found_mode) = (limits(&tree), tree.tree().read("/var/lib/nvpmodel/status").ok());
    let clock = tree.clock();
    let sensors = Sensors::new(tree.tree(), Time::from_fn(move || Micros(clock.load(Ordering::Acquire))));
    let (gpu, emc) = sensors.board().governable().context("the virtual board shows no clocks")?;
    let mut governor = Governor::new(settings, Grid::new(&gpu, &emc)?)?;
    governor.set_urgency(options.the_urgency()?);
    let session = Session::open(tree.tree(), &folder.path().join("state"))?;
    let mut live = Live::new(governor, sensors, Some(session))?;
    let mut watch = Watch::new(&options.alerts, options.json);
    let (mut late, mut late_learning, mut elements, mut different) = (0, 0, 0u64, 0u64);
    let mut state = String::new();
    let mut learned_at = (tree.now(), tree.joules());
    let (mut metered, mut last_window) = (Metered::default(), None);
    let mut truth = vec![(tree.now(), tree.joules())];
    for cycle in 0..cycles {
        if cycle == LEARNING.min(cycles / 2) {
            learned_at = (tree.now(), tree.joules());
        }
        let release = tree.now();
        program.run(&mut slot)?;
        let latency = tree.run(&orin.work()?)?;
        for i in 0..model.plan.outputs.len() {
            let (a, b) = (slot.output(i), expected.output(i));
            elements += a.len() as u64;
            different += a.iter().zip(b).filter(|(a, b)| a != b).count() as u64;
        }
        let answer = live.cycle(latency.max(Micros(1)));
        let was_late = u64::from(answer.decision.late);
        if cycle < LEARNING.min(cycles / 2) {
            late_learning += was_late
        } else {
            late += was_late
        }
        state = pilotlight_power::line::state_name(answer.decision.state).to_owned();
        watch.see(&answer, live.governor().asked(), true);
        if let Some((report, _)) =
            live.window().filter(|(r, _)| last_window.is_none_or(|l| r.window.begin > l))
        {
            last_window = Some(report.window.begin);
            if report.window.begin >= truth[0].0 && report.window.gap.0 == 0 {
                metered.add(&report.window, &truth);
            }
        }
        let spent = tree.now() - release;
        // Late work carries over: the next release is the next multiple of the period that is not past.
        let next = Micros(period.0 * spent.0.div_ceil(period.0).max(1));
        tree.idle(next - spent)?;
        truth.push((tree.now(), tree.joules()));
    }
    let periods = ((tree.now() - learned_at.0).as_f64() / period.as_f64()).max(1.0);
    let energy_mj = (tree.joules() - learned_at.1) * 1e3 / periods;
    let held = tree.clocks();
    let summary = watch.summary(&live);
    live.close()?;
    tree.idle(Micros::from_millis(100))?;
    let restored = found == limits(&tree) && found_mode == tree.tree().read("/var/lib/nvpmodel/status").ok();
    let report = Report {
        schema: 1,
        board: format!("virtual:{board} ({})", orin.describe()),
        model: model.plan.name.clone(),
        figures: label(),
        cycles,
        late_learning,
        late,
        state,
        gpu_hz: held.0.0,
        emc_hz: held.1.0,
        energy_mj,
        metered,
        top_clocks_mj: top_mj,
        stock_governor_mj: stock_mj,
        stock_governor_late: stock_late,
        elements,
        different,
        restored,
    };
    watch.close(&summary);
    if options.json {
        super::super::print_json(&report)?;
    } else {
        show(&report);
    }
    if different > 0 {
        bail!("{different} of {elements} output bytes differ from the CPU device's");
    }
    Ok(restored)
}

fn show(r: &Report) {
    println!("{} on {}", r.model, r.board);
    println!(
        "{} inferences on the emulator: {} of {} output bytes differ from the CPU device",
        r.cycles, r.different, r.elements
    );
    println!(
        "late: {} while learning, {} after; {} at GPU {:.0} MHz, EMC {:.0} MHz",
        r.late_learning,
        r.late,
        r.state,
        r.gpu_hz as f64 / 1e6,
        r.emc_hz as f64 / 1e6
    );
    println!("energy of a period, MODELLED ({}):", r.figures);
    println!("  governor                {:8.2} mJ", r.energy_mj);
    println!(
        "  top clocks              {:8.2} mJ ({:+.1} %)",
        r.top_clocks_mj,
        100.0 * (r.energy_mj / r.top_clocks_mj - 1.0)
    );
    println!(
        "  stock governor          {:8.2} mJ ({:+.1} %), {:.1} % late",
        r.stock_governor_mj,
        100.0 * (r.energy_mj / r.stock_governor_mj - 1.0),
        100.0 * r.stock_governor_late
    );
    let m = &r.metered;
    if m.windows > 0 {
        println!(
            "meter on the virtual rails, read every 100 ms: {:.0} mJ in {} windows of a second, {:+.2} % off the model; \
             {} windows within the stated uncertainty",
            m.metered_mj,
            m.windows,
            100.0 * (m.metered_mj / m.modelled_mj - 1.0),
            m.covered
        );
    }
    println!(
        "the board's settings are {}",
        if r.restored { "as they were found" } else { "NOT as they were found" }
    );
}

/// What a governor sets: the GPU's limits and the memory's lock.
fn limits(tree: &VirtualTree) -> [Option<i64>; 3] {
    let gpu = pilotlight_boards::gpu::Gpu::find(tree.tree()).map(|g| g.devfreq).unwrap_or_default();
    let lock = pilotlight_boards::emc::LOCK;
    [format!("{gpu}/min_freq"), format!("{gpu}/max_freq"), format!("{lock}/mrq_rate_locked")]
        .map(|path| tree.tree().number(&path).ok())
}

/// Energy of a period and share of late cycles without a governor of ours: the stock one, or both clocks at the top.
fn baseline(
    mut tree: VirtualTree,
    work: &[Work],
    period: Micros,
    budget: Micros,
    cycles: u64,
    top: bool,
) -> Result<(f64, f64)> {
    let state = tree.tree().path("/run-baseline");
    let mut session = None;
    if top {
        let mut ours = Session::open(tree.tree(), &state)?;
        let highest = |clocks: &[pilotlight_units::Hertz]| clocks.last().copied();
        let (gpu, emc) = (highest(ours.gpu_clocks()), highest(ours.emc_clocks()));
        pilotlight_boards::control::Clocks::set(&mut ours, gpu.context("no GPU clock")?, emc)?;
        session = Some(ours);
    }
    tree.idle(Micros::from_secs(1))?;
    let (begin, began, mut late) = (tree.joules(), tree.now(), 0u64);
    for _ in 0..cycles {
        let latency = tree.run(work)?;
        late += u64::from(latency > budget);
        let spent = latency.0 % period.0;
        tree.idle(Micros(period.0 - spent))?;
    }
    drop(session);
    let periods = (tree.now() - began).as_f64() / period.as_f64();
    Ok(((tree.joules() - begin) * 1e3 / periods, late as f64 / cycles as f64))
}
