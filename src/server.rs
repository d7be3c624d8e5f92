//! Wires the service together.
