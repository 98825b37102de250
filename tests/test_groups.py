"""Which configurations share a program."""

from toys import members

from qmix_jax import groups


def test_traced_keys_share_a_program_and_static_keys_do_not():
    configs = [
        members.load(),
        members.load(seed=5, name="other", hparams={"gamma": 0.9, "learning_rate": 1e-3}),
        members.load(trainer={"gradient_steps": 3}),
        members.load(seeds=4, hparams={"target_period": 7}),
        members.load(trainer={"gradient_steps": 3}, seed=1),
        members.load(agent={"options": {"hidden": 9}}),
    ]
    result = groups.split(configs)
    assert [group.jobs for group in result] == [(0, 1, 3), (2, 4), (5,)]
    assert [group.config for group in result] == [configs[0], configs[2], configs[5]]
    keys = groups.separating_keys(result)
    assert keys == ("agent.options.hidden", "trainer.gradient_steps")
    assert groups.separating_keys(result[:1]) == ()


def test_a_key_of_some_configurations_only_separates_groups():
    result = groups.split(
        [
            members.load(),
            members.load(algo={"name": "iql", "algorithm": "iql", "mixer": None}),
        ]
    )
    assert len(result) == 2
    keys = groups.separating_keys(result)
    assert {"algo.name", "algo.algorithm"} <= set(keys)
    assert any(key.startswith("algo.mixer") for key in keys)
