"""Teams with random parameters for every kind of network, and their inputs."""

import copy
import dataclasses
import functools

import jax
import numpy as np
import samples

from qmix_jax import config, program
from qmix_jax.deploy import trained
from qmix_jax.types import Box, Discrete, Observed

UNEVEN = dataclasses.replace(
    samples.SPEC,
    agent_names=("a", "b", "c"),
    agent_groups=(0, 1, 0),
    actions=Discrete((4, 2, 4)),
    obs_shapes=((5,), (3,), (5,)),
    obs_shape=(5,),
    agent_state=None,
)
IMAGES = dataclasses.replace(
    UNEVEN, actions=Discrete(4), obs_shapes=((4, 3, 2),) * 3, obs_shape=(4, 3, 2)
)
TABULAR = dataclasses.replace(
    UNEVEN, obs_shapes=((1,),) * 3, obs_shape=(1,), n_states=5, obs_bounds=(0.0, 4.0)
)
CNN = {"channels": [3, 2], "kernel": 2, "features": 5}
GROUPS = {"sharing": "groups", "groups": [["b"], ["c", "a"]]}

TEAMS = {
    "gru": ("gru", {}, UNEVEN, "default"),
    "lstm": ("lstm", {"embed_layers": 2}, UNEVEN, "default"),
    "mlp": ("mlp", {"layers": 2}, UNEVEN, "default"),
    "bare": ("gru", {"last_action": False, "agent_id": False}, UNEVEN, "default"),
    "norm": ("gru", {"layer_norm": True}, UNEVEN, "default"),
    "stacked": ("gru", {"unroll": "stacked"}, UNEVEN, "high"),
    "each its own": ("lstm", {"sharing": "none"}, UNEVEN, "default"),
    "groups": ("gru", GROUPS, UNEVEN, "default"),
    "images": ("gru", {"cnn": CNN, "layer_norm": True}, IMAGES, "default"),
    "images, odd": ("mlp", {"cnn": {**CNN, "kernel": 3}, "sharing": "none"}, IMAGES, "default"),
    "flat images": ("mlp", {"torso": "flat"}, IMAGES, "default"),
    "states": ("gru", {}, TABULAR, "default"),
}
"""Name -> agent, its options, spec, and precision."""
BFLOAT16 = {
    "bfloat16": ("gru", GROUPS, UNEVEN, "bfloat16"),
    "bfloat16 images": ("mlp", {"cnn": CNN, "layer_norm": True}, IMAGES, "bfloat16"),
}
"""Not supported in NumPy."""


@functools.cache
def team(name, directory):
    """A run of two members with random parameters."""
    agent, options, spec, precision = {**TEAMS, **BFLOAT16}[name]
    return run_of({"name": agent, "options": {"hidden": 8, **options}}, spec, precision, directory)


def run_of(agent, spec, precision, directory, **more):
    cfg = config.load({"agent": agent, "precision": precision, "env": {"name": "two_step"}, **more})
    init = program.make_algorithm(cfg, spec).init
    both = [samples.params(init, seed) for seed in range(2)]
    return trained.TrainedRun(
        directory=directory,
        config=cfg,
        spec=spec,
        parameters=jax.tree.map(lambda *leaves: np.stack(leaves), *both),
        kind="best",
        scores={"return": np.array([1.0, 2.0])},
        manifest={"started": "now", "versions": {"qmix_jax": "0"}, "git": None, "config": {}},
    )


class Episodes:
    """Random inputs of a team: T steps of B environments, in which episodes start at random."""

    def __init__(self, spec, steps=12, n_envs=3):
        rng = np.random.default_rng(3)
        leading = (steps, n_envs, spec.n_agents)
        self.obs = samples.normal(rng, *leading, *spec.obs_shape)
        if spec.n_states is not None:
            self.obs = rng.integers(spec.n_states, size=self.obs.shape).astype(np.float32)
        exists = np.broadcast_to(spec.actions.exists, (*leading, spec.actions.width))
        drawn = rng.random(exists.shape) * exists
        self.avail = (drawn > 0.4) | (drawn == drawn.max(axis=-1, keepdims=True))
        if isinstance(spec.actions, Box):
            self.avail = exists
        self.reset = rng.random((steps, n_envs)) < 0.2
        self.reset[0] = True

    def of_agent(self, i):
        """The inputs of one agent."""
        single = copy.copy(self)
        single.obs, single.avail = self.obs[:, :, i], self.avail[:, :, i]
        return single

    def played(self, policy, seed=0):
        """Actions [T, B, N, ...]."""
        state = policy.initial_state(self.obs.shape[1], seed)
        actions = []
        for obs, avail, reset in zip(self.obs, self.avail, self.reset, strict=True):
            chosen, state = policy.act(obs, avail, policy.restart(state, reset))
            actions.append(chosen)
        return np.stack(actions)


def trainers_actions(run, member, episodes, seed=0):
    """Actions of the algorithm as in evaluation; each step splits the key into the next one and the
    one to act with.
    """
    algorithm = program.make_algorithm(run.config, run.spec)
    params, act = run.member_params(member), samples.jit(algorithm.act)
    n_envs = episodes.obs.shape[1]
    carry = algorithm.initial_carry(n_envs)["act"]
    none = np.broadcast_to(run.spec.actions.none(), (n_envs, *run.spec.actions.shape))
    key, previous, chosen = jax.random.key(seed), none, []
    for obs, avail, reset in zip(episodes.obs, episodes.avail, episodes.reset, strict=True):
        key, key_act = jax.random.split(key)
        starts = reset.reshape(-1, *[1] * (none.ndim - 1))
        seen = Observed(
            obs=obs,
            prev_actions=np.where(starts, none, previous),
            reset=reset,
            avail_actions=avail,
        )
        carry, previous, _ = act(params, carry, seen, algorithm.greedy, key_act)
        chosen.append(np.asarray(previous))
    return np.stack(chosen)
