"""Validation of mappings into frozen configurations."""

import types

import pytest

from qmix_jax import components, config


def test_defaults_load_and_are_hashable():
    loaded = config.load({})
    assert hash(loaded) == hash(config.load({}))
    assert loaded.trainer == config.TrainerConfig()
    assert loaded.env.options.scenario == "3m"


def test_dump_then_load_changes_nothing():
    mapping = {
        "name": "x",
        "seed": 3,
        "env": {"name": "matrix", "options": {"game": None, "payoff": [[1, 2], [3, 4]]}},
        "agent": {"name": "mlp", "options": {"layers": 2}},
        "algo": {"name": "iql", "algorithm": "iql", "mixer": None},
        "hparams": {"learning_rate": {"start": 1e-3, "end": 0.0, "steps": 100.0}},
    }
    loaded = config.load(mapping)
    assert config.load(config.dump(loaded)) == loaded
    assert loaded.agent.options.layers == 2
    assert loaded.env.options.payoff == ((1.0, 2.0), (3.0, 4.0))


def test_configuration_is_frozen():
    loaded = config.load({})
    with pytest.raises(ValueError, match="frozen"):
        loaded.seeds = 3


def test_an_integral_float_is_an_integer():
    steps = config.load({"trainer": {"env_steps": 1e6}}).trainer.env_steps
    assert steps == 1_000_000
    assert isinstance(steps, int)


def test_a_number_is_a_constant_schedule():
    rate = config.load({"hparams": {"learning_rate": 1e-3}}).hparams.learning_rate
    assert (rate.start, rate.end) == (1e-3, 1e-3)


def test_a_component_may_be_a_dotted_path():
    loaded = config.load({"env": {"name": "qmix_jax.envs.two_step"}})
    assert loaded.env.options == config.load({"env": {"name": "two_step"}}).env.options


def test_find_is_replaceable():
    class Config(config.Model):
        size: config.PositiveInt = 4

    def find(kind, name):
        return types.SimpleNamespace(Config=Config, make=None)

    assert config.load({"env": {"name": "anything"}}, find=find).env.options == Config()


def test_an_algorithm_has_coefficients():
    class Coefficients(config.Model):
        alpha: config.Fraction = 0.5

    def find(kind, name):
        module = components.find(kind, name)
        if kind != "algorithms":
            return module
        return types.SimpleNamespace(Config=module.Config, Coefficients=Coefficients)

    loaded = config.load({"hparams": {"algo": {"alpha": 0.25}}}, find=find)
    assert loaded.hparams.algo == Coefficients(alpha=0.25)
    with pytest.raises(config.ConfigError, match=r"unknown key 'hparams\.algo\.alhpa'; did"):
        config.load({"hparams": {"algo": {"alhpa": 0.25}}}, find=find)


QMIX = {"name": "q", "algorithm": "td"}

REFUSED = [
    ({"seeds": 0}, "config: seeds=0: input should be greater than 0; got int 0"),
    ({"seeds": True}, "config: seeds=True: input should be a valid integer; got bool True"),
    ({"seeds": "2"}, "config: seeds='2': input should be a valid integer; got str '2'"),
    ({"seeds": 1.5}, "config: seeds=1.5: input should be a valid integer; got float 1.5"),
    ({"seed": -1}, "config: seed=-1: input should be greater than or equal to 0; got int -1"),
    ({"name": 3}, "config: name=3: input should be a valid string; got int 3"),
    (
        {"foo": 1},
        "config: unknown key 'foo'; allowed: agent, algo, checkpoint, compile_cache, env, eval, ",
    ),
    ({"hparam": {}}, "config: unknown key 'hparam'; did you mean 'hparams'? allowed: agent, "),
    (
        {"hparams": {"gama": 0.9}},
        "config: unknown key 'hparams.gama'; did you mean 'gamma'? allowed: algo, epsilon, gamma, ",
    ),
    (
        {"hparams": {"epsilon": {"strat": 1.0}}},
        "config: unknown key 'hparams.epsilon.strat'; did you mean 'start'? "
        "allowed: end, start, steps (and 3 more)",
    ),
    (
        {"hparams": {"epsilon": 2.0}},
        "config: hparams.epsilon.start=2.0: input should be less than or equal to 1; got float 2.0",
    ),
    ({"hparams": {"learning_rate": -1}}, "config: hparams.learning_rate.start=-1: input should be"),
    ({"hparams": {"learning_rate": True}}, "config: hparams.learning_rate=True: input should be"),
    ({"hparams": {"gamma": float("nan")}}, "config: hparams.gamma=nan: input should be a finite"),
    ({"hparams": 3}, "config: hparams=3: input should be a valid dictionary"),
    ({"hparams": {"algo": {"a": 1}}}, "config: unknown key 'hparams.algo.a'; allowed: none"),
    ({"optimiser": {"name": "sgd"}}, "config: optimiser.name='sgd': input should be 'adam', "),
    ({"trainer": {"n_envs": None}}, "config: trainer.n_envs=None: input should be a valid integer"),
    ({"replay": {"capacity": 0}}, "config: replay.capacity=0: input should be greater than 0"),
    ({"env": "smax"}, "config: env='smax': expected a mapping with a string `name` and `options`"),
    (
        {"env": {"name": "smaxx"}},
        "config: env.name='smaxx': unknown name 'smaxx'; allowed: jaxmarl, matrix, mmdp, ",
    ),
    (
        {"algo": {**QMIX, "mixer": {"name": "qmix", "option": {}}}},
        "config: unknown key 'algo.mixer.option'; did you mean 'options'? allowed: name, options",
    ),
    ({"env": {"name": ".x"}}, "config: env.name='.x': unknown name '.x'; allowed: jaxmarl, "),
    (
        {"env": {"name": "no_such_lab.envs"}},
        "config: env.name='no_such_lab.envs': no module 'no_such_lab' can be imported",
    ),
    (
        {"agent": {"name": "qmix_jax.types"}},
        "config: agent.name='qmix_jax.types': module 'qmix_jax.types' has no Config and no make",
    ),
    (
        {"agent": {"name": "gru", "options": {"hiden": 3}}},
        "config: unknown key 'agent.options.hiden'; did you mean 'hidden'? allowed: agent_id, ",
    ),
    ({"agent": {"name": "gru", "options": None}}, "config: agent.options=None: input should be"),
    ({"algo": {"name": "vdn"}}, "config: algo.algorithm is missing; set it"),
    ({"algo": {**QMIX, "mixer": {"name": "qmx"}}}, "config: algo.mixer.name='qmx': unknown name"),
    (
        {"algo": {**QMIX, "mixer": {"name": "qmix", "options": {"embed_dim": 0}}}},
        "config: algo.mixer.options.embed_dim=0: input should be greater than 0; got int 0",
    ),
]


@pytest.mark.parametrize(("mapping", "message"), REFUSED, ids=[str(bad) for bad, _ in REFUSED])
def test_an_invalid_mapping_is_one_line(mapping, message):
    with pytest.raises(config.ConfigError) as caught:
        config.load(mapping)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_broken_module_is_not_reported_as_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_lab_pkg").mkdir()
    (tmp_path / "broken_lab_pkg" / "env.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(config.ConfigError, match=r"importing it raised Mod.*no_such_dependency"):
        config.load({"env": {"name": "broken_lab_pkg.env"}})


def test_with_values_changes_and_validates():
    loaded = config.load({})
    changed = config.with_values(loaded, {"hparams.gamma": 0.9, "seeds": 4})
    assert (changed.hparams.gamma, changed.seeds) == (0.9, 4)
    assert loaded.hparams.gamma == 0.99
    with pytest.raises(config.ConfigError, match=r"hparams.gamma=7: input should be less"):
        config.with_values(loaded, {"hparams.gamma": 7})
    message = r"unknown key 'hparamz\.gamma'; did you mean 'hparams\.gamma'\? allowed: agent, "
    with pytest.raises(config.ConfigError, match=message):
        config.with_values(loaded, {"hparamz.gamma": 0.5})


def test_suggest_lists_the_nearest_then_all():
    assert config.suggest("qmx", ["qmix", "vdn"]) == "did you mean 'qmix'? allowed: qmix, vdn"
    assert config.suggest("zzz", ["qmix"]) == "allowed: qmix"
    assert config.suggest("zzz", []) == "allowed: none"
