//! Real clients with a real registry.
