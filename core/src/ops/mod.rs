//! Element-wise operations that models share, in one place so that they can be fused.
