"""What a Ray Train worker imports: torch and transformers; never optuna, wandb, the CLI or the driver."""
