"""A parallel environment like PettingZoo's: unequal agents, masks, an agent that leaves early."""

import numpy as np
from gymnasium import spaces

LIMIT = 6


class _Env:
    """`a` observes two numbers and has actions 1 to 3; `b` observes a symbol of three and has two.

    Each agent is paid 1 for its second action. `a` may not repeat its third action.
    """

    possible_agents = ("a", "b")

    def __init__(self, leaves=4, max_cycles=LIMIT, ends="truncated", mask=True, continuous=False):
        self.leaves, self.max_cycles, self.ends, self.mask = leaves, max_cycles, ends, mask
        self.continuous = continuous
        self.agents = []

    def observation_space(self, agent):
        if agent == "b":
            return spaces.Discrete(3)
        own = spaces.Box(0.0, 9.0, (2,), np.float32)
        return spaces.Dict({"observation": own, "action_mask": spaces.MultiBinary(3)})

    def action_space(self, agent):
        if self.continuous:
            return spaces.Box(0.0, 1.0, (2,), np.float32)
        return spaces.Discrete(3, start=1) if agent == "a" else spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.rng = np.random.default_rng(seed)
        self.agents, self.t, self.last = ["a", "b"], 0, 0
        return self._show(), {name: {} for name in self.agents}

    def _show(self):
        mask = np.array([1, 1, self.last != 3 or not self.mask], np.int8)
        seen = {"observation": np.array([self.t, self.rng.integers(9)]), "action_mask": mask}
        return {name: seen if name == "a" else self.t % 3 for name in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.t += 1
        self.last = actions["a"]
        assert self.last in (1, 2, 3)
        rewards = {name: float(act == (2 if name == "a" else 1)) for name, act in actions.items()}
        gone = {name: name == "b" and self.t == self.leaves for name in self.agents}
        over = self.t >= self.max_cycles
        terminated = {n: gone[n] or (over and self.ends == "terminated") for n in self.agents}
        truncated = {n: over and self.ends == "truncated" and not gone[n] for n in self.agents}
        shown = self._show()
        infos = {name: {} for name in self.agents}
        self.agents = [n for n in self.agents if not terminated[n] and not truncated[n]]
        return shown, rewards, terminated, truncated, infos

    def close(self):
        pass


def parallel_env(**kwargs):
    """Makes the environment; the name is PettingZoo's."""
    return _Env(**kwargs)
