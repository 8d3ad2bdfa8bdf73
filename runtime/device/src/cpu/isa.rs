//! Instruction sets that the kernels are written for, and which of them this machine has.

use crate::LoadError;

/// A set of vector instructions that the kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every machine of the architecture has: SSE2 or NEON, as the compiler sees fit.
    Baseline,
    /// x86-64 AVX2 (and FMA's generation of machines; FMA itself is never used).
    Avx2,
    /// x86-64 AVX-VNNI: 8-bit dot products in 256-bit registers.
    AvxVnni,
    /// x86-64 AVX-512 with VNNI: 8-bit dot products in 512-bit registers.
    Avx512Vnni,
    /// x86-64 AMX: 8-bit products of 16 x 64 tiles, beside AVX-512 VNNI.
    Amx,
    /// AArch64 with the dot-product extension.
    NeonDot,
}

impl Isa {
    /// Every set, slowest first.
    pub const ALL: [Self; 6] =
        [Self::Baseline, Self::Avx2, Self::AvxVnni, Self::Avx512Vnni, Self::Amx, Self::NeonDot];

    /// The name as `describe` and settings give it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx-vnni",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Amx => "amx",
            Self::NeonDot => "neon-dot",
        }
    }

    /// The set of this name.
    ///
    /// # Errors
    /// [`LoadError::Setting`] that lists the names.
    pub fn from_name(name: &str) -> Result<Self, LoadError> {
        Self::ALL.into_iter().find(|i| i.name() == name).ok_or_else(|| LoadError::Setting {
            setting: "isa",
            found: name.into(),
            allowed: format!("known names: {}", names(&Self::ALL)),
        })
    }

    /// The sets that this machine has, slowest first; never empty.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|i| i.is_available()).collect()
    }

    /// Whether this machine has it (for AMX: and the system lets this process use it).
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = || {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni")
        };
        match self {
            Self::Baseline => true,
            Self::Avx2 => avx2(),
            Self::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Self::Avx512Vnni => avx2() && avx512(),
            Self::Amx => avx2() && avx512() && super::kernels::amx_permitted(),
            Self::NeonDot => false,
        }
    }

    /// Whether this machine has it.
    #[cfg(target_arch = "aarch64")]
    pub fn is_available(self) -> bool {
        match self {
            Self::Baseline => true,
            Self::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            _ => false,
        }
    }

    /// Whether this machine has it.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn is_available(self) -> bool {
        self == Self::Baseline
    }

    /// The fastest set of this machine, or `wanted` where the machine has it.
    pub(super) fn choose(wanted: Option<Self>) -> Result<Self, LoadError> {
        let all = Self::available();
        match wanted {
            None => Ok(all[all.len() - 1]),
            Some(isa) if all.contains(&isa) => Ok(isa),
            Some(isa) => Err(LoadError::Setting {
                setting: "isa",
                found: isa.name().into(),
                allowed: format!("this machine has {}", names(&all)),
            }),
        }
    }
}

fn names(list: &[Isa]) -> String {
    list.iter().map(|i| i.name()).collect::<Vec<_>>().join(", ")
}
