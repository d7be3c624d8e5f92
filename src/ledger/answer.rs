//! Checking answers against their evidence, and saying in words what was checked.
