import pytest

from fermm.errors import InputError
from fermm.train import partition

PARAMS = {
    "head": {"logits": {"kernel": 1, "bias": 2}},
    "image": {"conv1": {"kernel": 3}, "logits": {"kernel": 4}},
}


@pytest.mark.parametrize(
    ("patterns", "trained"),
    [
        ((".*",), {"head/logits/kernel", "head/logits/bias", "image/conv1/kernel",
                   "image/logits/kernel"}),
        (("head/.*", "!.*"), {"head/logits/kernel", "head/logits/bias"}),
        (("!image/conv.*", ".*"), {"head/logits/kernel", "head/logits/bias",
                                   "image/logits/kernel"}),
        # The first match decides.
        (("image/logits/.*", "!image/.*", "!head/.*"), {"image/logits/kernel"}),
    ],
)  # fmt: skip
def test_first_matching_pattern_decides(patterns, trained):
    assert partition.trained_paths(PARAMS, patterns) == trained


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ("haed/.*", "!.*"),
            "trainable: 'haed/.*' matches no parameter; they are head/log",
        ),
        (("head", "!.*"), "trainable: 'head' matches no parameter"),  # the whole path counts
        (("head/.*",), "trainable: no pattern covers the parameter image/conv1/kernel; add"),
        (("!.*",), "trainable: .* freezes every parameter; nothing to train"),
        (("(", "!.*"), r"trainable: '\(' is no regular expression: missing \)"),
    ],
)
def test_bad_patterns_are_refused(patterns, message):
    with pytest.raises(InputError, match=message):
        partition.trained_paths(PARAMS, patterns)


def test_split_and_merge_are_inverse():
    trained, frozen = partition.split(PARAMS, frozenset({"head/logits/bias", "image/conv1/kernel"}))
    assert trained == {"head": {"logits": {"bias": 2}}, "image": {"conv1": {"kernel": 3}}}
    assert frozen == {"head": {"logits": {"kernel": 1}}, "image": {"logits": {"kernel": 4}}}
    assert partition.merge(trained, frozen) == PARAMS
