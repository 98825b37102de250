"""Orbax's manager of a folder of checkpoints whose format is the caller's; imported late, for it
takes half a second.
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
        """Returns at once; `directory` exists already."""
        thread = concurrent.futures.ThreadPoolExecutor(1, "qmix_jax_checkpoint")
        writing = thread.submit(args.write, pathlib.Path(directory))
        thread.shutdown(wait=False)  # the thread ends when it has written
        return [writing]

    def save(self, directory: Any, args: "FolderArgs") -> None:
        """Returns when everything is written."""
        args.write(pathlib.Path(directory))

    def restore(self, directory: Any, args: Any = None) -> Any:
        """Not used: checkpoints are read without Orbax."""
        raise NotImplementedError


@ocp.args.register_with_handler(FolderHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class FolderArgs(ocp.args.CheckpointArgs):
    """What a checkpoint holds: `write(folder)` writes it, from data that no longer changes."""

    write: Callable[[pathlib.Path], None]


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
        # Orbax 0.12 would signal that the folder exists through the key-value store, under keys
        # that are the same in every process; here each process saves its own checkpoints.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences Orbax's log lines; the caller reports what matters."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
