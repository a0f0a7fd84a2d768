"""Work that leaves loops: before and after, and what stays."""

from __future__ import annotations

from afterburner.passes.hoist_from_scans import hoist_from_scans

from .kit import check, check_unchanged


def test_a_product_of_rows_is_made_before_the_loop() -> None:
    check(hoist_from_scans, """
        graph g(%h: f32[2,4], %x: f32[5,2,3], %w: f32[3,4]) {
          %0: f32[2,4] = scan(%h, %x, %w) {steps=5, sliced=(True,), stacked=()} with
            graph turn(%h: f32[2,4], %x: f32[2,3], %w: f32[3,4]) {
              %0: f32[2,3] = neg(%x)
              %1: f32[2,4] = matmul(%0, %w) {transpose_a=False, transpose_b=False}
              %2: f32[2,4] = maximum(%h, %1)
              return %2
            }
          return %0
        }""", """
        graph g(%h: f32[2,4], %x: f32[5,2,3], %w: f32[3,4]) {
          %0: f32[5,2,3] = neg(%x)
          %1: f32[10,3] = reshape(%0) {shape=(10,3)}
          %2: f32[10,4] = matmul(%1, %w) {transpose_a=False, transpose_b=False}
          %3: f32[5,2,4] = reshape(%2) {shape=(5,2,4)}
          %4: f32[2,4] = scan(%h, %3) {steps=5, sliced=(True,), stacked=()} with
            graph turn(%h: f32[2,4], %ahead: f32[2,4]) {
              %0: f32[2,4] = maximum(%h, %ahead)
              return %0
            }
          return %4
        }""")


def test_a_bias_that_nothing_else_reads_goes_along_and_a_gate_stays() -> None:
    check(hoist_from_scans, """
        graph g(%h: f32[2,4], %x: f32[5,2,3], %w: f32[3,8], %b: f32[8]) {
          %0: f32[2,4] = scan(%h, %x, %w, %b) {steps=5, sliced=(False,), stacked=()} with
            graph turn(%h: f32[2,4], %x: f32[2,3], %w: f32[3,8], %b: f32[8]) {
              %0: f32[2,8] = matmul(%x, %w) {transpose_a=False, transpose_b=False}
              %1: f32[2,8] = broadcast(%b) {shape=(2,8), axes=(1,)}
              %2: f32[2,8] = add(%0, %1)
              %3: f32[2,4] = slice(%2) {starts=(0,0), limits=(2,4), strides=(1,1)}
              %4: f32[2,4] = slice(%2) {starts=(0,4), limits=(2,8), strides=(1,1)}
              %5: f32[2,4] = maximum(%h, %3)
              %6: f32[2,4] = minimum(%5, %4)
              return %6
            }
          return %0
        }""", """
        graph g(%h: f32[2,4], %x: f32[5,2,3], %w: f32[3,8], %b: f32[8]) {
          %0: f32[10,3] = reshape(%x) {shape=(10,3)}
          %1: f32[10,8] = matmul(%0, %w) {transpose_a=False, transpose_b=False}
          %2: f32[5,2,8] = reshape(%1) {shape=(5,2,8)}
          %3: f32[5,2,8] = broadcast(%b) {shape=(5,2,8), axes=(2,)}
          %4: f32[5,2,8] = add(%2, %3)
          %5: f32[2,4] = scan(%h, %4) {steps=5, sliced=(False,), stacked=()} with
            graph turn(%h: f32[2,4], %ahead: f32[2,8]) {
              %0: f32[2,4] = slice(%ahead) {starts=(0,0), limits=(2,4), strides=(1,1)}
              %1: f32[2,4] = slice(%ahead) {starts=(0,4), limits=(2,8), strides=(1,1)}
              %2: f32[2,4] = maximum(%h, %0)
              %3: f32[2,4] = minimum(%2, %1)
              return %3
            }
          return %5
        }""")


def test_what_is_the_same_in_every_turn_is_made_before_and_repeated_inside() -> None:
    check(hoist_from_scans, """
        graph g(%h: f16[2,4], %u: f32[4,4], %b: f32[4]) {
          %0: f16[2,4] = scan(%h, %u, %b) {steps=5, sliced=(), stacked=()} with
            graph turn(%h: f16[2,4], %u: f32[4,4], %b: f32[4]) {
              %0: f16[4,4] = cast(%u) {dtype=f16}
              %1: f16[2,4] = matmul(%h, %0) {transpose_a=False, transpose_b=False}
              %2: f16[4] = cast(%b) {dtype=f16}
              %3: f16[2,4] = broadcast(%2) {shape=(2,4), axes=(1,)}
              %4: f16[2,4] = maximum(%1, %3)
              return %4
            }
          return %0
        }""", """
        graph g(%h: f16[2,4], %u: f32[4,4], %b: f32[4]) {
          %0: f16[4,4] = cast(%u) {dtype=f16}
          %1: f16[4] = cast(%b) {dtype=f16}
          %2: f16[2,4] = scan(%h, %0, %1) {steps=5, sliced=(), stacked=()} with
            graph turn(%h: f16[2,4], %ahead: f16[4,4], %ahead_2: f16[4]) {
              %0: f16[2,4] = matmul(%h, %ahead) {transpose_a=False, transpose_b=False}
              %1: f16[2,4] = broadcast(%ahead_2) {shape=(2,4), axes=(1,)}
              %2: f16[2,4] = maximum(%0, %1)
              return %2
            }
          return %2
        }""")


def test_a_product_that_is_only_stacked_is_made_behind_the_loop() -> None:
    check(hoist_from_scans, """
        graph g(%h: f32[2,4], %x: f32[5,2,4], %w: f32[3,4]) {
          %0: f32[2,4], %1: f32[5,2,3] = scan(%h, %x, %w) {steps=5, sliced=(True,), stacked=(True,)} with
            graph turn(%h: f32[2,4], %x: f32[2,4], %w: f32[3,4]) {
              %0: f32[2,4] = maximum(%h, %x)
              %1: f32[2,3] = matmul(%0, %w) {transpose_a=False, transpose_b=True}
              %2: f32[2,3] = neg(%1)
              return %0, %2
            }
          return %0, %1
        }""", """
        graph g(%h: f32[2,4], %x: f32[5,2,4], %w: f32[3,4]) {
          %0: f32[2,4], %1: f32[5,2,4] = scan(%h, %x) {steps=5, sliced=(True,), stacked=(True,)} with
            graph turn(%h: f32[2,4], %x: f32[2,4]) {
              %0: f32[2,4] = maximum(%h, %x)
              return %0, %0
            }
          %2: f32[10,4] = reshape(%1) {shape=(10,4)}
          %3: f32[10,3] = matmul(%2, %w) {transpose_a=False, transpose_b=True}
          %4: f32[5,2,3] = reshape(%3) {shape=(5,2,3)}
          %5: f32[5,2,3] = neg(%4)
          return %0, %5
        }""")


SUMS = """
graph g(%first: i32[3,4], %bias: i32[4], %h: i32[2,4], %x: i32[5,2,3]) {
  %0: i32[3,4], %1: i32[4], %2: i32[2,4] = scan(%first, %bias, %h, %x) {steps=5, sliced=(True,), stacked=()} with
    graph turn(%sum: i32[3,4], %bias: i32[4], %h: i32[2,4], %x: i32[2,3]) {
      %0: i32[2,4] = mul(%h, %h)
      %1: i32[4] = reduce_sum(%0) {axes=(0,)}
      %2: i32[4] = add(%1, %bias)
      %3: i32[3,4] = matmul(%x, %0) {transpose_a=True, transpose_b=False}
      %4: i32[3,4] = add(%sum, %3)
      return %4, %2, %0
    }
  return %0, %1, %2
}"""


def test_a_sum_of_products_is_one_product() -> None:
    check(hoist_from_scans, SUMS, """
        graph g(%first: i32[3,4], %bias: i32[4], %h: i32[2,4], %x: i32[5,2,3]) {
          %0: i32[2,4], %1: i32[5,2,4] = scan(%h) {steps=5, sliced=(), stacked=(True,)} with
            graph turn(%h: i32[2,4]) {
              %0: i32[2,4] = mul(%h, %h)
              return %0, %0
            }
          %2: i32[10,3] = reshape(%x) {shape=(10,3)}
          %3: i32[10,4] = reshape(%1) {shape=(10,4)}
          %4: i32[3,4] = matmul(%2, %3) {transpose_a=True, transpose_b=False}
          %5: i32[3,4] = add(%first, %4)
          %6: i32[4] = reduce_sum(%1) {axes=(0,1)}
          %7: i32[4] = add(%bias, %6)
          return %5, %7, %0
        }""")


def test_a_sum_that_is_read_in_the_loop_stays() -> None:
    check_unchanged(hoist_from_scans, """
        graph g(%first: f32[3,4], %x: f32[5,2,3], %y: f32[5,2,4]) {
          %0: f32[3,4], %1: f32[5,3,4] = scan(%first, %x, %y) {steps=5, sliced=(True,False), stacked=(False,)} with
            graph turn(%sum: f32[3,4], %x: f32[2,3], %y: f32[2,4]) {
              %0: f32[3,4] = matmul(%x, %y) {transpose_a=True, transpose_b=False}
              %1: f32[3,4] = add(%sum, %0)
              return %1, %1
            }
          return %0, %1
        }""")


def test_elementwise_work_on_rows_stays_with_what_reads_it() -> None:
    check_unchanged(hoist_from_scans, """
        graph g(%h: f32[2], %x: f32[5,2], %n: i32[]) {
          %0: f32[2], %1: i32[], %2: f32[5,2] = scan(%h, %n, %x) {steps=5, sliced=(True,), stacked=(False,)} with
            graph turn(%h: f32[2], %n: i32[], %x: f32[2]) {
              %0: i32[] = constant() {value=1}
              %1: i32[] = sub(%n, %0)
              %2: f32[2] = exp(%x)
              %3: f32[2] = maximum(%h, %2)
              return %3, %1, %2
            }
          return %0, %1, %2
        }""")


def test_large_terms_are_added_up_in_the_loop() -> None:
    check_unchanged(hoist_from_scans, """
        graph g(%sum: f32[512,512], %h: f32[512,512]) {
          %0: f32[512,512], %1: f32[512,512] = scan(%sum, %h) {steps=5, sliced=(), stacked=()} with
            graph turn(%sum: f32[512,512], %h: f32[512,512]) {
              %0: f32[512,512] = mul(%h, %h)
              %1: f32[512,512] = add(%sum, %0)
              return %1, %0
            }
          return %0, %1
        }""")


def test_rows_of_two_orders_are_not_multiplied_before_the_loop() -> None:
    check_unchanged(hoist_from_scans, """
        graph g(%h: f32[2,3], %x: f32[5,2,3], %y: f32[5,2,3], %w: f32[3,3]) {
          %0: f32[2,3] = scan(%h, %x, %y, %w) {steps=5, sliced=(True,False), stacked=()} with
            graph turn(%h: f32[2,3], %x: f32[2,3], %y: f32[2,3], %w: f32[3,3]) {
              %0: f32[2,3] = add(%x, %y)
              %1: f32[2,3] = matmul(%0, %w) {transpose_a=False, transpose_b=False}
              %2: f32[2,3] = maximum(%1, %h)
              return %2
            }
          return %0
        }""")


def test_columns_do_not_follow_each_other() -> None:
    check_unchanged(hoist_from_scans, """
        graph g(%h: f32[2,3], %x: f32[5,3,2], %w: f32[3,3]) {
          %0: f32[2,3] = scan(%h, %x, %w) {steps=5, sliced=(True,), stacked=()} with
            graph turn(%h: f32[2,3], %x: f32[3,2], %w: f32[3,3]) {
              %0: f32[2,3] = matmul(%x, %w) {transpose_a=True, transpose_b=False}
              %1: f32[2,3] = maximum(%0, %h)
              return %1
            }
          return %0
        }""")


def test_products_that_would_be_much_larger_than_all_rows_stay() -> None:
    check_unchanged(hoist_from_scans, """
        graph g(%h: f32[2,9000], %x: f32[1000,2,3], %w: f32[3,9000]) {
          %0: f32[2,9000] = scan(%h, %x, %w) {steps=1000, sliced=(True,), stacked=()} with
            graph turn(%h: f32[2,9000], %x: f32[2,3], %w: f32[3,9000]) {
              %0: f32[2,9000] = matmul(%x, %w) {transpose_a=False, transpose_b=False}
              %1: f32[2,9000] = maximum(%0, %h)
              return %1
            }
          return %0
        }""")


def test_a_loop_without_a_state_is_none() -> None:
    check(hoist_from_scans, """
        graph g(%sum: i32[2], %x: i32[5,2], %c: i32[2]) {
          %0: i32[2], %1: i32[5,2], %2: i32[5,2], %3: i32[5,2] = scan(%sum, %x, %c) {steps=5, sliced=(True,), stacked=(False,True,True)} with
            graph turn(%sum: i32[2], %x: i32[2], %c: i32[2]) {
              %0: i32[2] = neg(%x)
              %1: i32[2] = add(%sum, %0)
              return %1, %x, %0, %c
            }
          return %0, %1, %2, %3
        }""", """
        graph g(%sum: i32[2], %x: i32[5,2], %c: i32[2]) {
          %0: i32[5,2] = neg(%x)
          %1: i32[2] = reduce_sum(%0) {axes=(0,)}
          %2: i32[2] = add(%sum, %1)
          %3: i32[5,2] = reverse(%x) {axes=(0,)}
          %4: i32[5,2] = broadcast(%c) {shape=(5,2), axes=(1,)}
          return %2, %3, %0, %4
        }""")  # noqa: E501
