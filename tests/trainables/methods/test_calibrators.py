"""Calibrators: golden vectors, a grid as oracle, and a contract for the whole shelf."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.vectors import golden, variants
from trainables.errors import ConfigError
from trainables.experiment import load_experiment
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.calibrators import Calibrator
from trainables.methods.calibrators.none import NoCalibrator
from trainables.methods.calibrators.temperature import Temperature
from trainables.methods.metrics.calibration import Calibration

GOLDEN = golden("openworld_scores")
METHODS = list(variants(Calibrator))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def overconfident(count: int = 400, factor: float = 3.0) -> dict[str, torch.Tensor]:
    """Return labels drawn from softmax(z), and logits ``factor`` times as large as z."""
    logits = 2 * torch.randn(count, 4, generator=seeded())
    labels = torch.multinomial(logits.softmax(1), 1, generator=seeded(1))[:, 0]
    return {"logits": factor * logits, "labels": labels}


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_shape_stays_and_values_are_finite(method: Calibrator, dtype: torch.dtype) -> None:
    samples = overconfident()
    logits = samples["logits"].to(dtype)
    state = method.fit(logits=logits, labels=samples["labels"])
    result = method(logits=logits, state=state)
    assert result.shape == logits.shape
    assert result.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_calibration_never_gets_worse_on_the_samples_it_was_fitted_on(method: Calibrator) -> None:
    samples = overconfident()
    logits = method(logits=samples["logits"], state=method.fit(**samples))
    before, after = (
        Calibration()(logits=z, labels=samples["labels"]) for z in (samples["logits"], logits)
    )
    assert after["calibration/nll"] <= before["calibration/nll"] + 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_order_of_samples_and_names_of_classes_do_not_matter(method: Calibrator) -> None:
    samples = overconfident()
    rows = torch.randperm(400, generator=seeded(2))
    names = torch.tensor([2, 0, 3, 1])
    changed = {
        "logits": samples["logits"][rows][:, names],
        "labels": names.argsort()[samples["labels"]][rows],
    }
    plain = method(logits=samples["logits"], state=method.fit(**samples))
    other = method(logits=changed["logits"], state=method.fit(**changed))
    # 1e-5: the search stops within 1e-8 of log T
    torch.testing.assert_close(other, plain[rows][:, names], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_hardly_any_samples_and_an_absent_class_are_defined(method: Calibrator, count: int) -> None:
    samples = {name: value[:count] for name, value in overconfident().items()}
    state = method.fit(**samples)
    assert method(logits=overconfident()["logits"], state=state).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_settings_survive_a_round_trip(method: Calibrator) -> None:
    assert Calibrator.parse(method.dump()) == method


# --- temperature ----------------------------------------------------------------------------------


def test_temperature_is_the_golden_optimum() -> None:
    case, inputs = "temperature_scaling", GOLDEN.inputs("temperature_scaling")
    method = Temperature()
    state = method.fit(**inputs)
    best = float(GOLDEN.output(case, "T_opt"))
    assert float(state["temperature"]) == pytest.approx(best, abs=1e-4)
    nll = Calibration()(
        logits=method(logits=inputs["logits"], state=state), labels=inputs["labels"]
    )
    expected = float(GOLDEN.output(case, "nll_after"))
    assert nll["calibration/nll"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_no_temperature_on_a_grid_is_better(factor: float) -> None:
    samples = overconfident(factor=factor)
    found = float(Temperature().fit(**samples)["temperature"])
    grid = torch.logspace(-1.3, 1.3, 600, dtype=torch.float64)
    losses = torch.stack(
        [
            torch.nn.functional.cross_entropy(samples["logits"].double() / t, samples["labels"])
            for t in grid
        ]
    )
    at_found = torch.nn.functional.cross_entropy(samples["logits"] / found, samples["labels"])
    assert at_found <= losses.min() + 1e-6
    assert found == pytest.approx(float(grid[losses.argmin()]), rel=0.02)


def test_temperature_follows_the_scale_of_the_logits() -> None:
    one = Temperature().fit(**overconfident(factor=1.0))["temperature"]
    three = Temperature().fit(**overconfident(factor=3.0))["temperature"]
    torch.testing.assert_close(three, 3 * one, rtol=1e-5, atol=0)


def test_bounds_hold_for_perfect_and_for_useless_logits() -> None:
    labels = torch.tensor([0, 1])
    perfect = torch.eye(2)
    assert float(Temperature().fit(logits=perfect, labels=labels)["temperature"]) < 0.0501
    assert float(Temperature().fit(logits=-perfect, labels=labels)["temperature"]) > 19.9


def test_a_single_class_and_no_samples_keep_temperature_one() -> None:
    method = Temperature()
    none = method.fit(logits=torch.zeros(0, 3), labels=torch.zeros(0, dtype=torch.int64))
    one = method.fit(logits=torch.randn(5, 1), labels=torch.zeros(5, dtype=torch.int64))
    assert float(none["temperature"]) == float(one["temperature"]) == 1.0


def test_bounds_that_enclose_nothing_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="must be below upper") as error:
        load_experiment(None, ["score.calibrator={temperature: {lower: 3.0, upper: 2.0}}"])
    assert "\n" not in str(error.value)


def test_none_changes_nothing() -> None:
    logits = torch.randn(3, 2, generator=seeded())
    method = NoCalibrator()
    assert method(logits=logits, state=method.fit()) is logits
