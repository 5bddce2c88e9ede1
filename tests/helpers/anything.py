"""Bytes of any kind, with which readers are tried."""

import contextlib

import hypothesis
from hypothesis import strategies as st

from fermm.errors import InputError
from helpers.fer2013 import HEADER

# The same examples every time, since a failure of chance in CI helps nobody; `reliability.fuzz` has
# the others. No deadline: the machine may be busy.
settings = hypothesis.settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
BYTES = (
    st.binary(max_size=300)
    | st.text(max_size=100).map(str.encode)
    | st.sampled_from([b"PK\3\4", b"PK\5\6" + bytes(18), HEADER, b"\xef\xbb\xbf" + HEADER])
)


def one_change(data, good):
    """`good` with some bytes in place of others, as Hypothesis draws them."""
    start = data.draw(st.integers(0, len(good)))
    stop = start + data.draw(st.integers(0, 40))
    return good[:start] + data.draw(st.binary(max_size=40)) + good[stop:]


def read_or_refuse(reader, path, content):
    """Has a reader read a file of this content; any exception but InputError fails the test."""
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        reader(path)
