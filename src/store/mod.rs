//! Rows on disk, behind one narrow trait.
