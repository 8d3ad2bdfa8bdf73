//! Times that others published, to compare modelled ones with.

/// A published time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// The network, as its paper writes it.
    pub network: &'static str,
    /// Pictures at a time.
    pub batch: u64,
    /// Milliseconds on the GPU.
    pub ms: f64,
}

const fn row(network: &'static str, batch: u64, ms: f64) -> Published {
    Published { network, batch, ms }
}

/// Module that [`TENSORRT`] was measured on.
pub const TENSORRT_MODULE: &str = "orin-nano-8gb-super";

/// TensorRT 10.3: mean GPU time of trtexec, int8 and fp16 mixed, 224 x 224, Orin Nano 8 GB, MAXN_SUPER, clocks locked.
///
/// # Source
/// onnxsim, scripts/nvidia/README.md, commit 5208cea.
pub const TENSORRT: [Published; 6] = [
    row("ResNet-18", 1, 0.485),
    row("ResNet-18", 8, 1.927),
    row("ResNet-50", 1, 1.190),
    row("ResNet-50", 8, 4.930),
    row("MobileNetV2", 1, 0.781),
    row("MobileNetV2", 8, 2.446),
];

/// TensorRT's published time of a network, however its name is written; `None` where there is none.
pub fn tensorrt(network: &str, batch: u64) -> Option<f64> {
    let plain = |name: &str| -> String {
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    TENSORRT.iter().find(|p| plain(p.network) == plain(network) && p.batch == batch).map(|p| p.ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_found_by_any_spelling() {
        assert_eq!(tensorrt("mobilenetv2", 1), Some(0.781));
        assert_eq!(tensorrt("ResNet-50", 8), Some(4.930));
        assert_eq!((tensorrt("resnet50", 2), tensorrt("digits", 1)), (None, None));
    }
}
