"""JaxMARL's Hanabi (Bard et al. 2020): players see all hands but their own and move in turn.

Team reward: agent 0's (all players receive the same): 1 per card played correctly; losing the last
life takes back the score. Every end is part of the game, so `terminated`: all fireworks complete,
no life left, or one more move by everybody after the last card was drawn. Out of turn, the no-op
(the last index) is the only available action.

State (JaxMARL has none): per player the true hand, its hinted colours and ranks, and whether it is
that player's turn; then fireworks, tokens and deck, and the discards.
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


class HanabiKwargs(config.Model):
    """JaxMARL keyword arguments that may be set; null is JaxMARL's default.

    The deck has 3 copies of the lowest rank, 1 of the highest and 2 of the others.
    """

    num_agents: Annotated[config.Int, Field(ge=2, le=5)] | None = None
    """Players (2)."""
    num_colors: Annotated[config.Int, Field(ge=1, le=6)] | None = None
    """Fireworks (5)."""
    num_ranks: Annotated[config.Int, Field(ge=2)] | None = None
    """Cards per firework (5)."""
    hand_size: config.PositiveInt | None = None
    """Cards per player (5, with four or five players 4)."""
    max_info_tokens: config.PositiveInt | None = None
    """Hint tokens at first, and their maximum (8)."""
    max_life_tokens: config.PositiveInt | None = None
    """Misplays that end the game (3)."""
    shuffle_player_order: bool | None = None
    """Shuffle the order of play in each game (false)."""


KWARGS = {"hanabi": HanabiKwargs}


def build(env_id: str, kwargs: Mapping[str, Any]) -> tuple[Any, adapter.Suite]:
    """Makes JaxMARL's environment and its `Suite`.

    Raises: ConfigError if the deck is too small for the hands.
    """
    copies = np.array([3, *[2] * (kwargs.get("num_ranks", 5) - 2), 1])
    env = adapter.construct(env_id, {**kwargs, "num_cards_of_rank": copies})
    n_draws = int(env.deck_size) - env.num_agents * env.hand_size
    if n_draws < 1:
        raise config.ConfigError(
            f"env jaxmarl: hanabi deals {env.num_agents} hands of {env.hand_size} from "
            f"{env.deck_size} cards and has none left to draw; lower kwargs.hand_size or raise "
            "kwargs.num_colors"
        )

    def avail_actions(env_state: Any) -> Array:
        legal = env.get_legal_moves(env_state)
        avail = jnp.stack([legal[agent] for agent in env.agents]).astype(bool)
        # After the game has ended, the next player may have no card left.
        return avail.at[:, -1].set(avail[:, -1] | ~avail.any(axis=1))

    columns = env.hand_size * (env.num_colors + 1) * (env.num_ranks + 1) - env.hand_size + 1
    suite = adapter.Suite(
        max_steps=_longest_game(env, n_draws),
        state=lambda obs, env_state: _state(env, env_state),
        team_reward=base.first_agent,
        outcome=lambda state, next_state, actions: (jnp.ones((), bool), {}),
        variant=f"{env.num_agents} players",
        avail_actions=avail_actions,
        agent_state=np.arange(env.num_agents * columns, dtype=np.int32).reshape(-1, columns),
        obs_bounds=(0.0, 1.0),
        state_bounds=(0.0, 1.0),
        describe=functools.partial(_describe, env),
    )
    return env, suite


def _longest_game(env: Any, n_draws: int) -> int:
    """A turn draws a card or spends a token. All drawing turns but the last return a token that can
    be spent before the deck is empty; then everybody moves once more.
    """
    return n_draws + (env.max_info_tokens + n_draws - 1) + env.num_agents


def _state(env: Any, state: Any) -> Array:
    """f32[S], players in the order of the agents."""
    seat = jnp.argsort(state.seat_order)
    players = (
        state.player_hands, state.colors_revealed, state.ranks_revealed, state.cur_player_idx,
    )  # fmt: skip
    players = [x[seat].reshape(env.num_agents, -1) for x in players]
    discarded = state.discard_pile.sum(axis=0)  # [colour, rank]
    discards = [  # as many ones as discarded copies
        jnp.arange(copies) < discarded[:, rank, None]
        for rank, copies in enumerate(np.asarray(env.num_cards_of_rank))
    ]
    parts = (jnp.concatenate(players, axis=1), env.get_board_feats(state))
    return jnp.concatenate([x.ravel() for x in (*parts, jnp.concatenate(discards, axis=1))])


def _describe(env: Any, frame: base.Frame) -> str:
    """The move, the table, and every hand with what its owner knows about it."""
    state = frame.state
    move = "cards are dealt" if frame.actions is None else _move(env, frame)
    stacks = zip(env.color_map, state.fireworks.sum(axis=1), strict=True)
    fireworks = " ".join(f"{colour}{int(ranks) or '-'}" for colour, ranks in stacks)
    tokens = {
        "lives": state.life_tokens.sum(),
        "hints": state.info_tokens.sum(),
        "deck": state.remaining_deck_size.sum(),
    }
    table = "  ".join(f"{name} {int(count)}" for name, count in tokens.items())
    lines = [move, f"{table}  fireworks {fireworks}"]
    for name, seat in zip(frame.names, np.argsort(state.seat_order), strict=True):
        hand = " ".join(_card(env, card) for card in state.player_hands[seat])
        hints = zip(state.colors_revealed[seat], state.ranks_revealed[seat], strict=True)
        known = " ".join(_known(env, *hint) for hint in hints)
        turn = ">" if state.cur_player_idx[seat] else " "
        lines.append(f"{turn} {name}  {hand}   knows {known}")
    discards = [_card(env, card) for card in state.discard_pile if card.any()]
    return "\n".join([*lines, f"  discarded {' '.join(discards) or 'nothing'}"])


def _move(env: Any, frame: base.Frame) -> str:
    """The last move and its effect."""
    before, hand_size = frame.previous_state, env.hand_size
    seat = int(np.argmax(before.cur_player_idx))
    order = np.asarray(before.seat_order)
    assert frame.actions is not None  # the first frame has no move
    player, action = frame.names[order[seat]], int(frame.actions[order[seat]])
    if action < 2 * hand_size:
        card = _card(env, before.player_hands[seat][action % hand_size])
        if action < hand_size:
            return f"{player} discards {card}"
        fits = frame.state.fireworks.sum() > before.fireworks.sum()
        return f"{player} plays {card}: {'it fits' if fits else 'wrong, a life is lost'}"
    hint, n_colours = action - 2 * hand_size, (env.num_agents - 1) * env.num_colors
    is_colour = hint < n_colours
    names = list(env.color_map) if is_colour else [str(i + 1) for i in range(env.num_ranks)]
    distance, index = divmod(hint if is_colour else hint - n_colours, len(names))
    if distance >= env.num_agents - 1:
        return f"{player} passes"
    other = frame.names[order[(seat + distance + 1) % env.num_agents]]
    return f"{player} tells {other} of every {names[index]}"


def _card(env: Any, card: np.ndarray) -> str:
    """`R1`; two dashes for no card."""
    if not card.any():
        return "--"
    colour, rank = np.argwhere(card)[0]
    return f"{env.color_map[colour]}{rank + 1}"


def _known(env: Any, colour: np.ndarray, rank: np.ndarray) -> str:
    """`R?` for a card of known colour and unknown rank."""
    name = env.color_map[int(np.argmax(colour))] if colour.any() else "?"
    return f"{name}{int(np.argmax(rank)) + 1 if rank.any() else '?'}"
