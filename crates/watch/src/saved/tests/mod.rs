//! Tests of the saved world.
