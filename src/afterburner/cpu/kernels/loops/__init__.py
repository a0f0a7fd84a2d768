"""Loop nests over one iteration space: fused elementwise work, data movement and reductions.

    body.py        the graph of a node and the space its outputs share
    expr.py        values at symbolic indices, down to loads: shape operations vanish
    nest.py        axes merged to loops, loops cut into chunks, vector steps
    values.py      expressions to LLVM values, each at the outermost level that can compute it
    maps.py        kernels whose outputs have an element for every point; turns.py transposes blocks
    reductions.py  kernels that combine elements along axes; reducers.py holds the algebra
    scan.py        running sums
"""
