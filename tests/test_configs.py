"""Every YAML file composes, loads, comments every key, and lists the defaults of the models."""

import functools
import itertools
import re

import pytest
import samples
import yaml
from toys import counting

import qmix_jax
from qmix_jax import components, config, program
from qmix_jax.cli import composition

ROOT = composition.directory()
FILES = sorted(ROOT.rglob("*.yaml"))
ALL = composition.choices()
CHOICES = {group: [name for name in names if name != "custom"] for group, names in ALL.items()}
"""Choices without `custom`, which needs a user-defined module."""

compose = functools.cache(composition.compose)
"""Cached: a call takes a tenth of a second. Tests must not change the mapping."""

PAIRS = [(group, choice) for group, names in CHOICES.items() for choice in names]


def test_the_public_names_exist():
    assert {"agent", "algo", "env", "experiment", "trainer"} <= set(CHOICES)
    assert {"iql", "vdn", "qmix", "pqn_vdn", "pqn_qmix"} <= set(CHOICES["algo"])
    assert {"modern", "pymarl", "pqn"} <= set(CHOICES["trainer"])
    mapping = compose()
    for key in ("seed", "seeds", "replay.batch_size", "replay.capacity", "env.options.scenario"):
        node = mapping
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def test_defaults_equal_those_of_the_models():
    assert compose() == config.dump(config.load({}))


@pytest.mark.parametrize(("group", "choice"), PAIRS)
def test_every_choice_composes_and_loads(group, choice):
    mapping = compose(f"{group}={choice}")
    loaded = config.load(mapping)
    assert config.load(config.dump(loaded)) == loaded


@pytest.mark.parametrize(("group", "choice"), PAIRS)
def test_every_key_is_listed(group, choice):
    """Loading adds no key, so `a.b=c` works for every key."""
    mapping = compose(f"{group}={choice}")
    assert _paths(mapping) == _paths(config.dump(config.load(mapping)))


OF_PAIRS = {path.stem for path in (ROOT / "experiment_algo").iterdir()}
"""`<experiment>_<algorithm>`: files with values for that pair."""


def with_choice(experiment, group, choice):
    """Returns the mapping of `experiment=... group=...`.

    Composing is slow, so it merges two cached mappings if only the group can change.
    """
    alone, chosen = compose(f"experiment={experiment}"), compose(f"{group}={choice}")
    if alone[group] != compose()[group] or f"{experiment}_{choice}" in OF_PAIRS:
        return compose(f"experiment={experiment}", f"{group}={choice}")
    hparams = {**alone["hparams"], "algo": chosen["hparams"]["algo"]}
    return {**alone, group: chosen[group], "hparams": hparams}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", CHOICES["experiment"])
def test_every_experiment_takes_every_algorithm(experiment):
    for algo in CHOICES["algo"]:
        loaded = config.load(with_choice(experiment, "algo", algo))
        assert (loaded.name, loaded.algo.name) == (experiment, algo)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", CHOICES["experiment"])
def test_every_experiment_takes_every_agent(experiment):
    for agent in CHOICES["agent"]:
        config.load(with_choice(experiment, "agent", agent))


@pytest.mark.slow
@pytest.mark.parametrize("group", ["algo", "agent"])
def test_a_choice_changes_its_group_only(group):
    """Tests every experiment with one choice, and every choice with one experiment."""
    for experiment, choice in zip(
        CHOICES["experiment"], itertools.cycle(CHOICES[group]), strict=False
    ):
        composed = compose(f"experiment={experiment}", f"{group}={choice}")
        assert composed == with_choice(experiment, group, choice)


def test_a_custom_module_defines_its_options():
    mapping = compose("env=custom", "env.name=toys.counting", "+env.options.limit=4")
    loaded = config.load(mapping)
    assert loaded.env.options == counting.Config(limit=4)
    with pytest.raises(config.ConfigError, match=r"env\.name"):
        config.load(compose("env=custom"))
    named = config.load(compose("experiment=custom", "env.name=toys.counting"))
    assert (named.name, named.hparams.reward_scale) == ("toys.counting", 1.0)
    assert named.env.options == counting.Config()


@pytest.mark.parametrize("agent", CHOICES["agent"])
def test_agents_list_their_defaults(agent):
    mapping = compose(f"agent={agent}")
    assert mapping["agent"] == _defaults("agents", agent)


@pytest.mark.parametrize("algo", CHOICES["algo"])
def test_algorithms_list_their_defaults(algo):
    mapping = compose(f"algo={algo}")["algo"]
    assert mapping["name"] == algo
    name = mapping["algorithm"]
    variants = samples.VARIANTS.get(name, ({},))
    defaults = [_defaults("algorithms", name, options) for options in variants]
    assert {"name": name, "options": mapping["options"]} in defaults
    if mapping["mixer"] is not None:
        assert mapping["mixer"] == _defaults("mixers", mapping["mixer"]["name"])


@pytest.mark.parametrize("env", ["matrix", "mmdp", "predator_prey", "two_step"])
def test_games_list_their_defaults(env):
    assert compose(f"env={env}")["env"] == _defaults("envs", env)


def test_presets_list_the_same_keys():
    presets = [compose(f"trainer={name}") for name in CHOICES["trainer"]]
    for preset in presets[1:]:
        assert _paths(preset) == _paths(presets[0])


def test_every_component_can_be_chosen():
    used = {kind: set() for kind in components.KINDS}
    for group, choice in PAIRS:
        mapping = compose(f"{group}={choice}")
        used["envs"].add(mapping["env"]["name"])
        used["agents"].add(mapping["agent"]["name"])
        used["algorithms"].add(mapping["algo"]["algorithm"])
        used["mixers"].add((mapping["algo"]["mixer"] or {}).get("name"))
    for kind in components.KINDS:
        assert set(components.names(kind)) <= used[kind]


def test_every_variant_can_be_chosen():
    algos = [compose(f"algo={algo}")["algo"] for algo in CHOICES["algo"]]
    chosen = [{"name": algo["algorithm"], "options": algo["options"]} for algo in algos]
    for name, variants in samples.VARIANTS.items():
        for options in variants:
            assert _defaults("algorithms", name, options) in chosen


def test_predator_prey_is_the_published_setting():
    loaded = config.load(compose("experiment=predator_prey"))
    assert (loaded.trainer.env_steps, loaded.eval.every, loaded.eval.episodes) == (
        1_000_000,
        10_000,
        16,
    )
    assert (loaded.hparams.epsilon.steps, loaded.hparams.gamma) == (50_000, 0.99)


def test_two_step_is_the_published_setting():
    loaded = config.load(compose("experiment=two_step"))
    assert (loaded.trainer.env_steps, loaded.trainer.n_envs, loaded.trainer.gradient_steps) == (
        10_000,
        1,
        1,
    )
    assert (loaded.hparams.epsilon.start, loaded.hparams.epsilon.end) == (1.0, 1.0)
    assert (loaded.hparams.gamma, loaded.hparams.target_period) == (0.99, 100)
    assert (loaded.replay.capacity, loaded.replay.batch_size) == (500, 32)
    assert (loaded.optimiser.name, loaded.hparams.learning_rate.start) == ("rmsprop", 5e-4)
    assert loaded.agent.name == "mlp"
    assert (loaded.agent.options.hidden, loaded.agent.options.layers) == (64, 1)
    assert (loaded.agent.options.last_action, loaded.agent.options.agent_id) == (False, True)
    assert loaded.algo.mixer is not None
    assert loaded.algo.mixer.options.embed_dim == 8
    assert loaded.algo.mixer.options.hypernet_layers == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "preset"), list(itertools.product(CHOICES["experiment"], CHOICES["trainer"]))
)
def test_every_experiment_can_be_planned(experiment, preset):
    """Windows, capacity, warm-up and budget fit together."""
    algo = "pqn_qmix" if preset == "pqn" else "qmix"
    mapping = compose(f"experiment={experiment}", f"trainer={preset}", f"algo={algo}")
    loaded = config.load(mapping)
    plan = program.build(loaded).plan
    assert plan.n_updates > 0
    if loaded.replay.capacity is not None:
        assert plan.capacity == loaded.replay.capacity


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_every_value_has_a_comment(path):
    text = path.read_text()
    assert yaml.safe_load(text) is not None
    assert text.startswith("#")
    for number, line in enumerate(text.splitlines(), 1):
        assert len(line) <= 100, f"{path.name}:{number} is {len(line)} columns wide"
        if re.match(r"\s*\w+: *[^\s#]", line):
            assert re.search(r"  # \S", line), f"{path.name}:{number} has no comment: {line}"


def _defaults(kind, name, options=None):
    chosen = components.find(kind, name).Config.model_validate(options or {})
    return {"name": name, "options": chosen.model_dump(mode="json")}


def _paths(node, prefix=""):
    if not isinstance(node, dict):
        return {prefix}
    return {prefix}.union(*(_paths(value, f"{prefix}.{key}") for key, value in node.items()))


def test_compose_config_equals_the_command_line():
    overrides = ("experiment=smax_2s3z", "algo=vdn", "seeds=3")
    cfg = qmix_jax.compose_config(*overrides)
    assert cfg == config.load(composition.compose(*overrides))
    assert (cfg.algo.name, cfg.env.options.scenario, cfg.seeds) == ("vdn", "2s3z", 3)
    with pytest.raises(config.ConfigError, match=r"algo.*vdm.*did you mean 'vdn'"):
        qmix_jax.compose_config("algo=vdm")
