//! What becomes of an accumulator: parameter blocks of the kernels' epilogue.

use super::Lowering;
use pilotlight_kernels::abi;
use pilotlight_plan::{DType, Epilogue, Linear, Post, Tensor, TensorId};
use zerocopy::IntoBytes;

impl Lowering<'_> {
    /// The epilogue `e` into `output`, whose strides over batch, channel, row and column are given, as are those of what
    /// is added to it.
    pub(super) fn epilogue(
        &mut self,
        e: &Epilogue,
        output: TensorId,
        strides: [u32; 4],
        strides_of: impl Fn(&Tensor) -> Result<[u32; 4], String>,
    ) -> Result<abi::Epilogue, String> {
        let block = abi::Epilogue { out: self.address(output), strides, ..abi::Epilogue::default() };
        let step = |bytes: u64| u32::from(bytes > 4);
        Ok(match e {
            Epilogue::Raw => block,
            Epilogue::Float { scale } => {
                abi::Epilogue { mode: 1, scale: self.blob(*scale), scale_step: step(scale.bytes), ..block }
            }
            Epilogue::Requant(r) => {
                if r.post.len() > abi::POSTS {
                    return Err(format!(
                        "{} operations fused behind it; the kernels take {}",
                        r.post.len(),
                        abi::POSTS
                    ));
                }
                let (mut posts, mut other) = (Vec::new(), [0; abi::POSTS]);
                for (to, from) in other.iter_mut().zip(&r.post) {
                    let post = match from {
                        Post::Table { table, dtype } => {
                            *to = self.blob(*table);
                            abi::Post {
                                kind: 1,
                                signed_in: u32::from(*dtype == DType::I8),
                                ..abi::Post::default()
                            }
                        }
                        Post::Binary { other, value_is_a, rule, dtype } => {
                            *to = self.address(*other);
                            abi::Post {
                                kind: 2,
                                strides: strides_of(self.tensor(*other))?,
                                signed_in: u32::from(self.tensor(*other).dtype == DType::I8),
                                value_is_a: (*value_is_a).into(),
                                rule: self.rule(rule, *dtype),
                                ..abi::Post::default()
                            }
                        }
                    };
                    posts.extend_from_slice(post.as_bytes());
                }
                abi::Epilogue {
                    mode: 2,
                    scale: self.blob(r.scale),
                    scale_step: step(r.scale.bytes),
                    zero: r.zero,
                    lo: r.lo,
                    hi: r.hi,
                    posts: r.post.len() as u32,
                    post: if posts.is_empty() { 0 } else { self.constant(&posts) },
                    other,
                    ..block
                }
            }
        })
    }

    /// The epilogue with a multiplier for each channel of each group, channels up to `padded`.
    pub(super) fn spread_scale(
        &mut self,
        e: abi::Epilogue,
        l: &Linear,
        channels: u32,
        padded: u32,
    ) -> abi::Epilogue {
        let scale = match &l.epilogue {
            Epilogue::Raw => return e,
            Epilogue::Float { scale } => *scale,
            Epilogue::Requant(r) => r.scale,
        };
        let mut list: Vec<i32> = self.plan.blob_f32(scale).iter().map(|s| s.to_bits() as i32).collect();
        if list.len() == 1 {
            list = vec![list[0]; l.outputs as usize];
        }
        let list = spread(&list, channels as usize, padded as usize);
        abi::Epilogue { scale: self.constant_i32(&list), scale_step: 1, ..e }
    }
}

/// A list by channel, each group's channels up to `padded`; 0 where there is none.
pub(super) fn spread(list: &[i32], channels: usize, padded: usize) -> Vec<i32> {
    let group = |of: &[i32]| {
        let mut of = of.to_vec();
        of.resize(padded, 0);
        of
    };
    list.chunks(channels).flat_map(group).collect()
}
