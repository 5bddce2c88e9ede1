"""The fusion of networks, and the paper's two heads (section 5.2.4, figures 8 and 9, listing 8)."""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from fermm.models.checks import require_sizes
from fermm.models.layers import glorot_uniform
from fermm.models.registry import register_head
from fermm.models.types import Inputs, Outputs


class Members(Mapping[str, nn.Module]):
    """The members of a fusion by name.

    Not a dict, in which Linen would look for modules and call their parameters `members_<name>`.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = dict(modules)

    def __getitem__(self, name: str) -> nn.Module:
        return self._modules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __repr__(self) -> str:
        return repr(self._modules)

    def __eq__(self, other: object) -> bool:
        # The order counts: heads concatenate what members return.
        return isinstance(other, Members) and (*self.items(),) == (*other.items(),)

    def __hash__(self) -> int:
        return hash((*self.items(),))


class Fusion(nn.Module):
    """Networks, the members, and a head that decides from what they return.

    The parameters stand under `<member>/` and `head/`. A member may be a fusion itself.

    As in Keras, a frozen member keeps its dropout in training: freezing stops its updates and puts
    its batch normalisation in inference mode, nothing else. So a head is trained on landmark
    features with dropout.

    Attributes:
        members: the networks by name.
        head: module called as `head({member: Outputs}, train=...)` that returns `Outputs`.
        frozen: the members that pass no gradient.
    """

    members: Members
    head: nn.Module
    frozen: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The features that any member reads."""
        names = (name for member in self.members.values() for name in member.inputs)
        return tuple(dict.fromkeys(names))

    def setup(self) -> None:
        for name, member in self.members.items():
            setattr(self, name, member.clone(name=None, parent=None))

    def encode(
        self,
        inputs: Inputs,
        *,
        train: bool,
        mask: Bool[Array, " batch"] | None = None,
        only: tuple[str, ...] | None = None,
    ) -> dict[str, Any]:
        """The features of samples -> the embedding of each member, or of those in `only`."""
        embeddings = {}
        for name in self.members if only is None else only:
            training = train and name not in self.frozen
            x = getattr(self, name).encode(inputs, train=training, mask=mask)
            embeddings[name] = jax.lax.stop_gradient(x) if name in self.frozen else x
        return embeddings

    def classify(self, embedding: Mapping[str, Any], *, train: bool) -> Outputs:
        """The embeddings of all members -> the head's features and logits."""
        return self.head(self.classify_members(embedding, train=train), train=train)

    def classify_members(self, embedding: Mapping[str, Any], *, train: bool) -> dict[str, Outputs]:
        """The embeddings of all members -> what each member decides by itself."""
        outputs = {}
        for name in self.members:
            own = getattr(self, name).classify(embedding[name], train=train)
            outputs[name] = jax.lax.stop_gradient(own) if name in self.frozen else own
        return outputs

    def __call__(
        self, inputs: Inputs, *, train: bool = False, mask: Bool[Array, " batch"] | None = None
    ) -> Outputs:
        """`classify` of `encode`."""
        return self.classify(self.encode(inputs, train=train, mask=mask), train=train)


@register_head("decision")
class DecisionHead(nn.Module):
    """One dense layer over the softmax decisions of the members.

    Over two members that decide between seven classes, as in the paper, it has 105 parameters.
    """

    classes: int = 7

    @nn.compact
    def __call__(self, members: Mapping[str, Outputs], *, train: bool) -> Outputs:
        """{member: Outputs} -> Outputs."""
        require_sizes(classes=self.classes)
        decisions = [nn.softmax(outputs.logits) for outputs in members.values()]
        x = jnp.concatenate(decisions, axis=-1)
        return Outputs(x, nn.Dense(self.classes, kernel_init=glorot_uniform, name="logits")(x))


@register_head("feature")
class FeatureHead(nn.Module):
    """Two linear layers over the features of the members, and a decision.

    Over two members with 16 features each, as in the paper, it has 3,271 parameters.

    Attributes:
        hidden: units of the layers, which have no activation function (listing 8).
        classes: how many there are.
    """

    hidden: tuple[int, ...] = (64, 16)
    classes: int = 7

    @nn.compact
    def __call__(self, members: Mapping[str, Outputs], *, train: bool) -> Outputs:
        """{member: Outputs} -> Outputs."""
        require_sizes(0, hidden=self.hidden)
        require_sizes(classes=self.classes)
        x = jnp.concatenate([outputs.features for outputs in members.values()], axis=-1)
        for i, units in enumerate(self.hidden, start=1):
            x = nn.Dense(units, kernel_init=glorot_uniform, name=f"dense{i}")(x)
        return Outputs(x, nn.Dense(self.classes, kernel_init=glorot_uniform, name="logits")(x))
