"""Exact algebra: each rewrite, and beside it the look-alike that must not be made."""

import pytest

from afterburner.passes.simplify import simplify

from .kit import check, check_unchanged


def unary(body: str, type_: str = "f32[4]") -> str:
    """A graph over %x; ``body`` ends with the line that defines %r."""
    return f"graph g(%x: {type_}, %y: {type_}, %b: bool[4]) {{\n{body}\n}}"


def constant(number: str, dtype: str = "f32", shape: str = "4") -> str:
    return (f"%s: {dtype}[] = constant() {{value={number}}}\n"
            f"%c: {dtype}[{shape}] = broadcast(%s) {{shape=({shape},), axes=()}}\n")


@pytest.mark.parametrize("op,number,dtype", [
    ("mul", "1.0", "f32"), ("div", "1.0", "f32"), ("add", "-0.0", "f32"), ("sub", "0.0", "f32"),
    ("pow", "1.0", "f32"), ("add", "0", "i32"), ("sub", "0", "i32"), ("mul", "1", "i32"),
    ("floor_div", "1", "i32"), ("trunc_div", "1", "i32"), ("bitwise_or", "0", "i32"), ("bitwise_xor", "0", "i32"),
    ("bitwise_and", "-1", "i32"), ("shift_left", "0", "i32"), ("maximum", "-2147483648", "i32"),
    ("minimum", "2147483647", "i32"),
])
def test_units_vanish(op: str, number: str, dtype: str) -> None:
    type_ = f"{dtype}[4]"
    before = unary(constant(number, dtype) + f"%r: {type_} = {op}(%x, %c)\nreturn %r", type_)
    check(simplify, before, unary("return %x", type_))


@pytest.mark.parametrize("op,number", [("add", "0.0"), ("sub", "-0.0"), ("mul", "0.0"), ("pow", "0.5")])
def test_what_only_looks_like_a_unit_stays(op: str, number: str) -> None:
    # x + 0.0 turns -0.0 into 0.0; x * 0.0 is NaN for infinities; (-inf) ** 0.5 is inf.
    body = (f"%0: f32[] = constant() {{value={number}}}\n%1: f32[4] = broadcast(%0) {{shape=(4,), axes=()}}\n"
            f"%2: f32[4] = {op}(%x, %1)\nreturn %2")
    check_unchanged(simplify, unary(body))


@pytest.mark.parametrize("op,number", [("mul", "0"), ("bitwise_and", "0"), ("floor_mod", "1"), ("trunc_mod", "1")])
def test_integers_vanish(op: str, number: str) -> None:
    before = unary(constant(number, "i32") + f"%r: i32[4] = {op}(%x, %c)\nreturn %r", "i32[4]")
    check(simplify, before, unary(constant("0", "i32") + "return %c", "i32[4]"))


def test_adding_positive_zero_to_what_cannot_be_minus_zero() -> None:
    one = constant("1.0").replace("%s", "%one").replace("%c", "%ones")
    before = unary(one + constant("0.0") + "%0: f32[4] = sub(%x, %ones)\n%r: f32[4] = add(%0, %c)\nreturn %r")
    check(simplify, before, unary(one + "%r: f32[4] = sub(%x, %ones)\nreturn %r"))


def test_negations_cancel() -> None:
    check(simplify, unary("%0: f32[4] = neg(%x)\n%1: f32[4] = neg(%0)\nreturn %1"), unary("return %x"))
    check(simplify, unary("%0: f32[4] = neg(%y)\n%1: f32[4] = add(%x, %0)\nreturn %1"),
          unary("%0: f32[4] = sub(%x, %y)\nreturn %0"))
    check(simplify, unary("%0: f32[4] = neg(%y)\n%1: f32[4] = sub(%x, %0)\nreturn %1"),
          unary("%0: f32[4] = add(%x, %y)\nreturn %0"))


def test_division_by_powers_of_two() -> None:
    check(simplify, unary(constant("8.0") + "%r: f32[4] = div(%x, %c)\nreturn %r"),
          unary(constant("0.125") + "%r: f32[4] = mul(%x, %c)\nreturn %r"))


@pytest.mark.parametrize("number", ["3.0", "1.7014118346046923e+38"])
def test_division_that_a_reciprocal_would_round(number: str) -> None:
    check_unchanged(simplify, unary(constant(number) + "%r: f32[4] = div(%x, %c)\nreturn %r"))


def test_squares() -> None:
    check(simplify, unary(constant("2.0") + "%r: f32[4] = pow(%x, %c)\nreturn %r"),
          unary("%r: f32[4] = mul(%x, %x)\nreturn %r"))


def test_select() -> None:
    check(simplify, unary("%0: f32[4] = select(%b, %x, %x)\nreturn %0"), unary("return %x"))
    check(simplify, unary("%0: bool[4] = logical_not(%b)\n%1: f32[4] = select(%0, %x, %y)\nreturn %1"),
          unary("%0: f32[4] = select(%b, %y, %x)\nreturn %0"))
    check(simplify, unary(constant("True", "bool") + "%0: f32[4] = select(%c, %x, %y)\nreturn %0"), unary("return %x"))


def test_comparisons_with_oneself() -> None:
    false = constant("False", "bool")
    check(simplify, unary("%0: bool[4] = less(%x, %x)\nreturn %0"), unary(false + "return %c"))
    check_unchanged(simplify, unary("%0: bool[4] = less_equal(%x, %x)\nreturn %0"))  # NaN
    check_unchanged(simplify, unary("%0: bool[4] = equal(%x, %x)\nreturn %0"))


def test_negated_comparisons() -> None:
    check(simplify, unary("%0: bool[4] = equal(%x, %y)\n%1: bool[4] = logical_not(%0)\nreturn %1"),
          unary("%0: bool[4] = not_equal(%x, %y)\nreturn %0"))
    check_unchanged(simplify, unary("%0: bool[4] = less(%x, %y)\n%1: bool[4] = logical_not(%0)\nreturn %1"))
    check(simplify, unary("%0: bool[4] = less(%x, %y)\n%1: bool[4] = logical_not(%0)\nreturn %1", "i32[4]"),
          unary("%0: bool[4] = greater_equal(%x, %y)\nreturn %0", "i32[4]"))


def test_lossless_casts_are_skipped() -> None:
    check(simplify, unary("%0: f64[4] = cast(%x) {dtype=f64}\n%1: f32[4] = cast(%0) {dtype=f32}\nreturn %1"),
          unary("return %x"))
    check(simplify, unary("%0: i32[4] = cast(%b) {dtype=i32}\n%1: f32[4] = cast(%0) {dtype=f32}\nreturn %1"),
          unary("%0: f32[4] = cast(%b) {dtype=f32}\nreturn %0"))


@pytest.mark.parametrize("through,back,type_", [("f16", "f32", "f32[4]"), ("f32", "i32", "i32[4]"),
                                                ("i8", "i32", "i32[4]"), ("i32", "f32", "f32[4]")])
def test_lossy_casts_stay(through: str, back: str, type_: str) -> None:
    check_unchanged(simplify, unary(
        f"%0: {through}[4] = cast(%x) {{dtype={through}}}\n%1: {type_} = cast(%0) {{dtype={back}}}\nreturn %1", type_))


def shapes(signature: str, body: str) -> str:
    return f"graph g({signature}) {{\n{body}\n}}"


def test_transposes_compose() -> None:
    x = "%x: f32[2,3,4]"
    check(simplify, shapes(x, "%0: f32[4,2,3] = transpose(%x) {perm=(2,0,1)}\n"
                              "%1: f32[2,3,4] = transpose(%0) {perm=(1,2,0)}\nreturn %1"), shapes(x, "return %x"))


def test_transposing_axes_of_size_one_is_a_reshape() -> None:
    x = "%x: f32[2,1,4]"
    check(simplify, shapes(x, "%0: f32[1,2,4] = transpose(%x) {perm=(1,0,2)}\nreturn %0"),
          shapes(x, "%0: f32[1,2,4] = reshape(%x) {shape=(1,2,4)}\nreturn %0"))


def test_reshapes_compose() -> None:
    x = "%x: f32[2,6]"
    check(simplify, shapes(x, "%0: f32[12] = reshape(%x) {shape=(12,)}\n"
                              "%1: f32[2,6] = reshape(%0) {shape=(2,6)}\nreturn %1"), shapes(x, "return %x"))


def test_broadcasts_compose_and_lose_axes_of_size_one() -> None:
    x = "%x: f32[1,3]"
    check(simplify,
          shapes(x, "%0: f32[2,3] = broadcast(%x) {shape=(2,3), axes=(0,1)}\n"
                    "%1: f32[4,2,3] = broadcast(%0) {shape=(4,2,3), axes=(1,2)}\nreturn %1"),
          shapes(x, "%0: f32[3] = reshape(%x) {shape=(3,)}\n"
                    "%1: f32[4,2,3] = broadcast(%0) {shape=(4,2,3), axes=(2,)}\nreturn %1"))


def test_broadcast_to_axes_of_size_one_is_a_reshape() -> None:
    x = "%x: f32[3]"
    check(simplify, shapes(x, "%0: f32[1,3,1] = broadcast(%x) {shape=(1,3,1), axes=(1,)}\nreturn %0"),
          shapes(x, "%0: f32[1,3,1] = reshape(%x) {shape=(1,3,1)}\nreturn %0"))


def test_elementwise_work_is_done_before_repeating() -> None:
    x = "%x: f32[3], %y: f32[]"
    check(simplify,
          shapes(x, "%0: f32[2,3] = broadcast(%x) {shape=(2,3), axes=(1,)}\n"
                    "%1: f32[2,3] = broadcast(%y) {shape=(2,3), axes=()}\n"
                    "%2: f32[2,3] = exp(%1)\n%3: f32[2,3] = mul(%0, %2)\nreturn %3"),
          shapes(x, "%0: f32[] = exp(%y)\n%1: f32[3] = broadcast(%0) {shape=(3,), axes=()}\n"
                    "%2: f32[3] = mul(%x, %1)\n%3: f32[2,3] = broadcast(%2) {shape=(2,3), axes=(1,)}\nreturn %3"))


def test_reshapes_sink_below_elementwise_work() -> None:
    x = "%x: f32[4,3,5], %b: f32[5]"
    check(simplify,
          shapes(x, "%0: f32[12,5] = reshape(%x) {shape=(12,5)}\n"
                    "%1: f32[12,5] = broadcast(%b) {shape=(12,5), axes=(1,)}\n"
                    "%2: f32[12,5] = add(%0, %1)\nreturn %2"),
          shapes(x, "%0: f32[4,3,5] = broadcast(%b) {shape=(4,3,5), axes=(2,)}\n"
                    "%1: f32[4,3,5] = add(%x, %0)\n%2: f32[12,5] = reshape(%1) {shape=(12,5)}\nreturn %2"))


def test_slices() -> None:
    x = "%x: f32[10]"
    check(simplify, shapes(x, "%0: f32[10] = slice(%x) {starts=(0,), limits=(10,), strides=(1,)}\nreturn %0"),
          shapes(x, "return %x"))
    check(simplify,
          shapes(x, "%0: f32[4] = slice(%x) {starts=(1,), limits=(8,), strides=(2,)}\n"
                    "%1: f32[2] = slice(%0) {starts=(1,), limits=(4,), strides=(2,)}\nreturn %1"),
          shapes(x, "%0: f32[2] = slice(%x) {starts=(3,), limits=(8,), strides=(4,)}\nreturn %0"))


def test_slice_of_concat_reads_one_part() -> None:
    x = "%x: f32[4], %y: f32[4]"
    check(simplify,
          shapes(x, "%0: f32[8] = concat(%x, %y) {axis=0}\n"
                    "%1: f32[2] = slice(%0) {starts=(5,), limits=(7,), strides=(1,)}\nreturn %1"),
          shapes(x, "%0: f32[2] = slice(%y) {starts=(1,), limits=(3,), strides=(1,)}\nreturn %0"))


def test_concat_of_neighbouring_slices_is_one_slice() -> None:
    x = "%x: f32[8]"
    check(simplify,
          shapes(x, "%0: f32[2] = slice(%x) {starts=(1,), limits=(3,), strides=(1,)}\n"
                    "%1: f32[3] = slice(%x) {starts=(3,), limits=(6,), strides=(1,)}\n"
                    "%2: f32[5] = concat(%0, %1) {axis=0}\nreturn %2"),
          shapes(x, "%0: f32[5] = slice(%x) {starts=(1,), limits=(6,), strides=(1,)}\nreturn %0"))


def test_padding_by_nothing_and_less() -> None:
    x = "%x: f32[4], %v: f32[]"
    check(simplify, shapes(x, "%0: f32[4] = pad(%x, %v) {low=(0,), high=(0,), interior=(0,)}\nreturn %0"),
          shapes(x, "return %x"))
    check(simplify, shapes(x, "%0: f32[3] = pad(%x, %v) {low=(-1,), high=(0,), interior=(0,)}\nreturn %0"),
          shapes(x, "%0: f32[3] = slice(%x) {starts=(1,), limits=(4,), strides=(1,)}\nreturn %0"))


def test_reverses_cancel() -> None:
    x = "%x: f32[4,1]"
    check(simplify, shapes(x, "%0: f32[4,1] = reverse(%x) {axes=(0,1)}\n"
                              "%1: f32[4,1] = reverse(%0) {axes=(0,)}\nreturn %1"), shapes(x, "return %x"))


def test_reductions_over_nothing_and_axes_of_size_one() -> None:
    x = "%x: f32[3,1]"
    check(simplify, shapes(x, "%0: f32[3,1] = reduce_sum(%x) {axes=()}\nreturn %0"), shapes(x, "return %x"))
    check(simplify, shapes(x, "%0: f32[3] = reduce_sum(%x) {axes=(1,)}\nreturn %0"),
          shapes(x, "%0: f32[3] = reshape(%x) {shape=(3,)}\nreturn %0"))
    check(simplify, shapes("%x: f32[0,2]", "%0: f32[2] = reduce_max(%x) {axes=(0,)}\nreturn %0"),
          shapes("%x: f32[0,2]", "%0: f32[] = constant() {value=-inf}\n"
                                 "%1: f32[2] = broadcast(%0) {shape=(2,), axes=()}\nreturn %1"))


def test_sums_keep_their_order() -> None:
    text = "%0: f32[3] = reduce_sum(%x) {axes=(1,)}\n%1: f32[] = reduce_sum(%0) {axes=(0,)}\nreturn %1"
    check_unchanged(simplify, shapes("%x: f32[3,2]", text))
    check(simplify, shapes("%x: f32[3,2]", text.replace("sum", "max")),
          shapes("%x: f32[3,2]", "%0: f32[] = reduce_max(%x) {axes=(0,1)}\nreturn %0"))


def test_transposed_operands_become_flags() -> None:
    x = "%x: f32[3,2], %w: f32[3,4]"
    check(simplify,
          shapes(x, "%0: f32[2,3] = transpose(%x) {perm=(1,0)}\n"
                    "%1: f32[2,4] = matmul(%0, %w) {transpose_a=False, transpose_b=False}\nreturn %1"),
          shapes(x, "%0: f32[2,4] = matmul(%x, %w) {transpose_a=True, transpose_b=False}\nreturn %0"))


def test_repeated_matrix_loses_its_batch() -> None:
    x = "%x: f32[2,3,4], %w: f32[4,5]"
    check(simplify,
          shapes(x, "%0: f32[2,4,5] = broadcast(%w) {shape=(2,4,5), axes=(1,2)}\n"
                    "%1: f32[2,3,5] = matmul(%x, %0) {transpose_a=False, transpose_b=False}\nreturn %1"),
          shapes(x, "%0: f32[6,4] = reshape(%x) {shape=(6,4)}\n"
                    "%1: f32[6,5] = matmul(%0, %w) {transpose_a=False, transpose_b=False}\n"
                    "%2: f32[2,3,5] = reshape(%1) {shape=(2,3,5)}\nreturn %2"))


_CONV = "strides=(1,1), padding=((%s),(%s)), dilation=(1,1), groups=1"


def test_zero_padding_joins_the_convolution() -> None:
    x = "%x: f32[1,4,4,1], %w: f32[3,3,1,2]"
    check(simplify,
          shapes(x, "%0: f32[] = constant() {value=0.0}\n"
                    "%1: f32[1,6,5,1] = pad(%x, %0) {low=(0,1,0,0), high=(0,1,1,0), interior=(0,0,0,0)}\n"
                    f"%2: f32[1,4,3,2] = conv2d(%1, %w) {{{_CONV % ('0,0', '0,0')}}}\nreturn %2"),
          shapes(x, f"%0: f32[1,4,3,2] = conv2d(%x, %w) {{{_CONV % ('1,1', '0,1')}}}\nreturn %0"))


def test_other_padding_does_not() -> None:
    check_unchanged(simplify, shapes(
        "%x: f32[1,4,4,1], %w: f32[3,3,1,2]",
        "%0: f32[] = constant() {value=1.0}\n"
        "%1: f32[1,6,5,1] = pad(%x, %0) {low=(0,1,0,0), high=(0,1,1,0), interior=(0,0,0,0)}\n"
        f"%2: f32[1,4,3,2] = conv2d(%1, %w) {{{_CONV % ('0,0', '0,0')}}}\nreturn %2"))


def test_inside_of_an_input_gradient() -> None:
    x = "%w: f32[3,3,1,2], %dy: f32[1,4,4,2]"
    before = ("%0: f32[1,6,6,1] = conv2d_input_grad(%w, %dy) "
              f"{{{_CONV % ('0,0', '0,0')}, input_shape=(1,6,6,1)}}\n"
              "%1: f32[1,4,4,1] = slice(%0) {starts=(0,1,1,0), limits=(1,5,5,1), strides=(1,1,1,1)}\n")
    check(simplify, shapes(x, before + "return %1"),
          shapes(x, "%0: f32[1,4,4,1] = conv2d_input_grad(%w, %dy) "
                    f"{{{_CONV % ('1,1', '1,1')}, input_shape=(1,4,4,1)}}\nreturn %0"))
    check_unchanged(simplify, shapes(x, before + "return %1, %0"))  # it would be computed twice


def test_gather_at_a_known_index_is_a_slice() -> None:
    x = "%x: f32[3,2]"
    check(simplify,
          shapes(x, "%0: i32[] = constant() {value=7}\n%1: f32[2] = gather(%x, %0) {axis=0}\nreturn %1"),
          shapes(x, "%0: f32[1,2] = slice(%x) {starts=(2,0), limits=(3,2), strides=(1,1)}\n"
                    "%1: f32[2] = reshape(%0) {shape=(2,)}\nreturn %1"))


def test_bias_of_split_axes_takes_the_shape_of_the_product() -> None:
    # A dense layer with two output axes: the bias is read as a row, so the addition can be an epilogue.
    x = "%x: f32[6,5], %w: f32[5,8], %b: f32[2,4]"
    check(simplify,
          shapes(x, "%0: f32[6,8] = matmul(%x, %w) {transpose_a=False, transpose_b=False}\n"
                    "%1: f32[3,2,2,4] = reshape(%0) {shape=(3,2,2,4)}\n"
                    "%2: f32[3,2,2,4] = broadcast(%b) {shape=(3,2,2,4), axes=(2,3)}\n"
                    "%3: f32[3,2,2,4] = add(%1, %2)\nreturn %3"),
          shapes(x, "%0: f32[6,8] = matmul(%x, %w) {transpose_a=False, transpose_b=False}\n"
                    "%1: f32[8] = reshape(%b) {shape=(8,)}\n"
                    "%2: f32[6,8] = broadcast(%1) {shape=(6,8), axes=(1,)}\n"
                    "%3: f32[6,8] = add(%0, %2)\n"
                    "%4: f32[3,2,2,4] = reshape(%3) {shape=(3,2,2,4)}\nreturn %4"))


def test_residual_takes_the_shape_of_the_product() -> None:
    x = "%x: f32[6,5], %w: f32[5,8], %r: f32[2,3,8]"
    check(simplify,
          shapes(x, "%0: f32[6,8] = matmul(%x, %w) {transpose_a=False, transpose_b=False}\n"
                    "%1: f32[2,3,8] = reshape(%0) {shape=(2,3,8)}\n"
                    "%2: f32[2,3,8] = add(%1, %r)\nreturn %2"),
          shapes(x, "%0: f32[6,8] = matmul(%x, %w) {transpose_a=False, transpose_b=False}\n"
                    "%1: f32[6,8] = reshape(%r) {shape=(6,8)}\n%2: f32[6,8] = add(%0, %1)\n"
                    "%3: f32[2,3,8] = reshape(%2) {shape=(2,3,8)}\nreturn %3"))
    check_unchanged(simplify, shapes("%x: f32[6,8], %r: f32[2,3,8]",
                                     "%0: f32[2,3,8] = reshape(%x) {shape=(2,3,8)}\n"
                                     "%1: f32[2,3,8] = add(%0, %r)\nreturn %1"))


def test_statistics_of_split_rows_are_statistics_of_rows() -> None:
    x = "%x: f32[6,8]"
    check(simplify,
          shapes(x, "%0: f32[2,3,8] = reshape(%x) {shape=(2,3,8)}\n"
                    "%1: f32[2,3] = reduce_max(%0) {axes=(2,)}\n"
                    "%2: f32[2,3,8] = broadcast(%1) {shape=(2,3,8), axes=(0,1)}\n"
                    "%3: f32[2,3,8] = sub(%0, %2)\nreturn %3"),
          shapes(x, "%0: f32[6] = reduce_max(%x) {axes=(1,)}\n"
                    "%1: f32[6,8] = broadcast(%0) {shape=(6,8), axes=(0,)}\n%2: f32[6,8] = sub(%x, %1)\n"
                    "%3: f32[2,3,8] = reshape(%2) {shape=(2,3,8)}\nreturn %3"))
    check_unchanged(simplify, shapes(x, "%0: f32[2,3,8] = reshape(%x) {shape=(2,3,8)}\n"
                                        "%1: f32[3,8] = reduce_max(%0) {axes=(0,)}\nreturn %1"))


def test_column_that_is_split_and_repeated_is_repeated_before() -> None:
    # Grey values: a product with one column, in the shape of the image, for each color.
    x = "%x: f32[6,1]"
    check(simplify,
          shapes(x, "%0: f32[2,3] = reshape(%x) {shape=(2,3)}\n"
                    "%1: f32[2,3,4] = broadcast(%0) {shape=(2,3,4), axes=(0,1)}\nreturn %1"),
          shapes(x, "%0: f32[6] = reshape(%x) {shape=(6,)}\n"
                    "%1: f32[6,4] = broadcast(%0) {shape=(6,4), axes=(0,)}\n"
                    "%2: f32[2,3,4] = reshape(%1) {shape=(2,3,4)}\nreturn %2"))


def test_transposed_operands_keep_whole_rows() -> None:
    # Attention reads keys as rows and as columns: both read one tensor.
    x = "%q: f32[2,3,4], %k: f32[2,3,4]"
    check(simplify,
          shapes(x, "%0: f32[3,4,2] = transpose(%k) {perm=(1,2,0)}\n"
                    "%1: f32[3,2,4] = transpose(%q) {perm=(1,0,2)}\n"
                    "%2: f32[3,2,2] = matmul(%1, %0) {transpose_a=False, transpose_b=False}\nreturn %2"),
          shapes(x, "%0: f32[3,2,4] = transpose(%q) {perm=(1,0,2)}\n"
                    "%1: f32[3,2,4] = transpose(%k) {perm=(1,0,2)}\n"
                    "%2: f32[3,2,2] = matmul(%0, %1) {transpose_a=False, transpose_b=True}\nreturn %2"))
