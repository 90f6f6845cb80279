"""Where pictures come from, and which of them are taken."""
