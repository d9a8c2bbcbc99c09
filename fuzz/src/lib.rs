//! The decoder and the encoder, built from the program's own sources.
//!
//! They import nothing of the program but what is listed here, so that fuzzing builds no Kafka client, no PostgreSQL
//! client and no TLS.

#[path = "../../src"]
mod program {
    pub mod batch;
    pub mod decimal;
    pub mod decode;
    pub mod record;
    pub mod row;
    pub mod work;

    #[path = "database/binary.rs"]
    pub mod binary;
}

pub use program::*;

pub mod choices;
pub mod grammar;
pub mod mutation;
pub mod quote;
