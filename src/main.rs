//! The `fanwheel` program: the allocator and the command line; everything else is the library.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    fanwheel::cli::run()
}
