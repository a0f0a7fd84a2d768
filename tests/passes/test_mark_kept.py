"""Convolutions that are told that their filter outlasts the run."""

from afterburner.ir import print_graph
from afterburner.passes.mark_kept import MOST_PIXELS, mark_kept

from .kit import check, check_unchanged, graph_of

X, W, Y = "f32[1,5,4,2]", "f32[3,3,2,3]", "f32[1,3,2,3]"
CONV = "strides=(1,1), padding=((0,0),(0,0)), dilation=(1,1), groups=1"
MARK = ", kept=True"


def conv(mark: str, state: str = " state", before: str = "%f: f32[3,3,2,3] = neg(%w)", update: str = "") -> str:
    return (f"graph g(%x: {X}, %w: {W}{state}) {{\n{before}\n%y: {Y} = conv2d(%x, %f) {{{CONV}{mark}}}\n"
            f"return %y{update}\n}}")


def gradient(mark: str) -> str:
    return (f"graph g(%dy: {Y}, %w: {W} state) {{\n"
            f"%dx: {X} = conv2d_input_grad(%w, %dy) {{{CONV}, input_shape=(1,5,4,2){mark}}}\nreturn %dx\n}}")


def test_what_is_made_of_variables_is_marked() -> None:
    check(mark_kept, conv(""), conv(MARK))
    check(mark_kept, gradient(""), gradient(MARK))


def test_what_is_made_of_other_inputs_is_not() -> None:
    check_unchanged(mark_kept, conv("", state=""))


def test_a_graph_that_writes_a_variable_finds_others_next_time() -> None:
    check_unchanged(mark_kept, conv("", update=", %f -> %w"))


def test_many_pixels_are_not_worth_it() -> None:
    rows = MOST_PIXELS // 2 + 1
    text = conv("").replace("1,5,4,2", f"1,{rows + 2},4,2").replace("1,3,2,3", f"1,{rows},2,3")
    check_unchanged(mark_kept, text)
    assert "kept" not in print_graph(graph_of(text))
