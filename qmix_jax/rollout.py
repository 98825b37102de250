"""Steps a batch of environments with any policy."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.envs import base as envs
from qmix_jax.types import Array, Observed, TimeStep, no_action, record


class BoundPolicy(NamedTuple):
    """Acting functions with fixed parameters and exploration.

    Attributes:
      act: `(carry, Observed[B], key) -> (carry, actions, behaviour)`.
      accompany: `(carry, Observed[B], state f32[B, S]) -> carry`, advances recurrent networks that
        learn but do not act; None if there are none.
    """

    act: Callable[[Any, Observed, Array], tuple[Any, Array, dict[str, Any]]]
    accompany: Callable[[Any, Observed, Array], Any] | None = None


class Recording(NamedTuple):
    """Fields that a rollout stores for an algorithm.

    Attributes:
      reward: `team`: the team's reward; `own`: each agent's.
      mean_action: whether to store the mean action of each agent's neighbours.
      behaviour: name -> shape of [B, ...] for B = 1, added by acting at each step.
    """

    reward: Literal["team", "own"] = "team"
    mean_action: bool = False
    behaviour: Any = {}  # noqa: RUF012


@record
class ActorState:
    """A batch of environments between two steps.

    Attributes:
      env_state: tree with leading axis B.
      timestep: `TimeStep[B]`, the current one.
      reset: bool[B], `timestep` is the first of an episode.
      carry: {"act", "learn"}, recurrent states.
      prev_actions: i32[B, N] or f32[B, N, D], see `no_action`.
      mean_action: f32[B, N, D], of the previous step; None if no algorithm needs it.
      ended: bool[B], the episode is over. Under auto-reset it was truncated, and `timestep` is its
        last one, which gets its own entry.
      returned: f32[B], rewards of the episode so far, as `envs.score` counts them.
      returned_by_agent: f32[B, N], rewards of each agent; None if agents share the team's reward.
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
    """One collected step, see `Trajectory`.

    `metrics` are those of the episode so far, return and length included; they count if `finished`.
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
    """Settings shared by all collectors and by evaluation.

    Attributes:
      env: an `Env`, or a `HostEnv`, of which only the spec is used.
      initial_carry: `(batch_size) -> {"act", "learn"}`, from the algorithm.
      recording: stored fields.
      n_envs: B.
    """

    env: Any
    initial_carry: Callable[[int], Any]
    recording: Recording
    n_envs: int

    def start(self, key: Array) -> ActorState:
        """Returns the actor state of reset environments."""
        return self.at_start(self.reset_envs(key))

    def reset_envs(self, key: Array) -> tuple[Any, TimeStep]:
        """Resets the environments; (env_state, timestep) `[B, ...]`."""
        return jax.vmap(self.env.reset)(jax.random.split(key, self.n_envs))

    def at_start(self, starts: tuple[Any, TimeStep]) -> ActorState:
        """Returns the actor state of (env_state, timestep) from `reset_envs`."""
        env_state, timestep = starts
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
        """Whether agents share the team's reward, so that the team's return is the only one."""
        return self.env.team_reward is not None and self.recording.reward == "team"

    def step(
        self, policy: BoundPolicy, actor: ActorState, key_act: Array, key_env: Array
    ) -> tuple[ActorState, Array, dict[str, Any]]:
        """Steps every environment once, without resets.

        Returns:
          (next actor state, actions, behaviour).
        """
        observed = Observed(
            obs=actor.timestep.obs,
            prev_actions=actor.prev_actions,
            reset=actor.reset,
            avail_actions=actor.timestep.avail_actions,
            mean_action=actor.mean_action,
        )
        carry, actions, behaviour = policy.act(actor.carry["act"], observed, key_act)
        learn = actor.carry["learn"]
        if policy.accompany is not None:
            learn = policy.accompany(learn, observed, actor.timestep.state)
        keys = jax.random.split(key_env, actions.shape[0])
        env_state, timestep = jax.vmap(self.env.step)(keys, actor.env_state, actions)
        by_agent = actor.returned_by_agent
        if by_agent is not None:
            by_agent = jnp.where(actor.reset[:, None], 0.0, by_agent) + timestep.reward
        next_actor = ActorState(
            env_state=env_state,
            timestep=timestep,
            reset=jnp.zeros_like(actor.reset),
            carry={"act": carry, "learn": learn},
            prev_actions=actions,
            mean_action=self._mean_action(actor.timestep, actions),
            ended=timestep.terminated | timestep.truncated,
            returned=jnp.where(actor.reset, 0.0, actor.returned)
            + envs.score(self.env, timestep.reward),
            returned_by_agent=by_agent,
            length=jnp.where(actor.reset, 0.0, actor.length) + 1.0,
        )
        return next_actor, actions, behaviour

    def episode_metrics(self, actor: ActorState) -> dict[str, Array]:
        """Returns return, length and metrics of the episodes so far, f32[B] each."""
        by_agent = {}
        if actor.returned_by_agent is not None:
            names = self.env.spec.agent_names
            by_agent = {
                f"return/{name}": actor.returned_by_agent[:, i] for i, name in enumerate(names)
            }
        metrics = {**by_agent, **actor.timestep.metrics}
        return {"return": actor.returned, "length": actor.length, **metrics}

    def record(
        self, actor: ActorState, actions: Array, behaviour: dict[str, Any], next_actor: ActorState
    ) -> Step:
        """Returns the stored fields of one step."""
        timestep, successor = actor.timestep, next_actor.timestep
        reward = successor.reward
        if self.recording.reward == "team":
            assert self.env.team_reward is not None, "see algorithms.base.unmet"
            reward = self.env.team_reward(reward)
        return Step(
            obs=timestep.obs,
            state=timestep.state,
            avail_actions=timestep.avail_actions,
            reset=actor.reset,
            actions=actions,
            reward=reward,
            terminated=successor.terminated,
            valid=jnp.ones_like(successor.terminated),
            behaviour=behaviour,
            mean_action=next_actor.mean_action,
            finished=next_actor.ended,
            metrics=self.episode_metrics(next_actor),
        )

    def _mean_action(self, timestep: TimeStep, actions: Array) -> Array | None:
        """f32[B, N, D], mean action of each agent's living neighbours; zeros if there are none."""
        if not self.recording.mean_action:
            return None
        spec, n = self.env.spec, self.env.spec.n_agents
        others = ~np.eye(n, dtype=bool) if spec.neighbours is None else spec.neighbours
        near = jnp.broadcast_to(others, (actions.shape[0], n, n))
        if timestep.neighbours is not None:
            near = timestep.neighbours
        if timestep.alive is not None:
            near = near & timestep.alive[:, None, :]
        weight = near.astype(jnp.float32)
        total = jnp.einsum("bij,bjd->bid", weight, spec.actions.features(actions))
        return total / jnp.maximum(weight.sum(axis=-1, keepdims=True), 1.0)
