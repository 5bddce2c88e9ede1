"""The paper's four trainings in fermm: the compiled functions that `launch.py` runs."""

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import paper
from fermm import models
from fermm.data import batches
from fermm.data.landmarks import PUBLISHED_PREDICTOR
from fermm.models.specs import MODALITIES
from fermm.predict import Network
from fermm.train import checkpoint, devices, loop, optimizer, partition
from fermm.train import steps as training
from fermm.train.feed import feed

CONFIG = paper.get_config().to_dict()
NETWORKS = ("image", "landmarks", "decision_fusion", "feature_fusion")


class Peer:
    """One network in training at a time; every method that does work returns seconds.

    Args:
        data: "images" uint8 (N, 48, 48), "landmarks" float32 (N, 68, 2), "labels" int32 (N,),
            "train" and "validation" int64 row indices, "class_weights" float64 (7,).
        dtype: what the two networks compute in.
    """

    def __init__(self, data: Mapping[str, np.ndarray], dtype: str = "float32") -> None:
        self._data, self._dtype = data, dtype

    @staticmethod
    def versions() -> dict[str, str]:
        """The versions of what is timed."""
        return {"jax": jax.__version__}

    def start(self, network: str, batch_size: int = 32, seeds: int = 1) -> float:
        """Builds a network afresh, compiles its training steps and makes one step.

        Args:
            network: one of NETWORKS. A fusion gets two fresh networks, frozen, and a head.
            batch_size: faces in a step.
            seeds: how many seeds are trained at once.

        Returns:
            Seconds from building to the end of the first step, without the frozen outputs of a
            fusion, which `once` times.
        """
        section = CONFIG[network]
        self._network, self._batch_size, self._seeds, self._epoch = network, batch_size, seeds, 0
        spec = self._spec(network)
        fusion = models.is_fusion(section)
        self._method = "classify" if fusion else "__call__"
        self._embedded: dict[str, Any] | None = None

        began = time.perf_counter()
        module = models.build(spec)
        one = {name: self._data[name][:1] for name in module.inputs}
        initialise = jax.jit(module.init)
        variables = [initialise(loop.key_for(seed, network), one) for seed in range(seeds)]
        trained = partition.trained_paths(variables[0]["params"], section["trainable"])
        self._module = models.build(spec, trained)
        self._train_count = len(self._data["train"])
        per_epoch = math.ceil(self._train_count / batch_size)
        optim = optimizer.make(section["learning_rate"], section["schedule"], per_epoch)
        states, frozens = [], []
        for each in variables:
            params, frozen = partition.split(each["params"], trained)
            state = training.State(
                jnp.int32(0),
                params,
                dict(each.get("batch_stats", {})),
                optim.transform.init(params),
                training.zero_sums(),
            )
            states.append(devices.to_host(state))
            frozens.append(devices.to_host(frozen))
        self._variables = variables
        self._optimizer = optim
        self._layout = layout = devices.layout("none")
        self._state, self._frozen = (
            devices.put(loop.stack(trees), layout.state) for trees in (states, frozens)
        )
        self._keys = loop.put_keys([loop.key_for(seed, "dropout") for seed in range(seeds)], layout)
        self._train_steps = training.make_train_steps(
            self._module,
            optim.transform,
            jnp.asarray(self._data["class_weights"], jnp.float32),
            layout,
            self._method,
            seeds > 1,
        )
        self._forward = training.make_forward(self._module, layout, self._method)
        spent = time.perf_counter() - began

        self._train = [self._split("train")] * seeds
        self._validation = self._split("validation")
        if fusion:
            self._once = self._embed()
        began = time.perf_counter()
        self._advance(1)
        return spent + time.perf_counter() - began

    def steps(self, count: int) -> float:
        """Makes `count` training steps of whole batches (of every seed)."""
        whole = self._train_count // self._batch_size
        began = time.perf_counter()
        while count:
            now = min(count, whole)
            self._advance(now)
            count -= now
        return time.perf_counter() - began

    def epoch(self) -> float:
        """Trains on every training face once, in a new order, and validates, as the loop does."""
        began = time.perf_counter()
        self._state = self._state._replace(sums=jax.tree.map(jnp.zeros_like, self._state.sums))
        self._advance(math.ceil(self._train_count / self._batch_size))
        losses = []
        for i, state in enumerate(loop.unstack(devices.to_host(self._state), self._seeds)):
            _, frozen = partition.split(self._variables[i]["params"], frozenset(_paths(state)))
            variables = {
                "params": partition.merge(state.params, frozen),
                "batch_stats": state.statistics,
            }
            data = self._validation
            losses.append(loop.figures(self._forward(variables, data.inputs), data)[0])
        value = jnp.asarray(losses, jnp.float32)
        self._state = self._state._replace(
            optimizer=self._optimizer.end_epoch(
                self._state.optimizer, value if self._seeds > 1 else value[0]
            )
        )
        self._epoch += 1
        return time.perf_counter() - began

    def once(self) -> float:
        """Work before the first epoch: the outputs of a fusion's frozen networks; else none."""
        return self._once if models.is_fusion(CONFIG[self._network]) else 0.0

    def predict_seconds(self, count: int, repeats: int, landmarks: bool = True) -> list[float]:
        """Predicts the first `count` faces with `fermm.restore`'s network, after two to warm up.

        Args:
            count: faces in a prediction.
            repeats: predictions that are timed.
            landmarks: whether they are given; else dlib finds them, as it does for a photo.
        """
        network = Network(
            self._module,
            checkpoint.Checkpoint(
                jax.tree.map(np.asarray, dict(self._variables[0])),
                None,
                {
                    "network": self._network,
                    "labels": list("0123456"),
                    "config": {"data": CONFIG["data"]},
                    "predictor": {"path": "", "sha256": PUBLISHED_PREDICTOR},
                },
            ),
        )
        inputs = {name: self._data[name][:count] for name in ("images", "landmarks")}
        if not landmarks:
            del inputs["landmarks"]
        seconds = []
        for _ in range(2 + repeats):
            began = time.perf_counter()
            network.predict(**inputs)
            seconds.append(time.perf_counter() - began)
        return seconds[2:]

    def cost(self) -> dict[str, float]:
        """XLA's own count of one training step, optimised: operations and bytes accessed.

        Returns:
            "flops", "bytes", and "parameters", the number of those that are trained.
        """
        buffer, _ = next(self._feed())
        arguments = (self._state, self._frozen, self._keys, buffer, 0, 1)
        # Of a loop whose length it does not know, XLA counts the body once.
        analysis = self._train_steps.lower(*arguments).compile().cost_analysis()
        return {
            "flops": analysis["flops"],
            "bytes": analysis["bytes accessed"],
            "parameters": sum(x.size for x in jax.tree.leaves(self._state.params)),
        }

    def _spec(self, network: str) -> dict[str, Any]:
        section = CONFIG[network]
        if not models.is_fusion(section):
            arguments = {**section["arguments"], "dtype": self._dtype}
            return {"model": section["model"], "arguments": arguments}
        parts = {part: self._spec(part) for part in MODALITIES}
        return {"head": section["head"], "arguments": section["arguments"], **parts}

    def _split(self, split: str) -> training.Data:
        rows = self._data[split]
        inputs = {name: self._data[name][rows] for name in self._module.inputs}
        return training.Data(inputs, self._data["labels"][rows])

    def _embed(self) -> float:
        began = time.perf_counter()
        forwards = {
            part: training.make_forward(models.build(self._spec(part)), self._layout, "encode")
            for part in MODALITIES
        }

        def embed(data: training.Data, variables: Any) -> dict[str, np.ndarray]:
            return {
                part: forward(
                    {k: tree[part] for k, tree in variables.items() if part in tree}, data.inputs
                )
                for part, forward in forwards.items()
            }

        # How long steps take does not depend on whose outputs they are: one seed's for all.
        train = embed(self._train[0], self._variables[0])
        validation = embed(self._validation, self._variables[0])
        self._train = [each._replace(inputs=train) for each in self._train]
        self._validation = self._validation._replace(inputs=validation)
        return time.perf_counter() - began

    def _feed(self) -> Iterator[tuple[training.Batches, int]]:
        orders = [
            batches.order(seed, self._epoch, self._train_count) for seed in range(self._seeds)
        ]
        return feed(self._train, orders, self._batch_size, self._layout)

    def _advance(self, count: int) -> None:
        """The first `count` steps of an epoch, their batches laid out meanwhile."""
        for buffer, size in self._feed():
            stop = min(size, count)
            self._state = self._train_steps(self._state, self._frozen, self._keys, buffer, 0, stop)
            count -= stop
            if not count:
                break
        jax.block_until_ready(self._state)


def _paths(state: training.State) -> list[str]:
    from flax import traverse_util

    return list(traverse_util.flatten_dict(state.params, sep="/"))
