"""A dataset on disk: records, sources, quality, and the TOML that trainers read. Knows neither ComfyUI nor training."""
