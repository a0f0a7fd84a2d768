"""The GPU target: the same graphs through MLX, on Metal or CUDA. The only folder that imports mlx."""
