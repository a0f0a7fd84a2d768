"""Loop nests over one iteration space: fused elementwise work, data movement and reductions."""
