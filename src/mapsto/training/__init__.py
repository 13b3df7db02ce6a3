"""The training engine: loop, optimizer, checkpoints, loggers, data parallelism, FSDP and objectives."""
