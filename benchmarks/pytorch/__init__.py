"""Recurrent QMIX in PyTorch with PyMARL's semantics: a baseline for the speed of `qmix_jax`.

Networks, loss, optimisers and update-to-data ratio equal the package's, which
`tests/benchmarks/test_pytorch.py` checks numerically. `train.run` trains with `train.Settings`.
Differences:

- PettingZoo's simple_spread ends after `max_cycles` steps (25), JaxMARL's after 26. Observations,
  dynamics and rewards are equal, and so is the game with `max_cycles=26`; PettingZoo computes in
  float64 and returns float32.
- A batch of episodes ends with its longest episode, and minibatches are cut to their longest one,
  as in PyMARL; `qmix_jax` always runs the full window. Hence `env_steps`, the unit of epsilon and
  of the budget, are simulated steps and cover more battles on SMAX.
- Random numbers differ. Initial parameters have equal distributions, but PyTorch's second GRU bias
  is fixed at 0 where it is redundant.
- The gradient clip divides by the norm plus 1e-6.
"""
