//! The `portway` program; see [`portway::cli`].

fn main() {}
