"""Sinkhorn scaling of a batch of matrices, as scaling vectors."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmrank.losses.list_batch import on_host


def sinkhorn_scaling(matrix: Tensor, *, max_iterations: int, tolerance: float, together: bool) -> Tensor:
    """Divide the columns by their sums, then the rows by theirs, until all column sums are within `tolerance` of 1.

    Args:
        matrix: non-negative, no row or column all 0, [lists, n, n].
        max_iterations: largest number of iterations, each of which divides the columns and the rows.
        tolerance: a list goes on while one of its column sums is at least this far from 1.
        together: all lists go on while one of them does; otherwise each list stops on its own.

    Returns:
        The scaled matrices, [lists, n, n]. Their gradient is that of the divisions carried out.

    Source: Sinkhorn, "A relationship between arbitrary positive matrices and doubly stochastic matrices", Annals of
    Mathematical Statistics 35, 1964.
    """
    scaled: Tensor = ScalingVectors.apply(matrix, max_iterations, tolerance, together)
    return scaled


class ScalingVectors(torch.autograd.Function):
    """diag(u) · K · diag(v), where v = 1 / uK and u = 1 / Kv in turn.

    An iteration is then two products of a vector and a matrix, not two divisions of the matrix, and its gradient two
    more; the vectors are rows, which a CPU multiplies several times faster than columns. The gradient with respect to K
    is a sum of outer products of vectors that the iterations leave behind: one product of an [n, 2·iterations] and a
    [2·iterations, n] matrix. Backward, the iterations pass on u and v times the gradients with respect to their
    logarithms, which stay small whatever the scale of u and v.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, max_iterations: int, tolerance: float, together: bool) -> Tensor:
        """Scale the matrix, [lists, n, n]; the arguments are those of `sinkhorn_scaling`."""
        # Autocast would multiply in half precision.
        with torch.autocast(matrix.device.type, enabled=False):
            transpose = matrix.mT.contiguous()
            us, vs, ends = _iterate_vectors(matrix, transpose, max_iterations, tolerance, together)
        ctx.save_for_backward(matrix, transpose, us, vs, ends)
        u, v = _select_steps(us, ends), _select_steps(vs, ends)
        return u.mT * matrix * v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient with respect to the matrix: directly, and through u and v."""
        matrix, transpose, us, vs, ends = ctx.saved_tensors
        with torch.autocast(matrix.device.type, enabled=False):
            # Directly: u and v held fixed.
            direct = _select_steps(us, ends).mT * gradient * _select_steps(vs, ends)
            # Through u and v: the outer products of all iterations, summed in one matrix product.
            u_parts, v_parts = _unroll_iterations(matrix, transpose, us, vs, ends, direct * matrix)
            lefts = torch.cat([u_parts, us[:-1]]).squeeze(2).permute(1, 2, 0)
            rights = torch.cat([vs[1:], v_parts]).squeeze(2).transpose(0, 1)
            return torch.baddbmm(direct, lefts, rights, alpha=-1), None, None, None


def _iterate_vectors(
    matrix: Tensor, transpose: Tensor, max_iterations: int, tolerance: float, together: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """u and v before the first and after each iteration, [iterations + 1, lists, 1, n], and each list's last, [lists].

    A list that has ended is still computed, which is cheaper than leaving it out. On an accelerator all iterations are
    made: to see that no list needs more, the host would have to wait for the sums.
    """
    floor = torch.finfo(matrix.dtype).tiny ** 0.4  # no sum of a matrix as described is near it; 1 / floor² is finite
    ones, minus_one = matrix.new_ones(len(matrix), 1, matrix.shape[2]), -matrix.new_ones(())
    us, vs = [ones], [ones]
    running = matrix.new_ones(len(matrix), 1, 1, dtype=torch.bool)
    ends = torch.zeros_like(running, dtype=torch.int64)
    for iteration in range(max_iterations):
        sums = torch.bmm(us[-1], matrix)
        if iteration > 0:
            # v · uK are the column sums of the matrix as it is scaled so far.
            far = torch.addcmul(minus_one, vs[-1], sums).abs_().amax(2, keepdim=True) >= tolerance
            running = running & (far.any() if together else far)
            if on_host(matrix) and not bool(running.any()):
                break
        ends += running
        # Columns before rows.
        vs.append(sums.clamp_(min=floor).reciprocal_())
        us.append(torch.bmm(vs[-1], transpose).clamp_(min=floor).reciprocal_())
    return torch.stack(us), torch.stack(vs), ends.flatten()


def _unroll_iterations(
    matrix: Tensor, transpose: Tensor, us: Tensor, vs: Tensor, ends: Tensor, through: Tensor
) -> tuple[Tensor, Tensor]:
    """Take the gradients with respect to log u and log v back through the iterations.

    Args:
        matrix, transpose: K and its transpose, [lists, n, n].
        us, vs, ends: what `_iterate_vectors` returned.
        through: the gradient with respect to the logarithm of the result, [lists, n, n].

    Returns:
        For each iteration the vectors, [iterations, lists, 1, n], whose outer products with v and with the u before it
        are to be subtracted from the gradient with respect to K. They are 0 after a list's last iteration.
    """
    u_parts, v_parts = torch.empty_like(us[1:]), torch.empty_like(vs[1:])
    u_slopes, v_slopes = (-us.square()).unbind(), (-vs.square()).unbind()
    u_start, v_start = through.sum(2, keepdim=True).mT, through.sum(1, keepdim=True)
    # A list's gradient comes in at its own last iteration; `enters` says where, [iterations + 1, lists, 1, 1].
    enters = ends.view(1, -1, 1, 1) == torch.arange(len(us), device=ends.device).view(-1, 1, 1, 1)
    any_enters = enters.flatten(1).any(1).tolist() if on_host(matrix) else [True] * len(us)
    back = torch.zeros_like(u_start)
    steps = list(zip(range(1, len(us)), u_parts.unbind(), v_parts.unbind(), strict=True))
    for t, u_part, v_part in reversed(steps):
        # Rows after columns, so backward the rows come first.
        torch.mul(back, u_slopes[t], out=u_part)
        if any_enters[t]:
            u_part += u_start * us[t] * enters[t]
        torch.mul(torch.bmm(u_part, matrix), v_slopes[t], out=v_part)
        if any_enters[t]:
            v_part += v_start * vs[t] * enters[t]
        back = torch.bmm(v_part, transpose)
    return u_parts, v_parts


def _select_steps(steps: Tensor, ends: Tensor) -> Tensor:
    """What each list has of [iterations + 1, lists, 1, n] after its last iteration, [lists, 1, n]."""
    return steps[ends, torch.arange(len(ends), device=ends.device)]
