"""What quickstart.sh and test.sh share: the environment, finding or fetching ComfyUI, and a server of it."""
