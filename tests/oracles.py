"""What the package computes, as slow and obvious NumPy loops in the precision of their inputs.

Parameters are the package's own trees; axes are those of `qmix_jax.types`.
"""

import jax
import numpy as np


def double(tree):
    """The same tree in NumPy with float64 for float32, for finite differences."""

    def convert(leaf):
        leaf = np.asarray(leaf)
        return leaf.astype(np.float64) if np.issubdtype(leaf.dtype, np.floating) else leaf

    return jax.tree.map(convert, tree)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def dense(params, x):
    return x @ params["kernel"] + params["bias"]


def relu(x):
    return np.maximum(x, 0.0)


def one_hot(index, size):
    """All zeros for -1."""
    return np.array([1.0 if j == index else 0.0 for j in range(size)])


def one_step(reward, terminated, value_next, gamma):
    """`y = r`, plus `gamma * V'` unless the action ended the episode."""
    target = np.array(reward)
    for index in np.ndindex(target.shape):
        if not terminated[index]:
            target[index] += gamma * value_next[index]
    return target


def peng_lambda(reward, terminated, value_next, gamma, td_lambda, chain):
    """Peng's Q(lambda) of [T, B] arrays by recursion; one-step where `chain` is False."""
    target = np.array(reward)
    for t in reversed(range(len(reward))):
        for index in np.ndindex(target.shape[1:]):
            here, after = (t, *index), (t + 1, *index)
            value = value_next[here]
            if chain[here]:
                value = (1.0 - td_lambda) * value + td_lambda * target[after]
            if not terminated[here]:
                target[here] += gamma * value
    return target


def best_available(q, avail):
    """Index of the largest available entry of q[A]."""
    best = None
    for action in range(len(q)):
        if avail[action] and (best is None or q[action] > q[best]):
            best = action
    return best


def previous_actions(actions, reset):
    """i32[T+1, B, N] from i32[T, B, N]: -1 where an episode starts."""
    out = np.full((len(actions) + 1, *actions.shape[1:]), -1, np.int32)
    for t in range(1, len(out)):
        for b in range(out.shape[1]):
            if not reset[t, b]:
                out[t, b] = actions[t - 1, b]
    return out


def gru_step(params, carry, x):
    """One GRU step, one gate at a time: carry[..., H], x[..., I] -> h[..., H]."""
    in_r, in_z, in_n = np.split(params["input_kernel"], 3, axis=-1)
    re_r, re_z, re_n = np.split(params["recurrent_kernel"], 3, axis=-1)
    b_r, b_z, b_n = np.split(params["bias"], 3)
    r = sigmoid(x @ in_r + b_r + carry @ re_r)
    z = sigmoid(x @ in_z + b_z + carry @ re_z)
    n = np.tanh(x @ in_n + b_n + r * (carry @ re_n + params["candidate_bias"]))
    return (1.0 - z) * n + z * carry


def gru(params, carry, x, reset):
    """h[T, R, H] of x[T, R, I]; row by row, from zeros at every reset."""
    hidden = np.zeros((*x.shape[:2], carry.shape[-1]), carry.dtype)
    for row in range(x.shape[1]):
        h = carry[row]
        for t in range(len(x)):
            h = gru_step(params, np.zeros_like(h) if reset[t, row] else h, x[t, row])
            hidden[t, row] = h
    return hidden


def gru_agent(params, obs, prev_actions, carry):
    """One step of one team: obs[N, O], prev_actions[N], carry[N, H] -> (q[N, A], carry)."""
    n_actions = params["head"]["bias"].shape[0]
    inputs = [
        np.concatenate([obs[i], one_hot(prev_actions[i], n_actions), one_hot(i, len(obs))])
        for i in range(len(obs))
    ]
    carry = gru_step(params["gru"], carry, relu(dense(params["embed"], np.array(inputs))))
    return dense(params["head"], carry), carry


def utilities(params, trajectory):
    """q[T+1, B, N, A] of the recurrent agent; nothing crosses the start of an episode."""
    entries, n_sequences, n_agents = trajectory.obs.shape[:3]
    hidden, n_actions = params["head"]["kernel"].shape
    q = np.zeros((entries, n_sequences, n_agents, n_actions), params["head"]["bias"].dtype)
    for b in range(n_sequences):
        for t in range(entries):
            if t == 0 or trajectory.reset[t, b]:
                carry, previous = np.zeros((n_agents, hidden)), np.full(n_agents, -1)
            else:
                previous = trajectory.actions[t - 1, b]
            q[t, b], carry = gru_agent(params, trajectory.obs[t, b], previous, carry)
    return q


WEIGHTS = {
    "abs": np.abs,
    "softplus": lambda x: np.log1p(np.exp(x)),
    "square": lambda x: 0.5 * x * x,
}


def hypernetwork(params, state):
    """Any number of hidden layers; the last layer may lack its bias."""
    x = state
    for name in ("hidden", "hidden_1"):
        x = relu(dense(params[name], x)) if name in params else x
    return dense({"bias": 0.0, **params["output"]}, x)


def qmix(params, q, state, weight="abs"):
    """Joint value of one situation: q[N], state[S] -> scalar."""
    b1 = dense(params["b1"], state)
    w1 = WEIGHTS[weight](hypernetwork(params["w1"], state))
    w2 = WEIGHTS[weight](hypernetwork(params["w2"], state))
    embed = len(b1)
    q_tot = hypernetwork(params["v"], state)[0]
    for e in range(embed):
        pre = b1[e] + sum(q[i] * w1[i * embed + e] for i in range(len(q)))
        q_tot = q_tot + w2[e] * (pre if pre > 0 else np.exp(pre) - 1.0)
    return q_tot


# What a factorisation regresses in one situation: (mixer's parameters, q[N], state[S]) -> values.
JOINT = {
    "vdn": lambda params, q, state: [sum(q)],
    "qmix": lambda params, q, state: [qmix(params, q, state)],
    None: lambda params, q, state: list(q),
}


def _cost(error, loss, delta):
    if loss == "mse" or abs(error) <= delta:
        return error * error
    return delta * (2.0 * abs(error) - delta)


def td(params, target_params, batch, hparams, mixer, double_q, loss):
    """Loss, sums of the metrics and priorities of temporal differences.

    Args:
      mixer: `vdn`, `qmix`, or None for independent learners.
    Returns:
      A dict: `loss`, `priority` [B], `count`, and the sums `td_error_abs`, `q_taken`, `target`.
    """
    trajectory, joint = batch.trajectory, JOINT[mixer]
    q = utilities(params["agent"], trajectory)
    q_target = utilities(target_params["agent"], trajectory)
    chooser = q if double_q else q_target
    sums = dict.fromkeys(("count", "cost", "td_error_abs", "q_taken", "target"), 0.0)
    priority, targets = np.zeros(len(batch.weight)), {}
    for t, b in reversed(np.argwhere(trajectory.valid)):
        following = [
            q_target[t + 1, b, i, best_available(chooser[t + 1, b, i], avail)]
            for i, avail in enumerate(trajectory.avail_actions[t + 1, b])
        ]
        state_next = trajectory.state[t + 1, b]
        nexts = np.array(joint(target_params.get("mixer"), following, state_next))
        if (t + 1, b) in targets and not trajectory.reset[t + 1, b]:
            td_lambda = float(hparams.td_lambda)
            nexts = (1.0 - td_lambda) * nexts + td_lambda * targets[t + 1, b]
        bootstrap = 0.0 if trajectory.terminated[t, b] else float(hparams.gamma)
        reward = float(hparams.reward_scale) * trajectory.reward[t, b]
        targets[t, b] = reward + bootstrap * nexts
        taken = [q[t, b, i, action] for i, action in enumerate(trajectory.actions[t, b])]
        values = joint(params.get("mixer"), taken, trajectory.state[t, b])
        for value, target in zip(values, targets[t, b], strict=True):
            error = value - target
            sums["count"] += 1
            sums["cost"] += batch.weight[b] * _cost(error, loss, float(hparams.huber_delta))
            sums["td_error_abs"] += abs(error)
            sums["q_taken"] += value
            sums["target"] += target
            priority[b] = max(priority[b], abs(error))
    return {**sums, "loss": sums["cost"] / max(sums["count"], 1), "priority": priority}


def directional_derivative(function, tree, direction, step=1e-6):
    """Central difference of a scalar function of a float64 tree."""
    ahead = jax.tree.map(lambda x, d: x + step * d, tree, direction)
    behind = jax.tree.map(lambda x, d: x - step * d, tree, direction)
    return (function(ahead) - function(behind)) / (2.0 * step)


def rmsprop(gradients, decay, eps):
    """Directions of a sequence of scalar gradients; eps outside the root."""
    v, out = 0.0, []
    for g in gradients:
        v = decay * v + (1.0 - decay) * g * g
        out.append(g / (np.sqrt(v) + eps))
    return out


def adam(gradients, beta1, beta2, eps):
    """Directions of a sequence of scalar gradients (Kingma & Ba 2015, algorithm 1)."""
    m = v = 0.0
    out = []
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1.0 - beta1) * g
        v = beta2 * v + (1.0 - beta2) * g * g
        out.append(m / (1.0 - beta1**t) / (np.sqrt(v / (1.0 - beta2**t)) + eps))
    return out


def radam(gradients, beta1, beta2, eps):
    """Directions of a sequence of scalar gradients (Liu et al. 2020, algorithm 2, threshold 5)."""
    m = v = 0.0
    out = []
    rho_inf = 2.0 / (1.0 - beta2) - 1.0
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1.0 - beta1) * g
        v = beta2 * v + (1.0 - beta2) * g * g
        m_hat = m / (1.0 - beta1**t)
        rho = rho_inf - 2.0 * t * beta2**t / (1.0 - beta2**t)
        if rho < 5.0:
            out.append(m_hat)
            continue
        above = (rho - 4.0) * (rho - 2.0) * rho_inf
        below = (rho_inf - 4.0) * (rho_inf - 2.0) * rho
        out.append(np.sqrt(above / below) * m_hat / (np.sqrt(v / (1.0 - beta2**t)) + eps))
    return out
