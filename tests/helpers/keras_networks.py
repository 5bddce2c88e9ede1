"""The paper's networks written in Keras from its listings 3, 5 and 8: the second implementation."""

import keras
import numpy as np
from keras import layers

# Our name of a layer -> the name of the Keras layer.
IMAGE = ("conv1", "conv2", "conv3", "dense1", "dense2", "logits")
REGIONS = (
    ("jaw", 0, 17),
    ("right_brow", 17, 22),
    ("left_brow", 22, 27),
    ("nose", 27, 36),
    ("right_eye", 36, 42),
    ("left_eye", 42, 48),
    ("mouth", 48, 61),
    ("lips", 61, 68),
)
LANDMARKS = (*(name for name, _, _ in REGIONS), "norm", "dense1", "dense2", "dense3", "logits")


def image_network():
    """Listing 3. Input: images scaled to [0, 1]."""
    inp = keras.Input((48, 48, 1))
    x = layers.Conv2D(16, 2, activation="relu", name="image_conv1")(inp)
    x = layers.MaxPooling2D(2, 1)(x)
    x = layers.Conv2D(32, 2, activation="relu", name="image_conv2")(x)
    x = layers.MaxPooling2D(2, 2)(x)
    x = layers.Conv2D(64, 2, activation="relu", name="image_conv3")(x)
    x = layers.MaxPooling2D(2, 1)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(512, activation="relu", name="image_dense1")(x)
    x = layers.Dense(16, activation="sigmoid", name="image_dense2")(x)
    out = layers.Dense(7, activation="softmax", name="image_logits")(x)
    return keras.Model(inp, out)


def landmark_network(dropout):
    """Listing 5."""
    inp = keras.Input((68, 2))
    parts = [
        layers.Dense(4, activation="sigmoid", name=f"landmarks_{name}")(inp[:, first:last])
        for name, first, last in REGIONS
    ]
    x = layers.Flatten()(layers.Concatenate(axis=1)(parts))
    x = layers.BatchNormalization(name="landmarks_norm")(x)
    x = layers.Dense(256, activation="sigmoid", name="landmarks_dense1")(x)
    x = layers.Dense(512, activation="sigmoid", name="landmarks_dense2")(x)
    x = layers.Dense(16, activation="sigmoid", name="landmarks_dense3")(x)
    x = layers.Dropout(dropout)(x)
    out = layers.Dense(7, activation="softmax", name="landmarks_logits")(x)
    return keras.Model(inp, out)


def fusion(kind, dropout):
    """Listing 8, the two networks frozen. Returns the fusion and the two networks."""
    image, landmarks = image_network(), landmark_network(dropout)
    image.trainable = landmarks.trainable = False
    if kind == "feature":
        x = layers.Concatenate()([image.layers[-2].output, landmarks.layers[-2].output])
        x = layers.Dense(64, name="head_dense1")(x)
        x = layers.Dense(16, name="head_dense2")(x)
    else:
        x = layers.Concatenate()([image.output, landmarks.output])
    out = layers.Dense(7, activation="softmax", name="head_logits")(x)
    return keras.Model([image.input, landmarks.input], out), image, landmarks


def with_logits(model):
    """The same layers, without the softmax of the last."""
    last = model.layers[-1]
    return keras.Model(model.input, keras.ops.matmul(last.input, last.kernel) + last.bias)


def our_variables(*models):
    """The weights of Keras models as {"params": ..., "batch_stats": ...} of NumPy arrays.

    A layer named `part_layer` stands at `part/layer`.
    """
    params, statistics = {}, {}
    for layer in [layer for model in models for layer in model.layers]:
        if not layer.weights:
            continue
        part, name = layer.name.split("_", 1)
        kinds = ("scale", "bias", "mean", "var") if name == "norm" else ("kernel", "bias")
        for kind, weight in zip(kinds, layer.get_weights(), strict=True):
            tree = statistics if kind in ("mean", "var") else params
            tree.setdefault(part, {}).setdefault(name, {})[kind] = np.asarray(weight)
    return {"params": params, "batch_stats": statistics}
