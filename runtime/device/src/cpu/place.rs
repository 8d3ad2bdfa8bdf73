//! Where tensors lie: the memories of one inference, and views whose every element is known to be inside.

use pilotlight_plan::{Plan, Space, Tensor, TensorId};

/// A byte of one of the memories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Index into [`Bases`].
    pub memory: usize,
    /// Bytes from its start.
    pub offset: usize,
}

/// The first byte of each memory of an inference: arena, weights, inputs, outputs.
pub(super) struct Bases(pub Vec<*mut u8>);

// SAFETY: the pointers are addresses; who may follow them when is the promise of each step's caller.
unsafe impl Send for Bases {}
// SAFETY: as above.
unsafe impl Sync for Bases {}

impl Bases {
    /// The arena's index.
    pub(super) const ARENA: usize = 0;
    /// The index of the plan's weights; they are only read.
    pub(super) const WEIGHTS: usize = 1;

    /// The index of a memory.
    pub(super) fn index(plan: &Plan, space: Space) -> usize {
        match space {
            Space::Arena => Self::ARENA,
            Space::Weights => Self::WEIGHTS,
            Space::Input(i) => 2 + i as usize,
            Space::Output(i) => 2 + plan.inputs.len() + i as usize,
        }
    }

    /// The address of a place.
    pub(super) fn at(&self, place: Place) -> *mut u8 {
        self.0[place.memory].wrapping_add(place.offset)
    }
}

/// Distances between neighbours, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Strides {
    pub image: usize,
    pub channel: usize,
    pub y: usize,
    pub x: usize,
}

/// A tensor as images of pixels of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spatial {
    pub place: Place,
    pub images: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub strides: Strides,
}

impl Spatial {
    /// The view of a rank-3 or rank-4 tensor, `[N, C, W]` or `[N, C, H, W]`; `None` for other ranks.
    pub(super) fn new(plan: &Plan, id: TensorId) -> Option<Self> {
        let t = plan.tensor(id);
        let s: Vec<usize> = strides(t);
        let d: Vec<usize> = t.shape.iter().map(|&d| d as usize).collect();
        let (images, channels, height, width, strides) = match d[..] {
            [n, c, h, w] => (n, c, h, w, Strides { image: s[0], channel: s[1], y: s[2], x: s[3] }),
            [n, c, w] => (n, c, 1, w, Strides { image: s[0], channel: s[1], y: 0, x: s[2] }),
            _ => return None,
        };
        Some(Self { place: place(plan, t), images, channels, height, width, strides }.simplified(t))
    }

    /// The view of a matrix: the last dimension as channels, all others as the pixels of one row; `None` where
    /// their strides do not follow each other.
    pub(super) fn matrix(plan: &Plan, id: TensorId) -> Option<Self> {
        let t = plan.tensor(id);
        let s = strides(t);
        let (&channels, rows) = t.shape.split_last()?;
        let mut width = 1;
        let mut x = 0;
        for d in (0..rows.len()).rev() {
            if rows[d] == 1 {
                continue;
            }
            if width == 1 {
                x = s[d];
            } else if s[d] != x * width {
                return None;
            }
            width *= rows[d] as usize;
        }
        let strides = Strides { image: 0, channel: s[rows.len()], y: 0, x };
        let view =
            Self { place: place(plan, t), images: 1, channels: channels as usize, height: 1, width, strides };
        Some(view.simplified(t))
    }

    /// Strides of dimensions of extent 1 set to what suits the kernels; they are never multiplied by more than 0.
    fn simplified(mut self, t: &Tensor) -> Self {
        let s = &mut self.strides;
        if self.channels == 1 {
            s.channel = t.dtype.bytes();
        }
        if self.width == 1 {
            s.x = (self.channels * s.channel).max(1);
        }
        if self.height == 1 {
            s.y = self.width * s.x;
        }
        self
    }

    /// Bytes from the first element to that of an image, channel, row and column.
    pub(super) fn at(&self, image: usize, channel: usize, y: usize, x: usize) -> usize {
        let s = &self.strides;
        image * s.image + channel * s.channel + y * s.y + x * s.x
    }
}

/// Where a tensor begins.
pub(super) fn place(plan: &Plan, t: &Tensor) -> Place {
    let b = plan.buffers[t.buffer.0 as usize];
    Place { memory: Bases::index(plan, b.space), offset: (b.offset + t.offset) as usize }
}

/// A tensor's strides in bytes.
pub(super) fn strides(t: &Tensor) -> Vec<usize> {
    t.strides.iter().map(|&s| s as usize * t.dtype.bytes()).collect()
}
