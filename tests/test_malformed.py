"""Input that is damaged, hostile or of a wrong kind: every reader refuses it with one exact line.

What readers of data refuse is in data/test_malformed.py. All files are made here.
"""

import io
import json
import os
import pickle
import random

import jaxtyping
import numpy as np
import pytest

from configs import paper, synthetic
from fermm import experiment
from fermm.errors import InputError
from fermm.evaluate import run
from fermm.experiment import config as run_config
from fermm.experiment import directory as directory_lib
from fermm.rundir import RunDirectory
from helpers.runs import ALL, fabricate
from helpers.trainings import small_config
from reliability import damage, fuzz

PATH = "@"  # stands for the path of the input in a message
ANEW = "delete it and run again: the run writes it anew"
USAGE = "fields are set as --config.FIELD=VALUE, see --help"
SEED = "an integer from 0 to 2**31 - 1"
NOBODY = "no such user; write the path out"
LOST = "put it back from a copy, or choose another --workdir"


def refusal(reader, *arguments, **keywords):
    with pytest.raises(InputError) as caught:
        reader(*arguments, **keywords)
    return str(caught.value)


# --- Networks ------------------------------------------------------------------------------------


NETWORKS = {
    "no units": (
        {"landmarks__arguments__features": 0},
        "config.landmarks: arguments.features is 0, needs an integer from 1",
    ),
    "half a unit": (
        {"image__arguments": {"hidden": 2.5}},
        "config.image: arguments.hidden is 2.5, needs an integer from 1",
    ),
    "two layers of filters": (
        {"image__arguments__filters": (8, 16)},
        "config.image: arguments.filters is (8, 16), needs a tuple of 3 integers from 1",
    ),
    "a size for a tuple": (
        {"feature_fusion__arguments": {"hidden": 64}},
        "config.feature_fusion: arguments.hidden is 64, needs a tuple of integers from 1",
    ),
    "dropout of all": (
        {"landmarks__arguments__dropout": 1.0},
        "config.landmarks: arguments.dropout is 1.0, needs a number from 0, less than 1",
    ),
    "argument of another": (
        {"decision_fusion__arguments": {"hidden": (64, 16)}},
        "config.decision_fusion: head 'decision' has no argument 'hidden'; it has classes.",
    ),
    "trainable of another": (
        {"decision_fusion__trainable": ("head/dense1/.*", "!.*")},
        "config.decision_fusion: trainable: 'head/dense1/.*' matches no parameter; they are "
        "head/logits/bias, head/logits/kernel, @",
    ),
    "unknown head": (
        {"decision_fusion__head": "decisions"},
        "config.decision_fusion: head 'decisions' is not registered (known: decision, feature). "
        "Did you mean 'decision'? If it is your own, import the module that registers it first.",
    ),
}


@pytest.mark.parametrize(("changes", "message"), NETWORKS.values(), ids=NETWORKS)
def test_networks(tmp_path, changes, message):
    """Also those whose turn comes after hours are looked at before anything is done."""
    jaxtyping.config.update("jaxtyping_disable", True)  # users have no checks of types
    try:
        found = refusal(experiment.run, small_config(**changes), tmp_path / "run")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    expected, cut, _ = message.partition("@")
    assert found.startswith(expected) if cut else found == expected
    assert not (tmp_path / "run").exists()


# --- Paths ---------------------------------------------------------------------------------------


PATHS = {
    "run with NUL": (
        lambda path: run.load(run.Path(path)),
        "no\0such",
        "@: not the directory of a run: config.json is missing",
    ),
    "run is a file": (
        lambda path: run.load(run.Path(path)),
        __file__,
        "@: not the directory of a run: config.json is missing",
    ),
}


@pytest.mark.parametrize(("reader", "path", "message"), PATHS.values(), ids=PATHS)
def test_paths(reader, path, message):
    found = refusal(reader, path)
    assert found.replace(path, PATH).replace("no\\x00such", PATH) == message


# --- Config fields -------------------------------------------------------------------------------


FIELDS = {
    "networks": {
        "text": ("image", "config.networks is 'image', needs a list of strings"),
        "number within": (("image", 3), "config.networks is ('image', 3), needs a list of strings"),
        "none": (None, "config.networks is None, needs a list of strings"),
    },
    "seeds": {
        "number": (3, "config.seeds is 3, needs a list of integers"),
        "text within": (("0",), "config.seeds is ('0',), needs a list of integers"),
        "tuple within": (((0,),), "config.seeds is ((0,),), needs a list of integers"),
        "True within": ((True,), "config.seeds is (True,), needs a list of integers"),
        "too large": ((2**31,), f"config.seeds is 2147483648, needs {SEED}"),
    },
    "split_seeds": {
        "fraction within": ((0.5,), "config.split_seeds is (0.5,), needs a list of integers")
    },
    "report": {"text": ("no", "config.report is 'no', needs True or False")},
    "tensorboard": {"number": (1, "config.tensorboard is 1, needs True or False")},
    "accept_changed_code": {"number": (1, "config.accept_changed_code is 1, needs True or False")},
    "data": {"text": ("fer2013.csv", "config.data is 'fer2013.csv', needs a section")},
    "data.path": {"number": (3, "config.data.path is 3, needs a string")},
    "data.cache_dir": {
        "none": (None, "config.data.cache_dir is None, needs a string"),
        "of nobody": ("~nobody-here/x", f"~nobody-here/x: {NOBODY}"),
    },
    "data.predictor": {"of nobody": ("~nobody-here/x", f"~nobody-here/x: {NOBODY}")},
    "data.workers": {"negative": (-1, "config.data.workers is -1, needs at least 0")},
    "data.split_seed": {"text": ("0", "config.data.split_seed is '0', needs an integer")},
    "data.on_error": {
        "unknown": (
            "quarantaine",
            (
                "config.data.on_error: 'quarantaine' is unknown; there are quarantine, stop. "
                "Did you mean 'quarantine'?"
            ),
        ),
        "long": (
            "x" * 500,
            (f"config.data.on_error: '{'x' * 79}... is unknown; there are quarantine, stop."),
        ),
    },
    "data.arguments": {"list": ([3], "config.data.arguments is [3], needs a section")},
    "data.arguments.count": {
        "fraction": (1.5, "config.data.arguments.count is 1.5, needs an integer")
    },
    "data.arguments.spoiled": {
        "text": ("all", "config.data.arguments.spoiled is 'all', needs a number")
    },
    "evaluate": {"tuple": (("test",), "config.evaluate is ('test',), needs a section")},
    "evaluate.splits": {
        "text": ("test", "config.evaluate.splits is 'test', needs a list of strings")
    },
    "image": {"text": ("nn1", "config.image is 'nn1', needs a section")},
    "image.model": {"number": (1, "config.image.model is 1, needs a string")},
    "image.arguments": {"none": (None, "config.image.arguments is None, needs a section")},
    "image.trainable": {"text": (".*", "config.image.trainable is '.*', needs a list of strings")},
    "image.epochs": {
        "fraction": (1.5, "config.image.epochs is 1.5, needs an integer"),
        "True": (True, "config.image.epochs is True, needs an integer"),
    },
    "image.batch_size": {"none": (None, "config.image.batch_size is None, needs an integer")},
    "image.learning_rate": {
        "NaN": (float("nan"), "config.image.learning_rate is nan, needs a number above 0"),
        "text": ("1e-3", "config.image.learning_rate is '1e-3', needs a number"),
    },
    "image.schedule": {"text": ("step", "config.image.schedule is 'step', needs a section")},
    "image.schedule.epochs": {
        "number": (9, "config.image.schedule.epochs is 9, needs a list of integers"),
        "text within": (("9",), "config.image.schedule.epochs is ('9',), needs a list of integers"),
    },
    "image.schedule.factor": {
        "none": (None, "config.image.schedule.factor is None, needs a number"),
        "NaN": (
            float("nan"),
            "config.image.schedule.factor is nan, needs a number between 0 and 1",
        ),
    },
    "landmarks.schedule.min_delta": {
        "NaN": (float("nan"), "config.landmarks.schedule.min_delta is nan, needs at least 0")
    },
    "decision_fusion.members.image.run": {
        "of nobody": ("~nobody-here/x", f"~nobody-here/x: {NOBODY}"),
        "none": (None, "config.decision_fusion.members.image.run is None, needs a string"),
    },
    "decision_fusion.members.image.network": {
        "unknown": (
            "imag",
            "config.decision_fusion.members.image.network: 'imag' is unknown; there are "
            "decision_fusion, feature_fusion, image, landmarks. Did you mean 'image'?",
        )
    },
    "decision_fusion.members": {
        "none": (
            {},
            "config.decision_fusion.members is empty: name the networks to fuse, such as "
            "--config.decision_fusion.members.image.network=image",
        )
    },
    "decision_fusion.reuse_frozen_outputs": {
        "number": (1, "config.decision_fusion.reuse_frozen_outputs is 1, needs True or False")
    },
}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [(field, *case) for field, cases in FIELDS.items() for case in cases.values()],
    ids=[f"{field} {name}" for field, cases in FIELDS.items() for name in cases],
)
def test_fields(field, value, message):
    config = synthetic.get_config().to_dict()
    *sections, name = field.split(".")
    section = config
    for key in sections:
        section = section[key]
    section[name] = value
    assert refusal(run_config.read, config) == message


def test_what_has_no_default_is_needed():
    for field in ("networks", "data", "data.source", "image.epochs", "image.learning_rate"):
        config = paper.get_config().to_dict()
        *sections, name = field.split(".")
        section = config
        for key in sections:
            section = section[key]
        del section[name]
        assert refusal(run_config.read, config) == (f"config.{field} is missing in the config file")


OVERRIDES = {
    "no field": (
        "--config.=3",
        f"--config: an override cannot be read (Could not parse ''); {USAGE}",
    ),
    "field is no name": (
        "--config.,=3",
        f"--config: an override cannot be read (Could not parse ','); {USAGE}",
    ),
    "below a value": (
        "--config.seeds.x=3",
        (
            "--config: an override cannot be read (tuple indices must be integers or "
            f"slices, not str); {USAGE}"
        ),
    ),
    "not a number": (
        "--config.image.epochs=nan",
        "flag --config.image.epochs=nan: invalid literal for int() with base 10: 'nan'",
    ),
    "line end": (
        "--config.image.epochs=3\n4",
        ("flag --config.image.epochs=3\\n4: invalid literal for int() with base 10: '3\\n4'"),
    ),
    "5000 digits": (
        "--config.image.epochs=" + "9" * 5000,
        (
            "flag "
            "--config.image.epochs=999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999..."
        ),
    ),
    "section": (
        "--config.data={1: 2",
        "flag --config.data={1: 2: Failed to parse '{1: 2' as a ConfigDict",
    ),
    "call": (
        "--config.seeds=__import__('os').system('false')",
        "config.seeds is (\"__import__('os').system('false')\",), needs a list of integers",
    ),
    "no tuple": ("--config.seeds=0.5", "config.seeds is (0.5,), needs a list of integers"),
    "not a switch": (
        "--config.report=perhaps",
        ("flag --config.report=perhaps: ('Non-boolean argument to boolean flag', 'perhaps')"),
    ),
    "flags from a file": (
        "--flagfile=/no/such",
        ("ERROR:: Unable to open flagfile: [Errno 2] No such file or directory: '/no/such'"),
    ),
}


# ml_collections imports the file in an old way.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(("argument", "message"), OVERRIDES.values(), ids=OVERRIDES)
def test_overrides(argument, message):
    assert refusal(lambda: run_config.read(fuzz.parse([argument]))) == message


# --- Files of a run ------------------------------------------------------------------------------


PREDICTIONS = "decision_fusion/seed_0/predictions_test.npz"
MODALITIES = "decision_fusion/seed_0/modalities_test.npz"
HISTORY = "decision_fusion/seed_0/history.csv"


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def arrays(**changes):
    """Changes arrays of an `.npz`; None takes one out."""

    def change(data):
        with np.load(io.BytesIO(data)) as file:
            changed = {name: file[name] for name in file} | changes
        out = io.BytesIO()
        np.savez(out, **{name: x for name, x in changed.items() if x is not None})
        return out.getvalue()

    return change


def packed(data):
    out = io.BytesIO()
    with np.load(io.BytesIO(data)) as file:
        np.savez_compressed(out, **file)
    return out.getvalue()


def fields(**changes):
    """Changes fields of a JSON object, `__` being a level."""

    def change(data):
        value = json.loads(data)
        for path, new in changes.items():
            *sections, name = path.split("__")
            section = value
            for key in sections:
                section = section[key]
            section[name] = new
        return json.dumps(value).encode()

    return change


def becomes(data):
    return lambda _: data


COUNT = 70
ROWS = np.arange(COUNT)
SEVENTHS = np.full((COUNT, 7), 1 / 7, np.float32)
RUN_FILES = {
    "samples.npz": {
        "empty": (becomes(b""), f"@: damaged (File is not a zip file); {ANEW}"),
        "text": (becomes(b"row,label\n"), f"@: damaged (File is not a zip file); {ANEW}"),
        "cut short": (lambda data: data[:-30], f"@: damaged (File is not a zip file); {ANEW}"),
        "packed": (packed, f"@: damaged (compressed, which fermm's are not); {ANEW}"),
        "pickle": (
            becomes(pickle.dumps(Harmful())),
            f"@: damaged (File is not a zip file); {ANEW}",
        ),
        "pickled array": (
            arrays(label=np.array([Harmful()])),
            f"@: damaged (Object arrays cannot be loaded when allow_pickle=False); {ANEW}",
        ),
        "one array": (becomes(b"\x93NUMPY\1\0"), f"@: damaged (File is not a zip file); {ANEW}"),
        "no weights": (
            arrays(class_weights=None),
            f"@: damaged (class_weights is missing); {ANEW}",
        ),
        "infinite weight": (
            arrays(class_weights=np.full(7, np.inf)),
            f"@: damaged (class_weights are not finite); {ANEW}",
        ),
        "split 3": (
            arrays(split=np.full(140, 3, np.int8)),
            f"@: damaged (split is not from 0 to 2); {ANEW}",
        ),
        "rows twice": (
            arrays(row=np.zeros(140, int)),
            f"@: damaged (row is empty, or has one twice); {ANEW}",
        ),
        "rows as numbers": (
            arrays(row=np.arange(140.0)),
            f"@: damaged (row is float64 (140,), needs i (140,)); {ANEW}",
        ),
    },
    PREDICTIONS: {
        "label 7": (
            arrays(label=np.full(COUNT, 7)),
            f"@: damaged (label is not from 0 to 6); {ANEW}",
        ),
        "not a probability": (
            arrays(probabilities=SEVENTHS * np.nan),
            f"@: damaged (probabilities are not from 0 to 1); {ANEW}",
        ),
        "beyond 1": (
            arrays(probabilities=SEVENTHS * 8),
            f"@: damaged (probabilities are not from 0 to 1); {ANEW}",
        ),
        "six classes": (
            arrays(probabilities=SEVENTHS[:, :6]),
            f"@: damaged (probabilities is float32 (70, 6), needs f (70, 7)); {ANEW}",
        ),
        "fewer labels": (
            arrays(label=np.zeros(3, int)),
            f"@: damaged (label is int64 (3,), needs i (70,)); {ANEW}",
        ),
        "no faces": (
            arrays(row=ROWS[:0], label=ROWS[:0], probabilities=SEVENTHS[:0]),
            f"@: damaged (row is empty, or has one twice); {ANEW}",
        ),
        "other faces": (
            arrays(row=ROWS),
            (
                "@: of other samples than samples.npz says, one of the two is damaged; delete "
                "both and run again: the run writes them anew"
            ),
        ),
        "a single row": (arrays(row=np.int64(3)), f"@: damaged (len() of unsized object); {ANEW}"),
    },
    MODALITIES: {
        "no member by itself": (arrays(alone=None), f"@: damaged (alone is missing); {ANEW}"),
        "one member": (
            arrays(alone=np.zeros((1, COUNT), np.int16)),
            f"@: damaged (alone is int16 (1, 70), needs i (2, 70)); {ANEW}",
        ),
        "a member twice": (
            arrays(member=np.array(["image", "image"])),
            f"@: damaged (member is empty, or names one twice); {ANEW}",
        ),
        "orders of one member": (
            arrays(shuffled=np.zeros((1, 3, COUNT), np.int16)),
            f"@: damaged (shuffled is int16 (1, 3, 70), needs i (2, 3, 70)); {ANEW}",
        ),
        "decision -1": (
            arrays(decision=np.full(COUNT, -1, np.int8)),
            f"@: damaged (decision is not from 0 to 6); {ANEW}",
        ),
    },
    HISTORY: {
        "empty": (
            becomes(b""),
            (
                "@: damaged (needs the columns epoch, loss, accuracy, val_loss, val_accuracy, "
                f"learning_rate, seconds and a row); {ANEW}"
            ),
        ),
        "header alone": (
            lambda data: data.splitlines()[0],
            (
                "@: damaged (needs the columns epoch, loss, accuracy, val_loss, val_accuracy, "
                f"learning_rate, seconds and a row); {ANEW}"
            ),
        ),
        "a text": (
            lambda data: data.replace(b"1.5", b"soon"),
            f"@: damaged (could not convert string to float: 'soon'); {ANEW}",
        ),
        "cut short": (
            lambda data: data[:-12],
            f"@: damaged (could not convert string to float: ''); {ANEW}",
        ),
        "a column without a name": (
            lambda data: data.replace(b"accuracy", b"", 1),
            (
                "@: damaged (needs the columns epoch, loss, accuracy, val_loss, val_accuracy, "
                f"learning_rate, seconds and a row); {ANEW}"
            ),
        ),
        "no text": (
            becomes(b"\xff\xfe\0"),
            (
                "@: damaged ('utf-8' codec can't decode byte 0xff in position 0: invalid start "
                f"byte); {ANEW}"
            ),
        ),
    },
    "config.json": {
        "empty": (
            becomes(b""),
            f"@: cannot be read as JSON (Expecting value: line 1 column 1 (char 0)); {LOST}",
        ),
        "list": (becomes(b"[]"), f"@: cannot be read as JSON (list, needs an object); {LOST}"),
        "100,000 brackets": (
            becomes(b"[" * 100_000),
            f"@: cannot be read as JSON (nested too deep); {LOST}",
        ),
        "5000 digits": (
            becomes(b'{"seeds": ' + b"9" * 5000),
            (
                "@: cannot be read as JSON (Exceeds the limit (4300 digits) for integer string "
                "conversion: value has 5000 digits; use sys.set_int_max_str_digits() to "
                f"increase the limit); {LOST}"
            ),
        ),
        "Latin-1": (
            becomes('{"é": 1}'.encode("latin-1")),
            (
                "@: cannot be read as JSON ('utf-8' codec can't decode byte 0xe9 in position "
                f"2: invalid continuation byte); {LOST}"
            ),
        ),
        "seeds as a number": (fields(seeds=0), f"@: damaged (seeds is no list, or empty); {LOST}"),
        "seeds as texts": (
            fields(seeds=["0"]),
            f"@: damaged (seeds has an entry that is no int); {LOST}",
        ),
        "a seed of 300 digits": (
            fields(seeds=[10**299]),
            f"@: damaged (a network, seed or split is too long for a file name); {LOST}",
        ),
        "a network of 300 letters": (
            fields(networks=["n" * 300]),
            f"@: damaged (a network, seed or split is too long for a file name); {LOST}",
        ),
        "no networks": (fields(networks=[]), f"@: damaged (networks is no list, or empty); {LOST}"),
        "data as a list": (fields(data=[]), f"@: damaged (data is no object); {LOST}"),
        "a split of nobody": (
            fields(evaluate__splits=["tset"]),
            (
                "@/image/seed_0/predictions_tset.npz: missing; the run is not finished: start "
                "it again with --workdir @"
            ),
        ),
    },
    "data.json": {
        "NaN": (becomes(b"NaN"), f"@: cannot be read as JSON (float, needs an object); {ANEW}"),
        "title as a number": (fields(title=3), f"@: damaged (title is no str); {ANEW}"),
        "no identity": (fields(identity={}), f"@: damaged (identity.split is missing); {ANEW}"),
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    wrong = {"image": [ALL], "landmarks": [ALL], "decision_fusion": [ALL]}
    return fabricate(tmp_path_factory.mktemp("whole") / "run", wrong)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [(name, *case) for name, cases in RUN_FILES.items() for case in cases.values()],
    ids=[f"{name} {kind}" for name, cases in RUN_FILES.items() for kind in cases],
)
def test_run_files(whole, tmp_path, monkeypatch, name, change, message):
    monkeypatch.chdir(tmp_path)
    file = whole / name
    data = file.read_bytes()
    try:
        file.write_bytes(change(data))
        assert (
            refusal(run.load, whole).replace(str(file), PATH).replace(str(whole), PATH) == message
        )
    finally:
        file.write_bytes(data)
    run.load(whole)
    assert list(tmp_path.iterdir()) == []  # nothing was executed


# What is done with the directory of a run that is called again.
AGAIN_FILES = {
    "list": (b"[]", f"@/config.json: cannot be read as JSON (list, needs an object); {LOST}"),
    "100,000 brackets": (
        b"[" * 100_000,
        f"@/config.json: cannot be read as JSON (nested too deep); {LOST}",
    ),
    "cut short": (
        b'{"seeds": [0',
        (
            "@/config.json: cannot be read as JSON (Expecting ',' delimiter: line 1 column "
            f"13 (char 12)); {LOST}"
        ),
    ),
    "NaN": (
        b'{"seeds": [0], "report": NaN, "data": NaN}',
        (
            "@: a run with another config: config.data is nan there and {'source': 'synthetic', "
            "'path': '', 'arguments': {'count': 10000, 'seed': 0, 'sp... now; "
            "choose another --workdir, or the same config"
        ),
    ),
    "no fields": (
        b"{}",
        (
            "@: a run with another config: config.split_seeds is None there and [] now; choose "
            "another --workdir, or the same config"
        ),
    ),
}


@pytest.mark.parametrize(("content", "message"), AGAIN_FILES.values(), ids=AGAIN_FILES)
def test_a_run_is_not_begun_again_on_a_damaged_config(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    config = synthetic.get_config().to_dict()
    assert (
        refusal(directory_lib.check, run_config.read(config), RunDirectory(tmp_path)).replace(
            str(tmp_path), PATH
        )
        == message
    )


# --- The fuzzer ----------------------------------------------------------------------------------


def test_the_fuzzer_damages_what_it_is_given_and_not_its_own_values():
    text = json.dumps({"a": [1, {"b": []}], "c": {"d": "e"}}).encode()
    values = repr(damage._VALUES)
    first = [damage.damage_json(random.Random(i), text) for i in range(2000)]
    assert repr(damage._VALUES) == values
    assert first == [damage.damage_json(random.Random(i), text) for i in range(2000)]


@pytest.mark.slow
def test_the_fuzzer_goes_on_in_a_new_process(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "RENEWED", 1)
    assert fuzz.fuzz(["landmarks"], 0.25, 0, tmp_path, 0)  # raises if one ends before its work
    assert " 0\n" in capsys.readouterr().out
