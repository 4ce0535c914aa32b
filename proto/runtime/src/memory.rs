//! Memory that nobody uses any more.

/// Gives what is free within this process back to the system: the allocator keeps it for itself where something that is used lies behind it. Threads that
/// allocate may wait for some milliseconds meanwhile, so it belongs behind the end of something large.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    trim();
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a function of C that no crate wraps")]
fn trim() {
    // SAFETY: it has no preconditions, touches nothing that is allocated, and may be called from any thread (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
}
