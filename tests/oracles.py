"""Reference implementations as slow, obvious NumPy loops in the precision of their inputs.

Parameters are the package's own trees; axes are those of `qmix_jax.types`.
"""

import jax
import numpy as np


def double(tree):
    """Converts a tree to NumPy with float64 for float32, for finite differences."""

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


def q_lambda(reward, terminated, value_next, baseline_next, gamma, td_lambda, chain):
    """Q(lambda) of [T, ...] arrays by recursion; one-step where `chain` is False."""
    target = np.array(reward)
    for t in reversed(range(len(reward))):
        for index in np.ndindex(target.shape[1:]):
            here, after = (t, *index), (t + 1, *index)
            value = value_next[here]
            if chain[here]:
                value = value + td_lambda * (target[after] - baseline_next[here])
            if not terminated[here]:
                target[here] += gamma * value
    return target


def n_step(reward, terminated, value_next, gamma, n, chain):
    """Sums of n rewards of [T, ...] arrays, walked forwards; fewer where `chain` breaks."""
    target = np.zeros_like(reward)
    for start, *index in np.ndindex(target.shape):
        t, discount = start, 1.0
        for k in range(n):
            here = (t, *index)
            target[start, *index] += discount * reward[here]
            discount *= gamma
            if terminated[here]:
                break
            if k == n - 1 or not chain[here]:
                target[start, *index] += discount * value_next[here]
                break
            t += 1
    return target


def targets(trajectory, hparams, value, best, target, n, independent=False):
    """Multi-step targets [T, B, K] of the kind `target`; NaN where a step is not valid.

    Args:
      value: `(t, b, actions[N]) -> K values` of the target network.
      best: (t, b) -> selected actions [N].
      independent: values belong to agents.
    """
    steps, n_sequences = trajectory.valid.shape
    shape = (steps, n_sequences, len(value(0, 0, best(0, 0))))
    reward, value_next, executed = (np.full(shape, np.nan) for _ in range(3))
    chain, greedy = np.zeros(shape, bool), np.zeros(shape, bool)
    for t, b in np.argwhere(trajectory.valid):
        reward[t, b] = float(hparams.reward_scale) * trajectory.reward[t, b]
        value_next[t, b] = value(t + 1, b, best(t + 1, b))
        if t + 1 < steps and trajectory.valid[t + 1, b] and not trajectory.reset[t + 1, b]:
            chain[t, b] = True
            actions = trajectory.actions[t + 1, b]
            executed[t, b] = value(t + 1, b, actions)
            same = np.array([a == c for a, c in zip(actions, best(t + 1, b), strict=True)])
            greedy[t, b] = same if independent else same.all()
    terminated = np.repeat(trajectory.terminated[..., None], shape[-1], axis=-1)
    gamma, td_lambda = float(hparams.gamma), float(hparams.td_lambda)
    if target == "n_step":
        return n_step(reward, terminated, value_next, gamma, n, chain)
    if target == "watkins":
        chain &= greedy
    baseline = executed if target == "harutyunyan" else value_next
    return q_lambda(reward, terminated, value_next, baseline, gamma, td_lambda, chain)


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


def lstm_step(params, carry, x):
    """One LSTM step, one gate at a time: carry[..., 2H] = (h, c), x[..., I] -> the next."""
    h, c = np.split(carry, 2, axis=-1)
    into = np.split(params["input_kernel"], 4, axis=-1)
    within = np.split(params["recurrent_kernel"], 4, axis=-1)
    biases = np.split(params["bias"], 4)
    i, f, o, g = (x @ into[k] + h @ within[k] + biases[k] for k in range(4))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return np.concatenate([sigmoid(o) * np.tanh(c), c], axis=-1)


STEPS = {"gru": gru_step, "lstm": lstm_step}


def recurrent(step, params, carry, x, reset):
    """Carries [T, R, ...] after each of x[T, R, I]; row by row, from zeros at every reset."""
    after = np.zeros((*x.shape[:2], carry.shape[-1]), carry.dtype)
    for row in range(x.shape[1]):
        current = carry[row]
        for t in range(len(x)):
            before = np.zeros_like(current) if reset[t, row] else current
            after[t, row] = current = step(params, before, x[t, row])
    return after


def recurrent_agent(params, obs, prev_actions, carry):
    """One step of one team: obs[N, O], prev_actions[N], carry[N, ...] -> (q[N, A], carry)."""
    n_actions = params["head"]["bias"].shape[0]
    inputs = [
        np.concatenate([obs[i], one_hot(prev_actions[i], n_actions), one_hot(i, len(obs))])
        for i in range(len(obs))
    ]
    core = next(name for name in STEPS if name in params)
    carry = STEPS[core](params[core], carry, relu(dense(params["embed"], np.array(inputs))))
    hidden = carry[:, : len(params["head"]["kernel"])]
    return dense(params["head"], hidden), carry


def unroll(params, trajectory):
    """(q[T+1, B, N, A], hidden[T+1, B, N, H]) of the recurrent agent; nothing crosses the start of
    an episode."""
    entries, n_sequences, n_agents = trajectory.obs.shape[:3]
    size, n_actions = params["head"]["kernel"].shape
    width = 2 * size if "lstm" in params else size
    dtype = params["head"]["bias"].dtype
    q = np.zeros((entries, n_sequences, n_agents, n_actions), dtype)
    hidden = np.zeros((entries, n_sequences, n_agents, size), dtype)
    for b in range(n_sequences):
        for t in range(entries):
            if t == 0 or trajectory.reset[t, b]:
                carry, previous = np.zeros((n_agents, width)), np.full(n_agents, -1)
            else:
                previous = trajectory.actions[t - 1, b]
            q[t, b], carry = recurrent_agent(params, trajectory.obs[t, b], previous, carry)
            hidden[t, b] = carry[:, :size]
    return q, hidden


WEIGHTS = {
    "abs": np.abs,
    "softplus": lambda x: np.log1p(np.exp(x)),
    "square": lambda x: 0.5 * x * x,
}


def layer_norm(params, x):
    """To mean 0 and variance 1 over the last axis, then scaled and shifted."""
    centred = x - x.mean(axis=-1, keepdims=True)
    std = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return centred / std * params["scale"] + params["bias"]


def hypernetwork(params, state):
    """Any number of hidden layers, normalised or not; the last layer may lack its bias."""
    x = state
    for name in ("hidden", "hidden_1"):
        if name in params:
            x = dense(params[name], x)
            x = relu(layer_norm(params[f"{name}_norm"], x) if f"{name}_norm" in params else x)
    return dense({"bias": 0.0, **params["output"]}, x)


def qmix(params, q, state, weight="abs"):
    """Joint value of one situation: q[N], state[S] -> scalar."""
    if "state_norm" in params:
        state = layer_norm(params["state_norm"], state)
    b1 = dense(params["b1"], state)
    w1 = WEIGHTS[weight](hypernetwork(params["w1"], state))
    w2 = WEIGHTS[weight](hypernetwork(params["w2"], state))
    embed = len(b1)
    q_tot = hypernetwork(params["v"], state)[0]
    for e in range(embed):
        pre = b1[e] + sum(q[i] * w1[i * embed + e] for i in range(len(q)))
        q_tot = q_tot + w2[e] * (pre if pre > 0 else np.exp(pre) - 1.0)
    return q_tot


# What an algorithm regresses in one situation: (mixer's parameters, q[N], state[S]) -> values.
JOINT = {
    "vdn": lambda params, q, state: [sum(q)],
    "qmix": lambda params, q, state: [qmix(params, q, state)],
    None: lambda params, q, state: list(q),
}


def _cost(error, loss, delta):
    if loss == "mse" or abs(error) <= delta:
        return error * error
    return delta * (2.0 * abs(error) - delta)


def mlp(params, x):
    """Dense-relu layers and a linear one."""
    for index in range(len(params) - 1):
        x = relu(dense(params[f"hidden_{index}"], x))
    return dense(params["output"], x)


def take(q, actions):
    """q[N, A], actions[N] -> list of N utilities."""
    return [q[i, action] for i, action in enumerate(actions)]


def _best(q, trajectory):
    """`(t, b) -> best available actions [N]` of utilities q[T+1, B, N, A]."""

    def best(t, b):
        available = trajectory.avail_actions[t, b]
        return [best_available(q[t, b, i], avail) for i, avail in enumerate(available)]

    return best


def mean_cost(costs, batch):
    """Mean over valid steps of costs[T, B, K] times the sequences' weights."""
    total = count = 0.0
    for t, b in np.argwhere(batch.trajectory.valid):
        for cost in costs[t, b]:
            total += batch.weight[b] * cost
            count += 1
    return total / max(count, 1)


def regression(values, targets, batch, hparams, loss, scale=None):
    """Loss, sums of the metrics and priorities of values[T, B, K] regressed to targets."""
    sums = dict.fromkeys(("count", "td_error_abs", "q_taken", "target"), 0.0)
    priority, costs = np.zeros(len(batch.weight)), np.zeros_like(values)
    for t, b in np.argwhere(batch.trajectory.valid):
        for k, (value, target) in enumerate(zip(values[t, b], targets[t, b], strict=True)):
            error = value - target
            costs[t, b, k] = _cost(error, loss, float(hparams.huber_delta))
            costs[t, b, k] *= 1.0 if scale is None else scale[t, b, k]
            sums["count"] += 1
            sums["td_error_abs"] += abs(error)
            sums["q_taken"] += value
            sums["target"] += target
            priority[b] = max(priority[b], abs(error))
    return {**sums, "loss": mean_cost(costs, batch), "priority": priority}


def _over_steps(function, trajectory):
    """`function(t, b) -> K values` at every step, f64[T, B, K]."""
    steps, n_sequences = trajectory.valid.shape
    return np.array([[function(t, b) for b in range(n_sequences)] for t in range(steps)])


def td(
    params, fixed, target_params, batch, hparams, mixer, *, loss, target, n_step, double_q=True, **_
):
    """Loss, sums of the metrics and priorities of temporal differences.

    Args:
      fixed: the same parameters where no gradient flows; not used here.
      mixer: `vdn`, `qmix`, or None for independent learners.
    Returns:
      A dict: `loss`, `priority` [B], `count`, and the sums `td_error_abs`, `q_taken`, `target`.
    """
    del fixed
    trajectory, joint = batch.trajectory, JOINT[mixer]
    q, _ = unroll(params["agent"], trajectory)
    q_target, _ = unroll(target_params["agent"], trajectory)

    def next_value(t, b, actions):
        taken = take(q_target[t, b], actions)
        return joint(target_params.get("mixer"), taken, trajectory.state[t, b])

    def value(t, b):
        taken = take(q[t, b], trajectory.actions[t, b])
        return joint(params.get("mixer"), taken, trajectory.state[t, b])

    best = _best(q if double_q else q_target, trajectory)
    goals = targets(trajectory, hparams, next_value, best, target, n_step, mixer is None)
    return regression(_over_steps(value, trajectory), goals, batch, hparams, loss)


def qtran_heads(params, hidden, actions, state, n_actions, variant):
    """Q_jt of one step: one value (`base`), or those of all actions of each agent (`alt`)."""
    acts = [one_hot(action, n_actions) for action in actions]
    n_agents = len(acts)
    if variant == "base":
        pairs = [np.concatenate(pair) for pair in zip(hidden, acts, strict=True)]
        encoded = sum(mlp(params["encoder"], pair) for pair in pairs)
        return mlp(params["q"], np.concatenate([state, encoded]))
    everyone = sum(mlp(params["hidden_encoder"], h) for h in hidden)
    heads = []
    for i in range(n_agents):
        others = sum(mlp(params["action_encoder"], acts[j]) for j in range(n_agents) if j != i)
        inputs = [state, one_hot(i, n_agents), everyone, others]
        heads.append(mlp(params["q"], np.concatenate(inputs)))
    return np.array(heads)


def qtran(params, fixed, target_params, batch, hparams, mixer, *, variant, double_q, **options):
    """As `td`; `fixed` are the parameters of Q_jt where it has no gradient."""
    del mixer
    trajectory = batch.trajectory
    q, hidden = unroll(params["agent"], trajectory)
    q_target, hidden_target = unroll(target_params["agent"], trajectory)
    hidden_fixed = unroll(fixed["agent"], trajectory)[1]
    best = _best(q, trajectory)

    def heads(params, hidden, t, b, actions):
        state = trajectory.state[t, b]
        n_actions = q.shape[-1]
        return qtran_heads(params["critic"], hidden[t, b], actions, state, n_actions, variant)

    def q_jt(params, hidden, t, b, actions):
        values = heads(params, hidden, t, b, actions)
        return values if variant == "base" else take(values, actions)

    def opt(t, b):
        actions_next = best(t, b)
        total = sum(take(q[t, b], actions_next)) + mlp(params["value"], trajectory.state[t, b])[0]
        return [(total - fit) ** 2 for fit in q_jt(fixed, hidden_fixed, t, b, actions_next)]

    def nopt(t, b):
        actions = trajectory.actions[t, b]
        bounds = heads(fixed, hidden_fixed, t, b, actions)
        v = mlp(params["value"], trajectory.state[t, b])[0]
        utilities = take(q[t, b], actions)
        if variant == "base":
            return [min(sum(utilities) + v - bounds[0], 0.0) ** 2]
        costs = []
        for i in range(len(utilities)):
            others = sum(utilities) - utilities[i]
            available = np.flatnonzero(trajectory.avail_actions[t, b, i])
            costs.append(min(q[t, b, i, a] + others + v - bounds[i, a] for a in available) ** 2)
        return costs

    goals = targets(
        trajectory,
        hparams,
        lambda t, b, actions: q_jt(target_params, hidden_target, t, b, actions),
        best if double_q else _best(q_target, trajectory),
        options["target"],
        options["n_step"],
    )
    values = _over_steps(
        lambda t, b: q_jt(params, hidden, t, b, trajectory.actions[t, b]), trajectory
    )
    result = regression(values, goals, batch, hparams, options["loss"])
    for name, costs in (("lambda_opt", opt), ("lambda_nopt", nopt)):
        part = mean_cost(_over_steps(costs, trajectory), batch)
        result["loss"] += float(hparams.algo[name]) * part
    return result


def wqmix(
    params, fixed, target_params, batch, hparams, mixer, *, weighting, loss, target, n_step, **_
):
    """As `td`, with the metrics of the monotonic value and the priorities of Q*."""
    del fixed
    trajectory, joint = batch.trajectory, JOINT[mixer]
    q, _ = unroll(params["agent"], trajectory)
    central, _ = unroll(params["central_agent"], trajectory)
    central_target, _ = unroll(target_params["central_agent"], trajectory)
    best = _best(q, trajectory)

    def q_star(params, utilities, t, b, actions):
        state = trajectory.state[t, b]
        inputs = np.concatenate([state, take(utilities[t, b], actions)])
        return mlp(params["q"], inputs) + mlp(params["v"], state)

    def fixed_q_star(t, b, actions):
        return q_star(target_params["central"], central_target, t, b, actions)

    def q_tot(t, b):
        taken = take(q[t, b], trajectory.actions[t, b])
        return joint(params["mixer"], taken, trajectory.state[t, b])

    goals = targets(trajectory, hparams, fixed_q_star, best, target, n_step)
    values = _over_steps(q_tot, trajectory)
    scale = np.ones_like(values)
    for t, b in np.argwhere(trajectory.valid):
        goal, chosen = goals[t, b, 0], best(t, b)
        if weighting == "optimistically":
            full = values[t, b, 0] < goal
        else:
            same = list(trajectory.actions[t, b]) == chosen
            full = same or goal > fixed_q_star(t, b, chosen)[0]
        scale[t, b] = 1.0 if full else float(hparams.algo["alpha"])
    result = regression(values, goals, batch, hparams, loss, scale)
    values = _over_steps(
        lambda t, b: q_star(params["central"], central, t, b, trajectory.actions[t, b]), trajectory
    )
    free = regression(values, goals, batch, hparams, loss)
    return {**result, "loss": result["loss"] + free["loss"], "priority": free["priority"]}


def convolution(kernel, bias, image):
    """Stride 1, padded with zeros to equal size: image[h, w, c] -> [h, w, features]."""
    height, width = image.shape[:2]
    size = len(kernel)
    out = np.zeros((height, width, len(bias))) + bias
    for row, column in np.ndindex(height, width):
        for i, j in np.ndindex(size, size):
            y, x = row + i - (size - 1) // 2, column + j - (size - 1) // 2
            if 0 <= y < height and 0 <= x < width:
                out[row, column] += image[y, x] @ kernel[i, j]
    return out


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
