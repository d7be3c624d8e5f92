//! Changes and what follows from them.
