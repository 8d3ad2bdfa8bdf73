//! From a picture file to an input tensor, as a model's card says.

use crate::card::{Channels, Input};
use image::imageops::FilterType;
use image::{DynamicImage, ImageReader, Limits};
use std::path::Path;

/// Why a picture could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The path as given.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not a picture that can be decoded.
    #[error("{path}: {source}; JPEG and PNG up to 16384 x 16384 are read")]
    Decode {
        /// The path as given.
        path: String,
        /// What is wrong with it.
        source: image::ImageError,
    },
    /// The model's card does not say how a picture becomes its input.
    #[error(
        "input {name}: the card does not say how a picture becomes this input; give an array with --input"
    )]
    NoRecipe {
        /// The input.
        name: String,
    },
}

/// Reads a picture and makes the input tensor: f32 `[1, C, H, W]`, row-major, little-endian.
///
/// # Errors
/// [`PictureError`].
pub fn open(path: &Path, input: &Input) -> Result<Vec<u8>, PictureError> {
    let bytes = std::fs::read(path)
        .map_err(|source| PictureError::Io { path: path.display().to_string(), source })?;
    decode(&bytes, &path.display().to_string(), input)
}

/// As [`open`], from a file's bytes; `name` is for errors.
///
/// # Errors
/// [`PictureError`].
pub fn decode(bytes: &[u8], name: &str, input: &Input) -> Result<Vec<u8>, PictureError> {
    let ([_, _, height, width], Some(channels)) = (&input.shape[..], input.channels) else {
        return Err(PictureError::NoRecipe { name: input.name.clone() });
    };
    let mut reader = ImageReader::new(std::io::Cursor::new(bytes));
    // A small file may announce a huge picture.
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(16_384), Some(16_384));
    limits.max_alloc = Some(1 << 30);
    reader.limits(limits);
    let failed = |source| PictureError::Decode { path: name.to_owned(), source };
    let reader = reader.with_guessed_format().map_err(|e| failed(e.into()))?;
    let picture = reader.decode().map_err(failed)?;
    let square = match input.crop {
        Some(share) => centred_square(&picture, share),
        None => picture,
    };
    let scaled = square.resize_exact(*width, *height, FilterType::Triangle);
    let pixels = match channels {
        Channels::Rgb => scaled.into_rgb8().into_raw(),
        Channels::Grey => scaled.into_luma8().into_raw(),
    };
    Ok(normalise(&pixels, &input.mean, &input.std))
}

/// The centred square whose side is `share` of the shorter side.
fn centred_square(picture: &DynamicImage, share: f64) -> DynamicImage {
    let (w, h) = (picture.width(), picture.height());
    let side = ((share * f64::from(w.min(h))) as u32).max(1);
    picture.crop_imm((w - side) / 2, (h - side) / 2, side, side)
}

/// 8-bit pixels `[H, W, C]` to f32 planes `[C, H, W]`: `(pixel - mean) / std`.
pub fn normalise(pixels: &[u8], mean: &[f32], std: &[f32]) -> Vec<u8> {
    let channels = mean.len();
    let mut out = Vec::with_capacity(pixels.len() * 4);
    for c in 0..channels {
        for pixel in pixels.iter().skip(c).step_by(channels) {
            out.extend(((f32::from(*pixel) - mean[c]) / std[c]).to_le_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(shape: Vec<u32>) -> Input {
        let (mean, std) = (vec![100.0, 0.0, 0.0], vec![2.0, 1.0, 1.0]);
        Input { name: "x".into(), shape, channels: Some(Channels::Rgb), crop: Some(1.0), mean, std }
    }

    #[test]
    fn a_picture_becomes_planes() {
        let mut png = std::io::Cursor::new(Vec::new());
        let picture = image::RgbImage::from_fn(4, 2, |x, _| image::Rgb([110, x as u8, 7]));
        picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
        let bytes = decode(png.get_ref(), "p", &input(vec![1, 3, 2, 2])).unwrap();
        let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(values, [5.0, 5.0, 5.0, 5.0, 1.0, 2.0, 1.0, 2.0, 7.0, 7.0, 7.0, 7.0]);
    }

    #[test]
    fn what_is_no_picture_is_an_error() {
        let error = decode(b"GIF89a....", "p", &input(vec![1, 3, 2, 2])).unwrap_err();
        assert!(matches!(error, PictureError::Decode { .. }));
        assert!(matches!(decode(b"", "p", &input(vec![1, 9])), Err(PictureError::NoRecipe { .. })));
    }
}
