"""What is known of a recipe that was not chosen among several."""

import numpy as np
import torch

from orchestrator.fitting.training.untried import untried
from trainables.artifacts import Backbone, Classifier, Features, LabelledView, Scorer
from trainables.methods.calibrators import Calibrator
from trainables.methods.heads import Head
from trainables.methods.scores import Score


def test_images_that_were_kept_out_judge_it() -> None:
    # the larger feature is the class: right for three of four images of the first, one of one
    features = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    labels = np.array([0, 0, 0, 0, 1])
    images = np.zeros((5, 8, 8, 3), dtype=np.uint8)
    view = LabelledView(images, np.arange(5), labels, 3, "", class_names=["ant", "bee", "cow"])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    classifier = Classifier(
        head=Head.parse("linear"),
        num_features=2,
        state={"weight": weight, "bias": torch.zeros(3)},
        logit_offset=torch.zeros(3),
        class_counts=torch.tensor([9, 9, 9]),
        feature_mean=torch.zeros(2),
    )
    artifacts = {
        "backbone": Backbone("fastnet", 8, 2, "nothing", {}),
        "classifier": classifier,
        "scorer": Scorer(Calibrator.parse("none"), {}, Score.parse("msp"), {}, 0.0),
        "features": Features(features, features),
        "known_train": view,
        "validation_known": view,
    }
    found = untried(artifacts, view)
    assert found.table.predicted.tolist() == [[0, 0, 0, 1, 1]]
    assert found.search.honest.mean == (0.75 + 1.0) / 2
    assert found.search.classes_not_judged == ["cow"]
    assert found.search.kept_out == 5
    assert (found.choice.served, found.base, found.search.variants) == (0, 0, 1)
    honest = found.search.honest

    def groups(*numbers: int) -> LabelledView:
        return view._replace(groups=np.array(numbers))

    # images of one shot are as good as one: the interval is wider
    assert untried(artifacts, groups(0, 1, 2, 3, 4)).search.honest == honest
    shots = untried(artifacts, groups(0, 0, 0, 0, 4)).search.honest
    assert shots.mean == honest.mean
    assert shots.high - shots.low > 1.1 * (honest.high - honest.low)
