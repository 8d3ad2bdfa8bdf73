//! The one template that every quantity is made from.

/// Defines a newtype over an integer with saturating sums, order, and a `Display` that picks the largest unit
/// that leaves a value of at least one.
macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident($repr:ty), [$(($scale:expr, $unit:literal)),+]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
        pub struct $name(pub $repr);

        impl $name {
            /// Zero of this quantity.
            pub const ZERO: Self = Self(0);

            /// The value as a float, for ratios and statistics.
            pub const fn as_f64(self) -> f64 {
                self.0 as f64
            }
        }

        impl core::ops::Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }

        impl core::ops::Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl core::ops::AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }

        impl core::iter::Sum for $name {
            fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
                items.fold(Self::ZERO, |a, b| a + b)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                let size = (self.0 as i128).unsigned_abs();
                for (scale, unit) in [$(($scale as u128, $unit)),+] {
                    if size >= scale && scale > 1 {
                        return write!(f, "{:.2} {unit}", self.0 as f64 / scale as f64);
                    }
                    if scale == 1 {
                        return write!(f, "{} {unit}", self.0);
                    }
                }
                Ok(())
            }
        }
    };
}
pub(crate) use quantity;
