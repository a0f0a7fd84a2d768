"""Concatenations that begin with what another one has joined."""

from afterburner.passes.nest_concatenations import nest_concatenations

from .kit import check, check_unchanged

BLOCK = """graph g(%a: f32[64,16,32], %b: f32[64,16,8], %c: f32[64,16,8]) {
  %0: f32[64,16,40] = concat(%a, %b) {axis=2}
  %1: f32[64,16,40] = exp(%0)
  %2: f32[64,16,40] = neg(%0)
  %3: f32[64,16,48] = concat(%a, %b, %c) {axis=2}
  %4: f32[64,16,48] = exp(%3)
  %5: f32[64,16,48] = neg(%3)
  %6: f32[64,16,56] = concat(%a, %b, %c, %c) {axis=2}
  return %1, %2, %4, %5, %6
}"""


def test_the_longest_one_is_read() -> None:
    check(nest_concatenations, BLOCK, BLOCK.replace("concat(%a, %b, %c, %c)", "concat(%3, %c)").replace(
        "concat(%a, %b, %c)", "concat(%0, %c)"))


def test_not_one_that_a_single_kernel_reads() -> None:
    check_unchanged(nest_concatenations, BLOCK.replace("neg(%0)", "neg(%1)").replace("neg(%3)", "neg(%4)"))


def test_not_of_small_tensors() -> None:
    check_unchanged(nest_concatenations, BLOCK.replace("f32[64,16", "f32[2,16"))


def test_not_along_another_axis() -> None:
    text = """graph g(%a: f32[64,16,32], %b: f32[64,16,32]) {
      %0: f32[64,16,64] = concat(%a, %b) {axis=2}
      %1: f32[64,16,64] = exp(%0)
      %2: f32[64,16,64] = neg(%0)
      %3: f32[64,48,32] = concat(%a, %b, %b) {axis=1}
      return %1, %2, %3
    }"""
    check_unchanged(nest_concatenations, text)


def test_only_first_parts() -> None:
    text = BLOCK.replace("concat(%a, %b, %c)", "concat(%c, %a, %b)").replace("concat(%a, %b, %c, %c)",
                                                                            "concat(%b, %a, %c, %c)")
    check_unchanged(nest_concatenations, text)
