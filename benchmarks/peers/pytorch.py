"""The paper's four trainings in PyTorch, on the CPU."""

import time
from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

EVALUATION_BATCH = 256
LEARNING_RATES = {
    "image": 1e-4,
    "landmarks": 1e-3,
    "decision_fusion": 5e-4,
    "feature_fusion": 5e-5,
}
PARTS = {
    "jaw": slice(0, 17),
    "right_brow": slice(17, 22),
    "left_brow": slice(22, 27),
    "nose": slice(27, 36),
    "right_eye": slice(36, 42),
    "left_eye": slice(42, 48),
    "mouth": slice(48, 61),
    "lips": slice(61, 68),
}


class ImageNetwork(nn.Module):
    """NN1 (listing 3): 13,126,455 parameters.

    Args:
        plain: whether the convolutions work on NCHW instead of channels_last.
    """

    def __init__(self, plain: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 2)
        self.conv2 = nn.Conv2d(16, 32, 2)
        self.conv3 = nn.Conv2d(32, 64, 2)
        self.dense1 = nn.Linear(20 * 20 * 64, 512)
        self.dense2 = nn.Linear(512, 16)
        self.logits = nn.Linear(16, 7)
        self.plain = plain
        if not plain:
            self.to(memory_format=torch.channels_last)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, 48, 48), uint8 or scaled to [0, 1] -> features (B, 16)."""
        x = images.float() / 255 if images.dtype == torch.uint8 else images
        x = F.max_pool2d(F.relu(self.conv1(x), inplace=True), 2, stride=1)
        x = F.max_pool2d(F.relu(self.conv2(x), inplace=True), 2, stride=2)
        x = F.max_pool2d(F.relu(self.conv3(x), inplace=True), 2, stride=1)
        # Flattened in the order in which it lies in memory, so that nothing is copied.
        x = x.flatten(1) if self.plain else x.permute(0, 2, 3, 1).flatten(1)
        return torch.sigmoid(self.dense2(F.relu(self.dense1(x), inplace=True)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images -> logits (B, 7)."""
        return self.logits(self.encode(images))


class PartLayers(nn.Module):
    """A `Linear(2, 4)` for each face part, as a `ModuleDict` of eight."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.Linear(2, 4) for name in PARTS})

    def forward(self, landmarks: torch.Tensor) -> torch.Tensor:
        """Landmarks (B, 68, 2) -> (B, 68, 4)."""
        parts = [layer(landmarks[:, PARTS[name]]) for name, layer in self.parts.items()]
        return torch.cat(parts, dim=1)


class StackedPartLayers(nn.Module):
    """The function of `PartLayers` with the parameters of all parts in one tensor.

    A step of NN2 is so small that its time is mostly that of calling operators: this calls five
    where eight layers call seventeen.
    """

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(2, 4) for _ in PARTS]
        # A row per part: the weights of x, the weights of y, the biases.
        rows = [torch.cat([layer.weight.T.flatten(), layer.bias]) for layer in layers]
        self.weight = nn.Parameter(torch.stack(rows).detach())
        part = torch.repeat_interleave(torch.tensor([p.stop - p.start for p in PARTS.values()]))
        # A product with this is faster, in its gradient, than indexing with `part`.
        self.register_buffer("part_of_point", F.one_hot(part).float(), persistent=False)

    def forward(self, landmarks: torch.Tensor) -> torch.Tensor:
        """Landmarks (B, 68, 2) -> (B, 68, 4)."""
        of_x, of_y, bias = (self.part_of_point @ self.weight).split(4, dim=1)
        x, y = landmarks.split(1, dim=2)
        return torch.addcmul(torch.addcmul(bias, x, of_x), y, of_y)


class LandmarkNetwork(nn.Module):
    """NN2 (listing 5): 210,439 parameters and 544 running statistics.

    Args:
        plain: whether the face parts have a layer each instead of one for all.
    """

    def __init__(self, plain: bool = False) -> None:
        super().__init__()
        self.parts = PartLayers() if plain else StackedPartLayers()
        self.norm = nn.BatchNorm1d(68 * 4, eps=1e-3, momentum=0.01)
        self.dense1 = nn.Linear(68 * 4, 256)
        self.dense2 = nn.Linear(256, 512)
        self.dense3 = nn.Linear(512, 16)
        self.drop = nn.Dropout(0.2)
        self.logits = nn.Linear(16, 7)

    def encode(self, landmarks: torch.Tensor) -> torch.Tensor:
        """Landmarks (B, 68, 2) -> features after the dropout (B, 16)."""
        x = torch.sigmoid(self.parts(landmarks)).flatten(1)
        if self.training and len(x) == 1:
            # BatchNorm1d refuses to train on one row, and the paper's last batch is one face.
            norm = self.norm
            x = F.batch_norm(
                x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        else:
            x = self.norm(x)
        x = torch.sigmoid(self.dense1(x))
        x = torch.sigmoid(self.dense2(x))
        return self.drop(torch.sigmoid(self.dense3(x)))

    def forward(self, landmarks: torch.Tensor) -> torch.Tensor:
        """Landmarks -> logits (B, 7)."""
        return self.logits(self.encode(landmarks))


class Fusion(nn.Module):
    """Two frozen networks and a head (listing 8): 105 or 3,271 trained parameters.

    Args:
        kind: "decision" or "feature".
        plain: as in `ImageNetwork` and `LandmarkNetwork`.
    """

    def __init__(self, kind: str, plain: bool = False) -> None:
        super().__init__()
        self.kind = kind
        self.image = ImageNetwork(plain).requires_grad_(False)
        self.landmarks = LandmarkNetwork(plain).requires_grad_(False)
        if kind == "feature":
            self.head = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 16), nn.Linear(16, 7))
        else:
            self.head = nn.Sequential(nn.Linear(14, 7))

    def train(self, mode: bool = True) -> "Fusion":
        """As in Keras, a frozen network keeps its dropout and nothing else of training."""
        super().train(mode)
        self.image.eval()
        self.landmarks.eval()
        self.landmarks.drop.train(mode)
        return self

    def forward(self, images: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
        """Images and landmarks -> logits (B, 7)."""
        with torch.no_grad():
            if self.kind == "feature":
                parts = [self.image.encode(images), self.landmarks.encode(landmarks)]
            else:
                parts = [self.image(images).softmax(1), self.landmarks(landmarks).softmax(1)]
            x = torch.cat(parts, dim=1)
        return self.head(x)


class Peer:
    """One network in training at a time; every method returns seconds.

    Args:
        data: "images" uint8 (N, 48, 48), "landmarks" float32 (N, 68, 2), "labels" int32 (N,),
            "train" and "validation" int64 row indices, "class_weights" float64 (7,).
        compiled: whether `torch.compile` compiles the forward pass and the loss of whole training
            batches. Partial batches, validation and predictions stay eager.
        plain: whether to do as is commonly written: float images, NCHW, a layer for each
            face part, Adam without `fused`.
    """

    def __init__(
        self, data: Mapping[str, np.ndarray], compiled: bool = False, plain: bool = False
    ) -> None:
        self._compiled, self._plain = compiled, plain
        images = torch.from_numpy(data["images"])[:, None]
        self._images = images.float() / 255 if plain else images
        self._landmarks = torch.from_numpy(data["landmarks"])
        self._labels = torch.from_numpy(data["labels"]).long()
        self._train = torch.from_numpy(data["train"])
        self._validation = torch.from_numpy(data["validation"])
        self._class_weights = torch.from_numpy(data["class_weights"]).float()

    @staticmethod
    def versions() -> dict[str, str]:
        """The versions of what is timed."""
        return {"torch": torch.__version__}

    def start(self, network: str, batch_size: int = 32) -> float:
        """Builds a network afresh and makes one training step.

        Args:
            network: "image", "landmarks", "decision_fusion" or "feature_fusion".
            batch_size: faces in a training step.
        """
        if len(self._train) < batch_size:
            raise ValueError(f"{len(self._train)} training faces make no batch of {batch_size}")
        if self._compiled:
            torch.compiler.reset()
        began = time.perf_counter()
        if network == "image":
            self.network: nn.Module = ImageNetwork(self._plain)
            self._inputs: tuple[torch.Tensor, ...] = (self._images,)
        elif network == "landmarks":
            self.network, self._inputs = LandmarkNetwork(self._plain), (self._landmarks,)
        else:
            self.network = Fusion(network.removesuffix("_fusion"), self._plain)
            self._inputs = (self._images, self._landmarks)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(
            trained, LEARNING_RATES[network], eps=1e-7, fused=None if self._plain else True
        )
        # Two shapes are two functions: a function of any batch size would be a slower one.
        self._whole_loss = torch.compile(self._loss, dynamic=False) if self._compiled else None
        self._batch_size = batch_size
        self._batches = self._whole_batches()
        self.network.train()
        self._step(next(self._batches))
        return time.perf_counter() - began

    def steps(self, count: int) -> float:
        """Makes `count` training steps of whole batches."""
        self.network.train()
        began = time.perf_counter()
        for _ in range(count):
            self._step(next(self._batches))
        return time.perf_counter() - began

    def epoch(self) -> float:
        """Trains on every training face once, in random order, and validates.

        The figures are left in `history`: "loss", "accuracy", "val_loss", "val_accuracy".
        """
        began = time.perf_counter()
        self.network.train()
        # Summed as tensors and read once, at the end of the epoch.
        loss, hits = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for rows in self._shuffled().split(self._batch_size):
            step_loss, step_hits = self._step(rows)
            loss += step_loss * len(rows)
            hits += step_hits
        val_loss, val_hits = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        self.network.eval()
        with torch.no_grad():
            for rows in self._validation.split(EVALUATION_BATCH):
                logits, labels = self.network(*self._take(rows)), self._labels[rows]
                val_loss += F.cross_entropy(logits, labels, reduction="sum")
                val_hits += (logits.argmax(1) == labels).sum()
        trained, validated = len(self._train), len(self._validation)
        self.history = {
            "loss": loss.item() / trained,
            "accuracy": hits.item() / trained,
            "val_loss": val_loss.item() / validated,
            "val_accuracy": val_hits.item() / validated,
        }
        return time.perf_counter() - began

    def once(self) -> float:
        """Work before the first epoch: none, since frozen networks run in every step."""
        return 0.0

    def predict_seconds(self, count: int, repeats: int) -> list[float]:
        """Predicts the first `count` faces `repeats` times, after two calls to warm up."""
        inputs = tuple(x[:count].contiguous() for x in self._inputs)
        if len(inputs[0]) < count:
            raise ValueError(f"there are {len(inputs[0])} faces, not {count}")
        self.network.eval()
        seconds = []
        for _ in range(2 + repeats):
            began = time.perf_counter()
            with torch.inference_mode():
                # In batches, whose activations are small enough to be fast.
                pieces = zip(*(x.split(EVALUATION_BATCH) for x in inputs), strict=True)
                torch.cat([self.network(*piece).softmax(1) for piece in pieces]).numpy()
            seconds.append(time.perf_counter() - began)
        return seconds[2:]

    def _take(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(x[rows] for x in self._inputs)

    def _shuffled(self) -> torch.Tensor:
        return self._train[torch.randperm(len(self._train))]

    def _whole_batches(self) -> Iterator[torch.Tensor]:
        while True:
            for rows in self._shuffled().split(self._batch_size):
                if len(rows) == self._batch_size:
                    yield rows

    def _loss(
        self, labels: torch.Tensor, *inputs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.network(*inputs)
        # Keras divides by the batch size; reduction="mean" would divide by the sum of the weights.
        loss = F.cross_entropy(logits, labels, weight=self._class_weights, reduction="sum")
        return loss / len(labels), logits

    def _step(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One training step on `rows`: its loss and how many faces it had right."""
        whole = self._whole_loss is not None and len(rows) == self._batch_size
        labels = self._labels[rows]
        loss, logits = (self._whole_loss if whole else self._loss)(labels, *self._take(rows))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()
