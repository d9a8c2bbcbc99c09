//! The locks of the turnstile and of the stop request: the standard library's. tests/interleavings has others in their place, which try every order
//! in which threads can come to them.

pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
