"""Loops without what nobody needs, and with what their bodies can fold."""

# ruff: noqa: E501

from __future__ import annotations

from afterburner.passes.pipeline import optimize
from afterburner.passes.simplify_scans import simplify_scans

from .kit import check, check_unchanged, graph_of, text_of


def test_drops_counters_and_stacks_that_nobody_reads() -> None:
    check(simplify_scans, """
        graph g(%a: f32[4], %n: i32[], %x: f32[3,4], %y: f32[3,4], %w: f32[4]) {
          %0: f32[4], %1: i32[], %2: f32[3,4] = scan(%a, %n, %x, %y, %w) {steps=3, sliced=(True,False), stacked=(True,)} with
            graph body(%a: f32[4], %n: i32[], %x: f32[4], %y: f32[4], %w: f32[4]) {
              %0: i32[] = add(%n, %n)
              %1: f32[4] = add(%a, %x)
              %2: f32[4] = mul(%y, %w)
              return %1, %0, %2
            }
          return %0
        }""", """
        graph g(%a: f32[4], %n: i32[], %x: f32[3,4], %y: f32[3,4], %w: f32[4]) {
          %0: f32[4] = scan(%a, %x) {steps=3, sliced=(True,), stacked=()} with
            graph turn(%state0: f32[4], %row0: f32[4]) {
              %0: f32[4] = add(%state0, %row0)
              return %0
            }
          return %0
        }""")


def test_keeps_the_state_that_other_state_needs() -> None:
    check_unchanged(simplify_scans, """
        graph g(%a: f32[4], %b: f32[4], %x: f32[3,4]) {
          %0: f32[4], %1: f32[4] = scan(%a, %b, %x) {steps=3, sliced=(False,), stacked=()} with
            graph turn(%state0: f32[4], %state1: f32[4], %row0: f32[4]) {
              %0: f32[4] = mul(%state1, %row0)
              return %state1, %0
            }
          return %0
        }""")


def test_gives_the_body_its_constants_and_takes_what_stays_out_of_the_state() -> None:
    check(simplify_scans, """
        graph g(%a: f32[4], %b: f32[4], %x: f32[3,4]) {
          %0: f32[4] = constant() {value=[1.0,2.0,3.0,4.0]}
          %1: f32[] = constant() {value=0.5}
          %2: f32[3,4] = broadcast(%1) {shape=(3,4), axes=()}
          %3: f32[4], %4: f32[4] = scan(%a, %b, %x, %2, %0) {steps=3, sliced=(False,True), stacked=()} with
            graph turn(%s: f32[4], %b: f32[4], %x: f32[4], %half: f32[4], %by: f32[4]) {
              %0: f32[4] = mul(%x, %half)
              %1: f32[4] = mul(%0, %by)
              %2: f32[4] = add(%1, %b)
              %3: f32[4] = sub(%s, %2)
              return %3, %b
            }
          return %3, %4
        }""", """
        graph g(%a: f32[4], %b: f32[4], %x: f32[3,4]) {
          %0: f32[4] = constant() {value=[1.0,2.0,3.0,4.0]}
          %1: f32[] = constant() {value=0.5}
          %2: f32[3,4] = broadcast(%1) {shape=(3,4), axes=()}
          %3: f32[4] = scan(%a, %x, %b) {steps=3, sliced=(False,), stacked=()} with
            graph turn(%state0: f32[4], %row0: f32[4], %same0: f32[4]) {
              %0: f32[4] = constant() {value=[1.0,2.0,3.0,4.0]}
              %1: f32[] = constant() {value=0.5}
              %2: f32[4] = broadcast(%1) {shape=(4,), axes=()}
              %3: f32[4] = mul(%row0, %2)
              %4: f32[4] = mul(%3, %0)
              %5: f32[4] = add(%4, %same0)
              %6: f32[4] = sub(%state0, %5)
              return %6
            }
          return %3, %b
        }""")



def test_takes_and_makes_once_what_is_the_same() -> None:
    check(simplify_scans, """
        graph g(%a: f32[4], %x: f32[3,4], %w: f32[4]) {
          %0: f32[4], %1: f32[3,4], %2: f32[3,4], %3: f32[3,4] = scan(%a, %x, %x, %x, %w, %w) {steps=3, sliced=(False,False,True), stacked=(True,True,False)} with
            graph turn(%s: f32[4], %x: f32[4], %y: f32[4], %z: f32[4], %v: f32[4], %w: f32[4]) {
              %0: f32[4] = mul(%y, %w)
              %1: f32[4] = mul(%x, %v)
              %2: f32[4] = sub(%0, %1)
              %3: f32[4] = add(%2, %z)
              %4: f32[4] = mul(%s, %3)
              return %4, %4, %4, %4
            }
          return %0, %1, %2, %3
        }""", """
        graph g(%a: f32[4], %x: f32[3,4], %w: f32[4]) {
          %0: f32[4], %1: f32[3,4], %2: f32[3,4] = scan(%a, %x, %x, %w) {steps=3, sliced=(False,True), stacked=(True,False)} with
            graph turn(%state0: f32[4], %row0: f32[4], %row1: f32[4], %same0: f32[4]) {
              %0: f32[4] = mul(%row0, %same0)
              %1: f32[4] = mul(%row0, %same0)
              %2: f32[4] = sub(%0, %1)
              %3: f32[4] = add(%2, %row1)
              %4: f32[4] = mul(%state0, %3)
              return %4, %4, %4
            }
          return %0, %1, %1, %2
        }""")


def test_stacks_outside_what_no_turn_makes() -> None:
    check(simplify_scans, """
        graph g(%a: f32[4], %x: f32[3,4], %w: f32[4]) {
          %0: f32[4], %1: f32[3,4], %2: f32[3,4], %3: f32[3,4] = scan(%a, %x, %w) {steps=3, sliced=(True,), stacked=(True,False,False)} with
            graph turn(%s: f32[4], %x: f32[4], %w: f32[4]) {
              %0: f32[4] = add(%s, %w)
              return %0, %x, %x, %w
            }
          return %0, %1, %2, %3
        }""", """
        graph g(%a: f32[4], %x: f32[3,4], %w: f32[4]) {
          %0: f32[3,4] = reverse(%x) {axes=(0,)}
          %1: f32[3,4] = broadcast(%w) {shape=(3,4), axes=(1,)}
          %2: f32[4] = scan(%a, %w) {steps=3, sliced=(), stacked=()} with
            graph turn(%state0: f32[4], %same0: f32[4]) {
              %0: f32[4] = add(%state0, %same0)
              return %0
            }
          return %2, %x, %0, %1
        }""")


def test_one_turn_is_no_loop() -> None:
    check(simplify_scans, """
        graph g(%a: f32[4], %x: f32[1,4], %w: f32[4]) {
          %0: f32[4], %1: f32[1,4] = scan(%a, %x, %w) {steps=1, sliced=(True,), stacked=(False,)} with
            graph turn(%s: f32[4], %x: f32[4], %w: f32[4]) {
              %0: f32[4] = mul(%x, %w)
              %1: f32[4] = add(%s, %0)
              return %1, %0
            }
          return %0, %1
        }""", """
        graph g(%a: f32[4], %x: f32[1,4], %w: f32[4]) {
          %0: f32[4] = reshape(%x) {shape=(4,)}
          %1: f32[4] = mul(%0, %w)
          %2: f32[4] = add(%a, %1)
          %3: f32[1,4] = reshape(%1) {shape=(1,4)}
          return %2, %3
        }""")


def test_all_passes_work_on_bodies() -> None:
    graph = optimize(graph_of("""
        graph g(%a: f32[4], %x: f32[3,2,4]) {
          %0: f32[] = constant() {value=1.0}
          %1: f32[4], %2: f32[3,2,4] = scan(%a, %x, %0) {steps=3, sliced=(False,), stacked=(False,)} with
            graph outer(%s: f32[4], %x: f32[2,4], %one: f32[]) {
              %0: f32[4], %1: f32[2,4] = scan(%s, %x, %one) {steps=2, sliced=(False,), stacked=(True,)} with
                graph inner(%s: f32[4], %x: f32[4], %one: f32[]) {
                  %0: f32[4] = broadcast(%one) {shape=(4,), axes=()}
                  %1: f32[4] = mul(%s, %0)
                  %2: f32[4] = add(%1, %x)
                  %3: f32[4] = exp(%2)
                  return %3, %2
                }
              return %0, %1
            }
          return %1, %2
        }"""))
    assert text_of(graph) == text_of(graph_of("""
        graph g(%a: f32[4], %x: f32[3,2,4]) {
          %0: f32[4], %1: f32[3,2,4] = scan(%a, %x) {steps=3, sliced=(False,), stacked=(False,)} with
            graph turn(%state0: f32[4], %row0: f32[2,4]) {
              %0: f32[4], %1: f32[2,4] = scan(%state0, %row0) {steps=2, sliced=(False,), stacked=(True,)} with
                graph turn(%state0: f32[4], %row0: f32[4]) {
                  %0: f32[4], %1: f32[4] = fusion(%state0, %row0) {kind='loop'} with
                    graph loop(%p0: f32[4], %p1: f32[4]) {
                      %0: f32[4] = add(%p0, %p1)
                      %1: f32[4] = exp(%0)
                      return %0, %1
                    }
                  return %1, %0
                }
              return %0, %1
            }
          return %0, %1
        }"""))
    assert text_of(optimize(graph)) == text_of(graph)
