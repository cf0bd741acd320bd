"""Every stage computes on its device as on a CPU; checked without one (see `pretend_device`)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.few_samples import (
    CLASSES,
    FEATURES,
    NOVEL,
    STREAM_FEATURES,
    TRAIN,
    TRUNK,
    UNKNOWN,
    VALIDATION,
    classifier,
    tensors,
)
from tests.helpers.pretend_device import (
    DEVICE,
    CudaRefusalError,
    DeviceContext,
    DeviceTensor,
    pretend_device,
)
from trainables.artifacts import ImageView, OutOfFold, PoolLabels, PoolSelection
from trainables.context import Context
from trainables.experiment import Discover, Rebalance, ScoreSettings
from trainables.features.batched_heads import STACKS, train_heads
from trainables.features.head_losses import HeadLoss
from trainables.features.head_training import HeadTrainingSpec
from trainables.features.kmeans import LOOK_EVERY_ON_GPU, KMeans, constrained_kmeans
from trainables.features.objectives import HEAD_TENSORS
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.calibrators import Calibrator
from trainables.methods.clusterers import Clusterer
from trainables.methods.heads import Head
from trainables.methods.losses import Loss
from trainables.methods.pseudo_labelers import PseudoLabeler
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.scores import Score
from trainables.methods.thresholds import Threshold
from trainables.models.backbone import to_artifact
from trainables.pipeline import uses_oracle, views_read
from trainables.stages import discover, rebalance, score

Run = Callable[[Context], Any]
Check = Callable[[Run], list[str]]
HEADS = ("linear", {"experts": {"count": 3, "own": "nothing"}})  # one of them fits any correction


@pytest.fixture(params=["pretended", pytest.param("cuda", marks=pytest.mark.gpu)])
def check_same(request: pytest.FixtureRequest) -> Check:
    """Run on the CPU and on a device: results must be equal, and on the CPU; gives the waits."""

    def pretended(run: Run) -> list[str]:
        expected = tensors(run(Context()))
        with pretend_device() as waits:
            result = run(DeviceContext(device=DEVICE))
        check(tensors(result), expected, rtol=1e-5, atol=1e-6)
        return waits

    def cuda(run: Run) -> list[str]:
        result = run(Context(device=torch.device("cuda")))
        check(tensors(result), tensors(run(Context())), rtol=1e-3, atol=1e-4)
        return []

    return pretended if request.param == "pretended" else cuda


def check(found: list[Tensor], expected: list[Tensor], **tolerance: float) -> None:
    assert found
    assert not any(isinstance(tensor, DeviceTensor) for tensor in found), (
        "the result is on the device"
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, **tolerance)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.stack([x[0], torch.tensor(1.0)]),
        lambda x: x.mul_(torch.ones(3)),
        lambda x: x @ torch.ones(3),
        lambda x: torch.zeros(3)[x.long()],
        lambda x: x.index_select(0, torch.tensor([0])),
        lambda x: x.uniform_(generator=torch.Generator()),
        lambda x: torch.rand(3, device=DEVICE, generator=torch.Generator()),
        torch.nn.Linear(3, 2),
        pytest.param(
            lambda x: torch.histogram(x, 3),
            marks=pytest.mark.skipif(not torch.version.cuda, reason="torch is built without CUDA"),
        ),
    ],
)
def test_what_cuda_refuses_is_refused(call: Callable[[Tensor], object]) -> None:
    with pretend_device() as waits:
        x = torch.arange(3.0).to(DEVICE)
        assert float((x * 2 + torch.tensor(1.0)).sum()) == 9.0  # a number may come from the host
        del waits[:]
        with pytest.raises(CudaRefusalError):
            call(x)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x[[0, 2]],
        lambda x: x.__setitem__(x < 1, x[1:] + 1),
        lambda x: x.unique(),
        lambda x: torch.bincount(x.long()),
        lambda x: torch.tensor(2.0, device=DEVICE),
        lambda x: x.new_tensor([1.0]),
        lambda x: torch.equal(x, x),
    ],
)
def test_what_waits_is_counted(wait: Callable[[Tensor], object]) -> None:
    with pretend_device() as waits:
        x = torch.arange(3.0).to(DEVICE)
        del waits[:]
        (x * x.where(x > 0, 1.0)).sum().add_(x.new_full((), 2.0))
        x[torch.arange(2, device=DEVICE)] = 0.0
        assert not waits
        wait(x)
    assert waits


NO_ANSWERS = OutOfFold(torch.zeros(0, CLASSES), torch.zeros(0), torch.zeros(0).long())


def rebalanced(method: object, head: object) -> Run:
    settings = Rebalance(method=method)  # type: ignore[arg-type]
    more: dict[str, Any] = {}
    if uses_oracle(settings):
        more["pool_labels"] = PoolLabels(UNKNOWN.labels, CLASSES, NOVEL, "")
        more["stream_features"] = STREAM_FEATURES
    if views_read(settings):
        more["pool"] = ImageView(UNKNOWN.images, UNKNOWN.indices, "")

    def run(context: Context) -> Any:
        return rebalance.run(
            settings,
            classifier=classifier(head),
            features=FEATURES,
            known_train=TRAIN,
            validation_known=VALIDATION,
            backbone=to_artifact(TRUNK, "fastnet", 16),
            context=context,
            **more,
        )

    return run


def fitting_head(method: object) -> object:
    """Return a head that a correction accepts."""
    for head in HEADS:
        try:
            rebalanced(method, head)(Context())
        except ValueError:
            continue
        return head
    raise AssertionError(f"no head fits {method}")


@pytest.mark.parametrize("name", sorted(Rebalancer.shelf))
def test_a_correction_is_computed_on_the_device(name: str, check_same: Check) -> None:
    check_same(rebalanced(name, fitting_head(name)))


TRAINED = [
    name
    for name, method in sorted(Rebalancer.shelf.items())
    if "epochs" in method.model_fields
    and not method.extra_views  # those look at images in every pass
]


@pytest.mark.parametrize("name", TRAINED)
def test_no_step_of_a_correction_waits(name: str, check_same: Check) -> None:
    head = fitting_head(name)
    few, many = (
        check_same(rebalanced({name: {"epochs": epochs, "batch_size": 8}}, head))
        for epochs in (1, 3)
    )
    assert few == many


HEAD_LOSSES = [
    name for name, loss in sorted(Loss.shelf.items()) if loss.required_inputs() <= HEAD_TENSORS
]


@pytest.mark.parametrize("loss", HEAD_LOSSES)
def test_no_step_with_a_loss_waits(loss: str, check_same: Check) -> None:
    few, many = (
        check_same(rebalanced({"crt": {"epochs": n, "batch_size": 8, "loss": loss}}, "linear"))
        for n in (1, 3)
    )
    assert few == many


STACKED = [name for name in sorted(Head.shelf) if type(Head.parse(name).build(12, 2)) in STACKS]  # type: ignore[operator]
COUNTS = torch.bincount(torch.from_numpy(TRAIN.labels)).float()
TOGETHER = {  # what no head of a group has costs it nothing: so groups with little and with all
    "plain": (HeadLoss(), HeadLoss()),
    "focal": (HeadLoss(), HeadLoss(gamma=2.0)),
    "all": (
        HeadLoss(class_weights=1 / COUNTS, factor=COUNTS.pow(0.1)),
        HeadLoss(offset=COUNTS.log(), margin=COUNTS.pow(-0.25), smoothing=0.1 / COUNTS),
        HeadLoss(distillation=0.5, temperature=2.0, teacher=torch.ones(len(TRAIN.labels), CLASSES)),
        HeadLoss(class_weights=1 / COUNTS, gamma=2.0),
    ),
}


def heads_together(head: str, losses: str, passes: int, device: torch.device) -> list[Tensor]:
    """Return the weights of heads that trained together, some of them for a pass longer."""
    order, jobs = torch.arange(len(TRAIN.labels)).flip(0), []
    for number, loss in enumerate(TOGETHER[losses]):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            module = Head.parse(head).build(TRUNK.num_features, CLASSES)  # type: ignore[operator]
        draws = order.repeat(passes + number % 2)
        jobs.append(HeadTrainingSpec(module.to(device), draws, 8, 0.1, 1e-3, objective=loss))
    features, labels = FEATURES.known_train.to(device), torch.from_numpy(TRAIN.labels).to(device)
    trained = train_heads(jobs, features=features, labels=labels)
    assert all(isinstance(module, torch.nn.Module) for module in trained)
    return [p.detach().cpu() for module in trained for p in module.parameters()]  # type: ignore[union-attr]


@pytest.mark.parametrize("losses", list(TOGETHER))
@pytest.mark.parametrize("head", STACKED)
def test_no_step_of_many_heads_waits(head: str, losses: str) -> None:
    counted = []
    for passes in (1, 3):
        expected = heads_together(head, losses, passes, torch.device("cpu"))
        with pretend_device() as waits:
            found = heads_together(head, losses, passes, DEVICE)
        counted.append(list(waits))
        check(found, expected, rtol=0, atol=0)
    assert counted[0] == counted[1]


@pytest.mark.gpu
@pytest.mark.parametrize("losses", list(TOGETHER))
@pytest.mark.parametrize("head", STACKED)
def test_many_heads_train_on_a_gpu_as_on_a_cpu(head: str, losses: str) -> None:
    expected = heads_together(head, losses, 3, torch.device("cpu"))
    check(heads_together(head, losses, 3, torch.device("cuda")), expected, rtol=1e-3, atol=1e-4)


def screened(**chosen: object) -> Run:
    def run(context: Context) -> Any:
        return score.run(
            ScoreSettings(**{"threshold": "known_recall", **chosen}),  # type: ignore[arg-type]
            classifier=classifier("linear"),
            features=FEATURES,
            stream_features=STREAM_FEATURES,
            known_train=TRAIN,
            validation_known=VALIDATION,
            out_of_fold=NO_ANSWERS,
            context=context,
        )

    return run


@pytest.mark.parametrize("name", sorted(Score.shelf))
def test_a_score_is_computed_on_the_device(name: str, check_same: Check) -> None:
    check_same(screened(method=name))


@pytest.mark.parametrize("name", sorted(Calibrator.shelf))
def test_a_calibrator_serves_the_device(name: str, check_same: Check) -> None:
    check_same(screened(calibrator=name))


@pytest.mark.parametrize("name", sorted(Threshold.shelf))
def test_a_threshold_serves_the_device(name: str, check_same: Check) -> None:
    check_same(screened(threshold=name))


def discovered(settings: Discover) -> Run:
    truth = PoolLabels(UNKNOWN.labels, CLASSES, NOVEL, "")
    more: dict[str, Any] = {"pool_labels": truth} if uses_oracle(settings) else {}

    def run(context: Context) -> Any:
        return discover.run(
            settings,
            features=FEATURES,
            stream_features=STREAM_FEATURES,
            known_train=TRAIN,
            validation_known=VALIDATION,
            pool_selection=PoolSelection(torch.arange(2, len(UNKNOWN.labels))),
            out_of_fold=NO_ANSWERS,
            context=context,
            **more,
        )

    return run


@pytest.mark.parametrize("clusters", [NOVEL, None])
@pytest.mark.parametrize("name", sorted(Clusterer.shelf))
def test_clusters_are_computed_on_the_device(
    name: str, clusters: int | None, check_same: Check
) -> None:
    check_same(discovered(Discover(clusterer=name, num_new_clusters=clusters, max_new_clusters=4)))  # type: ignore[arg-type]


def kmeans(device: torch.device, iterations: int) -> KMeans:
    """Cluster few places with many samples each, so that clusters run empty."""
    draws = torch.Generator().manual_seed(0)
    points = torch.randint(0, 4, (60, 2), generator=draws).double()
    labels = torch.full((60,), -1).index_fill(0, torch.arange(2), 0)
    uniforms = torch.rand(6, 13, generator=draws, dtype=torch.float64)
    return constrained_kmeans(
        points.to(device),
        labels.to(device),
        num_clusters=14,
        uniforms=uniforms,
        iterations=iterations,
        tolerance=0.0 if iterations <= LOOK_EVERY_ON_GPU else 1e-4,
    )


@pytest.mark.parametrize("iterations", [1, 2, LOOK_EVERY_ON_GPU, 50])
def test_kmeans_is_the_same_on_the_device(iterations: int) -> None:
    expected = kmeans(torch.device("cpu"), iterations)
    with pretend_device():
        found = kmeans(DEVICE, iterations)
        assert torch.equal(found.assignments.cpu(), expected.assignments)
        torch.testing.assert_close(found.centers.cpu(), expected.centers)
    assert found.inertia == pytest.approx(expected.inertia, abs=1e-9)


def test_no_iteration_of_kmeans_waits() -> None:
    counted = []
    for iterations in (2, LOOK_EVERY_ON_GPU):
        with pretend_device() as waits:
            kmeans(DEVICE, iterations)
        counted.append(list(waits))
    assert counted[0] == counted[1]


@pytest.mark.parametrize("name", sorted(PseudoLabeler.shelf))
def test_pseudo_labels_are_computed_on_the_device(name: str, check_same: Check) -> None:
    check_same(discovered(Discover(pseudo_labeler=name, num_new_clusters=NOVEL)))  # type: ignore[arg-type]
