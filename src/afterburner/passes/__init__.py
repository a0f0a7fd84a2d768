"""Graph to graph, one pass a file named by its verb. None asks which target it is for; rematerialize and
skip_pooled_zeros estimate what a processor takes, in operations, bytes, lanes and cycles.

pipeline          the order they run in, the verifier after each; everywhere: also in the bodies of scans
eliminate_dead_code, fold_constants, simplify (its algebra in rules/), simplify_scans, eliminate_common_subexpressions,
record_maxima     repeated until nothing changes, with
hoist_from_scans  does for all turns of a loop at once what no turn has to wait for (scan_parts, batching), sums too
                  (scan_sums)
split_scans       cuts loops along the batch, where rows do not depend on each other
defer_affine      lets a dense block's gradient wait for what its normalizations add by channel
skip_pooled_zeros, mark_sparse, mark_kept
                  tell contractions which zeros may be left out, and which filters outlast a run (marks, lasting)
nest_concatenations
                  reads what another concatenation has joined already
fuse              groups nodes into kernels: fuse_epilogues for contractions, fusion_groups for what is legal, clusters
                  against cycles, fusion_bodies for the graph that results
fuse_prologues    has contractions make what they all can make as they read it (loop_parts)
concatenate_in_place
                  joins what is concatenated step by step in the same memory (loop_parts)
order             the sequence that needs least memory
rematerialize     computes large values a second time where that is cheaper than keeping them
plan_memory       then gives every value an address, by their lifetimes
rewriter          replaces nodes by what rules make of them
"""
