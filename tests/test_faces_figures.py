"""Figures of the data, on drawn faces, and shape distances against SciPy."""

import dataclasses

import matplotlib.image
import numpy as np
import pytest
import scipy.spatial

from configs import synthetic
from fermm.data import source
from fermm.evaluate import faces as figures
from fermm.evaluate import metrics, run

CONFIG = synthetic.get_config().data.to_dict() | {"synthetic": {"count": 300, "seed": 1}}


@pytest.fixture(scope="module")
def drawn():
    return source.load(CONFIG)


@pytest.fixture(scope="module")
def written(drawn, tmp_path_factory):
    directory = tmp_path_factory.mktemp("figures") / "data"
    assert figures.save_all(directory, drawn) == {}
    return directory


def pixels(file):
    """Grey levels, uint8 (height, width), of a figure's PNG."""
    return np.rint(255 * matplotlib.image.imread(file)[..., 0]).astype(np.uint8)


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
        assert pixels(written / f"{name}.png").shape[1] == 1480  # 7.4 in


def test_samples_are_the_first_training_faces_to_the_pixel(written, drawn):
    picture = pixels(written / "samples.png")
    train = drawn.splits["train"]
    for label in range(7):
        chosen = train[drawn.faces.labels[train] == label][:3]
        for row, index in enumerate(chosen):
            bottom = len(picture) - 20 - (2 - row) * 208
            left = 20 + label * 208
            cell = picture[bottom - 192 : bottom, left : left + 192]
            expected = drawn.faces.images[index].repeat(4, 0).repeat(4, 1)
            # Matplotlib's way through the colour map may round a grey level down.
            np.testing.assert_allclose(cell.astype(int), expected, rtol=0, atol=1)


def test_missing_faces_leave_cells_empty(drawn, tmp_path):
    labels = drawn.faces.labels[drawn.splits["train"]]
    happy = np.flatnonzero(labels == 3)
    few = keep(drawn, np.concatenate([happy[:1], np.flatnonzero(~np.isin(labels, [2, 3]))]))
    figures.save_samples(tmp_path / "samples", few)
    picture = pixels(tmp_path / "samples.png")
    for label, present in ((2, 0), (3, 1), (4, 3)):
        column = picture[-20 - 3 * 192 - 2 * 16 : -20, 20 + label * 208 : 212 + label * 208]
        shown = [(column[row * 208 : row * 208 + 192] < 255).any() for row in range(3)]
        assert shown == [True] * present + [False] * (3 - present)
    figures.save_landmarks(tmp_path / "landmarks", few)
    figures.save_landmark_quality(tmp_path / "quality", keep(drawn, np.arange(3)))


def test_points_far_outside_are_within_the_axes(drawn, tmp_path, monkeypatch):
    faces = dataclasses.replace(drawn.faces, landmarks=drawn.faces.landmarks + 40)
    saved = []
    monkeypatch.setattr(figures, "save", lambda figure, stem: saved.append(figure))
    figures.save_landmarks(tmp_path / "x", drawn._replace(faces=faces))
    cells = [axes for axes in saved[0].axes if axes.lines]
    assert len(cells) == 7
    for axes in cells:
        points = np.concatenate([line.get_xydata() for line in axes.lines])
        assert points.shape == (68, 2)
        assert points.max() > 60
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert (points < (right, bottom)).all()
        assert right - left == pytest.approx(bottom - top)


def test_rows_of_typical_and_untypical_shapes(drawn, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "save", lambda figure, stem: saved.append(figure))
    figures.save_landmark_quality(tmp_path / "x", drawn)
    train = drawn.splits["train"]
    shapes = drawn.faces.landmarks[train]
    distance = figures.shape_distance(shapes, figures.mean_shape(shapes))
    titles = [axes.get_title() for axes in saved[0].axes]
    for text, percent in zip(titles, (1, 4, 7, 10, 90, 93, 96, 99), strict=True):
        # 210 faces, so that no two ranks fall together: the nearest order statistic.
        value = np.quantile(distance, percent / 100, method="nearest")
        assert text == f"{percent}%: {value:.3f}"
    for axes in saved[0].axes:
        (shown,) = axes.images
        assert any(np.array_equal(shown.get_array(), drawn.faces.images[i]) for i in train)


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
    distance = figures.shape_distance(np.array(shapes), mean)
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
    distance = figures.shape_distance(np.stack([moved, rectangle, mirrored, point]), square)
    np.testing.assert_allclose(distance[:2], [0, np.sqrt(1 - 144 / 160)], atol=1e-7)
    np.testing.assert_array_equal(distance[2:], 1)


def test_no_shape_is_nearer_to_all_than_the_mean(drawn):
    landmarks = drawn.faces.landmarks
    mean = figures.mean_shape(landmarks)
    assert mean.shape == (68, 2)
    np.testing.assert_allclose([mean.sum(0)], 0, atol=1e-12)
    np.testing.assert_allclose((mean**2).sum(), 1)
    least = np.square(figures.shape_distance(landmarks, mean)).mean()
    random = np.random.default_rng(0)
    for _ in range(20):
        other = mean + random.normal(scale=1e-3, size=mean.shape)
        assert np.square(figures.shape_distance(landmarks, other)).mean() > least
    np.testing.assert_allclose(figures.shape_distance(2 - mean[None] * 3, mean), 0, atol=1e-7)


def test_classes_show_counts_and_weights(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "save", lambda figure, stem: saved.append(figure))
    table_1 = np.array([4953, 547, 5121, 8989, 6077, 4002, 6198])
    test = table_1 // 10
    counts = {"train": table_1 - 3 * test, "validation": 2 * test, "test": test}
    figures.save_classes(tmp_path / "x", counts, table_1.max() / table_1, "FER2013")
    (axes,) = saved[0].axes
    texts = [text.get_text() for text in axes.texts]
    assert texts[1] == "547\nweight 16.433"
    assert texts[3] == "8989\nweight 1.000"
    assert axes.get_xticklabels()[1].get_text() == "disgust\n385\n108\n54"
    assert [bars.get_label() for bars in axes.containers] == ["train", "validation", "test"]
    tops = [bar.get_y() + bar.get_height() for bar in axes.containers[-1]]
    assert tops == table_1.tolist()


def test_faces_that_all_get_wrong_and_those_that_a_fusion_wins_and_loses(drawn, tmp_path):
    """Eight test faces and two seeds, with every kind of agreement by hand."""
    faces, test = drawn.faces, drawn.splits["test"][:8]
    rows, labels = faces.rows[test], faces.labels[test]
    other = (labels + 1) % 7

    def decided(right):
        return np.where(np.array(right, bool), labels, other).astype(np.int8)

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
        made = metrics.Predictions(rows[order], labels[order], probabilities[order])
        return run.Trained(seed, {}, [], {"test": made}, modalities)

    def fusion(seed):
        order = np.random.default_rng(seed).permutation(8)
        alone = {"image": decided(image)[order], "landmarks": decided(points)[order]}
        return trained(
            seed,
            fused,
            run.Modalities(rows[order], labels[order], decided(fused)[order], alone, {}),
        )

    config = {"evaluate": {"splits": ["test"]}, "seeds": [0, 1]}
    networks = {
        "image": [trained(seed, image) for seed in (0, 1)],
        "landmarks": [trained(seed, points) for seed in (0, 1)],
        "both": [fusion(seed) for seed in (2, 3)],
    }
    made = run.Run(tmp_path, config, "title", "", {}, None, networks)
    (wrong,) = figures.all_wrong(made)
    assert wrong.rows.tolist() == [rows[6]]
    assert wrong.given.tolist() == [other[6]]
    assert figures.fusions(made) == ["both"]
    strips = figures.won_and_lost(made, "both")
    assert [strip.title for strip in strips] == [
        *("Right, both members wrong", "Right, only image wrong", "Right, only landmarks wrong"),
        *("Wrong, only image right", "Wrong, only landmarks right", "Wrong, both members right"),
    ]
    assert [strip.rows.tolist() for strip in strips] == [[rows[i]] for i in range(6)]
    assert [strip.given.tolist() for strip in strips[:3]] == [[labels[i]] for i in range(3)]
    assert [strip.given.tolist() for strip in strips[3:]] == [[other[i]] for i in range(3, 6)]
    assert figures.save_all(tmp_path / "figures", drawn, made) == {}
    sheet = pixels(tmp_path / "figures" / "won_and_lost_both.png")
    assert sheet.shape == (20 + 6 * (44 + 144 + 76), 1480)
    # Each is a picture of its own in the SVG, not all together one that is made coarser.
    assert (tmp_path / "figures" / "won_and_lost_both.svg").read_text().count("<image") == 6
    # The first face stands below its title, three pixels for one.
    cell = sheet[54 : 54 + 144, 20 : 20 + 144].astype(int)
    expected = faces.images[test[0]].repeat(3, 0).repeat(3, 1)
    np.testing.assert_allclose(cell, expected, rtol=0, atol=1)


def test_nothing_wrong_is_no_sheet(drawn, tmp_path):
    test = drawn.splits["test"]
    labels = drawn.faces.labels[test]
    sure = metrics.Predictions(drawn.faces.rows[test], labels, np.eye(7, dtype=np.float32)[labels])
    config = {"evaluate": {"splits": ["test"]}, "seeds": [0]}
    networks = {"image": [run.Trained(0, {}, [], {"test": sure}, None)]}
    figures.save_all(tmp_path, drawn, run.Run(tmp_path, config, "", "", {}, None, networks))
    assert not (tmp_path / "all_wrong.png").exists()
    assert (tmp_path / "samples.png").exists()


def test_a_figure_of_the_data_that_fails_is_named(drawn, tmp_path, capsys):
    """Landmarks that are not there; the others are drawn."""
    broken = drawn._replace(faces=dataclasses.replace(drawn.faces, landmarks=None))
    failed = figures.save_all(tmp_path, broken)
    assert sorted(failed) == ["landmarks", "landmarks_good_and_bad"]
    assert "figure landmarks: not drawn (" in capsys.readouterr().out
    assert sorted(file.stem for file in tmp_path.glob("*.png")) == ["classes", "samples"]
