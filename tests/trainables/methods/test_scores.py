"""Scores: golden vectors, slow oracles, and one contract for all that stand on the shelf."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.oracles import scores as oracle
from tests.helpers.vectors import golden, variants
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.scores import Score
from trainables.methods.scores.energy import Energy
from trainables.methods.scores.entropy import Entropy
from trainables.methods.scores.gen import GEN
from trainables.methods.scores.knn import KNN
from trainables.methods.scores.mahalanobis import Mahalanobis
from trainables.methods.scores.margin import Margin
from trainables.methods.scores.max_logit import MaxLogit
from trainables.methods.scores.msp import MSP
from trainables.methods.scores.relative_mahalanobis import RelativeMahalanobis

GOLDEN = golden("openworld_scores")
METHODS = list(variants(Score))
CLASSES, WIDTH = 4, 6
COUNTS = torch.tensor([30, 12, 5, 3])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def training(dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """Return long-tailed training samples: one direction per class, and noise."""
    labels = torch.repeat_interleave(torch.arange(CLASSES), COUNTS)
    noise = torch.randn(len(labels), WIDTH, generator=seeded(1), dtype=torch.float64)
    features = 3 * torch.eye(WIDTH, dtype=torch.float64)[labels] + 0.5 * noise
    return {
        "features": features.to(dtype),
        "labels": labels,
        "class_counts": COUNTS,
        "logits": (features @ head()).to(dtype),
    }


def head() -> torch.Tensor:
    return torch.randn(WIDTH, CLASSES, generator=seeded(5), dtype=torch.float64) + 2 * torch.eye(
        WIDTH, CLASSES, dtype=torch.float64
    )


def stream(count: int = 9, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    features = 2 * torch.randn(count, WIDTH, generator=seeded(2), dtype=torch.float64)
    return {
        "features": features.to(dtype),
        "logits": (features @ head()).to(dtype),
        "class_counts": COUNTS,
    }


def fitted(method: Score, samples: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return method.call_with(samples, "fit") if hasattr(method, "fit") else {}


def confidence(
    method: Score, samples: dict[str, torch.Tensor], state: dict[str, torch.Tensor]
) -> torch.Tensor:
    result: torch.Tensor = method.call_with({**samples, "state": state})
    return result


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_one_finite_confidence_per_sample_in_float32_or_better(
    method: Score, dtype: torch.dtype
) -> None:
    state = fitted(method, training(dtype))
    result = confidence(method, stream(dtype=dtype), state)
    assert result.shape == (9,)
    assert result.dtype == torch.promote_types(dtype, torch.float32)
    assert result.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_inputs_and_state_are_not_changed(method: Score) -> None:
    samples, state = stream(), fitted(method, training())
    kept = {name: value.clone() for name, value in {**samples, **state}.items()}
    confidence(method, samples, state)
    assert all(torch.equal(kept[name], value) for name, value in {**samples, **state}.items())


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_is_scored_alike_in_any_company(method: Score) -> None:
    state, samples = fitted(method, training()), stream()
    together = confidence(method, samples, state)
    order = torch.randperm(9, generator=seeded(3))
    mixed = {k: v if k == "class_counts" else v[order] for k, v in samples.items()}
    torch.testing.assert_close(confidence(method, mixed, state), together[order])
    alone = {k: v if k == "class_counts" else v[:1] for k, v in samples.items()}
    torch.testing.assert_close(confidence(method, alone, state), together[:1])


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_training_samples_does_not_matter(method: Score) -> None:
    samples = training()
    order = torch.randperm(len(samples["labels"]), generator=seeded(3))
    mixed = {k: v if k == "class_counts" else v[order] for k, v in samples.items()}
    torch.testing.assert_close(
        confidence(method, stream(), fitted(method, mixed)),
        confidence(method, stream(), fitted(method, samples)),
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_names_of_classes_do_not_matter(method: Score) -> None:
    order = torch.tensor([2, 0, 3, 1])  # the class called i was called order[i]

    def renamed(samples: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        changed = {**samples, "class_counts": samples["class_counts"][order]}
        changed["logits"] = samples["logits"][:, order]
        if "labels" in samples:
            changed["labels"] = order.argsort()[samples["labels"]]
        return changed

    torch.testing.assert_close(
        confidence(method, renamed(stream()), fitted(method, renamed(training()))),
        confidence(method, stream(), fitted(method, training())),
    )


@pytest.mark.parametrize("method", METHODS)
def test_an_absent_class_leaves_confidence_finite(method: Score) -> None:
    samples = training()
    present = samples["labels"] != 1
    few = {k: v if k == "class_counts" else v[present] for k, v in samples.items()}
    few["class_counts"] = torch.tensor([30, 0, 5, 3])
    unseen = {**stream(), "class_counts": few["class_counts"]}
    assert confidence(method, unseen, fitted(method, few)).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_a_single_training_sample_and_an_empty_stream_are_defined(method: Score) -> None:
    one = {k: v if k == "class_counts" else v[:1] for k, v in training().items()}
    state = fitted(method, one)
    assert confidence(method, stream(), state).isfinite().all()
    assert confidence(method, stream(0), state).shape == (0,)


@pytest.mark.parametrize("method", METHODS)
def test_a_single_class_is_defined(method: Score) -> None:
    samples = {**training(), "labels": torch.zeros(int(COUNTS.sum()), dtype=torch.int64)}
    samples["logits"], samples["class_counts"] = samples["logits"][:, :1], torch.tensor([50])
    unseen = {**stream(), "logits": stream()["logits"][:, :1], "class_counts": torch.tensor([50])}
    assert confidence(method, unseen, fitted(method, samples)).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_known_samples_are_surer_than_far_ones(method: Score) -> None:
    samples = training()
    state = fitted(method, samples)
    far = torch.zeros(20, WIDTH, dtype=torch.float64)
    far[:, CLASSES:] = torch.rand(20, 2, generator=seeded(4), dtype=torch.float64) + 1
    axes = 2 * torch.eye(WIDTH, CLASSES, dtype=torch.float64)
    known = {**samples, "logits": samples["features"] @ axes}
    unknown = {"features": far, "logits": far @ axes, "class_counts": COUNTS}
    assert confidence(method, known, state).median() > confidence(method, unknown, state).median()


@pytest.mark.parametrize("method", METHODS)
def test_settings_survive_a_round_trip(method: Score) -> None:
    assert Score.parse(method.dump()) == method


def test_scores_that_need_training_samples_say_so_without_any() -> None:
    none = {k: v if k == "class_counts" else v[:0] for k, v in training().items()}
    with_fit = [cls() for cls in Score.shelf.values() if hasattr(cls, "fit")]
    assert len(with_fit) >= 3
    for method in with_fit:
        with pytest.raises(ValueError, match=f"scores/{method.name} needs training samples"):
            fitted(method, none)


# --- golden vectors (their sign: higher = more unknown) -------------------------------------------


def test_max_logit_and_energy_agree_with_the_library() -> None:
    logits = GOLDEN.inputs("score_maxlogit")["logits"]
    torch.testing.assert_close(
        -MaxLogit()(logits=logits), GOLDEN.output("score_maxlogit", "score"), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        -Energy(temperature=2.0)(logits=logits),
        GOLDEN.output("score_energy_T2", "score"),
        rtol=1e-9,
        atol=1e-9,
    )


def test_knn_agrees_with_the_library() -> None:
    inputs = GOLDEN.inputs("score_knn")
    score = KNN(k=5)
    state = score.fit(features=inputs["feat_train"])
    result = -score(features=inputs["feat"], state=state)
    library = GOLDEN.output("score_knn", "score").double()
    torch.testing.assert_close(result, library, rtol=1e-6, atol=1e-6)


def test_relative_mahalanobis_agrees_with_the_published_form() -> None:
    inputs = GOLDEN.inputs("score_rmd")
    # the published form has no ridge: 1e-12 of the variance moves nothing here
    score = RelativeMahalanobis(normalize=False, ridge=1e-12)
    state = score.fit(features=inputs["feat_train"], labels=inputs["label_train"])
    result = -score(features=inputs["feat"], state=state)
    torch.testing.assert_close(
        result, GOLDEN.output("score_rmd", "rmd_cov_N"), rtol=1e-6, atol=1e-6
    )


def test_prior_adjusted_scores_agree() -> None:
    case, inputs = "score_prior_adjusted", GOLDEN.inputs("score_prior_adjusted")
    counts = torch.bincount(inputs["label_train"])
    torch.testing.assert_close(counts / counts.sum(), inputs["prior"].float())
    sure = MSP(prior_tau=1.0)(logits=inputs["logits"], class_counts=counts)
    torch.testing.assert_close(
        1 - sure, GOLDEN.output(case, "least_confidence"), rtol=1e-9, atol=1e-9
    )
    free = Energy(prior_tau=1.0)(logits=inputs["logits"], class_counts=counts)
    torch.testing.assert_close(-free, GOLDEN.output(case, "energy"), rtol=1e-9, atol=1e-9)


# --- oracles --------------------------------------------------------------------------------------


def by_rows(function: object, logits: torch.Tensor, **settings: float) -> torch.Tensor:
    rows = [function(row, **settings) for row in logits.tolist()]  # type: ignore[operator]
    return torch.tensor(rows, dtype=torch.float64)


def test_logit_scores_equal_their_oracles() -> None:
    logits = 3 * torch.randn(12, 7, generator=seeded(), dtype=torch.float64)
    pairs = [
        (MSP(), by_rows(oracle.msp, logits)),
        (MSP(temperature=2.5), by_rows(oracle.msp, logits, temperature=2.5)),
        (Margin(), by_rows(oracle.margin, logits)),
        (Entropy(), by_rows(oracle.entropy, logits)),
        (Energy(temperature=0.5), by_rows(oracle.energy, logits, temperature=0.5)),
        (MaxLogit(), by_rows(oracle.max_logit, logits)),
        (GEN(gamma=0.3, top=4), by_rows(oracle.gen, logits, gamma=0.3, top=4)),
    ]
    for method, expected in pairs:
        torch.testing.assert_close(method.call_with({"logits": logits}), expected)


@pytest.mark.parametrize("k", [1, 3, 500])
def test_knn_equals_its_oracle(k: int) -> None:
    bank, rows = training()["features"], stream()["features"]
    score = KNN(k=k)
    expected = [oracle.knn(row, bank.tolist(), k) for row in rows.tolist()]
    result = score(features=rows, state=score.fit(features=bank))
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64))


def test_knn_looks_no_further_than_the_rarest_class_reaches() -> None:
    samples = training()  # the rarest class has three samples
    features, labels = samples["features"], samples["labels"]
    near = KNN().fit(features=features, labels=labels)
    far = KNN(within_class=False).fit(features=features, labels=labels)
    assert (int(near["k"]), int(far["k"])) == (3, 50)
    rare = features[labels == 3]
    assert (KNN()(features=rare, state=near) > KNN()(features=rare, state=far) + 0.2).all()


def test_knn_does_not_depend_on_the_size_of_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    score, rows = KNN(k=3), stream(23)["features"]
    state = score.fit(features=training()["features"])
    whole = score(features=rows, state=state)
    monkeypatch.setattr("trainables.methods.scores.knn.ROWS", 4)
    torch.testing.assert_close(score(features=rows, state=state), whole)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_mahalanobis_equals_its_oracle(normalize: bool, relative: bool) -> None:
    samples, rows = training(), stream()["features"]
    score = (RelativeMahalanobis if relative else Mahalanobis)(normalize=normalize, ridge=0.01)
    state = score.fit(features=samples["features"], labels=samples["labels"])
    bank, seen = samples["features"].tolist(), rows.tolist()
    if normalize:
        bank, seen = [oracle.unit(row) for row in bank], [oracle.unit(row) for row in seen]
    labels = samples["labels"].tolist()
    expected = [
        oracle.mahalanobis(row, bank, labels, ridge=0.01, relative=relative) for row in seen
    ]
    result = score(features=rows, state=state)
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64))


# --- properties -----------------------------------------------------------------------------------


def test_documented_ranges_hold() -> None:
    logits = 50 * torch.randn(200, 5, generator=seeded())  # extreme: probabilities underflow
    sure, lead = MSP()(logits=logits), Margin()(logits=logits)
    order, general = Entropy()(logits=logits), GEN()(logits=logits)
    assert ((sure >= 1 / 5) & (sure <= 1)).all()
    assert ((lead >= 0) & (lead <= 1)).all()
    assert ((order >= -torch.tensor(5.0).log()) & (order <= 0)).all()
    assert ((general >= -5 * 4**-0.1) & (general <= 0)).all()
    assert (Energy()(logits=logits) >= MaxLogit()(logits=logits)).all()


def test_the_prior_is_read_only_when_asked_for() -> None:
    logits = torch.randn(5, 3, generator=seeded())
    for cls in (MSP, Energy):
        torch.testing.assert_close(
            cls()(logits=logits), cls()(logits=logits, class_counts=torch.tensor([9, 3, 1]))
        )
        with pytest.raises(ValueError, match="needs class_counts"):
            cls(prior_tau=0.5)(logits=logits)


def test_taking_off_the_prior_makes_rare_classes_surer() -> None:
    logits = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    common, rare = MSP(prior_tau=1.0)(logits=logits, class_counts=torch.tensor([90, 10]))
    assert rare > common


def test_length_of_features_matters_only_without_normalisation() -> None:
    samples, rows = training(), stream()["features"]
    for cls in (Mahalanobis, RelativeMahalanobis):
        for normalize in (True, False):
            score = cls(normalize=normalize)
            state = score.fit(features=samples["features"], labels=samples["labels"])
            same = torch.allclose(
                score(features=rows, state=state), score(features=7 * rows, state=state)
            )
            assert same is normalize


def test_raw_mahalanobis_ignores_the_units_of_features() -> None:
    samples, rows = training(), stream()["features"]
    scale = torch.tensor([0.1, 1.0, 10.0, 1.0, 3.0, 1.0], dtype=torch.float64)
    # a vanishing ridge: the ridge itself has a unit
    score = Mahalanobis(normalize=False, ridge=1e-13)
    state = score.fit(features=samples["features"], labels=samples["labels"])
    scaled = score.fit(features=samples["features"] * scale, labels=samples["labels"])
    torch.testing.assert_close(
        score(features=rows, state=state),
        score(features=rows * scale, state=scaled),
        rtol=1e-6,  # far above 1e-13 of the largest variance beside the smallest one
        atol=0,
    )


def test_mahalanobis_is_useful_with_fewer_samples_than_dimensions() -> None:
    features = torch.randn(10, 64, generator=seeded()) + 5 * torch.eye(64)[:10] * 4
    score = Mahalanobis()
    state = score.fit(features=features, labels=torch.arange(10) % 5)
    result = score(features=torch.randn(30, 64, generator=seeded(1)), state=state)
    assert result.isfinite().all()
    assert (result < 0).all()
