"""Graph to graph, one pass a file named by its verb; none knows a target.

pipeline          the order they run in, the verifier after each
fold_constants, simplify (its algebra in rules/), eliminate_common_subexpressions, eliminate_dead_code
                  repeated until nothing changes
fuse              groups nodes into kernels: fuse_epilogues for contractions, fusion_groups for what is
                  legal, clusters against cycles, fusion_bodies for the graph that results
order             the sequence that needs least memory
plan_memory       then gives every value an address
"""
