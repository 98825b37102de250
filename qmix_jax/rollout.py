"""Environments side by side, and one step of all of them under any acting function."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.envs import base as envs
from qmix_jax.types import (
    Array,
    Observed,
    TimeStep,
    no_action,
    record,
)


class Behaviour(NamedTuple):
    """How agents act, with fixed parameters and exploration.

    Attributes:
      act: `(carry, Observed[B], key) -> (carry, actions, behaviour)`.
      accompany: `(carry, Observed[B], state f32[B, S]) -> carry`, of recurrent networks that learn
        but do not act; None where there are none.
    """

    act: Callable[[Any, Observed, Array], tuple[Any, Array, dict[str, Any]]]
    accompany: Callable[[Any, Observed, Array], Any] | None = None


class Recording(NamedTuple):
    """What a rollout stores for an algorithm.

    Attributes:
      reward: the team's, or each agent's own.
      mean_action: the mean action of each agent's neighbours.
      behaviour: name -> shape of [B, ...] for B = 1, what acting adds at each step.
    """

    reward: Literal["team", "own"] = "team"
    mean_action: bool = False
    behaviour: Any = {}  # noqa: RUF012


@record
class ActorState:
    """Where a batch of environments stands between two steps.

    Attributes:
      env_state: tree with leading axis B.
      timestep: `TimeStep[B]`, what the environments show now.
      reset: bool[B], `timestep` is the first of an episode.
      carry: {"act", "learn"}, recurrent states.
      prev_actions: i32[B, N] or f32[B, N, D], see `no_action`.
      mean_action: f32[B, N, D], of the previous step; None where no algorithm needs it.
      ended: bool[B], the episode is over. Where environments are reset on their own, it was
        truncated, and `timestep` is its true end, which has an entry of its own.
      returned: f32[B], rewards of the episode so far, as `envs.score` counts them.
      returned_by_agent: f32[B, N], each agent's own; None where the team's says it all.
      length: f32[B], steps of the episode so far.
    """

    env_state: Any
    timestep: TimeStep
    reset: Array
    carry: Any
    prev_actions: Array
    mean_action: Array | None
    ended: Array
    returned: Array
    returned_by_agent: Array | None
    length: Array


@record
class Step:
    """One collected step: what the environments showed, what was done, and what came of it.

    `metrics` are the episode's so far, return and length included; they count where it `finished`.
    """

    obs: Array
    state: Array
    avail_actions: Array
    reset: Array
    actions: Array
    reward: Array
    terminated: Array
    valid: Array
    behaviour: dict[str, Any]
    mean_action: Array | None
    finished: Array
    metrics: dict[str, Array]


class CollectorSetup(NamedTuple):
    """What every collector runs.

    Attributes:
      env: one environment; one that is stepped in Python is only described by it.
      initial_carry: `(batch_size) -> {"act", "learn"}`, the algorithm's.
      recording: what is stored.
      n_envs: B.
    """

    env: Any
    initial_carry: Callable[[int], Any]
    recording: Recording
    n_envs: int

    def start(self, key: Array) -> ActorState:
        """Fresh environments."""
        return self.at_start(self.draw(key))

    def draw(self, key: Array) -> tuple[Any, TimeStep]:
        """Fresh env states and what they show, `[B, ...]`."""
        return jax.vmap(self.env.reset)(jax.random.split(key, self.n_envs))

    def at_start(self, started: tuple[Any, TimeStep]) -> ActorState:
        """Actors of fresh environments."""
        env_state, timestep = started
        n_envs, spec = timestep.terminated.shape[0], self.env.spec
        flags, zeros = jnp.zeros((n_envs,), bool), jnp.zeros((n_envs,))
        actions = jnp.zeros((n_envs, *spec.actions.shape), spec.actions.dtype)
        mean_action = jnp.zeros((n_envs, *spec.actions.exists.shape))
        return ActorState(
            env_state=env_state,
            timestep=timestep,
            reset=~flags,
            carry=self.initial_carry(n_envs),
            prev_actions=no_action(actions),
            mean_action=mean_action if self.recording.mean_action else None,
            ended=flags,
            returned=zeros,
            returned_by_agent=None if self.is_shared else jnp.zeros((n_envs, spec.n_agents)),
            length=zeros,
        )

    @property
    def is_shared(self) -> bool:
        """Whether the team's return says it all."""
        return self.env.team_reward is not None and self.recording.reward == "team"

    def step(
        self, behaviour: Behaviour, actor: ActorState, key_act: Array, key_env: Array
    ) -> tuple[ActorState, Array, dict[str, Any]]:
        """One step of every environment, without any reset.

        Returns:
          (actor with the new carries and environments, actions, behaviour).
        """
        shown = actor.timestep
        seen = observed(actor)
        carry, actions, remembered = behaviour.act(actor.carry["act"], seen, key_act)
        learn = actor.carry["learn"]
        if behaviour.accompany is not None:
            learn = behaviour.accompany(learn, seen, shown.state)
        keys = jax.random.split(key_env, actions.shape[0])
        env_state, following = jax.vmap(self.env.step)(keys, actor.env_state, actions)
        by_agent = actor.returned_by_agent
        if by_agent is not None:
            by_agent = jnp.where(actor.reset[:, None], 0.0, by_agent) + following.reward
        stepped = ActorState(
            env_state=env_state,
            timestep=following,
            reset=jnp.zeros_like(actor.reset),
            carry={"act": carry, "learn": learn},
            prev_actions=actions,
            mean_action=self._mean_action(shown, actions),
            ended=following.terminated | following.truncated,
            returned=jnp.where(actor.reset, 0.0, actor.returned)
            + envs.score(self.env, following.reward),
            returned_by_agent=by_agent,
            length=jnp.where(actor.reset, 0.0, actor.length) + 1.0,
        )
        return stepped, actions, remembered

    def episode_metrics(self, actor: ActorState) -> dict[str, Array]:
        """Return, length and metrics of the episodes so far, f32[B]."""
        by_agent = {}
        if actor.returned_by_agent is not None:
            names = self.env.spec.agent_names
            by_agent = {
                f"return/{name}": actor.returned_by_agent[:, i] for i, name in enumerate(names)
            }
        return {
            "return": actor.returned,
            "length": actor.length,
            **by_agent,
            **actor.timestep.metrics,
        }

    def record(
        self,
        actor: ActorState,
        actions: Array,
        remembered: dict[str, Any],
        stepped: ActorState,
    ) -> Step:
        """What is stored of one step."""
        shown, following = actor.timestep, stepped.timestep
        reward = following.reward
        if self.recording.reward == "team":
            assert self.env.team_reward is not None, "needs are checked first"
            reward = self.env.team_reward(reward)
        return Step(
            obs=shown.obs,
            state=shown.state,
            avail_actions=shown.avail_actions,
            reset=actor.reset,
            actions=actions,
            reward=reward,
            terminated=following.terminated,
            valid=jnp.ones_like(following.terminated),
            behaviour=remembered,
            mean_action=stepped.mean_action,
            finished=stepped.ended,
            metrics=self.episode_metrics(stepped),
        )

    def _mean_action(self, shown: TimeStep, actions: Array) -> Array | None:
        """f32[B, N, D], mean action of the neighbours alive; zeros where there are none."""
        if not self.recording.mean_action:
            return None
        spec, n = self.env.spec, self.env.spec.n_agents
        others = ~np.eye(n, dtype=bool) if spec.neighbours is None else spec.neighbours
        near = jnp.broadcast_to(others, (actions.shape[0], n, n))
        if shown.neighbours is not None:
            near = shown.neighbours
        if shown.alive is not None:
            near = near & shown.alive[:, None, :]
        weight = near.astype(jnp.float32)
        total = jnp.einsum("bij,bjd->bid", weight, spec.actions.features(actions))
        return total / jnp.maximum(weight.sum(axis=-1, keepdims=True), 1.0)


def observed(actor: ActorState) -> Observed:
    """What the agents see now, `[B, ...]`."""
    return Observed(
        obs=actor.timestep.obs,
        prev_actions=actor.prev_actions,
        reset=actor.reset,
        avail_actions=actor.timestep.avail_actions,
        mean_action=actor.mean_action,
    )
