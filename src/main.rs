//! Fanwheel.
fn main() {}
