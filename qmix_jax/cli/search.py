"""The sweeper `hydra/sweeper=optuna`: asks Optuna for a batch, trains it fused, reports back."""

import contextlib
import csv
import io
import math
import pathlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import filelock
import omegaconf

from qmix_jax import config, groups
from qmix_jax.cli import composition, launcher, search_space

STUDY = "study.journal"
TRIALS = "trials.csv"

_NAME = "qmix_jax"
_COMPARED = {"metric", "last", "direction", "rungs", "keep"}
"""Options that must be equal when a search is resumed."""


class SweeperSettings(config.Model):
    """Keys of `configs/hydra/sweeper/optuna.yaml`, which describes them."""

    n_trials: config.PositiveInt = 32
    batch: config.PositiveInt = 8
    sampler: Literal["tpe", "random"] = "tpe"
    sampler_seed: config.Int = 0
    metric: str | None = None
    last: config.PositiveInt = 3
    direction: Literal["maximize", "minimize"] = "maximize"
    rungs: tuple[config.OpenFraction, ...] = ()
    keep: config.OpenFraction = 0.5
    params: dict[str, Any] | None = None


class Trial(NamedTuple):
    """A setting to train.

    Attributes:
      number: of the trial in the study.
      job: an `api.Job`, None if the setting is invalid.
      error: why it is invalid, empty if it is valid.
    """

    number: int
    job: Any
    error: str


def search(context: Any, root: omegaconf.DictConfig, options: Mapping[str, Any]) -> None:
    """Trains settings until the study has `n_trials`; an existing study is resumed.

    Args:
      context, root: from Hydra; `root` has the overrides, spaces included.
      options: the sweeper's.
    Raises:
      ConfigError: an invalid setting, before anything is compiled.
      SystemExit: 128 + the number of a signal that ended the search (130: Ctrl-C); the settings
        that were training are resumed next time.
    """
    settings = _settings(options)
    composer = composition.Composer(context.config_loader, root.hydra.job.config_name)
    space = search_space.parse(composition.sweep_overrides(root), composer)
    directory = pathlib.Path(str(root.hydra.sweep.dir))
    with _lock(directory):
        running = _Search(composer, root, settings, space, directory)
        running.announce()
        while batch := running.next_batch():
            running.train(batch)
        running.report()


class _Search:
    """A study and the program that trains its settings."""

    def __init__(
        self,
        composer: composition.Composer,
        root: omegaconf.DictConfig,
        settings: SweeperSettings,
        space: search_space.SearchSpace,
        directory: pathlib.Path,
    ) -> None:
        from qmix_jax import api  # imports JAX, for which `--help` need not wait

        self._composer, self._root, self._space = composer, root, space
        self._settings, self._directory = settings, directory
        self._study, self._storage = _open(settings, space, directory)
        self._resumed = [trial.number for trial in self._trials("RUNNING")]
        maximise = settings.direction == "maximize"
        self._objective = api.Objective(settings.metric, settings.last, maximise)
        halving = api.Halving(settings.rungs, settings.keep)
        self._halving = halving if settings.rungs else None
        self._checked: set[config.ExperimentConfig] = set()
        self._seeds = self._job(-1, space.corners()[0]).config.seeds
        self._sizes = [settings.batch]
        for _ in settings.rungs:
            self._sizes.append(halving.survivors(self._sizes[-1]))
        self._programs = api.Programs([size * self._seeds for size in self._sizes])

    def announce(self) -> None:
        """Prints the number of settings and of compiled programs."""
        settings, n_finished = self._settings, len(self._trials()) - len(self._resumed)
        sizes = len(set(self._sizes))
        n_static = self._space.n_static(settings.n_trials)
        print(
            f"search: {settings.n_trials} settings of {self._seeds} seed(s), {settings.batch} at a "
            f"time; {n_finished} finished, {len(self._resumed)} to resume\n"
            f"search: at most {n_static * sizes} compiled programs: {n_static} static group(s) x "
            f"{sizes} population size(s); members that take turns (map) need one size, and "
            "one more program if a later batch can use more devices",
            flush=True,
        )

    def next_batch(self) -> list[Trial]:
        """Returns the settings of an interrupted batch, then new ones; empty at the end."""
        if self._resumed:  # a batch is resumed as it was trained, without new settings
            numbers, self._resumed = self._resumed, []
            return [self._trial(number) for number in numbers]
        n_new = min(self._settings.batch, self._settings.n_trials - len(self._trials()))
        space = {dimension.key: dimension.distribution for dimension in self._space.dimensions}
        numbers = [self._study.ask(space).number for _ in range(n_new)]
        return [self._trial(number) for number in numbers]

    def train(self, batch: Sequence[Trial]) -> None:
        """Trains a batch and reports the objectives to the study."""
        from qmix_jax.machine import signals

        for trial in batch:
            if trial.error:
                print(f"trial {trial.number}: {trial.error}", flush=True)
                self._fail(trial.number, trial.error)
        valid = [trial for trial in batch if not trial.error]
        results = self._train([trial.job for trial in valid]) if valid else ()
        interrupted = any(result is None or result.interrupted for result in results)
        if not interrupted:  # otherwise the batch is resumed, and runs that ended are loaded
            for trial, result in zip(valid, results, strict=True):
                self._tell(trial, result)
        self._write_trials()
        if interrupted:
            raise SystemExit(signals.exit_code())

    def _train(self, jobs: list[Any]) -> Sequence[Any]:
        from qmix_jax import api
        from qmix_jax.runs import checkpoint

        try:
            return api.train_many(
                jobs, halving=self._halving, objective=self._objective, programs=self._programs
            )
        except checkpoint.WriteError as error:
            message = str(error).partition("; fix the disk")[0]
            print(f"error: {message}; fix that and repeat the command", file=sys.stderr)
            raise SystemExit(1) from None

    def report(self) -> None:
        """Prints the best settings and the path of `trials.csv`."""
        from qmix_jax.console import tables

        trials = [(t.number, t.value, t.params, t.state.name) for t in self._trials()]
        sign = -1 if self._objective.maximise else 1
        trials.sort(key=lambda trial: math.inf if trial[1] is None else sign * trial[1])
        tables.search(trials[:10], self._objective.caption, self._directory / TRIALS)

    def _tell(self, trial: Trial, result: Any) -> None:
        value = result.objective
        if math.isnan(value):
            self._fail(trial.number, "no evaluation to compare by")
        elif result.pruned:
            step = int(result.metrics["env_steps"].max())
            self._storage.set_trial_intermediate_value(self._id(trial.number), step, value)
            self._study.tell(trial.number, state=_state("PRUNED"))
        else:
            self._study.tell(trial.number, value)

    def _fail(self, number: int, reason: str) -> None:
        self._storage.set_trial_user_attr(self._id(number), "refusal", reason)
        self._study.tell(number, state=_state("FAIL"))

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(_NAME)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)

    def _trials(self, *states: str) -> list[Any]:
        chosen = tuple(map(_state, states)) or None
        return self._study.get_trials(deepcopy=False, states=chosen)

    def _trial(self, number: int) -> Trial:
        (params,) = (trial.params for trial in self._trials() if trial.number == number)
        try:
            return Trial(number, self._job(number, self._space.overrides(params)), "")
        except config.ConfigError as error:
            return Trial(number, None, str(error))

    def _job(self, number: int, overrides: list[str]) -> Any:
        """Raises: ConfigError for a setting that cannot be trained."""
        from qmix_jax import program

        job = launcher.make_job(overrides, self._composer.job(self._root, overrides, number))
        static = groups.static_part(job.config)
        if static not in self._checked:
            program.build(static).plan.rungs(self._settings.rungs)
            self._checked.add(static)
        # A setting that an earlier process did not finish resumes from its checkpoint.
        return job._replace(config=job.config.model_copy(update={"resume": "auto"}))

    def _write_trials(self) -> None:
        from qmix_jax.runs import storage

        keys = [dimension.key for dimension in self._space.dimensions]
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["number", "state", "value", *keys, "refusal"])
        for trial in self._trials():
            values = [trial.params.get(key) for key in keys]
            refusal = trial.user_attrs.get("refusal")
            rows.writerow([trial.number, trial.state.name.lower(), trial.value, *values, refusal])
        with storage.atomic(self._directory / TRIALS) as file:
            file.write(text.getvalue().encode())


def corners(composer: composition.Composer, root: omegaconf.DictConfig) -> list[list[str]]:
    """Returns overrides of settings at the ends of the space, to validate before training starts.

    Raises:
      ConfigError: the extra is missing, or the space cannot be searched.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise config.ConfigError(
            "search: hydra/sweeper=optuna needs the extra `optuna`; pip install 'qmix-jax[optuna]'"
        ) from error
    return search_space.parse(composition.sweep_overrides(root), composer).corners()


def _settings(options: Mapping[str, Any]) -> SweeperSettings:
    plain = composition.resolve(omegaconf.OmegaConf.create(dict(options)))
    frozen = {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}
    return config.validate(SweeperSettings, frozen, ("hydra", "sweeper"))


def _state(name: str) -> Any:
    from optuna import trial

    return trial.TrialState[name]


def _open(
    settings: SweeperSettings, space: search_space.SearchSpace, directory: pathlib.Path
) -> tuple[Any, Any]:
    """Opens or creates the study of a directory; returns it and its storage.

    Raises: ConfigError if the directory holds the study of another search.
    """
    import optuna
    from optuna.storages import journal

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    backend = journal.JournalFileBackend(str(directory / STUDY))
    store = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(
        study_name=_NAME, storage=store, direction=settings.direction, load_if_exists=True
    )
    study.sampler = _sampler(settings, len(study.trials))
    searched = {
        "fixed": list(space.fixed),
        "space": [dimension.text for dimension in space.dimensions],
        **settings.model_dump(mode="json", include=_COMPARED),
    }
    before = study.user_attrs.get("searched", searched)
    different = [key for key, value in searched.items() if before[key] != value]
    if different:
        key = different[0]
        raise config.ConfigError(
            f"search: {str(directory / STUDY)!r} belongs to another search ({key}: "
            f"{before[key]!r}, now {searched[key]!r}); choose another hydra.sweep.dir"
        )
    study.set_user_attr("searched", searched)
    return study, store


def _sampler(settings: SweeperSettings, n_before: int) -> Any:
    """Makes a sampler whose randomness continues where an earlier process stopped."""
    import optuna

    seed = settings.sampler_seed + n_before
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


@contextlib.contextmanager
def _lock(directory: pathlib.Path) -> Iterator[None]:
    """Allows one search at a time in a directory. Raises: ConfigError if another one is running."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(directory / ".search.lock")
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise config.ConfigError(
            f"search: another search is running in {str(directory)!r}; wait for it to end, or "
            "choose another hydra.sweep.dir"
        ) from error
    except OSError as error:
        raise config.ConfigError(
            f"search: cannot write to {str(directory)!r} ({error.strerror}); choose another "
            "hydra.sweep.dir"
        ) from error
    try:
        yield
    finally:
        lock.release()
