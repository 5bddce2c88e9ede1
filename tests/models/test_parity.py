"""Our networks and training against the paper's code rewritten in Keras (on its JAX backend)."""

import contextlib
from unittest import mock

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras.src.initializers import random_initializers
from keras.src.layers.normalization import batch_normalization

from configs import paper
from fermm import config as config_lib
from fermm import models
from fermm.experiment.config import NetworkConfig
from fermm.train import devices, partition, steps, updates
from fermm.train.averaging import Average
from fermm.train.feed import feed
from fermm.train.keys import key_for, keys_for
from fermm.train.losses import CrossEntropy
from fermm.train.tasks import Data, Task
from helpers import keras_networks

pytestmark = [
    pytest.mark.keras,
    # NumPy 2 says it of Keras's variables (keras/src/backend/common/variables.py, `numpy`).
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
]


@pytest.fixture(autouse=True)
def _drawn_by_numpy(monkeypatch):
    """Keras's initial weights, at its limits: JAX compiles each shape anew, for seconds."""
    random = np.random.default_rng(7)

    def uniform(shape, minval=0.0, maxval=1.0, dtype=None, seed=None):
        return jnp.asarray(random.uniform(minval, maxval, shape), dtype)

    monkeypatch.setattr(random_initializers.random, "uniform", uniform)


NETWORKS = ("image", "landmarks", "decision_fusion", "feature_fusion")
CONFIG = paper.get_config().to_dict()
COUNT = 32 * 3 + 1  # three whole batches and one of one sample, as the paper's 25,121 leave
CLASS_WEIGHTS = np.array([1.815, 16.433, 1.755, 1.0, 1.479, 2.246, 1.450])


@contextlib.contextmanager
def float64():
    """Both libraries in float64, so that equality is a matter of 1e-10 and not of luck."""
    jax.config.update("jax_enable_x64", True)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")

    class Float64Backend:
        """Keras's batch normalisation casts even float64 inputs to what this returns: float32."""

        result_type = staticmethod(lambda *dtypes: "float64")

        def __getattr__(self, name):
            return getattr(keras.src.backend, name)

    try:
        with mock.patch.object(batch_normalization, "backend", Float64Backend()):
            yield
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_floatx("float32")
        jax.config.update("jax_enable_x64", False)


def keras_models(name, dropout):
    keras.utils.set_random_seed(7)
    models = {
        "image": lambda: [keras_networks.image_network()],
        "landmarks": lambda: [keras_networks.landmark_network(dropout)],
        "decision_fusion": lambda: keras_networks.fusion("decision", dropout),
        "feature_fusion": lambda: keras_networks.fusion("feature", dropout),
    }[name]()
    # Weights as after some training: biases and running statistics are not at their start.
    random = np.random.default_rng(3)
    for weight in {id(w): w for model in models for w in model.weights}.values():
        if weight.path.endswith(("bias", "beta", "moving_mean")):
            weight.assign(random.normal(0, 0.1, weight.shape))
        if weight.path.endswith("moving_variance"):
            weight.assign(random.uniform(0.01, 0.3, weight.shape))
    return models


def our_arguments(name, dtype, dropout):
    return {"image": {"dtype": dtype}, "landmarks": {"dtype": dtype, "dropout": dropout}}[name]


def our_network(name, dtype="float32", dropout=0.0):
    section = CONFIG[name]
    specs = {
        member: {
            "model": CONFIG[member]["model"],
            "arguments": CONFIG[member]["arguments"] | our_arguments(member, dtype, dropout),
        }
        for member in ("image", "landmarks")
    }
    if name in specs:
        return models.build(specs[name])
    spec = {"head": section["head"], "arguments": section["arguments"], "members": specs}
    return models.build(spec, trained={"head/logits/kernel"})


def our_variables(name, models):
    variables = keras_networks.our_variables(*models)
    if name in ("image", "landmarks"):
        return {k: v[name] for k, v in variables.items() if v}
    return variables


def samples(count=COUNT):
    """Pictures with large even patches, where max-pooling meets equal values, and noise."""
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (count, 48, 48), np.uint8)
    images[::2, 10:30, 5:40] = 255
    images[::3, :, 30:] = 17
    landmarks = random.integers(-4, 56, (count, 68, 2)).astype(np.float32)
    return images, landmarks, random.integers(0, 7, count).astype(np.int32)


def keras_inputs(name, images, landmarks):
    images = images[..., None].astype(keras.config.floatx()) / 255
    landmarks = landmarks.astype(keras.config.floatx())
    return {"image": images, "landmarks": landmarks}.get(name, [images, landmarks])


@pytest.mark.parametrize("name", NETWORKS)
def test_logits(name):
    model, *parts = keras_models(name, dropout=0.2)
    images, landmarks, _ = samples()
    expected = keras_networks.with_logits(model)(keras_inputs(name, images, landmarks))
    module = our_network(name, dropout=0.2)
    variables = our_variables(name, [model, *parts])
    ours = steps.make_forward(module, devices.layout("none"))(
        variables, {"images": images, "landmarks": landmarks}
    )
    np.testing.assert_allclose(ours.logits, expected, atol=1e-5, rtol=0)
    probabilities = model(keras_inputs(name, images, landmarks))
    np.testing.assert_allclose(jax.nn.softmax(ours.logits), probabilities, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients(name):
    with float64():
        model, *parts = keras_models(name, dropout=0.0)
        images, landmarks, labels = samples(33)
        variables = our_variables(name, [model, *parts])
        weights = CLASS_WEIGHTS[labels]
        constants = [v.value for v in model.non_trainable_variables]

        def keras_loss(trainable, constants):
            inputs = keras_inputs(name, images, landmarks)
            out, _ = model.stateless_call(trainable, constants, inputs, training=True)
            losses = keras.losses.sparse_categorical_crossentropy(labels, out)
            return jnp.mean(weights * losses)

        trainable = [v.value for v in model.trainable_variables]
        value, grads = jax.jit(jax.value_and_grad(keras_loss))(trainable, constants)
        for variable, grad in zip(model.trainable_variables, grads, strict=True):
            variable.assign(grad)  # so that one mapping of names serves weights and gradients
        expected = our_variables(name, [model, *parts])["params"]
        trained = partition.trained_paths(variables["params"], CONFIG[name]["trainable"])
        params, frozen = partition.split(variables["params"], trained)
        loss = steps.make_loss(
            our_network(name, "float64"), Task(CrossEntropy(), CLASS_WEIGHTS), "__call__"
        )
        (ours, _), ours_grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            params,
            frozen,
            variables.get("batch_stats", {}),
            Data({"images": images, "landmarks": landmarks}, jnp.asarray(labels)),
            jnp.ones(33, bool),
            {"dropout": jax.random.key(0)},
        )
        np.testing.assert_allclose(ours, value, rtol=1e-12)
        expected, _ = partition.split(expected, trained)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12),
            ours_grads,
            expected,
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_an_epoch_of_training(name):
    """Parameters, running statistics and Keras's running figures, partial last batch included."""
    with float64():
        model, *parts = keras_models(name, dropout=0.0)
        variables = our_variables(name, [model, *parts])
        images, landmarks, labels = samples()
        model.compile(
            loss="sparse_categorical_crossentropy",
            optimizer=keras.optimizers.Adam(learning_rate=CONFIG[name]["learning_rate"]),
            metrics=["accuracy"],
        )
        history = model.fit(
            keras_inputs(name, images, landmarks),
            labels,
            batch_size=32,
            shuffle=False,
            verbose=0,
            class_weight=dict(enumerate(CLASS_WEIGHTS)),
        ).history
        expected = our_variables(name, [model, *parts])

        trained = partition.trained_paths(variables["params"], CONFIG[name]["trainable"])
        params, frozen = partition.split(variables["params"], trained)
        section = CONFIG[name] | {"schedule": {"kind": "constant"}}
        made = updates.make(config_lib.read(NetworkConfig, section, "config.network"), 4)
        layout = devices.layout("none")
        module = our_network(name, "float64")
        task = Task(CrossEntropy(), CLASS_WEIGHTS)
        train_steps = steps.TrainSteps(module, made.transform, task, layout)
        batch_stats = variables.get("batch_stats", {})
        state = steps.start(params, batch_stats, made.transform, Average())
        state, frozen = (devices.put(tree, layout.state) for tree in (state, frozen))
        data = Data({"images": images, "landmarks": landmarks}, labels)
        for buffer, size in feed([data], [np.arange(COUNT)], 32, layout):
            state = train_steps(state, frozen, keys_for(0, name, module), buffer, 0, size)
        ours = {"params": partition.merge(state.params, frozen), "batch_stats": state.batch_stats}
        for collection, tree in expected.items():
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9),
                ours[collection],
                tree,
            )
        np.testing.assert_allclose(float(state.sums.loss) / COUNT, history["loss"][0], rtol=1e-5)
        np.testing.assert_allclose(
            float(state.sums.correct) / COUNT, history["accuracy"][0], rtol=1e-6
        )


def keras_learning_rates(callback, start, losses):
    """The learning rates of the epochs, as Keras's own callback sets them."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse", optimizer=keras.optimizers.Adam(learning_rate=start))
    callback.set_model(model)
    callback.on_train_begin()
    rates = []
    for epoch, loss in enumerate(losses):
        callback.on_epoch_begin(epoch)
        rates.append(float(model.optimizer.learning_rate.value))
        callback.on_epoch_end(epoch, {"val_loss": loss})
    return rates


def our_learning_rates(section, losses, steps_per_epoch=3):
    made = updates.make(config_lib.read(NetworkConfig, section, "config.network"), steps_per_epoch)
    state = made.transform.init({"x": jnp.zeros(2)})
    rates = []
    for loss in losses:
        for _ in range(steps_per_epoch):
            _, state = made.transform.update({"x": jnp.ones(2)}, state)
        rates.append(made.learning_rate(state))
        state = made.end_epoch(state, loss)
    return rates


def test_step_schedule_equals_keras():
    def scheduler(epoch, lr):
        return lr * 0.2 if epoch == 10 else lr  # listing 4

    callback = keras.callbacks.LearningRateScheduler(scheduler)
    expected = keras_learning_rates(callback, 1e-4, [1.0] * 16)
    ours = our_learning_rates(CONFIG["image"], [1.0] * 16)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    np.testing.assert_allclose(ours, [1e-4] * 10 + [2e-5] * 6, rtol=1e-6)


_random = np.random.default_rng(5)
SEQUENCES = {
    "improving": np.linspace(1.9, 1.4, 16),
    "flat": np.full(16, 1.5),
    "rising": np.linspace(1.4, 1.9, 16),
    "one improvement in the fifth epoch": np.array([1.5] * 4 + [1.4] + [1.5] * 11),
    "just less than min_delta": 1.5 - 0.99e-4 * np.arange(16),
    "just more than min_delta": 1.5 - 1.02e-4 * np.arange(16),
    "creeping below min_delta from the last but not from the best": 1.5 - 0.3e-4 * np.arange(16),
    **{f"noise {i}": 1.5 + _random.normal(0, 1e-4, 16) for i in range(20)},
}


@pytest.mark.parametrize("losses", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_plateau_schedule_equals_keras(losses):
    losses = losses.astype(np.float32).astype(float)  # what a float32 network reports
    callback = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.2, patience=5)
    expected = keras_learning_rates(callback, 1e-3, losses)
    np.testing.assert_allclose(our_learning_rates(CONFIG["landmarks"], losses), expected, rtol=1e-6)


def test_initialisation_is_that_of_keras():
    """Glorot uniform kernels, zero biases: the same limits, whatever the draws."""
    for name in ("image", "landmarks"):
        keras.utils.set_random_seed(1)
        model = {
            "image": keras_networks.image_network,
            "landmarks": lambda: keras_networks.landmark_network(0.2),
        }[name]()
        expected = our_variables(name, [model])
        module = our_network(name)
        images, landmarks, _ = samples(2)
        inputs = {"images": images, "landmarks": landmarks}
        ours = jax.tree.map(np.asarray, jax.jit(module.init)(key_for(0, name), inputs))

        def same_spread(a, b):
            if a.std() == 0:
                np.testing.assert_array_equal(a, b)
            else:
                assert abs(np.abs(a).max() / np.abs(b).max() - 1) < 0.35 / np.sqrt(a.size / 8)

        jax.tree.map(same_spread, dict(ours), expected)
