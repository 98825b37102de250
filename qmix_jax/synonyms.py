"""Names that other libraries use for our keys, to suggest the right one for an unknown key.

From JaxMARL, Mava, PyMARL, EPyMARL, XuanCe, CleanRL and Stable-Baselines3.
"""

_NAMES = {
    "name": "exp_name experiment_name run_name",
    "seed": "random_seed rng_seed",
    "seeds": "num_seeds n_seeds",
    "resume": "load_model checkpoint_path restore_path load_step",
    "precision": "compute_dtype matmul_precision",
    "env": "env_name env_id gym_id",
    "env.options.scenario": "map_name map task_name scenario_name",
    "agent": "use_rnn recurrent agent_type",
    "agent.options.hidden": (
        "hidden_size hidden_dim hidden_units rnn_hidden_dim rnn_hidden_size agent_hidden_dim"
    ),
    "agent.options.last_action": "obs_last_action use_last_action",
    "agent.options.agent_id": "obs_agent_id use_agent_id add_agent_id",
    "agent.options.sharing": (
        "parameter_sharing share_parameters share_params use_parameter_sharing mac"
    ),
    "agent.options.layer_norm": "use_layer_norm",
    "algo": "mixer algorithm alg alg_name algo_name learner",
    "algo.options.double_q": "double_dqn double_q_learning use_double_q ddqn",
    "algo.options.n_step": "nstep n_step_return",
    "algo.mixer.options.embed_dim": "mixing_embed_dim mixer_embedding_dim mixer_embed_dim",
    "algo.mixer.options.hypernet_embed": (
        "mixer_hypernet_hidden_dim hypernet_hidden_dim hyper_hidden_dim"
    ),
    "algo.mixer.options.init_scale": "mixer_init_scale",
    "hparams.learning_rate": "lr q_lr step_size lr_linear_decay",
    "hparams.epsilon": "exploration exploration_rate",
    "hparams.epsilon.start": (
        "epsilon_start eps_start start_eps start_epsilon start_e initial_epsilon "
        "exploration_initial_eps"
    ),
    "hparams.epsilon.end": (
        "epsilon_finish epsilon_end eps_finish eps_end final_epsilon end_epsilon end_e "
        "epsilon_min exploration_final_eps"
    ),
    "hparams.epsilon.steps": (
        "epsilon_anneal_time epsilon_anneal_steps epsilon_decay epsilon_decay_steps "
        "eps_decay eps_decay_steps exploration_fraction"
    ),
    "hparams.gamma": "discount discount_factor",
    "hparams.td_lambda": "lambda q_lambda trace_decay",
    "hparams.reward_scale": "rew_scale reward_scaling scale_rewards",
    "hparams.max_grad_norm": "grad_norm_clip grad_clip clip_grad_norm gradient_clip grad_clip_norm",
    "hparams.target_period": (
        "target_update_interval target_update_period target_update_freq "
        "target_update_interval_or_tau target_network_frequency sync_frequency"
    ),
    "hparams.target_tau": "tau polyak polyak_tau soft_update_tau",
    "optimiser.name": "optim optimizer optimizer_name",
    "optimiser.eps": "optim_eps adam_eps eps_adam optimizer_eps",
    "optimiser.decay": "optim_alpha rmsprop_alpha",
    "replay.kind": "buffer_type replay_type use_per prioritised_replay prioritized_replay",
    "replay.batch_size": "buffer_batch_size sample_batch_size train_batch_size minibatch_size",
    "replay.capacity": (
        "buffer_size buffer_capacity replay_buffer_size replay_size replay_capacity memory_size"
    ),
    "replay.priority_exponent": "per_alpha priority_alpha",
    "replay.importance_exponent": "per_beta priority_beta",
    "trainer.env_steps": (
        "total_timesteps num_timesteps max_timesteps total_steps total_env_steps max_steps "
        "max_env_steps t_max timesteps running_steps"
    ),
    "trainer.warm_up": "learning_starts warmup warmup_steps warm_up_steps start_training",
    "trainer.collector": "runner",
    "trainer.n_envs": (
        "num_envs n_parallel_envs num_parallel_envs parallel_envs parallels batch_size_run "
        "n_rollout_threads env_num"
    ),
    "trainer.window": "num_steps rollout_length rollout_len unroll_length sequence_length",
    "trainer.burn_in": "burn_in_length burnin",
    "trainer.gradient_steps": (
        "num_epochs n_epochs update_epochs num_gradient_steps updates_per_step utd_ratio"
    ),
    "trainer.log_every": "log_interval log_freq log_frequency runner_log_interval",
    "eval.every": (
        "test_interval test_freq eval_interval eval_freq eval_frequency evaluation_interval"
    ),
    "eval.episodes": (
        "test_nepisode test_episodes num_test_episodes test_num_envs eval_episodes "
        "num_eval_episodes n_eval_episodes"
    ),
    "population.devices": "num_devices n_devices num_gpus",
    "checkpoint.enabled": "save_model save_checkpoints",
    "checkpoint.every_s": "save_model_interval checkpoint_interval save_interval save_freq",
    "logger": "use_wandb use_tensorboard wandb_mode track",
    "logger.wandb.project": "wandb_project wandb_project_name",
    "logger.wandb.entity": "wandb_entity",
    "hydra.run.dir": "output_dir log_dir logdir save_path results_dir local_results_path",
}
"""Our key -> the names that others use for it."""

_KEYS = {name: key for key, names in _NAMES.items() for name in names.split()}


def find(key: str) -> str | None:
    """Returns our key for a key of another library, such as `LR` or `env_args.map_name`, or None.

    Case and section do not matter, but a key of the environment only matches one of `env`:
    `env.max_steps` is not `trainer.env_steps`.
    """
    section, _, leaf = key.lower().rpartition(".")
    ours = _KEYS.get(leaf)
    if section.startswith("env") and not (ours or "").startswith("env"):
        return None
    return ours
