//! The `fanwheel` program: the allocator and the command line; everything else is the library.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    fanwheel::cli::run(give_back_memory)
}

/// Gives pages that the calling thread has freed back to the system. By itself the allocator does so
/// only while it is used: what a storm of connections took would stay with a node that is at rest.
#[allow(unsafe_code)]
fn give_back_memory() {
    // SAFETY: `mi_collect` looks after the calling thread's own heap; it may be called at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
