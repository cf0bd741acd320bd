"""The digits recipe with a module's own small settings (its ``SMALL``), and its views."""

import pytest

from trainables.data.views import Views, build_views
from trainables.experiment import Experiment, load_experiment
from trainables.settings import assign


@pytest.fixture(scope="module")
def base(request: pytest.FixtureRequest) -> Experiment:
    return assign(load_experiment("experiments/digits.yaml"), request.module.SMALL)


@pytest.fixture(scope="module")
def views(base: Experiment) -> Views:
    return build_views(base.data)
