"""Batch normalization over the rows of all ranks, on processors: torch's own is for GPUs alone."""

from typing import Any

import torch
from torch import Tensor, distributed, nn


def synchronise(network: nn.Module) -> None:
    """Let a network's batch normalizations see all ranks' rows; weights and buffers keep their names."""
    if torch.cuda.is_available():
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # The same module in all but how it is computed: whoever holds it keeps it.
            module.__class__ = SynchronisedBatchNorm2d


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose means and variances are those of all ranks' rows together."""

    def forward(self, images: Tensor) -> Tensor:
        """Return (rows, channels, height, width), normalized."""
        if not self.training:
            return super().forward(images)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        found: Tensor = _Normalize.apply(images, self.weight, self.bias, self)
        return found


class _Normalize(torch.autograd.Function):
    """Normalizes by what all ranks' rows show, and passes gradients back through that.

    Source: Ioffe and Szegedy, Batch Normalization, ICML 2015.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, module: nn.BatchNorm2d) -> Tensor:
        images = images.float()
        # torch's own kernels throughout: sums written out by hand cost a third of a step.
        mean, variance = torch.batch_norm_update_stats(images, None, None, 0.0)
        count = torch.tensor([images.numel() / images.shape[1]])
        own = torch.cat((mean, variance, count))
        parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, own)
        gathered = torch.stack(parts)
        means, variances, counts = gathered[:, : len(mean)], gathered[:, len(mean) : -1], gathered[:, -1:]
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        variance = ((variances + (means - mean) ** 2) * counts).sum(0) / total
        momentum = 0.1 if module.momentum is None else module.momentum
        module.running_mean.lerp_(mean, momentum)
        module.running_var.lerp_(variance * total / (total - 1).clamp(min=1), momentum)
        ctx.save_for_backward(images, weight, mean, variance)
        ctx.total, ctx.eps = float(total), module.eps
        found: Tensor = nn.functional.batch_norm(images, mean, variance, weight, bias, training=False, eps=module.eps)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        images, weight, mean, variance = ctx.saved_tensors
        gradient = gradient.float()
        scale = (variance + ctx.eps).rsqrt()
        # By channel: how the gradients go along with the normalized values, and what they sum to.
        _, along, sums = torch.ops.aten.native_batch_norm_backward(
            gradient, images, weight, None, None, mean, scale, True, ctx.eps, [False, True, True]
        )
        whole = torch.cat((sums, along))
        distributed.all_reduce(whole)
        mean_sum, mean_along = (whole / ctx.total).chunk(2)
        # weight * scale * (gradient - mean_sum - normalized * mean_along), as one factor each and one shift.
        slope = weight * scale * scale * mean_along
        shift = weight * scale * (scale * mean * mean_along - mean_sum)
        # By the kernel that gives images * slope + shift in one go, for a mean of 0 and a variance of 1.
        still = torch.zeros_like(mean), torch.ones_like(mean)
        found = nn.functional.batch_norm(images, *still, -slope, shift, training=False, eps=0.0)
        return found.addcmul_(gradient, (weight * scale)[:, None, None]), along, sums, None
