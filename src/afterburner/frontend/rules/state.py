"""Variables: reads, assignments, scatters and the fused optimizer updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...ir import Op, Value
from ...ir.ops import elementwise as ew
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .formulas import Formula


def _read(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    value = ctx.read(op.inputs[0])
    if value.type.dtype != ctx.dtype("dtype"):
        raise ctx.refuse(f"reads a variable of {value.type.dtype} as {ctx.dtype('dtype')}")
    return (value,)


def _is_initialized(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """True: a call with an uninitialized variable is left to TensorFlow."""
    ctx.read(op.inputs[0])
    return (ctx.constant(True),)


def _assign(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    ctx.assign(op.inputs[0], inputs[0])
    return ()


def _assign_with(kind: type[Op]) -> Rule:
    def rule(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
        current = ctx.read(op.inputs[0])
        if inputs[0].type != current.type:
            raise ctx.refuse(f"updates a variable of type {current.type} with {inputs[0].type}")
        ctx.assign(op.inputs[0], ctx.emit(kind(), current, inputs[0]))
        return ()
    return rule


Step = Callable[[Formula, FlatOp, list[Value], list[Value]], Sequence[Value]]


def _optimizer(states: int, step: Step) -> Rule:
    """A fused optimizer update of ``states`` variables, which are the first inputs.

    ``step(formula, op, variables, scalars and gradient)`` gives the new values; scalars come
    repeated to the variables' shape.
    """
    def rule(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
        handles = op.inputs[:states]
        current = [ctx.read(h) for h in handles]
        shape = current[0].shape
        if any(v.shape != shape for v in current) or [v.shape for v in inputs if v.shape] != [shape] * bool(shape):
            raise ctx.refuse("variables and a gradient of different shapes")
        operands = [ctx.broadcast_to(v, shape) for v in inputs]
        for handle, value in zip(handles, step(Formula(ctx), op, current, operands), strict=True):
            ctx.assign(handle, value)
        return ()
    return rule


def _gradient_descent(f: Formula, op: FlatOp, states: list[Value], inputs: list[Value]) -> Sequence[Value]:
    (var,), (rate, gradient) = states, inputs
    return (f.sub(var, f.mul(gradient, rate)),)


def _momentum(f: Formula, op: FlatOp, states: list[Value], inputs: list[Value]) -> Sequence[Value]:
    (var, accum), (rate, gradient, momentum) = states, inputs
    accum = f.add(f.mul(accum, momentum), gradient)
    if op.attr("use_nesterov"):
        return f.sub(var, f.add(f.mul(gradient, rate), f.mul(f.mul(accum, momentum), rate))), accum
    return f.sub(var, f.mul(accum, rate)), accum


def _keras_momentum(f: Formula, op: FlatOp, states: list[Value], inputs: list[Value]) -> Sequence[Value]:
    (var, accum), (rate, gradient, momentum) = states, inputs
    accum = f.sub(f.mul(accum, momentum), f.mul(gradient, rate))
    if op.attr("use_nesterov"):
        return f.add(var, f.sub(f.mul(accum, momentum), f.mul(gradient, rate))), accum
    return f.add(var, accum), accum


def _adam(f: Formula, op: FlatOp, states: list[Value], inputs: list[Value]) -> Sequence[Value]:
    (var, m, v), (power1, power2, rate, beta1, beta2, epsilon, gradient) = states, inputs
    alpha = f.div(f.mul(rate, f.sqrt(f.sub(1, power2))), f.sub(1, power1))
    new_m = f.add(m, f.mul(f.sub(gradient, m), f.sub(1, beta1)))
    new_v = f.add(v, f.mul(f.sub(f.square(gradient), v), f.sub(1, beta2)))
    top = new_m
    if op.attr("use_nesterov"):
        top = f.add(f.mul(gradient, f.sub(1, beta1)), f.mul(beta1, new_m))
    return f.sub(var, f.div(f.mul(top, alpha), f.add(f.sqrt(new_v), epsilon))), new_m, new_v


def _adamax(f: Formula, op: FlatOp, states: list[Value], inputs: list[Value]) -> Sequence[Value]:
    (var, m, v), (power1, rate, beta1, beta2, epsilon, gradient) = states, inputs
    new_m = f.add(m, f.mul(f.sub(gradient, m), f.sub(1, beta1)))
    new_v = f.maximum(f.mul(beta2, v), f.abs(gradient))
    scale = f.div(rate, f.sub(1, power1))
    return f.sub(var, f.mul(scale, f.div(new_m, f.add(new_v, epsilon)))), new_m, new_v


def _rms_prop(f: Formula, op: FlatOp, states: list[Value], inputs: list[Value]) -> Sequence[Value]:
    (var, ms, mom), (rate, rho, momentum, epsilon, gradient) = states, inputs
    ms = f.add(ms, f.mul(f.sub(f.square(gradient), ms), f.sub(1, rho)))
    mom = f.add(f.mul(mom, momentum), f.mul(f.mul(gradient, rate), f.rsqrt(f.add(ms, epsilon))))
    return f.sub(var, mom), ms, mom


def _centered_rms_prop(f: Formula, op: FlatOp, states: list[Value], inputs: list[Value]) -> Sequence[Value]:
    (var, mg, ms, mom), (rate, rho, momentum, epsilon, gradient) = states, inputs
    ms = f.add(ms, f.mul(f.sub(f.square(gradient), ms), f.sub(1, rho)))
    mg = f.add(mg, f.mul(f.sub(gradient, mg), f.sub(1, rho)))
    denominator = f.add(f.sub(ms, f.square(mg)), epsilon)
    mom = f.add(f.mul(mom, momentum), f.mul(f.mul(gradient, rate), f.rsqrt(denominator)))
    return f.sub(var, mom), mg, ms, mom


def _adagrad(f: Formula, op: FlatOp, states: list[Value], inputs: list[Value]) -> Sequence[Value]:
    (var, accum), (rate, gradient) = states, inputs
    if op.attr("update_slots"):
        accum = f.add(accum, f.square(gradient))
    return f.sub(var, f.mul(f.mul(gradient, rate), f.rsqrt(accum))), accum


def _adagrad_v2(f: Formula, op: FlatOp, states: list[Value], inputs: list[Value]) -> Sequence[Value]:
    (var, accum), (rate, epsilon, gradient) = states, inputs
    if op.attr("update_slots"):
        accum = f.add(accum, f.square(gradient))
    return f.sub(var, f.div(f.mul(gradient, rate), f.add(f.sqrt(accum), epsilon))), accum


def _adadelta(f: Formula, op: FlatOp, states: list[Value], inputs: list[Value]) -> Sequence[Value]:
    (var, accum, accum_update), (rate, rho, epsilon, gradient) = states, inputs
    rest = f.sub(1, rho)
    accum = f.add(f.mul(accum, rho), f.mul(f.square(gradient), rest))
    update = f.mul(f.mul(f.sqrt(f.add(accum_update, epsilon)), f.rsqrt(f.add(accum, epsilon))), gradient)
    accum_update = f.add(f.mul(accum_update, rho), f.mul(f.square(update), rest))
    return f.sub(var, f.mul(update, rate)), accum, accum_update


RULES: dict[str, Rule] = {
    "AssignAddVariableOp": _assign_with(ew.Add),
    "AssignSubVariableOp": _assign_with(ew.Sub),
    "AssignVariableOp": _assign,
    "ReadVariableOp": _read,
    "ResourceApplyAdaMax": _optimizer(3, _adamax),
    "ResourceApplyAdadelta": _optimizer(3, _adadelta),
    "ResourceApplyAdagrad": _optimizer(2, _adagrad),
    "ResourceApplyAdagradV2": _optimizer(2, _adagrad_v2),
    "ResourceApplyAdam": _optimizer(3, _adam),
    "ResourceApplyCenteredRMSProp": _optimizer(4, _centered_rms_prop),
    "ResourceApplyGradientDescent": _optimizer(1, _gradient_descent),
    "ResourceApplyKerasMomentum": _optimizer(2, _keras_momentum),
    "ResourceApplyMomentum": _optimizer(2, _momentum),
    "ResourceApplyRMSProp": _optimizer(3, _rms_prop),
    "VarIsInitializedOp": _is_initialized,
}
