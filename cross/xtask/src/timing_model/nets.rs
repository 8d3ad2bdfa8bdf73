//! Layers of the networks whose TensorRT times are published, by shape.

/// One launch.
#[derive(Clone, Copy, Debug)]
pub enum Layer {
    /// Dense convolution, or a fully connected layer as a convolution of one pixel.
    Conv {
        /// Channels in and out.
        channels: (u64, u64),
        /// Side of the filter.
        filter: u64,
        /// Side of the picture, in and out.
        side: (u64, u64),
        /// Adds a tensor of the output's size.
        residual: bool,
    },
    /// Depthwise 3x3: channels, side in and out.
    Depthwise(u64, (u64, u64)),
    /// Pooling: channels, side in and out, side of the window.
    Pool(u64, (u64, u64), u64),
    /// Float picture to int8 in the layout of the first layer.
    Input,
}

fn conv(channels: (u64, u64), filter: u64, side: (u64, u64)) -> Layer {
    Layer::Conv { channels, filter, side, residual: false }
}

fn adding(channels: (u64, u64), filter: u64, side: (u64, u64)) -> Layer {
    Layer::Conv { channels, filter, side, residual: true }
}

/// ResNet-18.
pub fn resnet18() -> Vec<Layer> {
    let mut net = vec![Layer::Input, conv((3, 64), 7, (224, 112)), Layer::Pool(64, (112, 56), 3)];
    let mut from = (64, 56);
    for (channels, side) in [(64, 56), (128, 28), (256, 14), (512, 7)] {
        for block in 0..2 {
            let stage = if block == 0 { from } else { (channels, side) };
            if stage.0 != channels {
                net.push(conv((stage.0, channels), 1, (stage.1, side)));
            }
            net.push(conv((stage.0, channels), 3, (stage.1, side)));
            net.push(adding((channels, channels), 3, (side, side)));
        }
        from = (channels, side);
    }
    net.extend([Layer::Pool(512, (7, 1), 7), conv((512, 1000), 1, (1, 1))]);
    net
}

/// ResNet-50 of the ONNX model zoo (v1: the stride is in the first 1x1 of a stage).
pub fn resnet50() -> Vec<Layer> {
    let mut net = vec![Layer::Input, conv((3, 64), 7, (224, 112)), Layer::Pool(64, (112, 56), 3)];
    let mut from = (64, 56);
    for (inner, blocks, side) in [(64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)] {
        for block in 0..blocks {
            let stage = if block == 0 { from } else { (4 * inner, side) };
            if block == 0 {
                net.push(conv((stage.0, 4 * inner), 1, (stage.1, side)));
            }
            net.push(conv((stage.0, inner), 1, (stage.1, side)));
            net.push(conv((inner, inner), 3, (side, side)));
            net.push(adding((inner, 4 * inner), 1, (side, side)));
        }
        from = (4 * inner, side);
    }
    net.extend([Layer::Pool(2048, (7, 1), 7), conv((2048, 1000), 1, (1, 1))]);
    net
}

/// MobileNetV2 at width 1.
pub fn mobilenet_v2() -> Vec<Layer> {
    let mut net = vec![Layer::Input, conv((3, 32), 3, (224, 112))];
    let (mut channels, mut side) = (32, 112);
    let stages = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ];
    for (expand, out, repeat, stride) in stages {
        for n in 0..repeat {
            let hidden = channels * expand;
            if expand > 1 {
                net.push(conv((channels, hidden), 1, (side, side)));
            }
            let after = if n == 0 { side / stride } else { side };
            net.push(Layer::Depthwise(hidden, (side, after)));
            let project = if channels == out && after == side { adding } else { conv };
            net.push(project((hidden, out), 1, (after, after)));
            (channels, side) = (out, after);
        }
    }
    net.extend([conv((320, 1280), 1, (7, 7)), Layer::Pool(1280, (7, 1), 7), conv((1280, 1000), 1, (1, 1))]);
    net
}

/// Multiply-accumulates of a picture.
pub fn macs(net: &[Layer]) -> u64 {
    net.iter()
        .map(|layer| match *layer {
            Layer::Conv { channels, filter, side, .. } => {
                channels.0 * channels.1 * filter * filter * side.1 * side.1
            }
            Layer::Depthwise(channels, side) => channels * 9 * side.1 * side.1,
            Layer::Pool(..) | Layer::Input => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts known from the papers, in millions.
    #[test]
    fn the_networks_have_their_known_size() {
        for (net, low, high) in
            [(resnet18(), 1800, 1830), (resnet50(), 3800, 4150), (mobilenet_v2(), 295, 325)]
        {
            let millions = macs(&net) / 1_000_000;
            assert!((low..=high).contains(&millions), "{millions}");
        }
    }
}
