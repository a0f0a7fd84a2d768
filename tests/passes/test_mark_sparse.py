"""Convolutions that are told of the zeros in what they read."""

from afterburner.ir import parse_graph, print_graph
from afterburner.passes.mark_sparse import mark_sparse

from .kit import check, check_unchanged, graph_of

X, W, Y = "f32[1,5,4,2]", "f32[3,3,2,3]", "f32[1,3,2,3]"
CONV = "strides=(1,1), padding=((0,0),(0,0)), dilation=(1,1), groups=1"
ZERO = f"%s: f32[] = constant() {{value=0.0}}\n%z: {X} = broadcast(%s) {{shape=(1,5,4,2), axes=()}}\n"
ZERO_Y = f"%s: f32[] = constant() {{value=0.0}}\n%z: {Y} = broadcast(%s) {{shape=(1,3,2,3), axes=()}}\n"


def conv(image: str, mark: str) -> str:
    return f"graph g(%x: {X}, %w: {W}) {{\n{image}\n%y: {Y} = conv2d(%r, %w) {{{CONV}{mark}}}\nreturn %y\n}}"


def gradient(dy: str, mark: str) -> str:
    return (f"graph g(%w: {W}, %y: {Y}, %dy: {Y}) {{\n{ZERO_Y}{dy}\n"
            f"%dx: {X} = conv2d_input_grad(%w, %r) {{{CONV}, input_shape=(1,5,4,2){mark}}}\nreturn %dx\n}}")


MARK = ", sparse=True"
RELU = f"{ZERO}%r: {X} = maximum(%x, %z)"
MASKED = f"%p: bool[1,3,2,3] = greater(%y, %z)\n%r: {Y} = select(%p, %dy, %z)"


def test_behind_a_relu() -> None:
    check(mark_sparse, conv(RELU, ""), conv(RELU, MARK))


def test_behind_operations_that_keep_zeros() -> None:
    image = (f"{ZERO}%a: {X} = maximum(%x, %z)\n%b: {X} = mul(%x, %a)\n"
             f"%c: f32[1,4,5,2] = reshape(%b) {{shape=(1,4,5,2)}}\n%r: {X} = reshape(%c) {{shape=(1,5,4,2)}}")
    check(mark_sparse, conv(image, ""), conv(image, MARK))


def test_the_gradient_behind_the_gradient_of_a_relu() -> None:
    check(mark_sparse, gradient(MASKED, ""), gradient(MASKED, MARK))


def test_the_gradient_of_a_filter_behind_a_relu() -> None:
    def filter_gradient(mark: str) -> str:
        return (f"graph g(%x: {X}, %dy: {Y}) {{\n{RELU}\n%dw: f32[3,3,2,3] = conv2d_filter_grad(%r, %dy) "
                f"{{{CONV}, filter_shape=(3,3,2,3){mark}}}\nreturn %dw\n}}")

    check(mark_sparse, filter_gradient(""), filter_gradient(MARK))


def test_the_gradient_of_a_filter_for_a_masked_gradient() -> None:
    def filter_gradient(mark: str) -> str:
        return (f"graph g(%x: {X}, %y: {Y}, %dy: {Y}) {{\n{ZERO_Y}{MASKED}\n%dw: f32[3,3,2,3] = conv2d_filter_grad("
                f"%x, %r) {{{CONV}, filter_shape=(3,3,2,3){mark}}}\nreturn %dw\n}}")

    check(mark_sparse, filter_gradient(""), filter_gradient(", sparse_dy=True"))


def test_what_is_not_known_to_be_zero_is_not_marked() -> None:
    check_unchanged(mark_sparse, conv(f"%r: {X} = mul(%x, %x)", ""))
    check_unchanged(mark_sparse, conv(RELU.replace("value=0.0", "value=-1.0"), ""))
    both = f"{ZERO}%a: {X} = maximum(%x, %z)\n%r: {X} = add(%a, %x)"
    check_unchanged(mark_sparse, conv(both, ""))


def test_the_mark_is_printed_only_where_it_is_set() -> None:
    text = conv(RELU, MARK)
    assert "sparse=True" in print_graph(graph_of(text))
    assert "sparse" not in print_graph(parse_graph(text.replace(MARK, "")))
