"""Samples to compare."""

import numpy as np

from fermm.samples import Samples


def assert_same(a: Samples, b: Samples) -> None:
    """All that is known of two sets of samples is the same, to the bit."""
    assert a.features.keys() == b.features.keys()
    for name, column in a.features.items():
        assert column.dtype == b.features[name].dtype, name
        np.testing.assert_array_equal(column, b.features[name], err_msg=name)
    for name in ("labels", "rows", "official", "votes", "targets"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        if x is not None:
            assert x.dtype == y.dtype, name
            np.testing.assert_array_equal(x, y, err_msg=name)
    for name in ("described", "classes", "identity", "rejected", "origin"):
        assert getattr(a, name) == getattr(b, name), name
