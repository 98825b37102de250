"""Orbax's manager of a folder of checkpoints, with a format of our own; imported late, for it takes
half a second.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import future

from qmix_jax.runtime import checkpoint, parameters


class Handler(ocp.AsyncCheckpointHandler):
    """Writes `meta.json` and `arrays.npz` in a thread."""

    async def async_save(self, directory: Any, args: "Contents") -> list[Any]:
        """Returns at once; the arrays are copies already."""
        writing = _write(pathlib.Path(directory), args)
        # It begins once the folder is there.
        return [future.CommitFutureAwaitingContractedSignals(writing, name="qmix_jax_checkpoint")]

    def save(self, directory: Any, args: "Contents") -> None:
        """Writes both files."""
        asyncio.run(_write(pathlib.Path(directory), args))

    def restore(self, directory: Any, args: Any = None) -> Any:
        """Not used: NumPy reads a checkpoint alone."""
        raise NotImplementedError


@ocp.args.register_with_handler(Handler, for_save=True, for_restore=True)
@dataclasses.dataclass
class Contents(ocp.args.CheckpointArgs):
    """What a checkpoint holds."""

    meta: dict[str, Any]
    arrays: dict[str, Any]


async def _write(folder: pathlib.Path, contents: Contents) -> None:
    (folder / checkpoint.META).write_text(json.dumps(contents.meta), encoding="utf-8")
    with (folder / checkpoint.ARRAYS).open("wb") as file:
        parameters.write_arrays(file, contents.arrays)


def manager(folder: pathlib.Path, keep: int) -> ocp.CheckpointManager:
    """Of the newest `keep` checkpoints in an existing folder, written by this process alone."""
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"qmix_jax_{process}",
    )
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=False,
        save_root_metadata=False,
        multiprocessing_options=alone,
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Orbax's log lines: what matters of them we say ourselves."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
