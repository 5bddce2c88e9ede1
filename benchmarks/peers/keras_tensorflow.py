"""The paper's four trainings in Keras on TensorFlow, after its listings 2 to 8.

Every setting that the listings leave to Keras is left to it here too, among them the threads of
TensorFlow and the choice of XLA (`jit_compile="auto"`), which Keras does not take on a CPU.
"""

import functools
import gc
import os
import time
from collections.abc import Mapping

import numpy as np

# Both are read when Keras and TensorFlow are imported.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import tensorflow as tf
from keras import layers

CLASSES = 7
LEARNING_RATES = {
    "image": 1e-4,
    "landmarks": 1e-3,
    "decision_fusion": 5e-4,
    "feature_fusion": 5e-5,
}
CALL_LIMIT = 256  # faces; Keras advises to call the model on few faces, and `predict` for more

_SPLITS = ("train", "validation")
# Where each face part of listing 5 begins and ends among the 68 points.
_PARTS = ((0, 17), (17, 22), (22, 27), (27, 36), (36, 42), (42, 48), (48, 61), (61, 68))


class Peer:
    """Trains the paper's networks with `Model.fit`."""

    def __init__(self, data: Mapping[str, np.ndarray]) -> None:
        """Takes the data; float images and one-hot labels are made from it when first needed.

        Args:
            data: "images" uint8 (N, 48, 48), "landmarks" float32 (N, 68, 2), "labels" int32 (N,),
                "train" and "validation" int64 row indices, "class_weights" float64 (7,).
        """
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                f"Keras was imported before with its backend {keras.backend.backend()!r}: "
                "time Keras on TensorFlow in a process of its own"
            )
        self._data = data
        self._class_weights = dict(enumerate(data["class_weights"].tolist()))
        self._network = ""
        self._batch_size = 0
        self._epoch = 0
        self._model: keras.Model | None = None

    @staticmethod
    def versions() -> dict[str, str]:
        """The versions of what is timed."""
        return {"keras": keras.__version__, "tensorflow": tf.__version__}

    def start(self, network: str, batch_size: int = 32) -> float:
        """Builds a network afresh, compiles it and makes one training step.

        Args:
            network: "image", "landmarks", "decision_fusion" or "feature_fusion". A fusion gets
                two fresh networks, frozen, and a head.
            batch_size: faces in a step.

        Returns:
            Seconds from the first layer to the end of the first step, tracing included.
        """
        self._model = None
        gc.collect()
        keras.backend.clear_session()
        self._network, self._batch_size, self._epoch = network, batch_size, 0
        x, y = self._training(batch_size)
        begin = time.perf_counter()
        self._model = _build(network)
        self._model.compile(
            loss="categorical_crossentropy",
            optimizer=keras.optimizers.Adam(learning_rate=LEARNING_RATES[network]),
            metrics=["accuracy"],
        )
        self._fit(x, y)
        return time.perf_counter() - begin

    def steps(self, count: int) -> float:
        """Seconds of `count` training steps: one `fit` on as many faces, no validation."""
        x, y = self._training(count * self._batch_size)
        begin = time.perf_counter()
        self._fit(x, y)
        return time.perf_counter() - begin

    def epoch(self) -> float:
        """Seconds of the next epoch over all training faces, with its validation pass.

        A `fit` of one epoch: it copies the arrays to TensorFlow, which the paper's `fit` does once
        in 16 epochs. The first call after `start` also traces the validation step. The callback of
        NN2 starts anew with each call, so it takes its time but never lowers the learning rate.
        """
        x, y = self._training(len(self._data["train"]))
        validation = self._arrays("validation"), self._labels["validation"]
        begin = time.perf_counter()
        self._fit(
            x,
            y,
            validation_data=validation,
            callbacks=_callbacks(self._network),
            initial_epoch=self._epoch,
            epochs=self._epoch + 1,
        )
        seconds = time.perf_counter() - begin
        self._epoch += 1
        return seconds

    def once(self) -> float:
        """Seconds of work before the first epoch: 0, Keras does all of it in every epoch."""
        return 0.0

    def predict_seconds(self, count: int, repeats: int) -> list[float]:
        """Times predictions of the network that was started, from NumPy arrays to NumPy arrays.

        Args:
            count: faces in a prediction. To 256 the model is called within a `tf.function`, for
                more it is `Model.predict`.
            repeats: predictions that are timed, after two that are not.

        Returns:
            The seconds of each.
        """
        model = self._started()
        x, _ = self._training(count)

        if count <= CALL_LIMIT:
            call = tf.function(lambda x: model(x, training=False))

            def predict() -> np.ndarray:
                return call(x).numpy()
        else:

            def predict() -> np.ndarray:
                return model.predict(x, verbose=0)

        seconds = []
        for _ in range(2 + repeats):
            begin = time.perf_counter()
            predict()
            seconds.append(time.perf_counter() - begin)
        return seconds[2:]

    def _started(self) -> keras.Model:
        if self._model is None:
            raise RuntimeError("no network was started: call start() first")
        return self._model

    def _fit(self, x, y, **arguments) -> None:
        self._started().fit(
            x,
            y,
            batch_size=self._batch_size,
            verbose=0,
            class_weight=self._class_weights,
            **arguments,
        )

    def _training(self, count: int):
        """The first `count` training faces, from the first again where there are too few."""
        x, y = self._arrays("train"), self._labels["train"]

        def first(array: np.ndarray) -> np.ndarray:
            if count <= len(array):
                return array[:count]
            return array[np.arange(count) % len(array)]

        return [first(array) for array in x] if isinstance(x, list) else first(x), first(y)

    def _arrays(self, part: str) -> np.ndarray | list[np.ndarray]:
        """What the network takes: an array, or for a fusion a list of two."""
        if self._network == "image":
            return self._images[part]
        if self._network == "landmarks":
            return self._landmarks[part]
        return [self._images[part], self._landmarks[part]]

    @functools.cached_property
    def _images(self) -> dict[str, np.ndarray]:
        images = self._data["images"][..., None]
        return {
            part: np.divide(images[self._data[part]], 255, dtype=np.float32) for part in _SPLITS
        }

    @functools.cached_property
    def _landmarks(self) -> dict[str, np.ndarray]:
        return {part: self._data["landmarks"][self._data[part]] for part in _SPLITS}

    @functools.cached_property
    def _labels(self) -> dict[str, np.ndarray]:
        labels = keras.utils.to_categorical(self._data["labels"], CLASSES)
        return {part: labels[self._data[part]] for part in _SPLITS}


def _build(network: str) -> keras.Model:
    if network == "image":
        return _image_network()
    if network == "landmarks":
        return _landmark_network()
    return _fusion(network)


def _image_network() -> keras.Model:
    """Listing 3."""
    image = keras.Input((48, 48, 1))
    hidden = image
    for channels, stride in ((16, 1), (32, 2), (64, 1)):
        hidden = layers.Conv2D(channels, 2, activation="relu")(hidden)
        hidden = layers.MaxPooling2D(2, stride)(hidden)
    hidden = layers.Flatten()(hidden)
    hidden = layers.Dense(512, activation="relu")(hidden)
    hidden = layers.Dense(16, activation="sigmoid")(hidden)
    return keras.Model(image, layers.Dense(CLASSES, activation="softmax")(hidden))


def _landmark_network() -> keras.Model:
    """Listing 5."""
    points = keras.Input((68, 2))
    parts = []
    for first, last in _PARTS:
        part = layers.Lambda(lambda x, first=first, last=last: x[:, first:last])(points)
        parts.append(layers.Dense(4, activation="sigmoid")(part))
    hidden = layers.Flatten()(layers.Concatenate(axis=1)(parts))
    hidden = layers.BatchNormalization()(hidden)
    for units in (256, 512, 16):
        hidden = layers.Dense(units, activation="sigmoid")(hidden)
    hidden = layers.Dropout(0.2)(hidden)
    return keras.Model(points, layers.Dense(CLASSES, activation="softmax")(hidden))


def _fusion(network: str) -> keras.Model:
    """Listings 7 and 8."""
    parts = [_image_network(), _landmark_network()]
    for part in parts:
        part.trainable = False  # batch normalisation then infers; dropout stays live in `fit`
    if network == "feature_fusion":
        hidden = layers.Concatenate()([part.layers[-2].output for part in parts])
        hidden = layers.Dense(64)(hidden)
        hidden = layers.Dense(16)(hidden)
    elif network == "decision_fusion":
        hidden = layers.Concatenate()([part.output for part in parts])
    else:
        raise ValueError(f"unknown network {network!r}: there are {', '.join(LEARNING_RATES)}")
    decision = layers.Dense(CLASSES, activation="softmax")(hidden)
    return keras.Model([part.input for part in parts], decision)


def _callbacks(network: str) -> list[keras.callbacks.Callback]:
    """Listings 4 and 6; the fusions have none."""
    if network == "image":
        return [
            keras.callbacks.LearningRateScheduler(
                lambda epoch, rate: rate * 0.2 if epoch == 10 else rate
            )
        ]
    if network == "landmarks":
        return [keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.2, patience=5)]
    return []
