//! The sequencer that writes, and the queries that read.
