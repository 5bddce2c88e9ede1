"""Figures that show samples, on synthetic faces, and shape distances against SciPy."""

import dataclasses
import functools
import io

import matplotlib.image
import numpy as np
import pytest
import scipy.spatial

from configs import synthetic
from fermm import config, rundir
from fermm.data import source
from fermm.data.config import DataConfig
from fermm.evaluate import faces, figures, run, write
from fermm.evaluate.reference import NOTHING
from fermm.faces import EMOTIONS, FEATURES
from fermm.rundir import RunDirectory

CONFIG = synthetic.get_config().data.to_dict() | {"arguments": {"count": 300, "seed": 1}}


@pytest.fixture(scope="module")
def drawn():
    loaded = source.load(config.read(DataConfig, CONFIG, "config.data"))
    return faces.Data(loaded.samples, loaded.splits, loaded.class_weights, loaded.title)


@pytest.fixture(scope="module")
def written(drawn, tmp_path_factory):
    directory = tmp_path_factory.mktemp("figures") / "data"
    assert write.draw(directory, faces.of_data(drawn)) == {}
    return directory


def pixels(file):
    """Grey levels, uint8 (height, width), of a figure's PNG, as a file or drawn by a function."""
    if callable(file):
        file = io.BytesIO(figures.render(file)[".png"])
    return np.rint(255 * matplotlib.image.imread(file)[..., 0]).astype(np.uint8)


def column(data, name):
    return data.samples.features[name]


def made_run(directory, networks):
    """A run of these networks, assessed on test data."""
    seeds = list(range(len(next(iter(networks.values())))))
    config = {"evaluate": {"splits": ["test"]}, "seeds": seeds}
    return run.Run(
        RunDirectory(directory), config, "", (), EMOTIONS, FEATURES, {}, None, networks, NOTHING
    )


def keep(data, indices):
    """The data with training faces at `indices` of the training split only."""
    return data._replace(splits=data.splits | {"train": data.splits["train"][indices]})


def test_all_are_written_and_nothing_else(written):
    names = ("classes", "landmarks", "landmarks_good_and_bad", "samples")
    assert sorted(file.name for file in written.iterdir()) == sorted(
        f"{name}.{suffix}" for name in names for suffix in ("png", "svg")
    )
    for name in names:
        assert (written / f"{name}.svg").read_text().startswith("<?xml")
        wide = 740 if name == "classes" else 1480  # 3.7 and 7.4 in
        assert pixels(written / f"{name}.png").shape[1] == wide


def test_samples_are_the_first_training_faces_to_the_pixel(written, drawn):
    picture = pixels(written / "samples.png")
    train = drawn.splits["train"]
    for label in range(7):
        chosen = train[drawn.samples.labels[train] == label][:3]
        for row, index in enumerate(chosen):
            bottom = len(picture) - 20 - (2 - row) * 208
            left = 20 + label * 208
            cell = picture[bottom - 192 : bottom, left : left + 192]
            expected = column(drawn, "images")[index].repeat(4, 0).repeat(4, 1)
            # Matplotlib's way through the colour map may round a grey level down.
            np.testing.assert_allclose(cell.astype(int), expected, rtol=0, atol=1)


def test_missing_samples_leave_cells_empty(drawn):
    labels = drawn.samples.labels[drawn.splits["train"]]
    happy = np.flatnonzero(labels == 3)
    few = keep(drawn, np.concatenate([happy[:1], np.flatnonzero(~np.isin(labels, [2, 3]))]))
    picture = pixels(functools.partial(faces.samples, few))
    for label, present in ((2, 0), (3, 1), (4, 3)):
        cells = picture[-20 - 3 * 192 - 2 * 16 : -20, 20 + label * 208 : 212 + label * 208]
        shown = [(cells[row * 208 : row * 208 + 192] < 255).any() for row in range(3)]
        assert shown == [True] * present + [False] * (3 - present)
    faces.landmarks(few)
    faces.landmark_quality(keep(drawn, np.arange(3)))


def test_points_far_outside_are_within_the_axes(drawn):
    points = column(drawn, "landmarks") + 40
    samples = drawn.samples.with_feature("landmarks", FEATURES["landmarks"], points)
    figure = faces.landmarks(drawn._replace(samples=samples))
    cells = [axes for axes in figure.axes if axes.lines]
    assert len(cells) == 7
    for axes in cells:
        points = np.concatenate([line.get_xydata() for line in axes.lines])
        assert points.shape == (68, 2)
        assert points.max() > 60
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert (points < (right, bottom)).all()
        assert right - left == pytest.approx(bottom - top)


def test_rows_of_typical_and_untypical_shapes(drawn):
    figure = faces.landmark_quality(drawn)
    train = drawn.splits["train"]
    shapes = column(drawn, "landmarks")[train]
    distance = faces.shape_distance(shapes, faces.mean_shape(shapes))
    titles = [axes.get_title() for axes in figure.axes]
    for text, percent in zip(titles, (1, 4, 7, 10, 90, 93, 96, 99), strict=True):
        # 210 faces, so that no two ranks fall together: the nearest order statistic.
        value = np.quantile(distance, percent / 100, method="nearest")
        assert text == f"{percent}%: {value:.3f}"
    for axes in figure.axes:
        (shown,) = axes.images
        grey = np.rint(255 * shown.get_array())
        assert any(np.array_equal(grey, column(drawn, "images")[i]) for i in train)


def test_distance_is_scipys():
    random = np.random.default_rng(0)
    mean = random.normal(size=(68, 2))
    shapes = []
    for spread in (0.01, 0.1, 0.3, 0.5):
        turn = random.uniform(0, 2 * np.pi)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        noisy = mean + random.normal(scale=spread, size=mean.shape)
        shapes.append(random.uniform(0.1, 9) * noisy @ rotation + random.normal(size=2))
    expected = [scipy.spatial.procrustes(mean, shape)[2] for shape in shapes]
    distance = faces.shape_distance(np.array(shapes), mean)
    assert distance.dtype == np.float64
    # SciPy tries reflections too; none fits these shapes better.
    np.testing.assert_allclose(distance**2, expected, rtol=0, atol=1e-14)


def test_distance_worked_out_by_hand():
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    # Centred squares of sum 1 have complex points (-1-i, 1-i, 1+i, -1+i) / sqrt(8), and 2 : 1
    # rectangles (-2-i, 2-i, 2+i, -2+i) / sqrt(20): their product is 12 / sqrt(160).
    rectangle = square * [2, 1]
    mirrored = square[::-1]
    point = np.full((4, 2), 7)
    moved = 3 * square[:, ::-1] * [-1, 1] + [5, -2]
    distance = faces.shape_distance(np.stack([moved, rectangle, mirrored, point]), square)
    np.testing.assert_allclose(distance[:2], [0, np.sqrt(1 - 144 / 160)], atol=1e-7)
    np.testing.assert_array_equal(distance[2:], 1)


def test_no_shape_is_nearer_to_all_than_the_mean(drawn):
    landmarks = column(drawn, "landmarks")
    mean = faces.mean_shape(landmarks)
    assert mean.shape == (68, 2)
    np.testing.assert_allclose([mean.sum(0)], 0, atol=1e-12)
    np.testing.assert_allclose((mean**2).sum(), 1)
    least = np.square(faces.shape_distance(landmarks, mean)).mean()
    random = np.random.default_rng(0)
    for _ in range(20):
        other = mean + random.normal(scale=1e-3, size=mean.shape)
        assert np.square(faces.shape_distance(landmarks, other)).mean() > least
    np.testing.assert_allclose(faces.shape_distance(2 - mean[None] * 3, mean), 0, atol=1e-7)


def test_classes_show_counts_and_weights():
    table_1 = np.array([4953, 547, 5121, 8989, 6077, 4002, 6198])
    test = table_1 // 10
    counts = {"train": table_1 - 3 * test, "validation": 2 * test, "test": test}
    figure = faces.bars(counts, table_1.max() / table_1, EMOTIONS, "FER2013")
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert texts[1] == " 547\n weight 16.433"
    assert texts[3] == " 8,989\n weight 1.000"
    assert axes.get_yticklabels()[1].get_text() == "disgust"
    assert [bars.get_label() for bars in axes.containers] == ["train", "validation", "test"]
    ends = [bar.get_x() + bar.get_width() for bar in axes.containers[-1]]
    assert ends == table_1.tolist()


@pytest.mark.parametrize("classes", [1, 7, 60])
def test_every_class_has_room_on_a_telephone(classes):
    counts = {split: np.full(classes, 123_456) for split in ("train", "validation", "test")}
    names = [f"class number {i} of many" for i in range(classes)]
    figure = faces.bars(counts, np.full(classes, 57.955), names, "many")
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    assert width / figure.dpi <= 3.7
    (axes,) = figure.axes
    texts = [text.get_window_extent() for text in axes.texts]
    assert len(texts) == classes
    for text, below in zip(texts, [*texts[1:], None], strict=True):
        assert 0 < text.x0 < text.x1 < width
        assert 0 < text.y0 < text.y1 < height
        assert below is None or below.y1 < text.y0


def test_faces_that_all_get_wrong_and_those_that_a_fusion_wins_and_loses(drawn, tmp_path):
    """Eight test faces and two seeds, with every kind of agreement by hand."""
    test = drawn.splits["test"][:8]
    rows, labels = drawn.samples.rows[test], drawn.samples.labels[test]
    other = (labels + 1) % 7

    def decided(right):
        return np.where(np.array(right, bool), labels, other).astype(np.int16)

    #        won against both, only image wrong, only landmarks wrong, lost: image, landmarks, both
    image = [0, 0, 1, 1, 0, 1, 0, 1]
    points = [0, 1, 0, 0, 1, 1, 0, 1]
    fused = [1, 1, 1, 0, 0, 0, 0, 1]

    def trained(seed, right, modalities=None):
        probabilities = np.full((8, 7), 0.02, np.float32)
        probabilities[np.arange(8), decided(right)] = 0.88
        # The first of those that all get wrong has a little more.
        probabilities[np.arange(8), labels] += np.linspace(0.01, 0, 8)
        order = np.random.default_rng(seed).permutation(8)  # rows stand in any order
        made = rundir.Predictions(rows[order], labels[order], probabilities[order])
        return run.Trained(seed, {}, [], {"test": made}, modalities)

    def fusion(seed):
        order = np.random.default_rng(seed).permutation(8)
        alone = {"image": decided(image)[order], "landmarks": decided(points)[order]}
        return trained(
            seed,
            fused,
            rundir.Modalities(rows[order], labels[order], decided(fused)[order], alone, {}),
        )

    networks = {
        "image": [trained(seed, image) for seed in (0, 1)],
        "landmarks": [trained(seed, points) for seed in (0, 1)],
        "both": [fusion(seed) for seed in (2, 3)],
    }
    made = made_run(tmp_path, networks)
    (wrong,) = faces.all_wrong(made)
    assert wrong.rows.tolist() == [rows[6]]
    assert wrong.given.tolist() == [other[6]]
    assert faces.fusions(made) == ["both"]
    strips = faces.won_and_lost(made, "both")
    assert [strip.title for strip in strips] == [
        *("Right, both members wrong", "Right, only image wrong", "Right, only landmarks wrong"),
        *("Wrong, only image right", "Wrong, only landmarks right", "Wrong, both members right"),
    ]
    assert [strip.rows.tolist() for strip in strips] == [[rows[i]] for i in range(6)]
    assert [strip.given.tolist() for strip in strips[:3]] == [[labels[i]] for i in range(3)]
    assert [strip.given.tolist() for strip in strips[3:]] == [[other[i]] for i in range(3, 6)]
    jobs = faces.of_mistakes(drawn, made)
    assert sorted(jobs) == ["all_wrong", "won_and_lost_both"]
    sheet = pixels(jobs["won_and_lost_both"])
    assert sheet.shape == (20 + 6 * (44 + 144 + 76), 1480)
    # The first sample stands below its title, three pixels for one.
    cell = sheet[54 : 54 + 144, 20 : 20 + 144].astype(int)
    expected = column(drawn, "images")[test[0]].repeat(3, 0).repeat(3, 1)
    np.testing.assert_allclose(cell, expected, rtol=0, atol=1)


def test_nothing_wrong_is_no_sheet(drawn, tmp_path):
    test = drawn.splits["test"]
    labels = drawn.samples.labels[test]
    sure = rundir.Predictions(drawn.samples.rows[test], labels, np.eye(7, dtype=np.float32)[labels])
    networks = {"image": [run.Trained(0, {}, [], {"test": sure}, None)]}
    assert faces.of_mistakes(drawn, made_run(tmp_path, networks)) == {}


def test_a_figure_of_the_data_that_fails_is_named(drawn, tmp_path, capsys):
    """Landmarks that are not there; the others are drawn."""
    features = drawn.samples.features | {"landmarks": None}
    broken = drawn._replace(samples=dataclasses.replace(drawn.samples, features=features))
    failed = write.draw(tmp_path, faces.of_data(broken))
    assert sorted(failed) == ["landmarks", "landmarks_good_and_bad"]
    assert "figure landmarks: not drawn (" in capsys.readouterr().out
    assert sorted(file.stem for file in tmp_path.glob("*.png")) == ["classes", "samples"]
