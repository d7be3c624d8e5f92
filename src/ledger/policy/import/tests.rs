//! Exports of the documented shapes.
