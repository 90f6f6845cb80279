"""A dataset on disk: records, labels, pictures, and the config that trainers read."""
