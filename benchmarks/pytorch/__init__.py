"""Recurrent QMIX in PyTorch with PyMARL's semantics: the baseline that `qmix_jax` is timed against.

Same networks, loss, optimisers and update-to-data ratio as the package, checked number by number in
`tests/benchmarks/test_pytorch.py`. `train.run` trains; `train.Settings` says what can be chosen.
What is not equal:

- PettingZoo's simple_spread ends after `max_cycles` steps (25), JaxMARL's after 26. Observations,
  dynamics and rewards are the same, and with `max_cycles=26` so is the game; PettingZoo computes in
  float64 and shows float32.
- A batch of episodes ends when its longest does, and minibatches are cut to their longest episode,
  as PyMARL does; `qmix_jax` always runs the whole window. Hence `env_steps` are the steps that were
  simulated, and epsilon and the budget, which count them, last for more battles on SMAX.
- Random numbers. Networks start from the same distributions, but PyTorch's second GRU bias is kept
  at 0 where it is redundant.
- The gradient clip divides by the norm plus 1e-6.
"""
