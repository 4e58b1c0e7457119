"""Sinkhorn scaling of a batch of matrices, as scaling vectors."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmrank.losses.slates import on_host


def sinkhorn(matrix: Tensor, *, max_iterations: int, tolerance: float, together: bool) -> Tensor:
    """Divides the columns by their sums, then the rows by theirs, until no column sum is `tolerance` away from 1.

    Args:
        matrix: non-negative, no row or column all 0, [lists, n, n].
        max_iterations: at most how many times both are divided.
        tolerance: distance of a column sum from 1 at which to go on.
        together: all lists go on as long as one does; otherwise each stops for itself.

    Returns:
        The scaled matrices, [lists, n, n]. Their gradient is that of the divisions carried out.

    Source: Sinkhorn, "A relationship between arbitrary positive matrices and doubly stochastic matrices", Annals of
    Mathematical Statistics 35, 1964.
    """
    scaled: Tensor = _Sinkhorn.apply(matrix, max_iterations, tolerance, together)
    return scaled


class _Sinkhorn(torch.autograd.Function):
    """diag(u) · K · diag(v), where v = 1 / uK and u = 1 / Kv in turn.

    An iteration is then two products of a vector and a matrix, not two divisions of the matrix, and its gradient two
    more; the vectors are rows, which a CPU multiplies several times faster than columns. The gradient with respect to K
    is a sum of outer products of vectors that the iterations leave behind, so one product of an [n, 2·iterations] and a
    [2·iterations, n] matrix. What the iterations hand back to each other is the gradient with respect to log u and
    log v, which stays small whatever the scale of u and v.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, max_iterations: int, tolerance: float, together: bool) -> Tensor:
        with torch.autocast(matrix.device.type, enabled=False):
            transpose = matrix.mT.contiguous()
            us, vs, runs = _iterate(matrix, transpose, max_iterations, tolerance, together)
        ctx.save_for_backward(matrix, transpose, *us, *vs, *runs)
        return us[-1].mT * matrix * vs[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        matrix, transpose, *steps = ctx.saved_tensors
        count = len(steps) // 3
        us, vs, runs = steps[:count], steps[count : 2 * count], steps[2 * count :]
        with torch.autocast(matrix.device.type, enabled=False):
            direct = us[-1].mT * gradient * vs[-1]
            through = direct * matrix
            lefts, rights = _unroll(
                matrix, transpose, us, vs, runs, through.sum(2, keepdim=True).mT, through.sum(1, keepdim=True)
            )
            return torch.baddbmm(direct, torch.cat(lefts, 1).mT, torch.cat(rights, 1), alpha=-1), None, None, None


def _iterate(
    matrix: Tensor, transpose: Tensor, max_iterations: int, tolerance: float, together: bool
) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
    """u and v before the first and after each iteration, as rows [lists, 1, n], and which lists took part in it.

    None: all did. That is so wherever the host may look at the sums. On an accelerator it would have to wait for them,
    and lists that are done are carried along unchanged.
    """
    floor = torch.finfo(matrix.dtype).tiny ** 0.4  # no sum of a matrix as described is near it; 1 / floor² is finite
    looks = on_host(matrix)
    running: Tensor | None = None if looks and together else matrix.new_ones((), dtype=torch.bool)
    ones = matrix.new_ones(len(matrix), 1, matrix.shape[2])
    us, vs, runs = [ones], [ones], [running]
    for iteration in range(max_iterations):
        sums = torch.bmm(us[-1], matrix)
        if iteration > 0:
            far = (vs[-1] * sums - 1).abs().amax(2, keepdim=True) >= tolerance
            far = far.any() if together else far
            running = None if running is None else running & far
            if looks and not bool(far.any() if running is None else running.any()):
                break
        vs.append(_where(running, sums.clamp(min=floor).reciprocal(), vs[-1]))
        us.append(_where(running, torch.bmm(vs[-1], transpose).clamp(min=floor).reciprocal(), us[-1]))
        runs.append(running)
    return us, vs, runs


def _unroll(
    matrix: Tensor,
    transpose: Tensor,
    us: list[Tensor],
    vs: list[Tensor],
    runs: list[Tensor | None],
    u_gradient: Tensor,
    v_gradient: Tensor,
) -> tuple[list[Tensor], list[Tensor]]:
    """Takes the gradients with respect to log u and log v back through the iterations.

    Returns:
        The vectors, [lists, 1, n], whose outer products are to be subtracted from the gradient with respect to K.
    """
    nothing = torch.zeros_like(u_gradient)
    lefts, rights = [nothing], [nothing]
    for t in range(len(us) - 1, 0, -1):
        u_part = _where(runs[t], u_gradient * us[t], nothing)
        v_gradient = v_gradient - vs[t] * torch.bmm(u_part, matrix)
        v_part = _where(runs[t], v_gradient * vs[t], nothing)
        u_gradient = _where(runs[t], nothing, u_gradient) - us[t - 1] * torch.bmm(v_part, transpose)
        v_gradient = _where(runs[t], nothing, v_gradient)
        lefts += [u_part, us[t - 1]]
        rights += [vs[t], v_part]
    return lefts, rights


def _where(running: Tensor | None, new: Tensor, old: Tensor) -> Tensor:
    return new if running is None else torch.where(running, new, old)
