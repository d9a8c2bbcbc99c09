//! The pool that every connection comes out of, so that their number has a limit.
//!
//! What r2d2 hands out is a [`Slot`]: the right to one connection, which is made by whoever holds it, when needed. Left
//! to r2d2, connecting would happen on its three threads, be tried again for ever behind everybody's back (each attempt
//! at most half its timeout after the last), and fail as a string after the whole timeout. So its threads never connect
//! here, and a failure is known at once, sorted, by the thread that has its own back-off for it.

use super::connect::Connector;
use super::failure::plain;
use super::session::Session;
use crate::fault::{Failure, Fault};
use r2d2::{ManageConnection, NopErrorHandler, PooledConnection};
use std::convert::Infallible;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// How long somebody waits for a slot. All are held for good, so that nobody should.
const SLOT_WAIT_MAX: Duration = Duration::from_secs(10);

/// The right to one connection.
#[derive(Debug)]
pub(super) struct Slot {
    session: Option<Session>,
}

/// Makes slots.
#[derive(Debug)]
struct Slots;

impl ManageConnection for Slots {
    type Connection = Slot;
    type Error = Infallible;

    fn connect(&self) -> Result<Slot, Infallible> {
        Ok(Slot { session: None })
    }

    fn is_valid(&self, _: &mut Slot) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, slot: &mut Slot) -> bool {
        !slot.session.as_ref().is_some_and(Session::is_good)
    }
}

/// All slots of this process.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    slots: r2d2::Pool<Slots>,
    connector: Connector,
}

/// A slot with its connection, until it is dropped. A connection that isn't good any more is not put back.
pub(super) struct Held(PooledConnection<Slots>);

impl Pool {
    /// A pool of `size_max` connections, none of them made yet.
    pub(super) fn new(connector: Connector, size_max: u32) -> Self {
        let slots = r2d2::Pool::builder()
            .max_size(size_max)
            .min_idle(Some(0))
            .test_on_check_out(false)
            .max_lifetime(None)
            .idle_timeout(None)
            .connection_timeout(SLOT_WAIT_MAX)
            .error_handler(Box::new(NopErrorHandler))
            .build_unchecked(Slots);
        Pool { slots, connector }
    }

    /// A good connection: one that was put back, or a new one.
    pub(super) fn get(&self) -> Result<Held, Failure> {
        let mut slot = self.slots.get().map_err(|_| {
            let size = self.slots.max_size();
            plain(Fault::Resource, format!("waiting for one of {size} database connections: all are in use"))
        })?;
        if !slot.session.as_ref().is_some_and(Session::is_good) {
            slot.session = None;
            slot.session = Some(self.connector.connect()?);
        }
        Ok(Held(slot))
    }
}

impl Deref for Held {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.0.session.as_ref().expect("a held slot has a connection")
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Session {
        self.0.session.as_mut().expect("a held slot has a connection")
    }
}
