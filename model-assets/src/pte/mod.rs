//! The `.pte` reader and verifier.
