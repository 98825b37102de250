"""Orbax's checkpoint manager for folders in our own format.

Import it late: Orbax takes half a second. Checked against orbax-checkpoint 0.12.8.
"""

import concurrent.futures
import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp


class FolderHandler(ocp.AsyncCheckpointHandler):
    """Calls `FolderArgs.write` in a thread."""

    async def async_save(self, directory: Any, args: "FolderArgs") -> list[Any]:
        """Returns at once; `directory` already exists."""
        thread = concurrent.futures.ThreadPoolExecutor(1, "qmix_jax_checkpoint")
        future = thread.submit(args.write, pathlib.Path(directory))
        thread.shutdown(wait=False)  # the thread ends after the write
        return [future]

    def save(self, directory: Any, args: "FolderArgs") -> None:
        """Returns after the write."""
        args.write(pathlib.Path(directory))

    def restore(self, directory: Any, args: Any = None) -> Any:
        """Not used: checkpoints are read without Orbax."""
        raise NotImplementedError


@ocp.args.register_with_handler(FolderHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class FolderArgs(ocp.args.CheckpointArgs):
    """`write(folder)` writes the checkpoint, from data that no longer changes."""

    write: Callable[[pathlib.Path], None]


def manager(folder: pathlib.Path, keep: int) -> ocp.CheckpointManager:
    """Manages the newest `keep` checkpoints of an existing folder that only this process writes."""
    process = jax.process_index()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=False,
        save_root_metadata=False,
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=process,
            active_processes={process},
            barrier_sync_key_prefix=f"qmix_jax_{process}",
        ),
        # Otherwise Orbax 0.12 announces the folder in the key-value store, under the same keys in
        # all processes, although each process saves its own checkpoints.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences Orbax's log; the caller reports errors."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
