"""What settings refuse, whoever makes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from segmodels.settings.schema import AugmentSettings, CRFSettings, EvaluateSettings, PredictSettings, TrainSettings

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TrainSettings(lr=INFINITE), "train.lr is inf"),
        (lambda: TrainSettings(loss={"dice": NAN}), "train.loss.dice is nan"),
        (lambda: TrainSettings(stages=({"lr": -INFINITE},)), "train.stages.lr is -inf"),
        (lambda: AugmentSettings(scale=(0.5, INFINITE)), "train.augment.scale is inf"),
        (lambda: PredictSettings(scales=(1.0, NAN)), "evaluate.scales is nan"),
        (lambda: EvaluateSettings(max_depth=INFINITE), "evaluate.max_depth is inf"),
        (lambda: CRFSettings(bilateral_weight=NAN), "crf.bilateral_weight is nan"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=rf"^{sentence}; give a finite number$"):
        make()
