"""Constant folding, common subexpressions, dead code."""

from afterburner.passes.eliminate_common_subexpressions import eliminate_common_subexpressions
from afterburner.passes.eliminate_dead_code import eliminate_dead_code
from afterburner.passes.fold_constants import MAX_ELEMENTS, fold_constants

from .kit import check, check_unchanged, graph_of


def test_folds_what_reads_constants_only() -> None:
    folded = fold_constants(graph_of("""
        graph g() {
          %0: f32[2] = constant() {value=[1.0,2.0]}
          %1: f32[2] = constant() {value=[0.5,-0.0]}
          %2: f32[2] = mul(%0, %1)
          return %2
        }"""))
    check(eliminate_dead_code, str(folded), """
        graph g() {
          %0: f32[2] = constant() {value=[0.5,-0.0]}
          return %0
        }""")


def test_does_not_fold_what_would_be_large() -> None:
    size = MAX_ELEMENTS + 1
    check_unchanged(fold_constants, f"""
        graph g(%x: f32[{size}]) {{
          %0: f32[] = constant() {{value=1.5}}
          %1: f32[{size}] = broadcast(%0) {{shape=({size},), axes=()}}
          %2: f32[{size}] = iota() {{dtype=f32, shape=({size},), axis=0}}
          %3: f32[{size}] = mul(%1, %2)
          return %3
        }}""")


def test_equal_elements_are_a_broadcast() -> None:
    check(fold_constants, """
        graph g(%x: f32[3]) {
          %0: f32[3] = constant() {value=[2.0,2.0,2.0]}
          %1: f32[3] = mul(%x, %0)
          return %1
        }""", """
        graph g(%x: f32[3]) {
          %0: f32[] = constant() {value=2.0}
          %1: f32[3] = broadcast(%0) {shape=(3,), axes=()}
          %2: f32[3] = mul(%x, %1)
          return %2
        }""")


def test_zeros_of_both_signs_are_not_equal() -> None:
    check_unchanged(fold_constants, """
        graph g() {
          %0: f32[2] = constant() {value=[0.0,-0.0]}
          return %0
        }""")


def test_computes_equal_expressions_once() -> None:
    check(eliminate_common_subexpressions, """
        graph g(%x: f32[4], %y: f32[4]) {
          %0: f32[4] = add(%x, %y)
          %1: f32[4] = add(%y, %x)
          %2: f32[4] = sub(%0, %1)
          return %2
        }""", """
        graph g(%x: f32[4], %y: f32[4]) {
          %0: f32[4] = add(%x, %y)
          %1: f32[4] = sub(%0, %0)
          return %1
        }""")


def test_operand_order_counts_where_zeros_differ() -> None:
    check_unchanged(eliminate_common_subexpressions, """
        graph g(%x: f32[4], %y: f32[4]) {
          %0: f32[4] = maximum(%x, %y)
          %1: f32[4] = maximum(%y, %x)
          %2: f32[4] = sub(%x, %y)
          %3: f32[4] = sub(%y, %x)
          return %0, %1, %2, %3
        }""")


def test_attributes_and_types_count() -> None:
    check_unchanged(eliminate_common_subexpressions, """
        graph g(%x: f32[2,2]) {
          %0: f32[2] = reduce_sum(%x) {axes=(0,)}
          %1: f32[2] = reduce_sum(%x) {axes=(1,)}
          %2: f32[] = constant() {value=0.0}
          %3: f64[] = constant() {value=0.0}
          %4: f32[] = constant() {value=-0.0}
          return %0, %1, %2, %3, %4
        }""")


def test_drops_what_no_output_needs() -> None:
    check(eliminate_dead_code, """
        graph g(%x: f32[4], %unused: f32[]) {
          %0: f32[4] = exp(%x)
          %1: f32[4] = log(%0)
          %2: f32[4] = neg(%x)
          return %2
        }""", """
        graph g(%x: f32[4], %unused: f32[]) {
          %0: f32[4] = neg(%x)
          return %0
        }""")


def test_a_result_beside_a_needed_one_stays() -> None:
    check_unchanged(eliminate_dead_code, """
        graph g(%x: i32[2]) {
          %0: u64[1], %1: u64[2] = random_key(%x)
          return %1
        }""")


def test_loops_over_the_same_with_different_turns_both_stay() -> None:
    check_unchanged(eliminate_common_subexpressions, """
        graph g(%h: f32[2], %x: f32[5,2]) {
          %0: f32[2] = scan(%h, %x) {steps=5, sliced=(False,), stacked=()} with
            graph turn(%h: f32[2], %x: f32[2]) {
              %0: f32[2] = add(%h, %x)
              return %0
            }
          %1: f32[2] = scan(%h, %x) {steps=5, sliced=(False,), stacked=()} with
            graph turn(%h: f32[2], %x: f32[2]) {
              %0: f32[2] = mul(%h, %x)
              return %0
            }
          return %0, %1
        }""")
