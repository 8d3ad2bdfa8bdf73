//! Trees of every module and JetPack layout, written by us in the grammar of real ones.
//!
//! They serve tests, the virtual board, and anyone who wants to see the commands work without a Jetson. Readings
//! in them are made up.

use std::fs;
use std::io;
use std::path::Path;

use crate::data::{BoardData, named};

/// Generation of the kernel's file layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JetPack {
    /// Kernel 5.10.
    Five,
    /// Kernel 5.15.
    Six,
    /// Kernel 6.8.
    Seven,
}

impl JetPack {
    /// Every generation.
    pub const ALL: [Self; 3] = [Self::Five, Self::Six, Self::Seven];

    fn release(self) -> &'static str {
        match self {
            Self::Five => "# R35 (release), REVISION: 4.1, GCID: 0, BOARD: t186ref",
            Self::Six => "# R36 (release), REVISION: 5.0, GCID: 0, BOARD: generic",
            Self::Seven => "# R39 (release), REVISION: 2.0, GCID: 0, BOARD: generic",
        }
    }

    /// Folder of the GPU's device and name of its devfreq device.
    fn gpu(self) -> (&'static str, &'static str) {
        match self {
            Self::Five => ("sys/devices/17000000.ga10b", "17000000.ga10b"),
            Self::Six | Self::Seven => ("sys/devices/platform/bus@0/17000000.gpu", "17000000.gpu"),
        }
    }
}

/// Makes the tree of a board below a folder.
///
/// # Errors
/// [`io::Error`] when the board is unknown or a file cannot be written.
pub fn create(root: &Path, board: &str, jetpack: JetPack) -> io::Result<()> {
    let data = named(board).ok_or_else(|| io::Error::other(format!("unknown board '{board}'")))?;
    let put = |path: &str, value: &str| {
        let full = root.join(path);
        full.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(full, format!("{value}\n"))
    };
    let suffix = if data.is_super { "-super" } else { "" };
    let carrier = if board.starts_with("agx") { "p3737-0000" } else { "p3768-0000" };
    let compatible =
        format!("nvidia,{carrier}+{}{suffix}\0nvidia,tegra234\0", data.modules[data.modules.len() - 1]);
    put("proc/device-tree/compatible", &compatible)?;
    put("proc/device-tree/model", &format!("NVIDIA {} (fixture)\0", data.title))?;
    put("etc/nv_tegra_release", jetpack.release())?;
    gpu(root, &data, jetpack, &put)?;
    cpu(&data, jetpack, &put)?;
    emc(&data, jetpack, &put)?;
    rails(&data, &put)?;
    for (i, zone) in data.thermal.zones.iter().enumerate() {
        put(&format!("sys/class/thermal/thermal_zone{i}/type"), zone)?;
        put(&format!("sys/class/thermal/thermal_zone{i}/temp"), &(46_000 + 250 * i).to_string())?;
    }
    for n in 1..=3 {
        let folder = "sys/devices/platform/soctherm-oc-event/hwmon/hwmon2";
        put(&format!("{folder}/oc{n}_event_cnt"), "0")?;
        put(&format!("{folder}/oc{n}_throt_en"), "1")?;
    }
    put("etc/nvpmodel.conf", &conf(&data, jetpack))?;
    let mode = data.modes.iter().find(|m| m.default).map_or(0, |m| m.id);
    put("var/lib/nvpmodel/status", &format!("pmode:{mode:04}"))
}

type Put<'a> = &'a dyn Fn(&str, &str) -> io::Result<()>;

fn hz(mhz: f64) -> u64 {
    (mhz * 1e6).round() as u64
}

fn gpu(root: &Path, data: &BoardData, jetpack: JetPack, put: Put) -> io::Result<()> {
    let (device, name) = jetpack.gpu();
    let devfreq = format!("{device}/devfreq/{name}");
    let clocks: Vec<String> = data.gpu.clocks_mhz.iter().map(|c| hz(*c).to_string()).collect();
    let (low, high) = (&clocks[0], &clocks[clocks.len() - 1]);
    put(&format!("{devfreq}/available_frequencies"), &clocks.join(" "))?;
    put(&format!("{devfreq}/min_freq"), low)?;
    put(&format!("{devfreq}/max_freq"), high)?;
    put(&format!("{devfreq}/cur_freq"), low)?;
    put(&format!("{devfreq}/governor"), "nvhost_podgov")?;
    put(&format!("{devfreq}/available_governors"), "nvhost_podgov userspace performance simple_ondemand")?;
    put(&format!("{devfreq}/polling_interval"), "25")?;
    put(&format!("{device}/load"), "0")?;
    put(&format!("{device}/railgate_enable"), "0")?;
    put(&format!("{device}/power/control"), "auto")?;
    let mask = data.modes.iter().find(|m| m.default).map_or(0, |m| m.tpc_pg_mask);
    put(&format!("{device}/tpc_pg_mask"), &mask.to_string())?;
    put(&format!("{device}/of_node/name"), if jetpack == JetPack::Five { "ga10b\0" } else { "gpu\0" })?;
    // As the kernel links them: the class to the device's folder, and the devfreq device back to it.
    let up = "../".repeat(devfreq.matches('/').count() - device.matches('/').count());
    link(root, up.trim_end_matches('/'), &format!("{devfreq}/device"))?;
    let class = format!("sys/class/devfreq/{name}");
    link(root, &format!("../../../{devfreq}"), &class)
}

#[cfg(unix)]
fn link(root: &Path, target: &str, at: &str) -> io::Result<()> {
    let at = root.join(at);
    at.parent().map_or(Ok(()), fs::create_dir_all)?;
    std::os::unix::fs::symlink(target, at)
}

fn cpu(data: &BoardData, jetpack: JetPack, put: Put) -> io::Result<()> {
    // JetPack 6 and later name each core's policy; JetPack 5 one a cluster of four.
    let cluster = if jetpack == JetPack::Five { 4 } else { 2 };
    for first in (0..data.cpu.cores).step_by(cluster) {
        let folder = format!("sys/devices/system/cpu/cpufreq/policy{first}");
        let last = (first + cluster as u32).min(data.cpu.cores);
        let cores: Vec<String> = (first..last).map(|c| c.to_string()).collect();
        put(&format!("{folder}/related_cpus"), &cores.join(" "))?;
        put(&format!("{folder}/scaling_min_freq"), &format!("{:.0}", data.cpu.min_mhz * 1_000.0))?;
        put(&format!("{folder}/scaling_max_freq"), &format!("{:.0}", data.cpu.max_mhz * 1_000.0))?;
        put(&format!("{folder}/scaling_cur_freq"), &format!("{:.0}", data.cpu.min_mhz * 1_000.0))?;
        put(&format!("{folder}/scaling_governor"), "schedutil")?;
    }
    Ok(())
}

fn emc(data: &BoardData, jetpack: JetPack, put: Put) -> io::Result<()> {
    let folder = "sys/kernel/debug/bpmp/debug/clk/emc";
    let clocks = &data.memory.emc_mhz;
    let (low, high) = (hz(clocks[0]).to_string(), hz(clocks[clocks.len() - 1]).to_string());
    put(&format!("{folder}/rate"), &high)?;
    put(&format!("{folder}/min_rate"), &low)?;
    put(&format!("{folder}/max_rate"), &high)?;
    put(&format!("{folder}/mrq_rate_locked"), "0")?;
    put(&format!("{folder}/state"), "1")?;
    let cap = match jetpack {
        JetPack::Five => "sys/kernel/nvpmodel_emc_cap/emc_iso_cap",
        JetPack::Six | JetPack::Seven => "sys/kernel/nvpmodel_clk_cap/emc",
    };
    put(cap, "0")
}

fn rails(data: &BoardData, put: Put) -> io::Result<()> {
    let mut devices: Vec<&str> = data.rails.iter().map(|r| r.device.as_str()).collect();
    devices.dedup();
    for (i, device) in devices.iter().enumerate() {
        let folder = format!("sys/bus/i2c/drivers/ina3221/{device}/hwmon/hwmon{}", i + 3);
        put(&format!("{folder}/name"), "ina3221")?;
        put(&format!("{folder}/update_interval"), "20")?;
        for channel in 1..=3 {
            let rail = data.rails.iter().find(|r| r.device == **device && r.channel == channel);
            put(&format!("{folder}/in{channel}_label"), rail.map_or("NC", |r| r.label.as_str()))?;
            put(&format!("{folder}/in{channel}_enable"), "1")?;
            put(&format!("{folder}/in{channel}_input"), if rail.is_some() { "5000" } else { "0" })?;
            let current = match rail.map(|r| r.label.as_str()) {
                Some("VDD_IN") => "1108",
                Some(_) => "288",
                None => "0",
            };
            put(&format!("{folder}/curr{channel}_input"), current)?;
            put(
                &format!("{folder}/shunt{channel}_resistor"),
                &rail.map_or(5_000, |r| r.shunt_uohm).to_string(),
            )?;
        }
    }
    Ok(())
}

/// A mode file of the board in the real grammar: our words, the same blocks.
pub fn conf(data: &BoardData, jetpack: JetPack) -> String {
    let (device, name) = jetpack.gpu();
    let (old_device, old_name) = JetPack::Five.gpu();
    let mut text = format!("# Power modes of {} (fixture)\n\n", data.title);
    text += "< PARAM TYPE=FILE NAME=CPU_ONLINE >\n";
    for core in 0..data.cpu.cores {
        text += &format!("CORE_{core} /sys/devices/system/cpu/cpu{core}/online\n");
    }
    text += "\n< PARAM TYPE=FILE NAME=TPC_POWER_GATING >\n";
    text += &format!("TPC_PG_MASK /{old_device}/tpc_pg_mask\n");
    if jetpack != JetPack::Five {
        text += &format!("TPC_PG_MASK_KNEXT /{device}/tpc_pg_mask\n");
    }
    text += "\n< PARAM TYPE=CLOCK NAME=CPU_A78_0 >\n";
    text += "MAX_FREQ /sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq\n";
    text += "MIN_FREQ /sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq\n";
    text += "\n< PARAM TYPE=CLOCK NAME=GPU >\n";
    text += &format!("MAX_FREQ /{old_device}/devfreq/{old_name}/max_freq\n");
    if jetpack != JetPack::Five {
        text += &format!("MAX_FREQ_KNEXT /{device}/devfreq/{name}/max_freq\n");
    }
    // Real files leave out the space here.
    text += "\n<PARAM TYPE=CLOCK NAME=EMC >\n";
    text += match jetpack {
        JetPack::Five => "MAX_FREQ /sys/kernel/nvpmodel_emc_cap/emc_iso_cap\n",
        JetPack::Six | JetPack::Seven => "MAX_FREQ /sys/kernel/nvpmodel_clk_cap/emc\n",
    };
    for mode in &data.modes {
        text += &format!("\n# {} SMs\n< POWER_MODEL ID={} NAME={} >\n", mode.sms, mode.id, mode.name);
        for core in 0..data.cpu.cores {
            text += &format!("CPU_ONLINE CORE_{core} {}\n", u32::from(core < mode.cores));
        }
        text += &format!("TPC_POWER_GATING TPC_PG_MASK {}\n", mode.tpc_pg_mask);
        let clock = |mhz: Option<f64>, unit: f64| mhz.map_or("-1".into(), |m| format!("{:.0}", m * unit));
        text += &format!("CPU_A78_0 MAX_FREQ {}\n", clock(mode.cpu_mhz, 1e3));
        text += &format!("CPU_A78_0 MIN_FREQ {:.0}\n", data.cpu.min_mhz * 1e3);
        text += &format!("GPU MAX_FREQ {}\n", clock(mode.gpu_mhz, 1e6));
        text += &format!("EMC MAX_FREQ {}\n", clock(mode.emc_mhz, 1e6).replace("-1", "0"));
    }
    let default = data.modes.iter().find(|m| m.default).map_or(0, |m| m.id);
    text + &format!("\n< PM_CONFIG DEFAULT={default} >\n")
}
