//! The locks of the turnstile: the standard library's. tests/interleavings has others in their place, which try every order
//! in which threads can come to them.

pub use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
