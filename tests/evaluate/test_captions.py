"""Captions, which say no more than the intervals allow."""

import numpy as np

from fermm.evaluate import captions, run
from helpers.runs import NOT_ONE, assessed, fabricate


def test_a_caption_names_the_best_only_where_the_intervals_do(tmp_path):
    found = {"a": (0.9, (0.8, 0.95)), "b": (0.5, (0.4, 0.6)), "c": (0.45, (0.3, 0.7)),
             "d": (0.2, (0.1, 0.35))}  # fmt: skip
    assert captions.extremes(found) == (["a"], ["d", "c"])
    assert captions.extremes({"a": (0.5, (0.4, 0.6)), "b": (0.5, (0.4, 0.6))}) == (
        ["a", "b"],
        ["b", "a"],
    )
    # Of ten faces each, angry ones are never wrong, happy ones always, three of the others.
    emotions = np.arange(70) % 7
    wrong = [i for i in range(70) if emotions[i] == 3 or (emotions[i] != 0 and i < 21)]
    read, of = assessed(tmp_path / "run", {"image": [wrong]})
    caption = captions.recall(read, of)
    # Wilson's intervals, 0 and 10 and 7 of 10 faces: 0 to 28, 72 to 100, 40 to 89.
    assert caption.endswith(
        "image recognises angry (100%, 72 to 100), or disgust or fear or sad or surprise or "
        "neutral, best and happy (0%, 0 to 28) worst. Where several are named, their intervals "
        "overlap."
    )
    read, of = assessed(tmp_path / "equal", {"image": [range(35)]})
    assert captions.recall(read, of).endswith("Which class image recognises best, is not shown.")


def test_captions_of_training_by_hand(tmp_path):
    read = run.load(fabricate(tmp_path / "run", {"image": [NOT_ONE]}))
    history = read.networks["image"][0].history
    history[0] |= {"val_loss": 0.25, "val_accuracy": 0.75}
    history[1] |= {"val_loss": 0.5, "accuracy": 0.8, "val_accuracy": 0.6}
    text = captions.validation(read)
    assert (
        "image ends at an accuracy of 60.0%, its loss is lowest in epoch 1 of 2, 0.250 be" in text
    )
    assert "In the last epoch it is 20.0 points above it for image" in captions.training(read)
