"""Graph to graph, one pass a file named by its verb; none knows a target.

In the order they run: fold_constants, simplify, eliminate_common_subexpressions,
eliminate_dead_code, fuse, order; then plan_memory gives every value an address.
"""
