//! What makes a table of blocks: the types in Rust, their declarations in C, where addresses lie in them.

macro_rules! blocks {
    ($($(#[$doc:meta])* struct $name:ident { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Debug, Clone, Copy, PartialEq, Default, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
            pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
            // No padding: then equal order, types and size give equal offsets in C.
            const _: () = assert!(core::mem::size_of::<$name>() == 0 $(+ core::mem::size_of::<$ty>())*);
            impl Addresses for $name {
                fn addresses(at: usize, found: &mut Vec<usize>) {
                    $(<$ty>::addresses(at + core::mem::offset_of!($name, $field), found);)*
                }
            }
        )*

        /// The constants and blocks in C, with assertions of size.
        pub fn c_declarations() -> String {
            let mut text = String::from("// Generated from src/abi.rs; do not edit. See there for what each field means.\n");
            for (name, value) in WORDS {
                text.push_str(&format!("constexpr u32 {name} = {value};\n"));
            }
            for (number, name) in OPERATIONS.iter().enumerate() {
                text.push_str(&format!("constexpr u32 OP_{name} = {number};\n"));
            }
            $(
                text.push_str(concat!("struct ", stringify!($name), " {\n"));
                $(text.push_str(&c_field(stringify!($ty), stringify!($field)));)*
                text.push_str("};\n");
                let size = core::mem::size_of::<$name>();
                text.push_str(&format!("static_assert(sizeof({0}) == {size}, \"{0}\");\n", stringify!($name)));
            )*
            text
        }
    };
}

/// Where device addresses lie in a block: they are its 64-bit fields, and nothing else has 64 bits.
pub trait Addresses {
    /// Adds the byte offset of every address in a value that begins at `at`.
    fn addresses(at: usize, found: &mut Vec<usize>);
}

impl Addresses for u64 {
    fn addresses(at: usize, found: &mut Vec<usize>) {
        found.push(at);
    }
}

macro_rules! no_addresses {
    ($($ty:ty),*) => {
        $(impl Addresses for $ty {
            fn addresses(_at: usize, _found: &mut Vec<usize>) {}
        })*
    };
}
no_addresses!(u32, i32, f32);

impl<T: Addresses, const N: usize> Addresses for [T; N] {
    fn addresses(at: usize, found: &mut Vec<usize>) {
        (0..N).for_each(|n| T::addresses(at + n * core::mem::size_of::<T>(), found));
    }
}

/// A field in C.
pub(super) fn c_field(ty: &str, name: &str) -> String {
    match ty.strip_prefix('[').and_then(|t| t.strip_suffix(']')).and_then(|t| t.split_once(';')) {
        Some((element, count)) => format!("  {} {name}[{}];\n", element.trim(), count.trim()),
        None => format!("  {ty} {name};\n"),
    }
}
