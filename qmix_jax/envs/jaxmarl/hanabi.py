"""JaxMARL's Hanabi (Bard et al. 2020): players see all hands but their own and move in turn.

Team reward: agent 0's (all players get the same): 1 per card played rightly; losing the last life
takes back the score. Every end is the game's own, so `terminated`: all fireworks complete, no life
left, or everybody moved once more after the last card was drawn. Whose turn it is not has the no-op
for its only action (the last index).

State, JaxMARL has none: per player the true hand, which colours and ranks of it were hinted, and
whether it is to move; then fireworks, tokens and deck, and what was discarded.
"""

import functools
from collections.abc import Mapping
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from pydantic import Field

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.envs.jaxmarl import adapter
from qmix_jax.types import Array

IDS = ("hanabi",)


class HanabiKwargs(config.Model):
    """JaxMARL keyword arguments that may be set; null is JaxMARL's default.

    There are 3 copies of the lowest rank, 1 of the highest, 2 of the others.
    """

    num_agents: Annotated[config.Int, Field(ge=2, le=5)] | None = None
    """Players (2)."""
    num_colors: Annotated[config.Int, Field(ge=1, le=6)] | None = None
    """Fireworks (5)."""
    num_ranks: Annotated[config.Int, Field(ge=2)] | None = None
    """Cards of a firework (5)."""
    hand_size: config.PositiveInt | None = None
    """Cards per player (5, with four or five players 4)."""
    max_info_tokens: config.PositiveInt | None = None
    """Hints available at first, and the most there can be (8)."""
    max_life_tokens: config.PositiveInt | None = None
    """Wrong plays that end the game (3)."""
    shuffle_player_order: bool | None = None
    """Does another player begin in each game (false)?"""


def kwargs_model(env_id: str) -> type[config.Model]:
    """The model of the keyword arguments of `env_id`."""
    del env_id
    return HanabiKwargs


def build(env_id: str, kwargs: Mapping[str, Any]) -> tuple[Any, adapter.Suite]:
    """JaxMARL's environment and how to read it.

    Raises: ConfigError where the deck is too small for the hands.
    """
    copies = np.array([3, *[2] * (kwargs.get("num_ranks", 5) - 2), 1])
    env = adapter.construct(env_id, {**kwargs, "num_cards_of_rank": copies})
    drawn = int(env.deck_size) - env.num_agents * env.hand_size
    if drawn < 1:
        raise config.ConfigError(
            f"env jaxmarl: hanabi deals {env.num_agents} hands of {env.hand_size} out of "
            f"{env.deck_size} cards and has none left to draw; lower kwargs.hand_size or raise "
            "kwargs.num_colors"
        )

    def avail_actions(env_state: Any) -> Array:
        legal = env.get_legal_moves(env_state)
        avail = jnp.stack([legal[agent] for agent in env.agents]).astype(bool)
        # Once the game is over, whoever would be next may have no card left.
        return avail.at[:, -1].set(avail[:, -1] | ~avail.any(axis=1))

    own = env.hand_size * (env.num_colors + 1) * (env.num_ranks + 1) - env.hand_size + 1
    suite = adapter.Suite(
        max_steps=_longest_game(env, drawn),
        state=lambda obs, env_state: _state(env, env_state),
        team_reward=base.first_agent,
        outcome=lambda before, after, actions: (jnp.ones((), bool), {}),
        variant=f"{env.num_agents} players",
        avail_actions=avail_actions,
        agent_state=np.arange(env.num_agents * own, dtype=np.int32).reshape(-1, own),
        obs_bounds=(0.0, 1.0),
        state_bounds=(0.0, 1.0),
        describe=functools.partial(_describe, env),
    )
    return env, suite


def _longest_game(env: Any, drawn: int) -> int:
    """A turn draws a card or spends a token; all drawing turns but the last give a token that can
    be spent before the deck is empty, and then everybody moves once more.
    """
    return drawn + (env.max_info_tokens + drawn - 1) + env.num_agents


def _state(env: Any, state: Any) -> Array:
    """f32[S], players in the order of the agents."""
    seat = jnp.argsort(state.seat_order)
    players = (
        state.player_hands, state.colors_revealed, state.ranks_revealed, state.cur_player_idx,
    )  # fmt: skip
    each = [x[seat].reshape(env.num_agents, -1) for x in players]
    table = [env.get_board_feats(state), env._binarize_discard_pile(state.discard_pile)]
    return jnp.concatenate([jnp.concatenate(each, axis=1).ravel(), *table])


def _describe(env: Any, shot: base.Frame) -> str:
    """The move, the table, and every hand with what its owner was told of each card."""
    state = shot.state
    move = "cards are dealt" if shot.actions is None else _move(env, shot)
    built = zip(env.color_map, state.fireworks.sum(axis=1), strict=True)
    fireworks = " ".join(f"{colour}{int(ranks) or '-'}" for colour, ranks in built)
    tokens = {
        "lives": state.life_tokens.sum(),
        "hints": state.info_tokens.sum(),
        "deck": state.remaining_deck_size.sum(),
    }
    table = "  ".join(f"{name} {int(count)}" for name, count in tokens.items())
    lines = [move, f"{table}  fireworks {fireworks}"]
    seats = np.argsort(state.seat_order)
    for name, seat in zip(shot.names, seats, strict=True):
        hand = " ".join(_card(env, card) for card in state.player_hands[seat])
        told = zip(state.colors_revealed[seat], state.ranks_revealed[seat], strict=True)
        known = " ".join(_known(env, *card) for card in told)
        turn = ">" if state.cur_player_idx[seat] else " "
        lines.append(f"{turn} {name}  {hand}   knows {known}")
    gone = [_card(env, card) for card in state.discard_pile if card.any()]
    return "\n".join([*lines, f"  discarded {' '.join(gone) or 'nothing'}"])


def _move(env: Any, shot: base.Frame) -> str:
    """What whoever was to move did, and what came of it."""
    before, size = shot.before, env.hand_size
    seat = int(np.argmax(before.cur_player_idx))
    order = np.asarray(before.seat_order)
    assert shot.actions is not None  # the first shot has no move
    who, action = shot.names[order[seat]], int(shot.actions[order[seat]])
    if action < 2 * size:
        card = _card(env, before.player_hands[seat][action % size])
        if action < size:
            return f"{who} discards {card}"
        fits = shot.state.fireworks.sum() > before.fireworks.sum()
        return f"{who} plays {card}: {'it fits' if fits else 'wrong, a life is lost'}"
    hint, colours = action - 2 * size, (env.num_agents - 1) * env.num_colors
    names = list(env.color_map) if hint < colours else [str(i + 1) for i in range(env.num_ranks)]
    away, index = divmod(hint if hint < colours else hint - colours, len(names))
    if away >= env.num_agents - 1:
        return f"{who} passes"
    whom = shot.names[order[(seat + away + 1) % env.num_agents]]
    return f"{who} tells {whom} of every {names[index]}"


def _card(env: Any, card: np.ndarray) -> str:
    """`R1`; two dashes where there is none."""
    if not card.any():
        return "--"
    colour, rank = np.argwhere(card)[0]
    return f"{env.color_map[colour]}{rank + 1}"


def _known(env: Any, colour: np.ndarray, rank: np.ndarray) -> str:
    """`R?` for a card of which the colour was told."""
    named = env.color_map[int(np.argmax(colour))] if colour.any() else "?"
    return f"{named}{int(np.argmax(rank)) + 1 if rank.any() else '?'}"
