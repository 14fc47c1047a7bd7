"""The processes that train one adapter together, as `torchrun` started them; without it, one alone.

Rank 0 is the learner: it alone talks to the server and writes the state directory. What it is about to do with the
model it tells the others (`tell`), and they do the same at the same time (`learner.follower`): every rank holds the
same adapter, optimiser and references, runs its part of the examples (`portions`), and the gradients are added up, so
that all make the same step.

1. Gradients are added by one `all_reduce` of a flat tensor and not by the wrapper `DistributedDataParallel`. Forward
   passes go through parts of the model (`PrefixModel`), where the wrapper's hooks do not reach; a step has several
   backward passes, of which only the last may communicate; losses are divided by the examples of the whole step, where
   the wrapper would take the mean of the ranks; and an adapter is small, so that there is nothing to overlap.
2. Orders go as pickles, on the network that torch.distributed asks to be private; it trusts it throughout.
3. Idle ranks wait for an order as long as the learner waits for signals. A rank that dies closes its connections, which
   ends the wait of all others: `TeamLost`. Then torchrun ends or restarts them all, and the round resumes from its
   checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.fsdp import fully_shard
from torch.distributed.rendezvous import rendezvous
from transformers.modeling_layers import GradientCheckpointingLayer

from learner.errors import LearnerError, TeamLost

ORDERS_TIMEOUT: Final = timedelta(days=365)
"""How long a rank waits for its next order: as good as for ever."""

T = TypeVar("T")
Order = tuple[str, tuple[Any, ...]]
"""What to do, and with what (`learner.follower.Follower`)."""


class Team:
    """One process: all is its own, and there is nobody to tell."""

    rank = 0
    size = 1

    def tell(self, what: str, *arguments: Any) -> None:
        """From rank 0 to all others, which do it at once; nothing on the others. Raises `TeamLost`, like all here."""

    def hear(self) -> Order:
        """The next order, on the other ranks."""
        raise AssertionError("rank 0 gives the orders")

    def exchange(self, mine: T) -> list[T]:
        """What every rank has, by rank. Tensors must be on the CPU."""
        return [mine]

    def add_up(self, values: Tensor) -> None:
        """Replace it by its sum over the ranks, in place."""

    def add_up_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradients by their sums over the ranks; a rank without one counts as 0."""

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Replace them by those of rank 0, in place."""

    def shard(self, language_model: Any, device: torch.device) -> None:
        """Keep 1/`size` of every frozen decoder layer on each rank (FSDP2).

        A layer is whole only while it runs, so all ranks must run the same passes from then on.
        """
        raise LearnerError("--shard-base needs several processes: start the learner by torchrun")

    def close(self) -> None:
        """Dismiss the others. May be called when they are gone."""


class Ranks(Team):
    """The processes of one torchrun. The process group must be there, with gloo for the CPU."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._orders = dist.new_group(backend="gloo", timeout=ORDERS_TIMEOUT)

    def tell(self, what: str, *arguments: Any) -> None:
        if self.rank == 0:
            with _together():
                dist.broadcast_object_list([(what, arguments)], src=0, group=self._orders)

    def hear(self) -> Order:
        heard: list[Order | None] = [None]
        with _together():
            dist.broadcast_object_list(heard, src=0, group=self._orders)
        return cast("Order", heard[0])

    def exchange(self, mine: T) -> list[T]:
        everyones: list[T | None] = [None] * self.size
        with _together():
            dist.all_gather_object(everyones, mine)
        return cast("list[T]", everyones)

    def add_up(self, values: Tensor) -> None:
        with _together():
            dist.all_reduce(values)

    def add_up_gradients(self, parameters: Iterable[Tensor]) -> None:
        held = list(parameters)
        flat = torch.cat([torch.zeros_like(one).flatten() if one.grad is None else one.grad.flatten() for one in held])
        self.add_up(flat)
        for one, part in zip(held, torch.split(flat, [one.numel() for one in held]), strict=True):
            one.grad = part.view_as(one)

    def spread(self, tensors: Iterable[Tensor]) -> None:
        held = list(tensors)
        flat = torch.cat([one.detach().flatten() for one in held])
        with _together():
            dist.broadcast(flat, src=0)
        for one, part in zip(held, torch.split(flat, [one.numel() for one in held]), strict=True):
            one.data.copy_(part.view_as(one))

    def shard(self, language_model: Any, device: torch.device) -> None:
        mesh = init_device_mesh(device.type, (self.size,))
        layers = [one for one in language_model.modules() if isinstance(one, GradientCheckpointingLayer)]
        sharded = {parameter for layer in layers for parameter in layer.parameters()}
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        # The root holds nothing itself (embeddings, norm and head stay whole); it lets layers be fetched ahead.
        fully_shard(language_model, mesh=mesh, ignored_params=set(language_model.parameters()) - sharded)

    def close(self) -> None:
        with suppress(TeamLost):
            self.tell("end")
        dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    """What torch raises when a peer is gone, under our name."""
    try:
        yield
    except RuntimeError as error:
        raise TeamLost(f"another process of the team is gone: {str(error).splitlines()[0]}") from error


def join(device: str) -> Team:
    """The team that torchrun started this process in, with a GPU for each rank of a machine; alone without torchrun."""
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        return Team()
    local = int(os.environ["LOCAL_RANK"])
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if cuda:
        if local >= torch.cuda.device_count():
            raise LearnerError(f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}")
        torch.cuda.set_device(local)
    # A store of its own for each attempt: torchrun keeps one for all, in which a restarted process would find addresses
    # of those that are gone.
    store, rank, size = next(rendezvous("env://"))
    store = PrefixStore(f"attempt-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=rank, world_size=size)
    return Ranks()


def portions(sizes: Sequence[int], ranks: int) -> list[list[int]]:
    """Indices for each rank, in order: the largest first, each to the rank that has least. Pure."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    totals = [0] * ranks
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        least = min(range(ranks), key=lambda rank: (totals[rank], rank))
        shares[least].append(index)
        totals[least] += sizes[index]
    return [sorted(share) for share in shares]
