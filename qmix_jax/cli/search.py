"""The search behind `hydra/sweeper=optuna`: ask for a batch, train it fused, tell."""

import contextlib
import csv
import io
import math
import pathlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import filelock
import omegaconf

from qmix_jax import config, groups
from qmix_jax.cli import composition, launcher, search_space

STUDY = "study.journal"
TRIALS = "trials.csv"

_COMPARED = {"metric", "last", "direction", "rungs", "keep"}


class SweeperSettings(config.Model):
    """Options of `configs/hydra/sweeper/optuna.yaml`, where they are explained."""

    n_trials: config.PositiveInt = 32
    batch: config.PositiveInt = 8
    sampler: Literal["tpe", "random"] = "tpe"
    sampler_seed: config.Int = 0
    metric: str | None = None
    last: config.PositiveInt = 3
    direction: Literal["maximize", "minimize"] = "maximize"
    rungs: tuple[config.OpenFraction, ...] = ()
    keep: config.OpenFraction = 0.5


class Trial(NamedTuple):
    """A setting to train: its number in the study, its run, and why it cannot be, if so."""

    number: int
    job: Any
    refusal: str


def search(
    context: Any, root: omegaconf.DictConfig, arguments: Sequence[str], options: dict[str, Any]
) -> None:
    """Trains settings until the study has `n_trials`, going on with a study that is there.

    Args:
      context, root: Hydra's.
      arguments: overrides, spaces among them.
      options: of the sweeper.
    Raises:
      ConfigError: a setting that cannot be honoured, before anything is compiled.
      SystemExit: 128 + the number of a signal that ended it (130: Ctrl-C); the settings then in
        training go on next time.
    """
    plain = composition.resolve(omegaconf.OmegaConf.create(options))
    frozen = {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}
    settings = config.validate(SweeperSettings, frozen, ("hydra", "sweeper"))
    space = search_space.parse(arguments, context.config_loader)
    directory = pathlib.Path(str(root.hydra.sweep.dir))
    with _alone(directory):
        found = _Search(context, root, settings, space, directory)
        found.announce()
        while batch := found.next_batch():
            found.train(batch)
        found.report()


class _Search:
    """A study and what its settings are trained with."""

    def __init__(
        self,
        context: Any,
        root: omegaconf.DictConfig,
        settings: SweeperSettings,
        space: search_space.SearchSpace,
        directory: pathlib.Path,
    ) -> None:
        from qmix_jax import api  # it brings in JAX, which `--help` need not wait for

        self._context, self._root, self._space = context, root, space
        self._settings, self._directory = settings, directory
        self._study = _open(settings, space, directory)
        self._left = [trial.number for trial in self._trials("RUNNING")]
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
        """How much there is to do, and in how many programs."""
        settings, n_done = self._settings, len(self._trials()) - len(self._left)
        sizes = len(set(self._sizes))
        n_static = self._space.n_static(settings.n_trials)
        print(
            f"search: {settings.n_trials} settings of {self._seeds} seed(s), {settings.batch} at a "
            f"time; {n_done} done, {len(self._left)} to go on with\n"
            f"search: at most {n_static * sizes} compiled programs: {n_static} static group(s) x "
            f"{sizes} population size(s); members that take turns need one size, and one more "
            "program where a later batch can use more devices",
            flush=True,
        )

    def next_batch(self) -> list[Trial]:
        """Settings that an interrupted search left, then new ones; empty at the end."""
        if self._left:  # what trained together goes on together, and alone
            numbers, self._left = self._left, []
            return [self._trial(number) for number in numbers]
        n_new, numbers = self._settings.n_trials - len(self._trials()), []
        while len(numbers) < self._settings.batch and n_new > 0:
            space = {one.key: one.distribution for one in self._space.dimensions}
            numbers.append(self._study.ask(space).number)
            n_new -= 1
        return [self._trial(number) for number in numbers]

    def train(self, batch: Sequence[Trial]) -> None:
        """Trains a batch and tells the study."""
        from qmix_jax.machine import signals

        for trial in batch:
            if trial.refusal:
                print(f"trial {trial.number}: {trial.refusal}", flush=True)
                self._tell(trial.number, "FAIL", refusal=trial.refusal)
        able = [trial for trial in batch if not trial.refusal]
        results = ()
        if able:
            results = self._train([trial.job for trial in able])
        cut = any(result is None or result.interrupted for result in results)
        for trial, result in zip(able, results, strict=True):
            if not cut:  # else all stay in training, and those that have ended are read back
                self._take(trial, result)
        self._write_trials()
        if cut:
            raise SystemExit(signals.exit_code())

    def _train(self, jobs: list[Any]) -> Sequence[Any]:
        from qmix_jax import api
        from qmix_jax.runs import checkpoint

        try:
            return api.train_many(
                jobs, halving=self._halving, objective=self._objective, programs=self._programs
            )
        except checkpoint.WriteError as error:
            said = str(error).partition("; fix the disk")[0]
            print(f"error: {said}; mend that and repeat the command", file=sys.stderr)
            raise SystemExit(1) from None

    def report(self) -> None:
        """The best settings, and where everything is."""
        from qmix_jax.console import tables

        ended = [(t.number, t.value, t.params, t.state.name) for t in self._trials()]
        ended.sort(key=lambda trial: self._rank(trial[1]))
        tables.search(ended[:10], self._objective.caption, self._directory / TRIALS)

    def _rank(self, value: float | None) -> float:
        if value is None:
            return math.inf
        return -value if self._objective.maximise else value

    def _take(self, trial: Trial, result: Any) -> None:
        """Tells what a setting came to; one that was interrupted stays to be trained again."""
        if result is None or result.interrupted:
            return
        value = result.objective
        if math.isnan(value):
            self._tell(trial.number, "FAIL", refusal="no evaluation to compare by")
        elif result.pruned:
            self._handle(trial.number).report(value, int(result.metrics["env_steps"].max()))
            self._tell(trial.number, "PRUNED")
        else:
            self._study.tell(trial.number, value)

    def _tell(self, number: int, state: str, refusal: str = "") -> None:
        from optuna import trial

        if refusal:
            self._handle(number).set_user_attr("refusal", refusal)
        self._study.tell(number, state=trial.TrialState[state])

    def _handle(self, number: int) -> Any:
        from optuna import trial

        (found,) = (one for one in self._trials() if one.number == number)
        return trial.Trial(self._study, found._trial_id)

    def _trials(self, *states: str) -> list[Any]:
        from optuna import trial

        chosen = tuple(trial.TrialState[state] for state in states) or None
        return self._study.get_trials(deepcopy=False, states=chosen)

    def _trial(self, number: int) -> Trial:
        (found,) = (one for one in self._trials() if one.number == number)
        overrides = self._space.overrides(found.params)
        try:
            return Trial(number, self._job(number, overrides), "")
        except config.ConfigError as error:
            return Trial(number, None, str(error))

    def _job(self, number: int, overrides: list[str]) -> Any:
        """Raises: ConfigError for a setting that cannot be trained."""
        from qmix_jax import program

        composed = launcher.compose(self._context, self._root, overrides, number)
        job = launcher.make_job(launcher.config_dir(self._root), overrides, composed)
        static = groups.static_part(job.config)
        if static not in self._checked:
            program.build(static).plan.rungs(self._settings.rungs)
            self._checked.add(static)
        # A setting that an earlier process left goes on from its checkpoint.
        return job._replace(config=job.config.model_copy(update={"resume": "auto"}))

    def _write_trials(self) -> None:
        from qmix_jax.runs import storage

        keys = [one.key for one in self._space.dimensions]
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["number", "state", "value", *keys, "refusal"])
        for one in self._trials():
            values = [one.params.get(key) for key in keys]
            refusal = one.user_attrs.get("refusal")
            rows.writerow([one.number, one.state.name.lower(), one.value, *values, refusal])
        with storage.atomic(self._directory / TRIALS) as file:
            file.write(text.getvalue().encode())


def check(overrides: list[str], config_dir: str | None, multirun: bool) -> list[list[str]]:
    """Overrides of settings at the ends of the space, to validate before anything starts.

    Raises:
      ConfigError: the extra is missing, or the space cannot be searched.
    """
    if not multirun:
        raise config.ConfigError("command line: hydra/sweeper=optuna belongs to -m; give both")
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise config.ConfigError(
            "hydra/sweeper=optuna needs the extra `optuna`: pip install 'qmix-jax[optuna]'"
        ) from error
    with composition.loader(config_dir, overrides) as loader:
        return search_space.parse(overrides, loader).corners()


def _open(
    settings: SweeperSettings, space: search_space.SearchSpace, directory: pathlib.Path
) -> Any:
    """The study in the directory, made if there is none. Raises: ConfigError if it is another."""
    import optuna
    from optuna.storages import journal

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    backend = journal.JournalFileBackend(str(directory / STUDY))
    study = optuna.create_study(
        study_name="qmix_jax",
        storage=optuna.storages.JournalStorage(backend),
        direction=settings.direction,
        load_if_exists=True,
    )
    study.sampler = _sampler(settings, len(study.trials))
    searched = {
        "fixed": list(space.fixed),
        "space": [one.text for one in space.dimensions],
        **settings.model_dump(mode="json", include=_COMPARED),
    }
    kept = study.user_attrs.get("searched", searched)
    different = [key for key, value in searched.items() if kept[key] != value]
    if different:
        key = different[0]
        raise config.ConfigError(
            f"search: {str(directory / STUDY)!r} is of another search ({key}: {kept[key]!r}, now "
            f"{searched[key]!r}); choose another hydra.sweep.dir"
        )
    study.set_user_attr("searched", searched)
    return study


def _sampler(settings: SweeperSettings, n_before: int) -> Any:
    """Its randomness goes on where an earlier process left it."""
    import optuna

    seed = settings.sampler_seed + n_before
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


@contextlib.contextmanager
def _alone(directory: pathlib.Path) -> Iterator[None]:
    """Only one search in a directory at a time. Raises: ConfigError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(directory / ".search.lock")
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise config.ConfigError(
            f"search: another one is running in {str(directory)!r}; wait for its end, or choose "
            "another hydra.sweep.dir"
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
