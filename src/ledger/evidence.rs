//! Checking evidence: entries that are leaves of the tree of one signed checkpoint.
