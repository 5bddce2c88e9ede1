"""The order of the training samples, as a function of seed and epoch alone."""

import numpy as np


def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The permutation of `count` samples in which epoch `epoch` visits them: int32 (count,).

    Batch `b` of size `B` holds the entries `b * B` to `(b + 1) * B - 1`; the last may be shorter.
    A function of its arguments alone, so a resumed run sees the same batches. Made from the raw
    stream of Philox, which is fixed by its definition: NumPy may change `Generator.permutation`.
    """
    stream = np.random.Philox(key=[seed, epoch]).random_raw(count)
    return np.argsort(stream, kind="stable").astype(np.int32)
