"""The head of one Gaussian per class computes its formula, class by class in float64."""

import torch

from trainables.closed_form.mahalanobis_head import MahalanobisHead


def test_logits_are_scaled_negative_distances_under_each_class_s_own_metric() -> None:
    draws = torch.Generator().manual_seed(0)
    head = MahalanobisHead(4, 3, metrics=2, directions=3, power=0.5).double()
    with torch.no_grad():
        head.weight.copy_(torch.randn(3, 4, generator=draws))
        head.metric_of.copy_(torch.tensor([1, 0, 1]))
        head.deviation.copy_(torch.rand(2, 4, generator=draws) + 0.5)
        head.precision.copy_(torch.tensor([2.0, 3.0]))
        head.basis.copy_(torch.randn(3, 4, generator=draws))
        head.reduction.copy_(torch.tensor([0.1, 0.2, 0.3]))
        head.basis_metric.copy_(torch.tensor([1, 0, 1]))
        head.scale.fill_(7.0)
    features = torch.randn(5, 4, generator=draws).double()
    expected = torch.empty(5, 3, dtype=torch.float64)
    for row, x in enumerate(features):
        t = x.sign() * x.abs().sqrt()
        t = t / t.norm()
        for label, metric in enumerate(head.metric_of.tolist()):
            difference = head.deviation[metric] * (t - head.weight[label].detach())
            distance = head.precision[metric] * difference.square().sum()
            for q, r, of in zip(head.basis, head.reduction, head.basis_metric, strict=True):
                if int(of) == metric:
                    distance = distance - r * (q @ difference) ** 2
            expected[row, label] = -7.0 * distance
    torch.testing.assert_close(head(features).detach(), expected, rtol=1e-9, atol=1e-9)
