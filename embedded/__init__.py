"""What makes the pack work with no download: a tiny FLUX family and procedurally painted pictures."""
